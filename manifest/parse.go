package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of every document that this package reads.
const (
	maxDepth  = 32      // of nesting; a manifest needs 7
	maxValues = 500_000 // in one document
)

// DefaultPlatform is the platform of marbles that name none. It always exists.
const DefaultPlatform = "default"

// MaxInstances is how many instances of one marble may live at once, whatever
// the manifest says.
const MaxInstances = 10_000

// Parse reads a manifest and finds everything that is wrong with it: size,
// syntax, schema, meaning and the manifest's own tests. With an error among the
// diagnostics the manifest is nil; warnings leave it valid. Hostile bytes of
// any size are answered within the limits above.
func Parse(raw []byte) (*Manifest, Diagnostics) {
	w, root := readDocument(raw, MaxSize, manifestSchema())
	if root == nil {
		return nil, w.done()
	}
	m := new(Manifest)
	if err := w.decode(raw, root, m); err != nil {
		w.report(nil, spanOf(root), finding{code: "MAN-003", message: "the manifest can't be decoded: " + err.Error()})
		return nil, w.done()
	}
	c := &checker{walker: w, m: m, root: root}
	c.check()
	ds := c.done()
	if ds.HasErrors() {
		return nil, ds
	}
	m.raw = bytes.Clone(raw)
	m.digest = DigestOf(raw)
	m.callLines = callLines(w.lines, root)
	return m, ds
}

// readDocument does what needs no meaning: size, syntax and schema. The node is
// nil if there is nothing that could be looked at further.
func readDocument(raw []byte, limit int, schema *jsonschema.Schema) (*walker, *jsonpos.Node) {
	w, root := newWalker(raw, limit)
	if root == nil {
		return w, nil
	}
	w.walk(schema, root, nil)
	if w.bad[root] || w.full {
		return w, nil
	}
	return w, root
}

// readSyntax reads a document without asking for a schema.
func readSyntax(raw []byte) (*jsonpos.Node, Diagnostics) {
	w, root := newWalker(raw, MaxSize)
	return root, w.done()
}

// newWalker checks size and syntax. The node is nil if there is no tree.
func newWalker(raw []byte, limit int) (*walker, *jsonpos.Node) {
	if len(raw) > limit {
		w := &walker{reporter: newReporter(nil)}
		w.report(nil, span{}, finding{code: "MAN-010", message: fmt.Sprintf("%d bytes, but at most %d are allowed", len(raw), limit)})
		return w, nil
	}
	w := &walker{reporter: newReporter(raw), bad: make(map[*jsonpos.Node]bool)}
	root, faults := jsonpos.Parse(raw, jsonpos.Limits{Depth: maxDepth, Values: maxValues})
	for _, f := range faults {
		w.report(nil, span{f.Start, f.End}, w.faultFinding(f))
	}
	return w, root
}

var faultCodes = map[jsonpos.Reason]problem.Code{
	jsonpos.Syntax: "MAN-001", jsonpos.NotUTF8: "MAN-011", jsonpos.TooDeep: "MAN-012", jsonpos.TooMany: "MAN-012", jsonpos.Duplicate: "MAN-008",
}

func (w *walker) faultFinding(f jsonpos.Fault) finding {
	out := finding{code: faultCodes[f.Reason], message: clipText(f.Text)}
	if f.Reason == jsonpos.Duplicate {
		out.suggest = fmt.Sprintf("the first is on line %d", w.lines.Line(f.First))
	}
	return out
}

func clipText(s string) string {
	if len(s) > 200 {
		return clip(s)
	}
	return s
}

// decode fills v from a document whose values are all of the schema's types
// but for the bad ones, which are left out, as duplicates are. Keys are exact and unique by now,
// so encoding/json's leniency has nothing to work on.
func (w *walker) decode(raw []byte, root *jsonpos.Node, v any) error {
	if len(w.diags) > 0 {
		var b bytes.Buffer
		prune(&b, raw, root, w.bad)
		raw = b.Bytes()
	}
	return json.Unmarshal(raw, v)
}

// prune writes the document without its bad values. In arrays null takes their
// place, so that positions stay.
func prune(b *bytes.Buffer, raw []byte, n *jsonpos.Node, bad map[*jsonpos.Node]bool) {
	switch {
	case bad[n]:
		b.WriteString("null")
	case n.Kind == jsonpos.Object:
		b.WriteByte('{')
		first := true
		for _, m := range n.Members {
			if bad[m.Value] {
				continue
			}
			if !first {
				b.WriteByte(',')
			}
			first = false
			b.Write(raw[m.KeyStart:m.KeyEnd])
			b.WriteByte(':')
			prune(b, raw, m.Value, bad)
		}
		b.WriteByte('}')
	case n.Kind == jsonpos.Array:
		b.WriteByte('[')
		for i, item := range n.Items {
			if i > 0 {
				b.WriteByte(',')
			}
			prune(b, raw, item, bad)
		}
		b.WriteByte(']')
	default:
		b.Write(raw[n.Start:n.End])
	}
}

// callLines returns, for each marble, the line of each of its calls.
func callLines(lines *jsonpos.Lines, root *jsonpos.Node) map[string][]int {
	all := make(map[string][]int)
	marbles := root.Get("marbles")
	if marbles == nil {
		return all
	}
	for _, m := range marbles.Members {
		calls := m.Value.Get("calls")
		if calls == nil || len(calls.Items) == 0 {
			continue
		}
		at := make([]int, len(calls.Items))
		for i, call := range calls.Items {
			at[i] = lines.Line(call.Start)
		}
		all[m.Key] = at
	}
	return all
}

// MarbleNames returns the names of a manifest's marbles, sorted.
func MarbleNames(m *Manifest) []string { return sortedKeys(m.Marbles) }

// PolicyFor returns what evidence of a marble must meet. It is false if there
// is no such marble; the policy is then the zero one, which refuses everything.
func (m *Manifest) PolicyFor(marble string) (attest.Policy, bool) {
	mb, ok := m.Marbles[marble]
	if !ok {
		return attest.Policy{}, false
	}
	return m.policy(mb.Package, mb.Platform)
}

// CoordinatorPolicy returns what evidence of a further coordinator must meet, one
// that is to hold the same state. It is false if the manifest admits none; the
// policy is then the zero one, which refuses everything.
func (m *Manifest) CoordinatorPolicy() (attest.Policy, bool) {
	if m.Coordinators == nil {
		return attest.Policy{}, false
	}
	return m.policy(m.Coordinators.Package, m.Coordinators.Platform)
}

func (m *Manifest) policy(pkg, platform string) (attest.Policy, bool) {
	software, ok := m.Packages[pkg]
	if !ok {
		return attest.Policy{}, false
	}
	if platform == "" {
		platform = DefaultPlatform
	}
	hardware, ok := m.Platforms[platform]
	if !ok && platform != DefaultPlatform {
		return attest.Policy{}, false
	}
	return attest.Policy{Package: software, Platform: hardware, PackageName: pkg, PlatformName: platform}, true
}
