package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

func (c *checker) pkg(m *jsonpos.Member, p *path) {
	pkg := c.m.Packages[m.Key]
	c.reference(m.Value, p, pkg)
	if !c.used[m.Key] {
		c.report(p, keySpan(m), finding{code: "MAN-045", warning: true, message: fmt.Sprintf("nothing uses package %q", m.Key)})
	}
}

// teeKeys are the members of a package that hold reference values of one TEE
// each.
var teeKeys = []string{"sgx", "tdx", "snp", "azure", "tpm", "sim"}

// reference checks a package's reference values, in a manifest or policy file.
func (w *walker) reference(n *jsonpos.Node, p *path, pkg attest.Package) {
	tees := 0
	for _, tee := range teeKeys {
		m := n.Member(tee)
		if m == nil {
			continue
		}
		tees++
		if !w.bad[m.Value] && !w.incomplete(m.Value) {
			w.tee(m, p.member(tee), pkg)
		}
	}
	if plugins := n.Get("plugins"); plugins != nil && !w.bad[plugins] {
		tees += len(plugins.Members)
		w.plugins(plugins, p.member("plugins"), pkg)
	}
	if tees == 0 && !w.incomplete(n) {
		w.report(p, spanOf(n), finding{code: "MAN-021", message: "the package names no TEE, so nothing can meet it", suggest: "add sgx, tdx, snp, azure, tpm, plugins or sim with reference values"})
	}
	if devices := n.Get("devices"); devices != nil && !w.bad[devices] {
		w.devices(devices, p.member("devices"), pkg)
	}
	if pkg.AllowDebug {
		w.report(p.member("allowDebug"), keySpan(n.Member("allowDebug")), finding{code: "MAN-043", warning: true, message: "debug enclaves and guests are accepted: their hosts can read their memory"})
	}
}

// tee checks the reference values of one TEE.
func (w *walker) tee(m *jsonpos.Member, at *path, pkg attest.Package) {
	switch m.Key {
	case "sgx":
		w.sgx(m, at, pkg.SGX)
	case "tdx":
		w.tdx(m, at, pkg.TDX)
		w.uncompared(m, at, pkg.TDX)
	case "snp":
		w.snp(m, at, pkg.SNP)
	case "azure":
		w.azure(m, at, pkg.Azure)
	case "tpm":
		if r := pkg.TPM; r != nil {
			w.measured(m, at, "pcrs", len(r.PCRs) > 0, r.AllowAny)
			w.openEvents(m, at, r.Events, r.EventsOnly, func(register string) bool { return len(r.PCRs[strings.TrimPrefix(register, "pcr")]) > 0 })
		}
	case "sim":
		if r := pkg.Sim; r != nil {
			w.measured(m, at, "program", len(r.Program) > 0, r.AllowAny)
			if len(r.Agent) == 0 && !r.AllowAny {
				w.report(at, keySpan(m), finding{code: "MAN-041", warning: true, message: fmt.Sprintf("%s does not pin the agent: any program may supervise this one", at)})
			}
		}
	}
}

// incomplete reports whether the schema refused a member of n, so that what is
// missing may be only misspelt.
func (w *walker) incomplete(n *jsonpos.Node) bool {
	for _, m := range n.Members {
		if w.bad[m.Value] {
			return true
		}
		for _, item := range m.Value.Items {
			if w.bad[item] {
				return true
			}
		}
	}
	return false
}

// measured demands a measurement, or that somebody says that any will do.
func (w *walker) measured(m *jsonpos.Member, at *path, field string, given, anyOK bool) {
	if !given && !anyOK {
		w.report(at, keySpan(m), finding{code: "MAN-020", message: fmt.Sprintf("%s has no measurement: %s is missing", at, field)})
	}
	if anyOK {
		w.report(at.member("allowAnyMeasurement"), keySpan(m.Value.Member("allowAnyMeasurement")), finding{code: "MAN-042", warning: true, message: fmt.Sprintf("%s accepts any measurement", at)})
	}
}

