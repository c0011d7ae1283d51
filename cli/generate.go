package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/derive"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// maxYAMLFiles bounds how many files of folders are read.
const maxYAMLFiles = 10_000

// packageTEEs are the TEEs that a package without a measurement can be left open
// for.
var packageTEEs = []string{"sgx", "tdx", "snp", "sim"}

type generateFlags struct {
	files, images    []string
	trustDomain, out string
	image            imageFlags
}

func (a *app) generateCmd() *cobra.Command {
	var f generateFlags
	c := &cobra.Command{Use: "generate -f FILE", Short: "Make a manifest of Kubernetes YAML",
		Example: "  ashlar manifest generate -f k8s/ --trust-domain shop.example\n  ashlar manifest generate -f web.yaml --image web=./web --tee sim",
		Long: `Reads YAML and JSON, folders with all below them, and standard input (-f -).
Deployments, StatefulSets, DaemonSets, Jobs, CronJobs and Pods become marbles,
their ports what these serve, and NetworkPolicies who calls whom: a call needs a
rule that names the other end. Where none does, a Service in an environment or a
command line makes a call that the report calls a guess. Keys of Secrets become
opaque secrets; their values are never written anywhere.

Each --image is NAME=PATH: a marble, or an image as the YAML names it, and what
ashlar inspect knows of it. Without one the package has no measurement, and
ashlar manifest validate fails until it is filled in.

The manifest goes to standard output, or to --out; the report of what became of
each field goes to standard error, in full with -o wide. -o json gives both.
Works offline.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.generate(f) }}
	c.Flags().StringArrayVarP(&f.files, "file", "f", nil, "file, folder, or - for standard input (repeatable)")
	c.Flags().StringArrayVar(&f.images, "image", nil, "NAME=PATH of a binary, an image or evidence (repeatable)")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "", "trust domain of the deployment, such as shop.example")
	c.Flags().StringVar(&f.out, "out", "", "write the manifest to this file instead; no existing file is overwritten")
	f.image.register(c)
	c.Flags().Lookup("tee").Usage = "TEE of packages and of images for several: " + strings.Join(packageTEEs, "|")
	return c
}

func (a *app) generate(f generateFlags) error {
	if len(f.files) == 0 {
		return usage("generate needs -f").WithNext("ashlar manifest generate -f k8s/")
	}
	sources, err := a.sources(f.files)
	if err != nil {
		return err
	}
	cluster, err := derive.Read(sources)
	if err != nil {
		return err
	}
	o := derive.Options{TrustDomain: f.trustDomain, TEE: f.image.tee}
	if o.Packages, err = a.packages(f); err != nil {
		return err
	}
	r, err := cluster.Manifest(o)
	if err != nil {
		return err
	}
	done, err := a.converted(r.Manifest, f.out, struct {
		Manifest json.RawMessage `json:"manifest"`
		derive.Result
	}{r.Manifest, r})
	if done || err != nil {
		return err
	}
	a.generateReport(r, f.out)
	return nil
}

// converted writes a manifest that was made of something else to a new file, or
// to standard output without one. For machines it writes the document, and
// reports that there is nothing more to say.
func (a *app) converted(manifest []byte, out string, document any) (done bool, err error) {
	if out != "" {
		if err := durable.CreateFile(out, manifest, 0o644); errors.Is(err, fs.ErrExist) {
			return false, problem.New("CLI-009", "%s exists", out)
		} else if err != nil {
			return false, problem.Because(err, "CLI-003", "writing %s", out)
		}
	}
	if done, err := a.p.Structured(document); done || out != "" {
		return done, err
	}
	_, err = a.p.Out.Write(manifest)
	return false, err
}

// packages measures what the flags name.
func (a *app) packages(f generateFlags) (map[string]attest.Package, error) {
	if f.image.tee != "" && !slices.Contains(packageTEEs, f.image.tee) {
		return nil, usage("--tee has no value %q", f.image.tee).WithNext("--tee %s", strings.Join(packageTEEs, "|"))
	}
	if f.image.tee == "sgx" || f.image.tee == "sim" {
		f.image.tee = "" // no image is for several of these
	}
	o, err := a.imageOptions(f.image)
	if err != nil {
		return nil, err
	}
	packages := map[string]attest.Package{}
	for _, arg := range f.images {
		name, path, ok := strings.Cut(arg, "=")
		if !ok || name == "" || path == "" {
			return nil, usage("--image %q: want NAME=PATH", arg)
		}
		if _, dup := packages[name]; dup {
			return nil, usage("--image %s is given twice", name)
		}
		if packages[name], err = a.measure(name, path, o); err != nil {
			return nil, err
		}
	}
	return packages, nil
}

// sources reads files and folders.
func (a *app) sources(names []string) ([]derive.Source, error) {
	var all []derive.Source
	total := 0
	add := func(name, path string) error {
		raw, err := a.readUpTo(path, derive.MaxFile)
		if total += len(raw); err == nil && (total > derive.MaxTotal || len(all) == maxYAMLFiles) {
			err = problem.New("KUB-091", "%s: there are more than %d bytes or %d files", name, derive.MaxTotal, maxYAMLFiles)
		}
		all = append(all, derive.Source{Name: name, Data: raw})
		return err
	}
	for _, name := range names {
		if name == "-" {
			if err := add("stdin", name); err != nil {
				return nil, err
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return problem.Because(err, "CLI-003", "reading %s", path)
			case d.IsDir():
				return nil
			case path != name && (!d.Type().IsRegular() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path))):
				return nil
			}
			return add(path, path)
		})
		if err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, problem.New("KUB-092", "there is no .yaml, .yml or .json in %s", strings.Join(names, ", "))
	}
	return all, nil
}

// generateReport writes to standard error what became of the YAML.
func (a *app) generateReport(r derive.Result, out string) {
	p := *a.p
	p.Out = a.p.Err
	count := map[importer.Verdict]int{}
	rows := [][]string{{"SOURCE", "BECAME", "VERDICT"}}
	for _, l := range r.Report {
		count[l.Verdict]++
		rows = append(rows, reportRow(l.Place.String(), l.Became, l.Verdict, l.Reason))
	}
	p.Columns(rows)
	p.Printf("\n%d fields map, %d are stricter here, %d are guesses, %d have no counterpart, %d are dropped\n",
		count[importer.Maps], count[importer.Stricter], count[derive.Guess], count[importer.NoCounterpart], count[importer.Dropped])
	openPoints(&p, r.Open, r.Valid)
	for _, command := range r.Commands {
		p.Printf("then: %s\n", command)
	}
	p.Printf("next: ashlar manifest validate %s\n", orFile(out))
}

// reportRow is a line of a report on a conversion.
func reportRow(source, became string, verdict importer.Verdict, reason string) []string {
	words := string(verdict)
	if reason != "" {
		words += ": " + reason
	}
	if became == "" {
		became = "-"
	}
	return []string{source, became, words}
}

// openPoints writes what the author of a converted manifest has to decide.
func openPoints(p *term.Printer, open []importer.Open, valid bool) {
	for _, o := range open {
		where := ""
		if o.Path != "" {
			where = o.Path + ": "
		}
		p.Printf("%s %s%s  %s\n", p.Yellow(term.Warn), where, o.Message, o.Code)
	}
	if p.Format != term.Wide {
		p.Printf("The whole of each line: -o wide\n")
	}
	if !valid {
		p.Printf("The manifest is not valid until these are decided.\n")
	}
}

func orFile(out string) string {
	if out == "" {
		return "FILE"
	}
	return out
}
