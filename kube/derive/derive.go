// Package derive makes a manifest of what runs in a cluster already: YAML in,
// a manifest and a report out.
//
// It owns what a Kubernetes object means to a manifest, and the evaluation of
// NetworkPolicies between workloads. A call is derived where a rule names both
// ends, and where a program is given the name of a Service that nothing keeps
// it from; the second is called a guess. Where nothing says who may call, nobody
// may. It invents no measurement: a package without one is not valid until it is
// filled in. Values of Secrets are dropped as they are read. It is pure: no
// file, no socket, no cluster; its input is hostile and bounded.
package derive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// Guess is the verdict on what was derived from a name in an environment or a
// command line, or from a convention. The others are importer's.
const Guess importer.Verdict = "guess"

// Place is where something stands in what was read.
type Place struct {
	File     string `json:"file"`
	Document int    `json:"document"` // from 1
	Field    string `json:"field,omitempty"`
}

// String returns "web.yaml:2 spec.replicas".
func (p Place) String() string {
	if p.Field == "" {
		return fmt.Sprintf("%s:%d", p.File, p.Document)
	}
	return fmt.Sprintf("%s:%d %s", p.File, p.Document, p.Field)
}

// at is the place of a field below p.
func (p Place) at(format string, args ...any) Place {
	field := fmt.Sprintf(format, args...)
	if p.Field != "" {
		field = p.Field + "." + field
	}
	p.Field = field
	return p
}

// Line says what became of something that was read.
type Line struct {
	Place
	Became  string           `json:"became,omitempty"` // path in the manifest
	Verdict importer.Verdict `json:"verdict"`
	Reason  string           `json:"reason,omitempty"`
}

// Options are what the YAML does not say.
type Options struct {
	TrustDomain string // importer.PlaceholderTrustDomain if empty
	TEE         string // "sgx", "tdx", "snp" or "sim": of packages that were not measured; "" leaves it open
	// Packages are reference values by a marble's name or by its image. The name
	// of a marble comes first.
	Packages map[string]attest.Package
}

// Result is a derived manifest.
type Result struct {
	Manifest []byte          `json:"-"`      // formatted JSON
	Valid    bool            `json:"valid"`  // manifest.Parse accepts it
	Report   []Line          `json:"report"` // in the order of what was read
	Open     []importer.Open `json:"open"`   // for the author to decide
	Commands []string        `json:"commands"`
}

// maxLines bounds the report.
const maxLines = 20_000

// job is one derivation.
type job struct {
	*Cluster
	o        Options
	net      *network
	lines    []Line
	open     []importer.Open
	commands []string
	marbles  []*marble // by name
	secrets  map[string]manifest.Secret
	tests    []manifest.Test
	taken    map[string]bool // names of secrets
	secretOf map[secretKey]string
	places   manifest.References // of the workload whose Secrets are looked at
}

// Manifest derives the manifest. The error is a *problem.Error: KUB-091 where
// the work has no end in sight, KUB-092 where nothing becomes a marble, KUB-093
// where Options name what is not there, KUB-094 where a policy cannot be
// evaluated.
func (c *Cluster) Manifest(o Options) (Result, error) {
	j := &job{Cluster: c, o: o, secrets: map[string]manifest.Secret{}, taken: map[string]bool{}, secretOf: map[secretKey]string{}}
	j.lines = append(j.lines, c.lines...)
	if len(c.workloads) == 0 {
		return Result{}, problem.New("KUB-092", "%d documents were read, and none of them runs a program", c.documents)
	}
	j.gather()
	if err := j.checkPackages(); err != nil {
		return Result{}, err
	}
	for _, m := range j.marbles {
		j.ports(m)
		j.instances(m)
		j.command(m)
	}
	var err error
	if j.net, err = newNetwork(c); err != nil {
		return Result{}, err
	}
	if err := j.calls(); err != nil {
		return Result{}, err
	}
	for _, m := range j.marbles {
		j.secretsOfMarble(m)
		j.programs(m)
	}
	j.outside()
	return j.result()
}

func (j *job) note(at Place, verdict importer.Verdict, became, format string, args ...any) {
	if len(j.lines) < maxLines {
		j.lines = append(j.lines, Line{at, became, verdict, fmt.Sprintf(format, args...)})
	}
}

// decide adds a point that the author has to decide.
func (j *job) decide(path, format string, args ...any) {
	o := importer.Open{Code: "KUB-095", Path: path, Message: fmt.Sprintf(format, args...)}
	for _, other := range j.open {
		if other == o {
			return
		}
	}
	if len(j.open) < maxLines {
		j.open = append(j.open, o)
	}
}

// document is a manifest with comments.
type document struct {
	Version     int                        `json:"version"`
	TrustDomain string                     `json:"trustDomain"`
	Packages    map[string]commented       `json:"packages"`
	Marbles     map[string]manifest.Marble `json:"marbles"`
	Secrets     map[string]manifest.Secret `json:"secrets,omitempty"`
	Tests       []manifest.Test            `json:"tests,omitempty"`
}

type commented struct {
	Comment string `json:"$comment,omitempty"`
	attest.Package
}

// result writes the manifest and asks manifest.Parse what is still open.
func (j *job) result() (Result, error) {
	doc := document{Version: 1, TrustDomain: j.o.TrustDomain, Packages: map[string]commented{}, Marbles: map[string]manifest.Marble{}, Secrets: j.secrets, Tests: j.tests}
	if doc.TrustDomain == "" {
		doc.TrustDomain = importer.PlaceholderTrustDomain
		j.decide("trustDomain", "the YAML names none: write the deployment's own")
	}
	for _, m := range j.marbles {
		doc.Packages[m.name] = j.pkg(m)
		doc.Marbles[m.name] = m.made
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return Result{}, fmt.Errorf("writing the manifest: %w", err)
	}
	raw, err := manifest.Format(b.Bytes())
	if err != nil {
		return Result{}, problem.Because(err, "KUB-091", "the workloads do not fit into a manifest")
	}
	parsed, diags := manifest.Parse(raw)
	r := Result{Manifest: raw, Valid: parsed != nil, Open: append([]importer.Open{}, j.open...), Commands: append([]string{}, j.commands...)}
	for _, d := range diags {
		message := d.Message
		if d.Suggestion != "" {
			message += ": " + d.Suggestion
		}
		r.Open = append(r.Open, importer.Open{Code: d.Code, Path: d.Path, Message: message})
	}
	sort.SliceStable(j.lines, func(a, b int) bool { return j.before(j.lines[a].Place, j.lines[b].Place) })
	r.Report = j.lines
	return r, nil
}

// before orders places as they were read.
func (c *Cluster) before(a, b Place) bool {
	if a.File != b.File {
		return c.order[a.File] < c.order[b.File]
	}
	return a.Document < b.Document
}
