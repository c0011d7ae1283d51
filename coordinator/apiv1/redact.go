package apiv1

// Redacted returns the decision as anybody may see it: outcome, checks and what
// the evidence said of its own software; not what the manifest wants instead.
func (d Decision) Redacted() Decision {
	d.Verdict = d.Verdict.Redacted()
	if code, reason := d.Verdict.Reason(); code != "" && code == d.Code {
		d.Reason = reason
	}
	d.Nearest, d.Distance = "", 0
	return d
}

// Redacted returns the marble with its newest refusal as anybody may see it.
func (m Marble) Redacted() Marble {
	if m.LastRefusal != nil {
		d := m.LastRefusal.Redacted()
		m.LastRefusal = &d
	}
	return m
}
