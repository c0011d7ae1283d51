package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// explained is a verdict over evidence that was given as files.
type explained struct {
	attest.Verdict
	// Nearest is the package that the evidence comes closest to and Distance how
	// many of its fields differ; with a manifest and no marble.
	Nearest  string            `json:"nearest,omitempty"`
	Distance int               `json:"distance,omitempty"`
	Packages []attest.Distance `json:"packages,omitempty"` // every package of the manifest, nearest first
	Changes  []attest.Change   `json:"changes,omitempty"`  // edits of the manifest that would accept it
}

func (a *app) explainEvidence(name string, f explainFlags) error {
	set, o, err := a.loadEvidence(name, f)
	if problem.CodeOf(err) == "ATT-041" {
		return a.notJudged(err)
	}
	if err != nil {
		return err
	}
	var steps []attest.Step
	if set.Certificate != nil {
		found, binding, err := fromCertificate(set.Certificate)
		if err != nil {
			return err
		}
		switch {
		case set.Evidence.Raw == nil && found.Evidence.TEE != "":
			set.Evidence = found.Evidence
		case set.Evidence.Raw == nil:
			set.SetQuote(found.Evidence.Raw)
		}
		steps = binding
	}
	e, err := a.judgeEvidence(set, o, f)
	if err != nil {
		return err
	}
	e.Verdict = withSteps(e.Verdict, steps)
	return a.showExplained(e, o.At, f)
}

// showExplained writes a verdict with what would change it.
func (a *app) showExplained(e explained, at time.Time, f explainFlags) error {
	if f.redacted {
		e = explained{Verdict: e.Verdict.Redacted()}
	}
	done, err := a.p.Structured(e)
	if err != nil {
		return err
	}
	if !done {
		a.p.Notef("judged as of %s\n", at.UTC().Format(time.RFC3339))
		a.verdictReport(e.Verdict)
		a.packageReport(e)
		a.changeReport(e.Verdict, e.Changes, f.manifest)
	}
	if !e.OK() {
		return exitError(problem.Refused.ExitCode())
	}
	return nil
}

// loadEvidence reads a folder or a file of evidence and how to judge it.
func (a *app) loadEvidence(name string, f explainFlags) (evidence.Set, evidence.Options, error) {
	info, err := os.Stat(name)
	if err != nil {
		return evidence.Set{}, evidence.Options{}, problem.Because(err, "CLI-003", "reading %s", name)
	}
	dir, file := name, ""
	if !info.IsDir() {
		dir, file = filepath.Split(name)
		if dir == "" {
			dir = "."
		}
	}
	if s, ok := readStatement(dir, file); ok {
		return a.statementSet(dir, s, f)
	}
	var set evidence.Set
	if file == "" {
		set, err = evidence.Load(os.DirFS(dir))
	} else {
		set, err = evidence.LoadFile(os.DirFS(dir), file)
	}
	if err != nil {
		return set, evidence.Options{}, err
	}
	o, err := a.explainOptions(set, f)
	return set, o, err
}

// statementFile is a coordinator's statement as verify wrote it, or out of a
// bundle.
type statementFile struct {
	apiv1.Statement
	bundled bool
	made    time.Time // of a bundle; a coordinator's own clock decides nothing
}

// readStatement reads a coordinator's statement from a trust folder, or from a
// file.
func readStatement(dir, file string) (statementFile, bool) {
	var s statementFile
	if file == "" {
		file = client.EvidenceFile
	}
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || len(raw) > maxFile {
		return s, false
	}
	var bundle struct {
		Statement *apiv1.Statement `json:"statement"`
		Made      time.Time        `json:"time"`
	}
	if json.Unmarshal(raw, &bundle) == nil && bundle.Statement != nil {
		s = statementFile{*bundle.Statement, true, bundle.Made}
	} else if json.Unmarshal(raw, &s.Statement) != nil {
		return s, false
	}
	return s, len(s.ClaimsBuffer) > 0 && len(s.Evidence.Raw) > 0
}

// statementSet makes a set of a statement. In a trust folder it is judged by the
// policy that verify kept there, as of when it was verified.
func (a *app) statementSet(dir string, s statementFile, f explainFlags) (evidence.Set, evidence.Options, error) {
	set := evidence.Set{Evidence: s.Evidence, Endorsements: s.Endorsements, VerifyAt: s.made}
	for _, kind := range []string{attest.KindPCKCRL, attest.KindRootCRL, attest.KindAMDCRL} {
		_, ok := s.Endorsements.Get(kind)
		set.HasCRL = set.HasCRL || ok
	}
	trust, err := client.LoadTrust(dir)
	trusted := err == nil && !s.bundled
	if trusted {
		set.VerifyAt = trust.VerifiedAt
	}
	o, err := a.explainOptions(set, f)
	if err != nil {
		return set, o, err
	}
	bound := attest.Bind(s.ClaimsBuffer)
	o.Binding = &bound
	if trusted && f.manifest == "" {
		err = keptPolicy(&o, filepath.Join(dir, policyName))
	}
	return set, o, err
}

// keptPolicy judges by the policy file of a trust folder, if it has one.
func keptPolicy(o *evidence.Options, name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil // verify had no policy of its own: any measurement
	}
	policy, ds := manifest.ParsePolicyFile(raw)
	if err := ds.Err(); err != nil {
		return err
	}
	p := policy.Policy()
	o.Package, o.Platform, o.PackageName, o.PlatformName = &p.Package, p.Platform, p.PackageName, p.PlatformName
	if policy.SimulationRoot == "" || o.Root != nil {
		return nil
	}
	o.Root, err = evidence.ParseRoot([]byte(policy.SimulationRoot))
	return err
}

