package attest

// plugin judges a TEE without fields of its own here, by its registers.
func (k *check) plugin(c Claims, r *RegisterReference) {
	prefix := string(c.TEE) + "."
	switch {
	case r.AllowAny && r.Registers == nil:
		k.add(Step{Code: CodeMeasurement, Field: prefix + "registers", OK: true, Want: "any (allowAnyMeasurement)", Got: "not compared"})
	case r.Registers == nil:
		k.incomplete(prefix+"registers", "accepted values of at least one register")
	case len(r.Registers) == 0:
		k.add(Step{Code: CodeNoReference, Field: prefix + "registers", Want: "none: registers names no register", Got: "not compared", Fix: fixReference})
	}
	for _, name := range sortedKeys(r.Registers) {
		k.oneOf(prefix+name, notNil(r.Registers[name]), c.Registers[name])
	}
}

// pluginPlatform says plainly that there is no floor: what a TEE without fields
// of its own here says of its machine, only its verifier can judge.
func (k *check) pluginPlatform(c Claims) {
	s := Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", OK: true, Want: "as far as the verifier of " + string(c.TEE) + " can", Got: "checked"}
	if !c.TCB.RevocationChecked {
		s.Got = "NOT checked: neither revocation nor patch level is judged for this TEE"
	}
	k.add(s)
}
