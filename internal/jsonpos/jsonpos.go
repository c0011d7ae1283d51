// Package jsonpos reads a JSON document into a tree that remembers where each
// key and value stands.
//
// It owns the strict reading of JSON (RFC 8259) that documents people write are
// given: one value, valid UTF-8, no duplicate key, bounded depth and a bounded
// number of values, all found in one pass without recursion. It knows no
// schema, allows null, and keeps numbers as they are written.
package jsonpos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind is the type of a JSON value.
type Kind byte

// The kinds of value.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// String returns JSON Schema's name of the kind.
func (k Kind) String() string {
	return [...]string{"null", "boolean", "number", "string", "array", "object"}[k]
}

// Node is a value. Start and End are byte offsets, End exclusive.
type Node struct {
	Kind       Kind
	Start, End int
	Text       string   // of a string: its value; of a number or boolean: as written
	Members    []Member // of an object, in the order of the document
	Items      []*Node  // of an array
}

// Member is a key of an object with its value. KeyStart and KeyEnd enclose the
// key with its quotes.
type Member struct {
	Key              string
	KeyStart, KeyEnd int
	Value            *Node
}

// Get returns the value of a key, or nil if n has none such.
func (n *Node) Get(key string) *Node {
	if m := n.Member(key); m != nil {
		return m.Value
	}
	return nil
}

// Member returns the member with a key, or nil if n has none such. Where a key
// is there twice it is the first.
func (n *Node) Member(key string) *Member {
	if n == nil {
		return nil
	}
	for i := range n.Members {
		if n.Members[i].Key == key {
			return &n.Members[i]
		}
	}
	return nil
}

// Limits bound what Parse builds. Zero is no room at all.
type Limits struct {
	Depth  int // of nesting; the outermost value is at depth 1
	Values int // in the document, keys not counted
}

// Reason says why a document is refused.
type Reason int

// The reasons.
const (
	Syntax Reason = iota
	NotUTF8
	TooDeep
	TooMany
	Duplicate // of a key, in one object
)

// Fault is a place where the document is wrong.
type Fault struct {
	Reason     Reason
	Start, End int    // byte offsets
	Text       string // what is wrong, for people
	First      int    // of a duplicate: the offset of the first key
}

// Error returns the fault's text with its offset.
func (f Fault) Error() string { return fmt.Sprintf("offset %d: %s", f.Start, f.Text) }

// Parse reads one document. Without faults the tree is complete. Duplicate keys
// are faults that leave a tree, with the first of them standing; after any
// other fault the tree is nil.
func Parse(raw []byte, l Limits) (*Node, []Fault) {
	if at := invalidUTF8(raw); at >= 0 {
		return nil, []Fault{{Reason: NotUTF8, Start: at, End: at + 1, Text: fmt.Sprintf("byte 0x%02x is not UTF-8", raw[at])}}
	}
	p := &parser{raw: raw, limits: l}
	root, fatal := p.document()
	if fatal != nil {
		return nil, append(p.faults, *fatal)
	}
	return root, p.faults
}

