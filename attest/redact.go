package attest

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// NotShown stands in a redacted step for a value that its reader need not know.
const NotShown = "not shown"

// Redacted returns the verdict as the judged program may see it. Codes, fields
// and outcomes stay, and so does what its own evidence says of its software and
// what its owner can do. Reference values and floors of the manifest,
// identifiers of the machine and its chips, and everything in endorsements are
// left out: whoever gets itself refused must not learn how to be accepted.
func (v Verdict) Redacted() Verdict {
	v.Claims = v.Claims.redacted()
	v.Steps = redactSteps(v.Steps)
	v.Devices = slices.Clone(v.Devices)
	for i := range v.Devices {
		d := &v.Devices[i]
		d.Claims, d.Steps = d.Claims.redacted(), redactSteps(d.Steps)
	}
	return v
}

// redacted returns the claims without what names the machine or was read from
// endorsements.
func (c Claims) redacted() Claims {
	c.TCB = TCBClaims{Status: c.TCB.Status, Platform: c.TCB.Platform, QE: c.TCB.QE, Module: c.TCB.Module,
		Advisories: c.TCB.Advisories, RevocationChecked: c.TCB.RevocationChecked}
	if c.SNP != nil {
		snp := *c.SNP
		snp.ChipID, snp.Provider = nil, ""
		c.SNP = &snp
	}
	if c.TPM != nil {
		tpm := *c.TPM
		tpm.AttestationKey = nil
		c.TPM = &tpm
	}
	if _, ok := c.Registers[registerOfMachine]; ok {
		c.Registers = maps.Clone(c.Registers)
		delete(c.Registers, registerOfMachine)
	}
	if c.GPU != nil {
		gpu := *c.GPU
		gpu.Serial = ""
		c.GPU = &gpu
	}
	return c
}

func redactSteps(steps []Step) []Step {
	out := make([]Step, len(steps))
	for i, s := range steps {
		out[i] = s.redacted()
	}
	return out
}

// plainWants are codes of policy steps whose demand is the same in every
// manifest.
var plainWants = []string{CodeDebug, CodeNoReference, CodeNoRevocation}

func (s Step) redacted() Step {
	s.Grace, s.Ended = time.Time{}, time.Time{}
	if event, ok := strings.CutPrefix(s.Field, "events."); ok { // then register and name
		register, _, _ := strings.Cut(event, ".")
		s.Field = "events." + register
	}
	if slices.Contains(named, s.Field) {
		s.Got = NotShown
	}
	switch {
	case endorsed(s.Source):
		s.Want, s.Got = NotShown, NotShown
	case strings.HasPrefix(s.Source, "packages") || strings.HasPrefix(s.Source, "platforms"):
		if !slices.Contains(plainWants, s.Code) {
			s.Want = NotShown
		}
		s.Got = s.redactedGot()
	}
	if s.Fix.Who != ServiceOwner && s.Fix.Who != Nobody {
		s.Fix.How = ""
	}
	return s
}

// endorsed reports whether a step's fact is from an endorsement, whose kinds are
// names of files.
func endorsed(source string) bool {
	return strings.HasSuffix(source, ".json") || strings.HasSuffix(source, ".der") || strings.HasSuffix(source, ".pem")
}

// registerOfMachine is the register of Arm CCA that names one machine.
const registerOfMachine = "instance"

// named are fields that name one machine.
var named = []string{"cca." + registerOfMachine, "platform.anchor", "snp.chipID", "snp.provider", "tcb.fmspc", "tcb.ppid", "tcb.platformInstanceID", "tpm.attestationKey"}

// redactedGot is what a policy step found, without what the policy put into it.
func (s Step) redactedGot() string {
	s.Got, _, _ = strings.Cut(s.Got, graceOver)
	switch {
	case s.Code == CodeTCBEvaluation || s.Code == CodeTCBDate || s.Code == CodeEndorsementAge:
		return NotShown
	case strings.HasPrefix(s.Field, "devices.") && !s.OK:
		got, _, _ := strings.Cut(s.Got, ":") // what follows repeats the device's own step
		return got
	case s.Code == CodeTCBFloor:
		parts := strings.Split(s.Got, "; ")
		for i := range parts {
			parts[i], _, _ = strings.Cut(parts[i], floorIs)
		}
		return strings.Join(parts, "; ")
	}
	return s.Got
}
