// Package importer turns documents of other systems into Ashlar manifests:
// MarbleRun manifests, AECS secret policies and SCONE sessions.
//
// Each import is a pure function from bytes to a manifest and a report, in which
// every field of the source has a line. It owns what a foreign field means here.
// It loosens nothing: where the source has no word for what a manifest needs, or
// a word that has no counterpart, there is an open point for the author, never a
// guess. Values of secrets never leave it: neither the manifest nor the report
// nor an error holds one. It reads JSON only, does no I/O, and never claims that
// the source was secure.
package importer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Limits of a source document.
const (
	MaxSize   = 4 << 20 // bytes of JSON
	maxDepth  = 32      // of nesting
	maxValues = 100_000
)

// PlaceholderTrustDomain stands in manifests for which none was given. It is an
// open point; the name can't exist (RFC 6761, section 6.4).
const PlaceholderTrustDomain = "change-me.invalid"

// Verdict says what became of a field of the source.
type Verdict string

// The verdicts.
const (
	Maps          Verdict = "maps"           // the same meaning here, or none that was lost
	Stricter      Verdict = "stricter here"  // something that was accepted there is refused here
	NoCounterpart Verdict = "no counterpart" // a manifest has no word for it
	Dropped       Verdict = "dropped"        // left out, for the reason that is given
)

// Line says what became of one field of the source. A line for a list or an
// object stands for everything in it that has no line of its own, but for an
// object that maps, whose fields all have theirs.
type Line struct {
	Source  string  `json:"source"`           // path in the source: "Packages.web.SignerID"
	Became  string  `json:"became,omitempty"` // path in the manifest: "packages.web.sgx.signerID"
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
}

// Open is something that the author of the manifest must decide.
type Open struct {
	Code    problem.Code `json:"code"` // MAN-075, or what manifest.Parse finds
	Path    string       `json:"path"` // in the manifest
	Message string       `json:"message"`
}

// Options are what the source does not say.
type Options struct {
	TrustDomain string // PlaceholderTrustDomain if empty
}

// Result is an imported manifest.
type Result struct {
	Manifest []byte `json:"-"`      // formatted JSON
	Valid    bool   `json:"valid"`  // manifest.Parse accepts it
	Report   []Line `json:"report"` // in the order of the source
	Open     []Open `json:"open"`   // none: nothing is left to decide
}

// FromMarbleRun imports a MarbleRun manifest (JSON, at most MaxSize). Names of
// fields are matched without regard to case, as there. The error is a
// *problem.Error.
func FromMarbleRun(raw []byte, o Options) (Result, error) { return run(raw, o, marbleRun) }

// FromAECS imports secrets with their policies of the attestation based enclave
// configuration service: a document of kind SecretPolicy, or one secret. YAML
// must be converted to JSON first. The error is a *problem.Error.
func FromAECS(raw []byte, o Options) (Result, error) { return run(raw, o, aecs) }

// FromSCONE imports a SCONE session description (session language 0.2 and 0.3),
// converted to JSON. The error is a *problem.Error.
func FromSCONE(raw []byte, o Options) (Result, error) { return run(raw, o, scone) }

// run reads the document, lets convert walk it, and accounts for every leaf.
func run(raw []byte, o Options, convert func(*job, value)) (Result, error) {
	root, err := read(raw)
	if err != nil {
		return Result{}, err
	}
	j := newJob(o)
	convert(j, value{job: j, node: root})
	if j.err != nil {
		return Result{}, j.err
	}
	j.account(value{job: j, node: root}, false)
	return j.result()
}

