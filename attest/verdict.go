package attest

import "time"

// Party is who can mend what a step found.
type Party string

// The parties.
const (
	ManifestAuthor Party = "manifest author"
	ServiceOwner   Party = "service owner"
	HostOwner      Party = "host owner"
	CloudProvider  Party = "cloud provider"
	Operator       Party = "operator"
	Vendor         Party = "vendor"
	Nobody         Party = "nobody" // forged or damaged: there is nothing to mend
)

// Fix says who can mend a failed step and how.
type Fix struct {
	Who Party  `json:"who,omitempty"`
	How string `json:"how,omitempty"`
}

// Step is one check: what was wanted, what came, and where the demand or the
// fact is from. Steps of one verification stand in the order of checking.
type Step struct {
	Code   string `json:"code"`  // problem code, such as "ATT-012"; also on steps that hold
	Field  string `json:"field"` // "quote.signature", "tcb.status", "sgx.uniqueID", …
	OK     bool   `json:"ok"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Source string `json:"source"` // "packages.web", "tcb_info.json", "Intel SGX Root CA", …
	Fix    Fix    `json:"fix"`
	// Grace is when a grace ends by which alone the step holds.
	Grace time.Time `json:"graceUntil,omitzero"`
	// Ended is, for a window that does not hold, when it ended. A window that has
	// not begun has none.
	Ended time.Time `json:"ended,omitzero"`
}

// Holding returns the step as one that holds or does not. One that holds has
// nothing to mend.
func (s Step) Holding(ok bool) Step {
	if s.OK = ok; ok {
		s.Fix = Fix{}
	}
	return s
}

// Outcome returns the step as its check came out: one that fails has got err.
func (s Step) Outcome(err error) Step {
	if err != nil {
		s.Got = err.Error()
	}
	return s.Holding(err == nil)
}

// Decision is a verdict's last word.
type Decision string

// The decisions. The zero value is no decision and must be treated as refused.
const (
	Accepted Decision = "accepted"
	Refused  Decision = "refused"
)

// Verdict is one judgement of evidence. The same inputs give the same bytes.
type Verdict struct {
	TEE TEE `json:"tee"`
	// Genuine says that the evidence was made by hardware of the pinned root:
	// it parses, every signature and chain holds, nothing is revoked and all
	// validity windows hold, or have ended in a grace. It says nothing about software or patch level: a
	// platform that matches no TCB level is genuine, and refused.
	Genuine    bool      `json:"genuine"`
	TCBStatus  TCBStatus `json:"tcbStatus"`
	Advisories []string  `json:"advisories"`
	Debug      bool      `json:"debug"`
	Claims     Claims    `json:"claims"`
	Steps      []Step    `json:"steps"`
	// Devices are the verdicts over devices, in the order of the evidence. One
	// that is refused makes a step of Steps fail.
	Devices []DeviceVerdict `json:"devices,omitempty"`
	Verdict Decision        `json:"verdict"`
}

// DeviceVerdict is the judgement of one device.
type DeviceVerdict struct {
	Name    string `json:"name"`
	TEE     TEE    `json:"tee"`
	Genuine bool   `json:"genuine"` // as in Verdict
	Claims  Claims `json:"claims"`
	Steps   []Step `json:"steps"`
}

// Refused returns the first step that does not hold, or nil.
func (d DeviceVerdict) Refused() *Step {
	for i := range d.Steps {
		if !d.Steps[i].OK {
			return &d.Steps[i]
		}
	}
	return nil
}

// OK reports whether the evidence was accepted.
func (v Verdict) OK() bool { return v.Verdict == Accepted }

// Failed returns the steps that do not hold, in order.
func (v Verdict) Failed() []Step {
	var f []Step
	for _, s := range v.Steps {
		if !s.OK {
			f = append(f, s)
		}
	}
	return f
}

// Reason returns the code of the first step that does not hold and one line
// about it: field, what was wanted, what came. Both are empty where all hold.
func (v Verdict) Reason() (code, text string) {
	for _, s := range v.Steps {
		if !s.OK {
			if s.Want == NotShown {
				return s.Code, s.Field + ": got " + s.Got + ", another is wanted"
			}
			return s.Code, s.Field + ": wanted " + s.Want + ", got " + s.Got
		}
	}
	return "", ""
}