// judgeEvidence makes the verdict: by the package that was asked for, or of a
// manifest by the nearest.
func (a *app) judgeEvidence(set evidence.Set, o evidence.Options, f explainFlags) (explained, error) {
	v, err := judgeSet(set, o)
	if err != nil || f.manifest == "" {
		return explained{Verdict: v}, err
	}
	m, err := a.parseManifest(f.manifest)
	if err != nil {
		return explained{}, err
	}
	var e explained
	if f.marble == "" {
		all := make(map[string]attest.Policy, len(m.Packages))
		for name, p := range m.Packages {
			all[name] = attest.Policy{Package: p}
		}
		e.Packages = attest.Distances(v.Claims, all)
		e.Nearest, e.Distance = attest.Nearest(v.Claims, all)
		byPackage(&o, m, e.Nearest)
		if v, err = judgeSet(set, o); err != nil {
			return e, err
		}
	}
	e.Verdict, e.Changes = v, located(v.Changes(), m.Raw())
	return e, nil
}

// judgeSet judges evidence of hardware, or of the software TEE under the root of
// a simulation platform.
func judgeSet(set evidence.Set, o evidence.Options) (attest.Verdict, error) {
	if !set.Evidence.TEE.Simulated() {
		return evidence.Explain(set, o)
	}
	if o.Root == nil {
		return attest.Verdict{}, usage("the evidence is simulated").WithNext("pass --root with the root certificate of its platform")
	}
	all, err := sim.NewVerifiers(o.Root)
	if err != nil {
		return attest.Verdict{}, err
	}
	p := attest.Policy{Platform: o.Platform, PackageName: o.PackageName, PlatformName: o.PlatformName}
	if o.Package != nil {
		p.Package = *o.Package
	}
	if o.Binding != nil {
		return attest.Judge(attest.NewVerifiers(all...), set.Evidence, *o.Binding, set.Endorsements, p, o.At), nil
	}
	return attest.JudgeUnbound(attest.NewVerifiers(all...), set.Evidence, set.Endorsements, p, o.At), nil
}

// byPackage judges by a package on the platform of the first marble that runs
// it.
func byPackage(o *evidence.Options, m *manifest.Manifest, name string) {
	o.PackageName, o.PlatformName = name, manifest.DefaultPlatform
	for _, marble := range manifest.MarbleNames(m) {
		if m.Marbles[marble].Package == name {
			o.PlatformName = m.Marbles[marble].Platform
			break
		}
	}
	software := m.Packages[name]
	o.Package, o.Platform = &software, m.Platforms[o.PlatformName]
}

// fromCertificate takes the evidence out of an RA-TLS certificate and checks
// that it vouches for the certificate's key.
func fromCertificate(pemBytes []byte) (ratls.Found, []attest.Step, error) {
	cert, err := evidence.ParseRoot(pemBytes)
	if err != nil {
		return ratls.Found{}, nil, problem.Because(err, "CLI-003", "reading cert.pem")
	}
	found, err := ratls.Extract(cert)
	if err != nil {
		return ratls.Found{}, nil, err
	}
	return found, found.CheckBinding(cert), nil
}

// withSteps adds steps that were made outside of Judge.
func withSteps(v attest.Verdict, steps []attest.Step) attest.Verdict {
	v.Steps = append(v.Steps, steps...)
	for _, s := range steps {
		if !s.OK {
			v.Verdict = attest.Refused
		}
	}
	return v
}

func (a *app) explainOptions(set evidence.Set, f explainFlags) (evidence.Options, error) {
	o := evidence.Options{At: set.VerifyAt}
	if f.at != "" {
		at, err := evidence.ParseTime(f.at)
		if err != nil {
			return o, usage("--at %q is no time: want RFC 3339 such as 2026-01-15T00:00:00Z, or a date", f.at)
		}
		o.At = at
	}
	if o.At.IsZero() {
		o.At = a.p.Now()
	}
	var err error
	if f.root != "" {
		if o.Root, err = a.readRoot(f.root); err != nil {
			return o, err
		}
	}
	if f.manifest != "" && f.marble != "" {
		return o, a.manifestOptions(&o, f)
	}
	accepted := make([]attest.TCBStatus, len(f.acceptTCB))
	for i, s := range f.acceptTCB {
		accepted[i] = attest.TCBStatus(s)
	}
	floor := &attest.DCAPPlatform{AcceptedTCBStatuses: accepted}
	o.Platform = attest.Platform{SGX: floor, TDX: floor, Sim: floor, SNP: evidence.AnySNPPlatform()}
	software := evidence.AnyPackage()
	software.AllowDebug = f.allowDebug
	software.Sim = &attest.SimReference{AllowAny: true}
	if set.Evidence.TEE == attest.NVIDIA {
		software.Devices = evidence.AnyDevice()
	}
	o.Package = &software
	return o, nil
}

func (a *app) readRoot(name string) (*x509.Certificate, error) {
	raw, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	root, err := evidence.ParseRoot(bytes.TrimSpace(raw))
	if err != nil {
		return nil, problem.Because(err, "CLI-003", "reading %s", name)
	}
	return root, nil
}

// manifestOptions judges by a marble of a manifest.
func (a *app) manifestOptions(o *evidence.Options, f explainFlags) error {
	m, err := a.parseManifest(f.manifest)
	if err != nil {
		return err
	}
	policy, ok := m.PolicyFor(f.marble)
	if !ok {
		return usage("%s has no marble %q", f.manifest, f.marble).WithNext("%s", suggestion(f.marble, sortedNames(m.Marbles), "--marble ", "pass --marble NAME"))
	}
	o.Package, o.Platform, o.PackageName, o.PlatformName = &policy.Package, policy.Platform, policy.PackageName, policy.PlatformName
	return nil
}
