package cli

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// maxYAML is the limit of a source in YAML, whose aliases can make it larger, in
// bytes.
const maxYAML = 1 << 20

// importers are the formats that can be imported.
var importers = map[string]func([]byte, importer.Options) (importer.Result, error){
	"marblerun": importer.FromMarbleRun, "aecs": importer.FromAECS, "scone": importer.FromSCONE,
}

func importFormats() []string { return slices.Sorted(maps.Keys(importers)) }

type importFlags struct {
	from, trustDomain, out string
}

func (a *app) importCmd() *cobra.Command {
	var f importFlags
	c := &cobra.Command{Use: "import FILE", Short: "Make a manifest of another system's document",
		Example: "  ashlar manifest import --from marblerun m.json --trust-domain shop.example\n  ashlar manifest import --from scone session.yml --out manifest.json",
		Long: `Reads a MarbleRun manifest, a secret policy of AECS or a SCONE session, in JSON
or YAML. The manifest goes to standard output, or to --out; the report of what
became of each field goes to standard error, in full with -o wide. -o json gives
both. Nothing is loosened, no value of a secret is taken over. What the source
does not say is an open point: the exit code stays 0. Works offline.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.importFile(args[0], f) }}
	c.Flags().StringVar(&f.from, "from", "", "format of FILE: "+strings.Join(importFormats(), "|"))
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "", "trust domain of the deployment, such as shop.example")
	c.Flags().StringVar(&f.out, "out", "", "write the manifest to this file instead; no existing file is overwritten")
	_ = c.RegisterFlagCompletionFunc("from", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return importFormats(), cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

func (a *app) importFile(name string, f importFlags) error {
	convert, ok := importers[f.from]
	if !ok {
		return problem.New("CLI-050", "--from %q is no format: want %s", f.from, strings.Join(importFormats(), ", ")).WithNext("%s", didYouMean(f.from, importFormats()))
	}
	raw, err := a.readUpTo(name, importer.MaxSize)
	if err != nil {
		return err
	}
	if raw, err = asJSON(raw); err != nil {
		return err
	}
	r, err := convert(raw, importer.Options{TrustDomain: f.trustDomain})
	if err != nil {
		return err
	}
	done, err := a.converted(r.Manifest, f.out, struct {
		Manifest json.RawMessage `json:"manifest"`
		importer.Result
	}{r.Manifest, r})
	if done || err != nil {
		return err
	}
	a.importReport(r, f.out)
	return nil
}

// importReport writes to standard error what became of the source.
func (a *app) importReport(r importer.Result, out string) {
	p := *a.p
	p.Out = a.p.Err
	count := map[importer.Verdict]int{}
	rows := [][]string{{"SOURCE", "BECAME", "VERDICT"}}
	for _, l := range r.Report {
		count[l.Verdict]++
		rows = append(rows, reportRow(l.Source, l.Became, l.Verdict, l.Reason))
	}
	p.Columns(rows)
	p.Printf("\n%d fields map, %d are stricter here, %d have no counterpart, %d are dropped\n",
		count[importer.Maps], count[importer.Stricter], count[importer.NoCounterpart], count[importer.Dropped])
	openPoints(&p, r.Open, r.Valid)
	p.Printf("next: ashlar manifest validate %s\n", orFile(out))
}

var (
	yamlLine     = regexp.MustCompile(`line [0-9]+`)
	yamlDocument = regexp.MustCompile(`(?m)^---(\s|$)`)
)

// asJSON returns a document as JSON, which stays as it is. Errors hold no text
// of the document.
func asJSON(raw []byte) ([]byte, error) {
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); json.Valid(raw) || bytes.HasPrefix(trimmed, []byte("{")) {
		return raw, nil
	}
	if len(raw) > maxYAML {
		return nil, problem.New("CLI-051", "the document has %d bytes, but at most %d are read as YAML", len(raw), maxYAML)
	}
	at := yamlDocument.FindAllIndex(raw, 2)
	if len(at) == 2 || len(at) == 1 && !leads(raw[:at[0][0]]) {
		return nil, problem.New("CLI-051", "the file holds several YAML documents")
	}
	out, err := yaml.YAMLToJSONStrict(raw)
	switch {
	case err != nil && strings.Contains(err.Error(), "already set in map"):
		return nil, problem.New("CLI-051", "the YAML has a key twice in one object")
	case err != nil:
		return nil, problem.New("CLI-051", "the YAML cannot be read: %s", place(err))
	}
	return out, nil
}

// leads reports whether only comments and directives stand before a document.
func leads(before []byte) bool {
	for line := range bytes.Lines(before) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

func place(err error) string {
	if line := yamlLine.FindString(err.Error()); line != "" {
		return line
	}
	return "it is malformed"
}