func invalidUTF8(raw []byte) int {
	if utf8.Valid(raw) {
		return -1
	}
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// frame is an object or array that is still open.
type frame struct {
	node *Node
	seen map[string]int // keys of an object that has many: index into Members
}

// manyKeys is the number of keys from which duplicates are looked up in a map.
const manyKeys = 16

type parser struct {
	raw    []byte
	pos    int
	values int
	limits Limits
	open   []frame
	faults []Fault
	slab   []Node // room for the next nodes: documents have many small ones
}

// node returns a new node that begins here.
func (p *parser) node() *Node {
	const size = 128
	if len(p.slab) == 0 {
		p.slab = make([]Node, min(size, 1+len(p.raw)/8))
	}
	n := &p.slab[0]
	p.slab = p.slab[1:]
	n.Start = p.pos
	return n
}

func (p *parser) document() (*Node, *Fault) {
	root, fault := p.value()
	if fault != nil {
		return nil, fault
	}
	for len(p.open) > 0 {
		if fault := p.step(); fault != nil {
			return nil, fault
		}
	}
	p.space()
	if p.pos < len(p.raw) {
		return nil, p.syntax("something follows the end of the document")
	}
	return root, nil
}

// step reads the next member or item of the innermost open value, or its end.
func (p *parser) step() *Fault {
	f := &p.open[len(p.open)-1]
	p.space()
	object := f.node.Kind == Object
	end, count := byte(']'), len(f.node.Items)
	if object {
		end, count = '}', len(f.node.Members)
	}
	if p.at(end) {
		p.pos++
		f.node.End = p.pos
		p.open = p.open[:len(p.open)-1]
		return nil
	}
	if count > 0 {
		if !p.at(',') {
			return p.syntax(fmt.Sprintf("expected ',' or '%c'", end))
		}
		p.pos++
		p.space()
		if p.at(end) {
			return p.syntax(fmt.Sprintf("a comma before '%c' is not JSON", end))
		}
	}
	if object {
		return p.member(f)
	}
	// p.value may grow p.open, after which f is stale.
	node := f.node
	v, fault := p.value()
	if fault == nil {
		node.Items = append(node.Items, v)
	}
	return fault
}

func (p *parser) member(f *frame) *Fault {
	if !p.at('"') {
		return p.syntax("expected a key in double quotes")
	}
	m := Member{KeyStart: p.pos}
	var fault *Fault
	if m.Key, fault = p.str(); fault != nil {
		return fault
	}
	m.KeyEnd = p.pos
	p.space()
	if !p.at(':') {
		return p.syntax("expected ':' after the key")
	}
	p.pos++
	first, dup := f.index(m.Key)
	if dup {
		first := f.node.Members[first].KeyStart
		p.faults = append(p.faults, Fault{Reason: Duplicate, Start: m.KeyStart, End: m.KeyEnd, Text: fmt.Sprintf("key %q is here twice", m.Key), First: first})
	}
	node := f.node
	at := len(node.Members)
	if !dup {
		node.Members = append(node.Members, m)
	}
	v, fault := p.value()
	if fault == nil && !dup {
		node.Members[at].Value = v
	}
	return fault
}

// index looks a key up and remembers it as the next member's.
func (f *frame) index(key string) (int, bool) {
	members := f.node.Members
	if f.seen == nil && len(members) >= manyKeys {
		f.seen = make(map[string]int, 2*len(members))
		for i := range members {
			f.seen[members[i].Key] = i
		}
	}
	if f.seen == nil {
		for i := range members {
			if members[i].Key == key {
				return i, true
			}
		}
		return 0, false
	}
	if i, ok := f.seen[key]; ok {
		return i, true
	}
	f.seen[key] = len(members)
	return 0, false
}

// value reads a scalar whole, and of an object or array the opening bracket.
func (p *parser) value() (*Node, *Fault) {
	p.space()
	if p.pos >= len(p.raw) {
		return nil, p.syntax("the document ends too early")
	}
	p.values++
	if p.values > p.limits.Values {
		return nil, p.fault(TooMany, fmt.Sprintf("more than %d values", p.limits.Values))
	}
	n := p.node()
	var fault *Fault
	switch c := p.raw[p.pos]; {
	case c == '{' || c == '[':
		if len(p.open) >= p.limits.Depth {
			return nil, p.fault(TooDeep, fmt.Sprintf("nested more than %d deep", p.limits.Depth))
		}
		n.Kind = Object
		if c == '[' {
			n.Kind = Array
		}
		p.pos++
		p.open = append(p.open, frame{node: n})
	case c == '"':
		n.Kind = String
		n.Text, fault = p.str()
	case c == '-' || c >= '0' && c <= '9':
		n.Kind = Number
		n.Text, fault = p.number()
	default:
		fault = p.literal(n)
	}
	if fault != nil {
		return nil, fault
	}
	n.End = p.pos
	return n, nil
}

var literals = []struct {
	text string
	kind Kind
}{{"true", Bool}, {"false", Bool}, {"null", Null}}

func (p *parser) literal(n *Node) *Fault {
	for _, l := range literals {
		if bytes.HasPrefix(p.raw[p.pos:], []byte(l.text)) {
			n.Kind, n.Text = l.kind, l.text
			p.pos += len(l.text)
			return nil
		}
	}
	return p.syntax("expected a value")
}

// number reads RFC 8259 section 6.
func (p *parser) number() (string, *Fault) {
	start := p.pos
	if p.at('-') {
		p.pos++
	}
	if p.at('0') {
		p.pos++
	} else if p.digits() == 0 {
		return "", p.syntax("expected a digit")
	}
	if p.at('.') {
		p.pos++
		if p.digits() == 0 {
			return "", p.syntax("expected a digit after '.'")
		}
	}
	if p.at('e') || p.at('E') {
		p.pos++
		if p.at('+') || p.at('-') {
			p.pos++
		}
		if p.digits() == 0 {
			return "", p.syntax("expected a digit in the exponent")
		}
	}
	return string(p.raw[start:p.pos]), nil
}

func (p *parser) digits() int {
	start := p.pos
	for p.pos < len(p.raw) && p.raw[p.pos] >= '0' && p.raw[p.pos] <= '9' {
		p.pos++
	}
	return p.pos - start
}

// str reads a string in quotes. A lone surrogate in an escape is refused, since
// different documents would read alike.
func (p *parser) str() (string, *Fault) {
	start := p.pos
	escaped := false
	for p.pos++; p.pos < len(p.raw); p.pos++ {
		switch c := p.raw[p.pos]; {
		case c == '"':
			p.pos++
			if !escaped {
				return string(p.raw[start+1 : p.pos-1]), nil
			}
			return p.unescape(start)
		case c == '\\':
			escaped = true
			p.pos++
		case c < 0x20:
			return "", p.syntax("a string holds a line break or another control character; write it as \\n or \\u00xx")
		}
	}
	p.pos = len(p.raw)
	return "", &Fault{Reason: Syntax, Start: start, End: start + 1, Text: "the string has no end"}
}

func (p *parser) unescape(start int) (string, *Fault) {
	var s string
	quoted := p.raw[start:p.pos]
	if err := json.Unmarshal(quoted, &s); err != nil {
		return "", &Fault{Reason: Syntax, Start: start, End: p.pos, Text: "the string has an unknown escape"}
	}
	if loneSurrogate(quoted) {
		return "", &Fault{Reason: Syntax, Start: start, End: p.pos, Text: "the string has half a surrogate pair"}
	}
	return s, nil
}

// loneSurrogate reports whether a valid quoted string escapes half of a UTF-16
// surrogate pair.
func loneSurrogate(quoted []byte) bool {
	for i := 0; i < len(quoted); i++ {
		if quoted[i] != '\\' {
			continue
		}
		i++
		if quoted[i] != 'u' {
			continue
		}
		high := escapedUnit(quoted[i-1:])
		i += 4
		if !utf16.IsSurrogate(high) {
			continue
		}
		if utf16.DecodeRune(high, escapedUnit(quoted[i+1:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escapedUnit returns the UTF-16 unit of an escape at the beginning of b, or -1.
func escapedUnit(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	v, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(v)
}

func (p *parser) space() {
	for p.pos < len(p.raw) {
		switch p.raw[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *parser) at(c byte) bool { return p.pos < len(p.raw) && p.raw[p.pos] == c }

func (p *parser) syntax(text string) *Fault {
	if p.pos >= len(p.raw) {
		text = "the document ends too early"
	}
	return p.fault(Syntax, text)
}

func (p *parser) fault(r Reason, text string) *Fault {
	return &Fault{Reason: r, Start: p.pos, End: min(p.pos+1, len(p.raw)), Text: text}
}