func (w *walker) sgx(m *jsonpos.Member, at *path, r *attest.SGXReference) {
	if r == nil {
		return
	}
	missing := sgxMissing(r)
	w.measured(m, at, missing, missing == "", r.AllowAny)
	w.bits(m, at, "attributes", r.Attributes)
	w.bits(m, at, "miscSelect", r.MiscSelect)
}

func sgxMissing(r *attest.SGXReference) string {
	switch {
	case len(r.UniqueID) > 0:
		return ""
	case len(r.SignerID) == 0 && r.ProductID == nil && r.MinSecurityVersion == nil:
		return "uniqueID, or signerID with productID and minSecurityVersion,"
	case len(r.SignerID) == 0:
		return "signerID"
	case r.ProductID == nil:
		return "productID (signerID alone accepts everything of that signer)"
	case r.MinSecurityVersion == nil:
		return "minSecurityVersion (signerID alone accepts every old version)"
	}
	return ""
}

func (w *walker) tdx(m *jsonpos.Member, at *path, r *attest.TDXReference) {
	if r == nil {
		return
	}
	w.measured(m, at, "mrtd", len(r.MRTD) > 0, r.AllowAny)
	w.bits(m, at, "tdAttributes", r.TDAttributes)
	w.bits(m, at, "xfam", r.XFAM)
	registers := map[string][]attest.Hex{"rtmr0": r.RTMR0, "rtmr1": r.RTMR1, "rtmr2": r.RTMR2, "rtmr3": r.RTMR3}
	w.openEvents(m, at, r.Events, r.EventsOnly, func(register string) bool { return len(registers[register]) > 0 })
}

func (w *walker) snp(m *jsonpos.Member, at *path, r *attest.SNPReference) {
	if r == nil {
		return
	}
	w.measured(m, at, "measurement", len(r.Measurement) > 0, r.AllowAny)
	w.bits(m, at, "guestPolicy", r.GuestPolicy)
}

// azure checks what a VM of Azure must be: hardware, and PCRs.
func (w *walker) azure(m *jsonpos.Member, at *path, r *attest.AzureReference) {
	if r == nil {
		return
	}
	w.measured(m, at, "pcrs", len(r.PCRs) > 0, r.AllowAny)
	w.openEvents(m, at, r.Events, r.EventsOnly, func(register string) bool { return len(r.PCRs[strings.TrimPrefix(register, "pcr")]) > 0 })
	snp, tdx := m.Value.Member("snp"), m.Value.Member("tdx")
	if snp == nil && tdx == nil {
		w.report(at, keySpan(m), finding{code: "MAN-020", message: fmt.Sprintf("%s names no hardware: snp or tdx is missing", at)})
	}
	if snp != nil && !w.bad[snp.Value] && !w.incomplete(snp.Value) {
		w.snp(snp, at.member("snp"), r.SNP)
	}
	if tdx == nil || w.bad[tdx.Value] || w.incomplete(tdx.Value) || r.TDX == nil {
		return
	}
	at = at.member("tdx")
	w.tdx(tdx, at, r.TDX)
	if r.TDX.TDAttributes == nil && !r.TDX.AllowSEPTVE {
		w.report(at, keySpan(tdx), finding{code: "MAN-052", warning: true, message: fmt.Sprintf("%s refuses guests without SEPT_VE_DISABLE, and Azure's have been seen without it", at),
			suggest: "add allowSEPTVE, if that is accepted"})
	}
}

