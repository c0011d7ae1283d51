package manifest

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// formatWidth is the width up to which Format keeps a value on one line.
const formatWidth = 80

// Format returns the canonical layout of a manifest or policy file: two spaces
// of indentation, small values without inner structure on one line, one line
// break at the end. Order, notes ($comment) and the spelling of strings stay.
// Format of its own result changes nothing. It needs well-formed JSON without
// duplicate keys, but no valid manifest; the error is a *problem.Error.
//
// The digest of a manifest is over its bytes, so formatting one changes it.
func Format(raw []byte) ([]byte, error) {
	root, ds := readSyntax(raw)
	if err := ds.Err(); err != nil {
		return nil, err
	}
	f := &formatter{raw: raw}
	f.value(root, 0, 0, 0)
	f.out.WriteByte('\n')
	return f.out.Bytes(), nil
}

// Equivalent reports whether two documents differ in nothing but formatting.
func Equivalent(a, b []byte) bool {
	fa, err := Format(a)
	if err != nil {
		return false
	}
	fb, err := Format(b)
	return err == nil && bytes.Equal(fa, fb)
}

type formatter struct {
	raw []byte
	out bytes.Buffer
}

// value writes n. depth is its nesting; column is how much of the line is
// taken before it, and after it.
func (f *formatter) value(n *jsonpos.Node, depth, before, after int) {
	size := len(n.Items) + len(n.Members)
	switch {
	case n.Kind != jsonpos.Object && n.Kind != jsonpos.Array:
		f.out.Write(f.raw[n.Start:n.End])
	case size == 0 || depth > 1 && flat(n):
		if line := f.inline(n); size == 0 || before+utf8.RuneCountInString(line)+after <= formatWidth {
			f.out.WriteString(line)
			return
		}
		fallthrough
	default:
		f.block(n, depth)
	}
}

// flat reports whether n may stand on one line: it holds only scalars, or is a
// list of one such.
func flat(n *jsonpos.Node) bool {
	if len(n.Items) == 1 && n.Items[0].Kind == jsonpos.Object {
		n = n.Items[0]
	}
	for _, item := range n.Items {
		if item.Kind == jsonpos.Object || item.Kind == jsonpos.Array {
			return false
		}
	}
	for _, m := range n.Members {
		if m.Value.Kind == jsonpos.Object || m.Value.Kind == jsonpos.Array {
			return false
		}
	}
	return true
}

func (f *formatter) inline(n *jsonpos.Node) string {
	var parts []string
	for _, item := range n.Items {
		parts = append(parts, f.inlineValue(item))
	}
	for _, m := range n.Members {
		parts = append(parts, string(f.raw[m.KeyStart:m.KeyEnd])+": "+f.inlineValue(m.Value))
	}
	switch {
	case n.Kind == jsonpos.Array:
		return "[" + strings.Join(parts, ", ") + "]"
	case len(parts) == 0:
		return "{}"
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func (f *formatter) inlineValue(n *jsonpos.Node) string {
	if n.Kind == jsonpos.Object || n.Kind == jsonpos.Array {
		return f.inline(n)
	}
	return string(f.raw[n.Start:n.End])
}

func (f *formatter) block(n *jsonpos.Node, depth int) {
	open, end := byte('{'), byte('}')
	if n.Kind == jsonpos.Array {
		open, end = '[', ']'
	}
	indent := 2 * (depth + 1)
	last := len(n.Items) + len(n.Members) - 1
	f.out.WriteByte(open)
	for i := 0; i <= last; i++ {
		comma := 1
		if i == last {
			comma = 0
		}
		f.newline(indent)
		if n.Kind == jsonpos.Array {
			f.value(n.Items[i], depth+1, indent, comma)
		} else {
			m := n.Members[i]
			key := f.raw[m.KeyStart:m.KeyEnd]
			f.out.Write(key)
			f.out.WriteString(": ")
			f.value(m.Value, depth+1, indent+utf8.RuneCount(key)+2, comma)
		}
		if comma > 0 {
			f.out.WriteByte(',')
		}
	}
	f.newline(indent - 2)
	f.out.WriteByte(end)
}

func (f *formatter) newline(indent int) {
	f.out.WriteByte('\n')
	f.out.WriteString(strings.Repeat(" ", indent))
}
