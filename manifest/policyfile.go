package manifest

import (
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// MaxPolicyFile is the size limit of a policy file, in bytes.
const MaxPolicyFile = 1 << 20

// PolicyLog is what a client demands of a deployment's log. The zero PolicyLog
// demands nothing.
type PolicyLog struct {
	Witnesses []string        `json:"witnesses,omitempty"` // their verifier keys
	AtLeast   int             `json:"atLeast,omitempty"`   // of them must have co-signed; all if 0
	Within    attest.Duration `json:"within,omitempty"`    // how old their word may be; 24h if 0
}

// PolicyFile is what a client demands of a coordinator's evidence. Only
// ParsePolicyFile makes a valid one; the zero PolicyFile accepts nothing.
type PolicyFile struct {
	Schema         string          `json:"$schema,omitempty"`
	TEE            string          `json:"tee"` // "sgx", "tdx", "snp", "azure", "tpm" or "sim"
	Package        attest.Package  `json:"package"`
	Platform       attest.Platform `json:"platform,omitzero"`
	Log            PolicyLog       `json:"log,omitzero"`
	SimulationRoot string          `json:"simulationRoot,omitempty"` // PEM; only, and always, with TEE "sim"
}

// Simulated reports whether the file accepts the software TEE, and only that.
func (f PolicyFile) Simulated() bool { return f.TEE == "sim" }

// Policy returns the file as a policy: reference values of its one TEE alone.
func (f PolicyFile) Policy() attest.Policy {
	p := attest.Policy{PackageName: "coordinator", PlatformName: "coordinator", Platform: f.Platform}
	p.Package.AllowDebug = f.Package.AllowDebug
	switch f.TEE {
	case "sgx":
		p.Package.SGX = f.Package.SGX
	case "tdx":
		p.Package.TDX = f.Package.TDX
	case "snp":
		p.Package.SNP = f.Package.SNP
	case "azure":
		p.Package.Azure = f.Package.Azure
	case "tpm":
		p.Package.TPM = f.Package.TPM
	case "sim":
		p.Package.Sim = f.Package.Sim
	}
	return p
}

// ParsePolicyFile reads a policy file as strictly as a manifest. With an error
// among the diagnostics the file is the zero one.
func ParsePolicyFile(raw []byte) (PolicyFile, Diagnostics) {
	w, root := readDocument(raw, MaxPolicyFile, policySchema())
	if root == nil {
		return PolicyFile{}, w.done()
	}
	var f PolicyFile
	if err := w.decode(raw, root, &f); err != nil {
		w.report(nil, spanOf(root), finding{code: "MAN-003", message: "the policy file can't be decoded: " + err.Error()})
		return PolicyFile{}, w.done()
	}
	w.policyFile(root, f)
	ds := w.done()
	if ds.HasErrors() {
		return PolicyFile{}, ds
	}
	return f, ds
}

func (w *walker) policyFile(root *jsonpos.Node, f PolicyFile) {
	pkg := root.Member("package")
	if pkg != nil && !w.bad[pkg.Value] {
		p := (*path)(nil).member("package")
		w.reference(pkg.Value, p, f.Package)
		w.oneTEE(pkg, p, f.TEE)
	}
	platform := root.Get("platform")
	guest := f.TEE == "snp" || f.TEE == "azure" && f.Package.Azure != nil && f.Package.Azure.SNP != nil
	if guest && (platform == nil || !w.bad[platform] && platform.Get("snp") == nil) {
		w.report(nil, keySpan(root.Member("tee")), finding{code: "MAN-046", message: fmt.Sprintf("tee is %q, but platform has no snp rules, so no machine is accepted", f.TEE), suggest: "add platform.snp with a minTCB"})
	}
	if platform != nil && !w.bad[platform] {
		w.rules(platform, (*path)(nil).member("platform"), f.Platform)
	}
	if log := root.Get("log"); log != nil && !w.bad[log] {
		w.policyLog(log, f.Log)
	}
	w.simulationRoot(root, f)
}

// policyLog checks the keys of witnesses, and that there are enough of them.
func (w *walker) policyLog(log *jsonpos.Node, l PolicyLog) {
	p := (*path)(nil).member("log")
	list := log.Get("witnesses")
	if list == nil || w.bad[list] {
		return
	}
	seen := map[string]bool{}
	for i, item := range list.Items {
		key, err := witnessKey(item.Text)
		switch {
		case err != nil:
			w.report(p.member("witnesses").item(i), spanOf(item), finding{code: "MAN-077", message: fmt.Sprintf("key of a witness: %v", err)})
		case seen[key]:
			w.report(p.member("witnesses").item(i), spanOf(item), finding{code: "MAN-078", message: "the same key stands twice, and would count twice"})
		}
		seen[key] = true
	}
	if n := log.Member("atLeast"); n != nil && l.AtLeast > len(list.Items) {
		w.report(p.member("atLeast"), spanOf(n.Value), finding{code: "MAN-046", message: fmt.Sprintf("%d of %d witnesses can never co-sign", l.AtLeast, len(list.Items))})
	}
}

// oneTEE demands reference values of the file's TEE and of no other.
func (w *walker) oneTEE(pkg *jsonpos.Member, p *path, want string) {
	if want == "" {
		return
	}
	for _, key := range append([]string{"plugins", "devices"}, teeKeys...) {
		m := pkg.Value.Member(key)
		switch {
		case key == want && m == nil && !w.incomplete(pkg.Value):
			w.report(p, keySpan(pkg), finding{code: "MAN-046", message: fmt.Sprintf("tee is %q, but the package has no reference values for it", want)})
		case key != want && m != nil:
			w.report(p.member(key), keySpan(m), finding{code: "MAN-046", message: fmt.Sprintf("tee is %q, but the package has reference values for %s", want, key), suggest: "a coordinator is judged as one TEE: remove the others"})
		}
	}
}

func (w *walker) simulationRoot(root *jsonpos.Node, f PolicyFile) {
	p := (*path)(nil).member("simulationRoot")
	m := root.Member("simulationRoot")
	switch {
	case f.TEE == "":
	case m == nil && f.Simulated():
		w.report(nil, keySpan(root.Member("tee")), finding{code: "MAN-046", message: "tee \"sim\" needs simulationRoot, the root certificate of the simulator"})
	case m != nil && !f.Simulated():
		w.report(p, keySpan(m), finding{code: "MAN-046", message: fmt.Sprintf("tee is %q, so a simulationRoot would never be used", f.TEE), suggest: "remove it; simulation is accepted only where tee is \"sim\""})
	case m != nil && !w.bad[m.Value]:
		if _, err := parseCertificate(f.SimulationRoot); err != nil {
			w.report(p, spanOf(m.Value), finding{code: "MAN-027", message: "simulationRoot: " + err.Error()})
		}
	}
}
