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
	"github.com/ashlar-mesh/ashlar/inspect"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

type initFlags struct {
	marbles     []string
	trustDomain string
	image       imageFlags
	dryRun      bool
}

func (a *app) initCmd() *cobra.Command {
	var f initFlags
	c := &cobra.Command{Use: "init [DIR]", Short: "Write a first manifest.json from what exists",
		Example: "  ashlar init --trust-domain shop.example --marble web=./web\n  ashlar init --trust-domain shop.example --marble cart=evidence/cart",
		Long: `Each --marble is NAME=PATH, where PATH is what ashlar inspect knows: a signed
enclave, a guest's firmware or image, evidence, or any other binary, which is
measured for the software TEE. Measurements of evidence are taken only if it is
genuine. The flags for images hold for all of them. DIR is made if it is
missing. No existing file is overwritten.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return a.init(dir, f)
		}}
	c.Flags().StringArrayVar(&f.marbles, "marble", nil, "NAME=PATH of a binary, an image or evidence (repeatable)")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "", "trust domain of the deployment, such as shop.example")
	f.image.register(c)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the manifest instead of writing it")
	return c
}

func (a *app) init(dir string, f initFlags) error {
	if len(f.marbles) == 0 || f.trustDomain == "" {
		return usage("init needs --trust-domain and at least one --marble").WithNext("ashlar init --marble web=./web --trust-domain shop.example")
	}
	o, err := a.imageOptions(f.image)
	if err != nil {
		return err
	}
	packages, marbles := map[string]attest.Package{}, map[string]any{}
	for _, arg := range f.marbles {
		name, path, ok := strings.Cut(arg, "=")
		if !ok || name == "" || path == "" {
			return usage("--marble %q: want NAME=PATH", arg)
		}
		if _, dup := packages[name]; dup {
			return usage("--marble %s is given twice", name)
		}
		if packages[name], err = a.measure(name, path, o); err != nil {
			return err
		}
		marbles[name] = map[string]any{"package": name}
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

// measure returns the reference values of a path, and says in a line what they
// are. Evidence that is not fit to take them from is shown and refused.
func (a *app) measure(name, path string, o inspect.Options) (attest.Package, error) {
	found, err := inspect.Path(path, o)
	if err != nil {
		return attest.Package{}, err
	}
	pkg, err := found.Reference(false)
	if err != nil {
		if found.Verdict != nil {
			a.verdictReport(*found.Verdict)
		}
		return attest.Package{}, err
	}
	if pkg.Sim != nil {
		pinned := "any agent"
		if len(pkg.Sim.Agent) > 0 {
			pinned = "agent " + a.p.Digest(pkg.Sim.Agent[0].String())
		}
		a.p.Notef("%-8s SIMULATION  program %s, %s\n", name, a.p.Digest(pkg.Sim.Program[0].String()), pinned)
		return pkg, nil
	}
	a.p.Notef("%-8s %s\n", name, a.brief(found))
	a.findingNotes(found)
	return pkg, nil
}
