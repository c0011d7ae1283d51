package attest

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Check compares claims with the policy: every constrained field, each as a
// step. A constraint on a claim that is missing fails. It knows no time: the
// age of endorsements is left out, and no grace counts. Judge judges those too.
func (p Policy) Check(c Claims) []Step { return p.checkAt(c, time.Time{}) }

// checkAt is Check at a time.
func (p Policy) checkAt(c Claims, at time.Time) []Step {
	k := check{source: section("packages", p.PackageName), steps: make([]Step, 0, 24), at: at}
	k.packages(c, &p.Package)
	k.source, k.ended = section("platforms", p.PlatformName), p.Platform.Endorsements.GraceUntil
	k.platform(c, &p.Platform)
	if !at.IsZero() {
		k.ages(c, p.Platform.Endorsements)
	}
	return k.steps
}

// packageSteps judges the debug mode and the software.
func (p Policy) packageSteps(c Claims) []Step {
	k := check{source: section("packages", p.PackageName)}
	k.packages(c, &p.Package)
	return k.steps
}

func (k *check) packages(c Claims, p *Package) {
	k.debug(c, p.AllowDebug)
	k.migratable(c, p.AllowDebug)
	switch {
	case c.TEE.Simulated() && p.Sim != nil:
		k.sim(c, p.Sim)
	case c.TEE == SGX && p.SGX != nil:
		k.sgx(c, p.SGX)
	case c.TEE == TDX && p.TDX != nil:
		k.tdx(c, p.TDX)
	case c.TEE == SNP && p.SNP != nil:
		k.snp(c, p.SNP)
	case azure(c.TEE) && p.Azure != nil:
		k.azure(c, p.Azure)
	case c.TEE == TPM && p.TPM != nil:
		k.tpm(c, p.TPM)
	case pluggedIn(c.TEE) && p.Plugins[c.TEE] != nil:
		k.plugin(c, p.Plugins[c.TEE])
	default:
		key := referenceKey(c.TEE)
		k.add(Step{Code: CodeNoReference, Field: key, Want: "reference values for " + key, Got: "none",
			Fix: Fix{ManifestAuthor, fmt.Sprintf("add %q to the package, if it may run there", key)}})
	}
}

func azure(t TEE) bool { return t == SNPAzure || t == TDXAzure }

// pluggedIn reports whether a TEE has no fields of its own in Package.
func pluggedIn(t TEE) bool {
	switch t {
	case SGX, TDX, SNP, SNPAzure, TDXAzure, TPM, NVIDIA:
		return false
	}
	return !t.Simulated()
}

// referenceKey is where a package holds the reference values for a TEE.
func referenceKey(t TEE) string {
	switch {
	case t.Simulated():
		return "sim"
	case azure(t):
		return "azure"
	case pluggedIn(t):
		return "plugins." + string(t)
	}
	return string(t)
}

// beneath returns the hardware that evidence rests on: "tdx" for "tdx:azure" and
// for "sim:tdx".
func beneath(t TEE) TEE {
	switch t {
	case SNPAzure:
		return SNP
	case TDXAzure:
		return TDX
	}
	return t.Shape()
}

// check collects the steps of one section.
type check struct {
	source string
	steps  []Step
	at     time.Time // zero: no grace counts
	ended  time.Time // until then endorsements that have ended are accepted
}

func section(kind, name string) string {
	if name == "" {
		return kind
	}
	return kind + "." + name
}

func (k *check) add(s Step) {
	s.Source = k.source
	k.steps = append(k.steps, s.Holding(s.OK))
}

var (
	fixSoftware  = Fix{ServiceOwner, "redeploy the released software, or have the manifest's author approve this one"}
	fixReference = Fix{ManifestAuthor, "name the measurements that the package may have"}
)

// oneOf compares a claim with the accepted values; nil accepts any.
func (k *check) oneOf(field string, accepted []Hex, got Hex) {
	if accepted == nil {
		return
	}
	s := Step{Code: CodeMeasurement, Field: field, Want: list(accepted), Got: shown(got), Fix: fixSoftware}
	for _, a := range accepted {
		s.OK = s.OK || len(got) > 0 && bytes.Equal(a, got)
	}
	k.add(s)
}

