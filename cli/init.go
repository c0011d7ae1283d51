package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

type initFlags struct {
	marbles     []string
	trustDomain string
	agent       string
	dryRun      bool
}

func (a *app) initCmd() *cobra.Command {
	var f initFlags
	c := &cobra.Command{Use: "init [DIR]", Short: "Write a first manifest.json from what exists",
		Example: "  ashlar init --trust-domain shop.example --marble web=./web\n  ashlar init --trust-domain shop.example --marble cart=evidence/cart",
		Long: `Each --marble is NAME=BINARY, measured for the software TEE, or NAME=DIR with
evidence of an SGX enclave, a TDX guest or an SEV-SNP guest, whose measurements
are taken only if the evidence is genuine. DIR is made if it is missing. No
existing file is overwritten.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return a.init(dir, f)
		}}
	c.Flags().StringArrayVar(&f.marbles, "marble", nil, "NAME=BINARY or NAME=EVIDENCE-DIR (repeatable)")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "", "trust domain of the deployment, such as shop.example")
	c.Flags().StringVar(&f.agent, "agent", "", "ashlar-marble's binary, to pin it for the software TEE (default: beside ashlar)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the manifest instead of writing it")
	return c
}

func (a *app) init(dir string, f initFlags) error {
	if len(f.marbles) == 0 || f.trustDomain == "" {
		return usage("init needs --trust-domain and at least one --marble").WithNext("ashlar init --marble web=./web --trust-domain shop.example")
	}
	packages, marbles := map[string]attest.Package{}, map[string]any{}
	for _, arg := range f.marbles {
		name, path, ok := strings.Cut(arg, "=")
		if !ok || name == "" || path == "" {
			return usage("--marble %q: want NAME=BINARY or NAME=EVIDENCE-DIR", arg)
		}
		if _, dup := packages[name]; dup {
			return usage("--marble %s is given twice", name)
		}
		pkg, what, err := a.measure(path, f.agent)
		if err != nil {
			return err
		}
		packages[name], marbles[name] = pkg, map[string]any{"package": name}
		a.p.Notef("%-8s %s\n", name, what)
	}
	raw, err := json.MarshalIndent(map[string]any{"version": 1, "trustDomain": f.trustDomain, "packages": packages, "marbles": marbles}, "", "  ")
	if err != nil {
		return err
	}
	if raw, err = manifest.Format(append(raw, '\n')); err != nil {
		return err
	}
	if _, diags := manifest.Parse(raw); diags.HasErrors() {
		diags.Render(a.p.Err, "manifest.json", a.p.Color)
		return diags.Err()
	}
	if f.dryRun {
		_, err = a.p.Out.Write(raw)
		return err
	}
	path := filepath.Join(dir, "manifest.json")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return problem.New("CLI-003", "%s", err)
	}
	if err := durable.CreateFile(path, raw, 0o644); errors.Is(err, fs.ErrExist) {
		return problem.New("CLI-009", "%s exists", path)
	} else if err != nil {
		return problem.New("CLI-003", "%s", err)
	}
	a.p.Printf("Wrote %s (%d packages, %d marbles, 0 calls).\n", path, len(packages), len(marbles))
	a.p.Notef("! nothing may talk to anything yet: add \"calls\" to a marble  MAN-031\nnext: ashlar manifest validate %s\n", path)
	return nil
}

// measure returns the reference values of a binary or of a folder of evidence,
// and says in words what they are.
func (a *app) measure(path, agent string) (attest.Package, string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return attest.Package{}, "", problem.Because(err, "CLI-003", "measuring %s", path)
	}
	if info.IsDir() {
		return a.measureEvidence(path)
	}
	program, err := sim.FileDigest(path)
	if err != nil {
		return attest.Package{}, "", problem.Because(err, "CLI-003", "measuring %s", path)
	}
	ref := &attest.SimReference{Program: []attest.Hex{program}}
	if agent == "" {
		if self, err := os.Executable(); err == nil {
			agent = filepath.Join(filepath.Dir(self), "ashlar-marble")
		}
	}
	pinned := "any agent"
	if d, err := sim.FileDigest(agent); err == nil {
		ref.Agent, pinned = []attest.Hex{d}, "agent "+a.p.Digest(d.String())
	}
	return attest.Package{Sim: ref}, "SIMULATION  program " + a.p.Digest(program.String()) + ", " + pinned, nil
}

func (a *app) measureEvidence(dir string) (attest.Package, string, error) {
	set, err := evidence.Load(os.DirFS(dir))
	if err != nil {
		return attest.Package{}, "", err
	}
	at := set.VerifyAt
	if at.IsZero() {
		at = a.p.Now()
	}
	v, err := evidence.Explain(set, evidence.Options{At: at})
	if err != nil {
		return attest.Package{}, "", err
	}
	if !v.Genuine || v.Debug {
		a.verdictReport(v)
		return attest.Package{}, "", problem.New("CLI-026", "%s: reference values are not taken from it", dir)
	}
	switch {
	case v.Claims.SGX != nil:
		c := v.Claims.SGX
		return attest.Package{SGX: &attest.SGXReference{UniqueID: []attest.Hex{c.UniqueID}}}, "SGX enclave  uniqueID " + a.p.Digest(c.UniqueID.String()), nil
	case v.Claims.SNP != nil:
		c := v.Claims.SNP
		ref := &attest.SNPReference{Measurement: []attest.Hex{c.Measurement}}
		if c.VMPL != 0 {
			ref.VMPL = &c.VMPL
		}
		return attest.Package{SNP: ref}, "SEV-SNP guest  measurement " + a.p.Digest(c.Measurement.String()) +
			"; give its platform snp rules, such as " + floorOf(c), nil
	default:
		c := v.Claims.TDX
		return attest.Package{TDX: &attest.TDXReference{MRTD: []attest.Hex{c.MRTD}, RTMR1: []attest.Hex{c.RTMR1}, RTMR2: []attest.Hex{c.RTMR2}}},
			"TDX guest  mrtd " + a.p.Digest(c.MRTD.String()), nil
	}
}

// floorOf renders the patch level that a report shows as a minTCB.
func floorOf(c *attest.SNPClaims) string {
	raw, err := json.Marshal(map[string]map[string]attest.SNPTCB{"minTCB": {c.Product: c.ReportedTCB}})
	if err != nil {
		return "minTCB" // plain numbers always encode
	}
	return string(raw)
}