// uncompared warns of a TDX package that any kernel meets: the firmware, which
// MRTD is of, measures what it starts into the run-time registers.
func (w *walker) uncompared(m *jsonpos.Member, at *path, r *attest.TDXReference) {
	if r == nil || r.AllowAny || len(r.MRTD) == 0 {
		return
	}
	var open []string
	for _, register := range []struct {
		name   string
		values []attest.Hex
	}{{"rtmr1", r.RTMR1}, {"rtmr2", r.RTMR2}} {
		if len(register.values) == 0 && len(r.Events[register.name]) == 0 {
			open = append(open, register.name)
		}
	}
	if len(open) > 0 {
		w.report(at, keySpan(m), finding{code: "MAN-048", warning: true,
			message: fmt.Sprintf("%s does not compare %s: the same firmware with any other kernel, command line or initial ram disk is accepted", at, strings.Join(open, " and ")),
			suggest: "name the values of the released image"})
	}
}

// openEvents warns of named events beside which a register may hold anything.
func (w *walker) openEvents(m *jsonpos.Member, at *path, events map[string][]attest.EventReference, only bool, compared func(register string) bool) {
	n := m.Value.Get("events")
	if n == nil || w.bad[n] || only {
		return
	}
	for _, register := range n.Members {
		if len(events[register.Key]) > 0 && !compared(register.Key) {
			w.report(at.member("events").member(register.Key), keySpan(&register), finding{code: "MAN-055", warning: true,
				message: fmt.Sprintf("%s may hold further events: a log names its events itself, so something else may have been measured under another name", register.Key),
				suggest: "add eventsOnly with every event, or the register's value"})
		}
	}
}

// bits checks that wanted bits can be met.
func (w *walker) bits(m *jsonpos.Member, at *path, field string, b *attest.Bits) {
	if b == nil || b.Mask == nil || len(b.Mask) != len(b.Value) {
		return
	}
	for i := range b.Value {
		if b.Value[i]&^b.Mask[i] != 0 {
			w.report(at.member(field).member("value"), spanOf(m.Value.Get(field).Get("value")), finding{code: "MAN-053",
				message: fmt.Sprintf("%s wants bits that its mask leaves out (byte %d), so nothing can meet it", at.member(field), i)})
			return
		}
	}
}

// ownTEEs are names that no plug-in may have: the product judges them itself.
var ownTEEs = []attest.TEE{attest.SGX, attest.TDX, attest.SNP, attest.SNPAzure, attest.TDXAzure, attest.TPM, attest.NVIDIA}

func (w *walker) plugins(n *jsonpos.Node, p *path, pkg attest.Package) {
	for i := range n.Members {
		m := &n.Members[i]
		at := p.member(m.Key)
		if tee := attest.TEE(m.Key); slices.Contains(ownTEEs, tee) || tee.Simulated() {
			w.report(at, keySpan(m), finding{code: "MAN-057", message: fmt.Sprintf("%q is no plug-in, so these reference values would never be used", m.Key), suggest: "use the package's own field for it"})
		}
		if r := pkg.Plugins[attest.TEE(m.Key)]; r != nil && !w.bad[m.Value] && !w.incomplete(m.Value) {
			w.measured(m, at, "registers", len(r.Registers) > 0, r.AllowAny)
		}
	}
}

func (w *walker) devices(n *jsonpos.Node, p *path, pkg attest.Package) {
	for i := range n.Members {
		m := &n.Members[i]
		r := pkg.Devices[m.Key].NVIDIA
		gpu := m.Value.Member("nvidia")
		if r == nil || gpu == nil || w.bad[gpu.Value] {
			continue
		}
		for _, rule := range []struct {
			field, what string
			set         bool
		}{
			{"allowUncheckedMeasurements", "whatever it measures", r.AllowUncheckedMeasurements && len(r.Measurements) == 0},
			{"allowUncheckedRevocation", "revoked or not", r.AllowUncheckedRevocation},
		} {
			if rule.set {
				w.report(p.member(m.Key).member("nvidia").member(rule.field), keySpan(gpu.Value.Member(rule.field)), finding{code: "MAN-058", warning: true,
					message: fmt.Sprintf("device %s is accepted %s", m.Key, rule.what)})
			}
		}
	}
}