func list(hs []Hex) string {
	if len(hs) == 0 {
		return "none: the list of accepted values is empty"
	}
	words := make([]string, len(hs))
	for i, h := range hs {
		if words[i] = h.String(); len(h) == 0 {
			words[i] = "an empty value, which nothing has"
		}
	}
	return strings.Join(words, " or ")
}

func (k *check) any(field string, got Hex) {
	k.add(Step{Code: CodeMeasurement, Field: field, OK: true, Want: "any (allowAnyMeasurement)", Got: shown(got)})
}

func (k *check) incomplete(field, want string) {
	k.add(Step{Code: CodeNoReference, Field: field, Want: want, Got: "too few reference values", Fix: fixReference})
}

func (k *check) debug(c Claims, allowed bool) {
	s := Step{Code: CodeDebug, Field: string(beneath(c.TEE)) + ".debug", OK: !c.Debug || allowed,
		Want: "false", Got: fmt.Sprint(c.Debug), Fix: Fix{ServiceOwner, "build and sign for production: a host reads the memory of a debug enclave or guest"}}
	if allowed {
		s.Want = "any (allowDebug)"
	}
	k.add(s)
}

// bits compares a field with the wanted bits; nil accepts any.
func (k *check) bits(code, field string, want *Bits, got Hex, fix Fix) {
	if want == nil {
		return
	}
	s := Step{Code: code, Field: field, OK: want.match(got), Want: want.String(), Got: shown(got), Fix: fix}
	k.add(s)
}

// String returns "value" or "value under mask".
func (b Bits) String() string {
	if b.Mask == nil {
		return shown(b.Value)
	}
	return shown(b.Value) + " under " + shown(b.Mask)
}

// match reports whether a field of the same size has the wanted bits.
func (b Bits) match(got Hex) bool {
	if len(got) == 0 || len(b.Value) != len(got) || b.Mask != nil && len(b.Mask) != len(got) {
		return false
	}
	for i := range got {
		bit := got[i]
		if b.Mask != nil {
			bit &= b.Mask[i]
		}
		if bit != b.Value[i] {
			return false
		}
	}
	return true
}

// covers reports whether bits of one byte are all compared.
func (b *Bits) covers(index int, bits byte) bool {
	return b != nil && (b.Mask == nil || len(b.Mask) > index && b.Mask[index]&bits == bits)
}

// atLeast compares a number that must not be lower.
func (k *check) atLeast(field string, want *uint16, got uint16, present bool, fix string) {
	if want == nil {
		return
	}
	k.add(Step{Code: CodeSecurityVersion, Field: field, OK: present && got >= *want,
		Want: fmt.Sprintf("%d or higher", *want), Got: number(present, got), Fix: Fix{ServiceOwner, fix}})
}

func number(present bool, n uint16) string {
	if !present {
		return "absent"
	}
	return fmt.Sprint(n)
}

// switched adds a step about something that is on or off.
func (k *check) switched(s Step, want, got, present bool) {
	s.OK, s.Want, s.Got = present && want == got, onOff(want), onOff(got)
	if !present {
		s.Got = "absent"
	}
	k.add(s)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// sim judges a simulated TEE; SimReference says which registers hold what.
func (k *check) sim(c Claims, r *SimReference) {
	var program, agent, files Hex
	switch {
	case c.TEE.Shape() == SGX && c.SGX != nil:
		program, agent, files = c.SGX.UniqueID, c.SGX.SignerID, digestIn(c.SGX.ConfigID)
	case c.TEE.Shape() == TDX && c.TDX != nil:
		program, agent, files = digestIn(c.TDX.MRTD), digestIn(c.TDX.MROwner), digestIn(c.TDX.MRConfigID)
	}
	switch {
	case r.AllowAny && r.Program == nil:
		k.any("sim.program", program)
	case r.Program == nil:
		k.incomplete("sim.program", "at least one accepted program digest")
	}
	k.oneOf("sim.program", r.Program, program)
	k.oneOf("sim.agent", r.Agent, agent)
	if !r.AllowAny || r.Files != nil {
		want := FilesDigest(r.Files)
		k.oneOf("sim.files", []Hex{want[:]}, files)
	}
}

// digestIn returns the digest in a register that holds 32 bytes and zeros. A
// register with anything else is returned whole and so matches no digest.
func digestIn(register Hex) Hex {
	const size = 32
	if len(register) > size && len(bytes.Trim(register[size:], "\x00")) == 0 {
		return register[:size]
	}
	return register
}
