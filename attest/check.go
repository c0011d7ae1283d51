package attest

import (
	"bytes"
	"fmt"
	"strings"
)

// Check compares claims with the policy: every constrained field, each as a
// step. A constraint on a claim that is missing fails. The age of endorsements
// depends on the time and is judged by Judge.
func (p Policy) Check(c Claims) []Step {
	return append(p.packageSteps(c), p.platformSteps(c)...)
}

// packageSteps judges the debug mode and the software.
func (p Policy) packageSteps(c Claims) []Step {
	k := check{source: section("packages", p.PackageName)}
	k.debug(c, p.Package.AllowDebug)
	k.migratable(c, p.Package.AllowDebug)
	switch {
	case c.TEE.Simulated() && p.Package.Sim != nil:
		k.sim(c, p.Package.Sim)
	case c.TEE == SGX && p.Package.SGX != nil:
		k.sgx(c, p.Package.SGX)
	case c.TEE == TDX && p.Package.TDX != nil:
		k.tdx(c, p.Package.TDX)
	case c.TEE == SNP && p.Package.SNP != nil:
		k.snp(c, p.Package.SNP)
	default:
		key := string(c.TEE)
		if c.TEE.Simulated() {
			key = "sim"
		}
		k.add(Step{Code: CodeNoReference, Field: key, Want: "reference values for " + key, Got: "none",
			Fix: Fix{ManifestAuthor, fmt.Sprintf("add %q to the package, if it may run there", key)}})
	}
	return k.steps
}

// check collects the steps of one section.
type check struct {
	source string
	steps  []Step
}

func section(kind, name string) string {
	if name == "" {
		return kind
	}
	return kind + "." + name
}

func (k *check) add(s Step) {
	s.Source = k.source
	if s.OK {
		s.Fix = Fix{}
	}
	k.steps = append(k.steps, s)
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
	s := Step{Code: CodeDebug, Field: string(c.TEE.Shape()) + ".debug", OK: !c.Debug || allowed,
		Want: "false", Got: fmt.Sprint(c.Debug), Fix: Fix{ServiceOwner, "build and sign for production: a host reads the memory of a debug enclave or guest"}}
	if allowed {
		s.Want = "any (allowDebug)"
	}
	k.add(s)
}

// tdMigratable is bit 29 of TD_ATTRIBUTES, in the byte that holds it (Intel TDX
// Module ABI specification, ATTRIBUTES).
const tdMigratable = 0x20

// migratable refuses guests that the host may export: it chooses the migration
// TD that gets the guest's memory, and quotes of version 4 do not name that one.
func (k *check) migratable(c Claims, allowed bool) {
	if c.TDX == nil {
		return
	}
	got := len(c.TDX.TDAttributes) > 3 && c.TDX.TDAttributes[3]&tdMigratable != 0
	s := Step{Code: CodeDebug, Field: "tdx.migratable", OK: !got || allowed, Want: "false", Got: fmt.Sprint(got),
		Fix: Fix{ServiceOwner, "launch the guest without MIGRATABLE: whom the host lets migrate a guest reads its memory"}}
	if allowed {
		s.Want = "any (allowDebug)"
	}
	k.add(s)
}

func (k *check) sgx(c Claims, r *SGXReference) {
	var got SGXClaims
	if c.SGX != nil {
		got = *c.SGX
	}
	bySigner := r.SignerID != nil && r.ProductID != nil && r.MinSecurityVersion != nil
	switch {
	case r.AllowAny && r.UniqueID == nil:
		k.any("sgx.uniqueID", got.UniqueID)
	case !r.AllowAny && r.UniqueID == nil && !bySigner:
		k.incomplete("sgx", "uniqueID, or signerID with productID and minSecurityVersion")
	}
	k.oneOf("sgx.uniqueID", r.UniqueID, got.UniqueID)
	if r.SignerID != nil {
		k.oneOf("sgx.signerID", []Hex{r.SignerID}, got.SignerID)
	}
	if r.ProductID != nil {
		k.add(Step{Code: CodeMeasurement, Field: "sgx.productID", OK: c.SGX != nil && got.ProductID == *r.ProductID,
			Want: fmt.Sprint(*r.ProductID), Got: number(c.SGX != nil, got.ProductID), Fix: fixSoftware})
	}
	if r.MinSecurityVersion != nil {
		k.add(Step{Code: CodeSecurityVersion, Field: "sgx.securityVersion", OK: c.SGX != nil && got.SecurityVersion >= *r.MinSecurityVersion,
			Want: fmt.Sprintf("%d or higher", *r.MinSecurityVersion), Got: number(c.SGX != nil, got.SecurityVersion),
			Fix: Fix{ServiceOwner, "deploy a release with a higher security version"}})
	}
}

func number(present bool, n uint16) string {
	if !present {
		return "absent"
	}
	return fmt.Sprint(n)
}

func (k *check) tdx(c Claims, r *TDXReference) {
	var got TDXClaims
	if c.TDX != nil {
		got = *c.TDX
	}
	switch {
	case r.AllowAny && r.MRTD == nil:
		k.any("tdx.mrtd", got.MRTD)
	case r.MRTD == nil:
		k.incomplete("tdx.mrtd", "at least one accepted MRTD")
	}
	k.oneOf("tdx.mrtd", r.MRTD, got.MRTD)
	k.oneOf("tdx.rtmr0", r.RTMR0, got.RTMR0)
	k.oneOf("tdx.rtmr1", r.RTMR1, got.RTMR1)
	k.oneOf("tdx.rtmr2", r.RTMR2, got.RTMR2)
	k.oneOf("tdx.rtmr3", r.RTMR3, got.RTMR3)
	k.oneOf("tdx.mrConfigID", r.MRConfigID, got.MRConfigID)
	k.oneOf("tdx.mrOwner", r.MROwner, got.MROwner)
	k.oneOf("tdx.mrOwnerConfig", r.MROwnerConfig, got.MROwnerConfig)
	k.oneOf("tdx.mrSEAM", r.MRSEAM, got.MRSEAM)
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

// Nearest returns the package whose policy the claims come closest to, and how
// many of its steps fail. Of equals the first in order of name counts. Without
// packages it returns "" and 0.
func Nearest(c Claims, packages map[string]Policy) (name string, distance int) {
	found := false
	for n, p := range packages {
		d := 0
		for _, s := range p.packageSteps(c) {
			if !s.OK {
				d++
			}
		}
		if !found || d < distance || d == distance && n < name {
			name, distance, found = n, d, true
		}
	}
	return name, distance
}