func read(raw []byte) (*jsonpos.Node, error) {
	if len(raw) > MaxSize {
		return nil, problem.New("MAN-071", "the source has %d bytes, but at most %d are read", len(raw), MaxSize)
	}
	root, faults := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	if len(faults) > 0 {
		f := faults[0]
		line, column := jsonpos.NewLines(raw).Position(f.Start)
		if f.Reason == jsonpos.TooDeep || f.Reason == jsonpos.TooMany {
			return nil, problem.New("MAN-071", "%d:%d: the source is nested deeper than %d or has more than %d values", line, column, maxDepth, maxValues)
		}
		what := "the source is no JSON document in UTF-8"
		if f.Reason == jsonpos.Duplicate {
			what = "a key is there twice in one object"
		}
		return nil, problem.New("MAN-070", "%d:%d: %s", line, column, what)
	}
	if root.Kind != jsonpos.Object {
		return nil, problem.New("MAN-073", "the source is of type %s, not an object", root.Kind)
	}
	return root, nil
}

// job is one import.
type job struct {
	m     manifest.Manifest
	lines []placed
	noted map[string]bool // paths that have a line
	gone  map[string]bool // paths of what is left out: nothing in it maps
	open  []Open
	err   error // the first
}

// placed is a line with its place in the source.
type placed struct {
	Line
	at int
}

func newJob(o Options) *job {
	j := &job{noted: make(map[string]bool), gone: make(map[string]bool)}
	j.m.Version, j.m.TrustDomain = 1, o.TrustDomain
	if o.TrustDomain == "" {
		j.m.TrustDomain = PlaceholderTrustDomain
		j.decide("trustDomain", "the source names none: write the deployment's own")
	}
	return j
}

func (j *job) fail(e *problem.Error) {
	if j.err == nil {
		j.err = e
	}
}

// decide adds an open point at a path of the manifest.
func (j *job) decide(path, format string, args ...any) {
	j.open = append(j.open, Open{Code: "MAN-075", Path: path, Message: fmt.Sprintf(format, args...)})
}

// account gives a line to every leaf that has none and stands in nothing that
// has one.
func (j *job) account(v value, covered bool) {
	covered = covered || j.noted[v.path]
	switch {
	case covered && len(v.node.Members)+len(v.node.Items) == 0:
	case v.node.Kind == jsonpos.Object && len(v.node.Members) > 0:
		for _, m := range v.node.Members {
			j.account(value{j, m.Value, join(v.path, m.Key)}, covered)
		}
	case v.node.Kind == jsonpos.Array && len(v.node.Items) > 0:
		for i, item := range v.node.Items {
			j.account(value{j, item, fmt.Sprintf("%s[%d]", v.path, i)}, covered)
		}
	case v.empty():
		v.note(Dropped, "", "empty")
	default:
		v.note(NoCounterpart, "", "the importer does not know this field")
	}
}

// result writes the manifest and asks manifest.Parse what is still open.
func (j *job) result() (Result, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j.m); err != nil {
		return Result{}, problem.New("MAN-072", "the source does not fit into a manifest")
	}
	raw, err := manifest.Format(b.Bytes())
	if err != nil {
		return Result{}, problem.New("MAN-072", "the source does not fit into a manifest")
	}
	m, diags := manifest.Parse(raw)
	r := Result{Manifest: raw, Valid: m != nil, Report: make([]Line, 0, len(j.lines)), Open: []Open{}}
	seen := make(map[Open]bool)
	for _, o := range j.open {
		if !seen[o] {
			seen[o] = true
			r.Open = append(r.Open, o)
		}
	}
	for _, d := range diags {
		message := d.Message
		if d.Suggestion != "" {
			message += ": " + d.Suggestion
		}
		r.Open = append(r.Open, Open{Code: d.Code, Path: d.Path, Message: message})
	}
	slices.SortStableFunc(j.lines, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	for _, l := range j.lines {
		// A rule that made a package counts, even if the secret is left out.
		made := strings.HasPrefix(l.Became, "packages.") || strings.HasPrefix(l.Became, "marbles.")
		if l.Verdict != Maps || made || !j.within(l.Source) {
			r.Report = append(r.Report, l.Line)
		}
	}
	return r, nil
}

// within reports whether a path lies in something that is left out.
func (j *job) within(path string) bool {
	for i, c := range path {
		if (c == '.' || c == '[') && j.gone[path[:i]] {
			return true
		}
	}
	return false
}
