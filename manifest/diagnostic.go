package manifest

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Severity says whether a diagnostic makes a document invalid.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Diagnostic is one thing that is wrong with a document, or doubtful.
type Diagnostic struct {
	Code       problem.Code `json:"code"`
	Severity   Severity     `json:"severity"`
	Path       string       `json:"path"`   // "marbles.web.calls[0].port"; "" for the whole document
	Line       int          `json:"line"`   // 1-based
	Column     int          `json:"column"` // 1-based, in characters
	Width      int          `json:"width"`  // characters from Column that are meant, at least 1, within the line
	Message    string       `json:"message"`
	Suggestion string       `json:"suggestion,omitempty"`
	Source     string       `json:"source,omitempty"` // the line, cut around Column to at most 160 characters
	cut        int          // characters of the line left out before Source
	offset     int
}

// String returns place, severity, message and code on one line.
func (d Diagnostic) String() string {
	return fmt.Sprintf("%d:%d: %s: %s (%s)", d.Line, d.Column, d.Severity, d.Message, d.Code)
}

// Diagnostics are all that was found, in the order of the document. The same
// bytes give the same diagnostics.
type Diagnostics []Diagnostic

// HasErrors reports whether one of them makes the document invalid.
func (ds Diagnostics) HasErrors() bool { return ds.Errors() > 0 }

// Errors counts those that make the document invalid.
func (ds Diagnostics) Errors() int {
	n := 0
	for _, d := range ds {
		if d.Severity == SeverityError {
			n++
		}
	}
	return n
}

// Warnings counts those that leave the document valid.
func (ds Diagnostics) Warnings() int { return len(ds) - ds.Errors() }

// Err returns nil if there is no error among them, and else a *problem.Error
// with the first one's code, its place and the number of errors.
func (ds Diagnostics) Err() error {
	n := ds.Errors()
	for _, d := range ds {
		if d.Severity != SeverityError {
			continue
		}
		more := ""
		if n > 1 {
			more = fmt.Sprintf(" (and %d more)", n-1)
		}
		e := problem.New(d.Code, "%d:%d: %s%s", d.Line, d.Column, d.Message, more)
		if d.Suggestion != "" {
			e = e.WithNext("%s", d.Suggestion)
		}
		return e
	}
	return nil
}

// maxDiagnostics bounds how many diagnostics one document gets.
const maxDiagnostics = 100

// maxSource is the length to which a source line is cut, in characters.
const maxSource = 160

// reporter collects diagnostics of one document.
type reporter struct {
	lines *jsonpos.Lines
	diags Diagnostics
	full  bool
	work  int // comparisons left for suggestions
}

func newReporter(raw []byte) *reporter {
	return &reporter{lines: jsonpos.NewLines(raw), work: 50_000}
}

// span is a part of the document, in byte offsets.
type span struct{ start, end int }

func spanOf(n *jsonpos.Node) span {
	if n == nil {
		return span{}
	}
	return span{n.Start, n.End}
}

func keySpan(m *jsonpos.Member) span {
	if m == nil {
		return span{}
	}
	return span{m.KeyStart, m.KeyEnd}
}

// finding is what is known of a diagnostic besides its place.
type finding struct {
	code    problem.Code
	warning bool
	message string
	suggest string
}

func (r *reporter) report(p *path, at span, f finding) {
	if len(r.diags) >= maxDiagnostics {
		r.full = true
		return
	}
	d := Diagnostic{Code: f.code, Severity: SeverityError, Path: p.String(), Message: printable(f.message), Suggestion: printable(f.suggest), offset: at.start}
	if f.warning {
		d.Severity = SeverityWarning
	}
	r.locate(&d, at)
	r.diags = append(r.diags, d)
}

// locate fills in where at is, and its line.
func (r *reporter) locate(d *Diagnostic, at span) {
	d.Line, d.Column = r.lines.Position(at.start)
	line := []rune(r.lines.Text(d.Line))
	d.Width = 1
	if endLine, endColumn := r.lines.Position(at.end); endLine == d.Line {
		d.Width = max(1, endColumn-d.Column)
	} else {
		d.Width = max(1, len(line)-d.Column+1)
	}
	if len(line) > maxSource {
		d.cut = max(0, min(d.Column-1-maxSource/4, len(line)-maxSource))
		line = line[d.cut : d.cut+maxSource]
	}
	d.Width = max(1, min(d.Width, d.cut+len(line)-d.Column+1))
	d.Source = printable(string(line))
}

// done returns the diagnostics sorted by place, then code, then message.
func (r *reporter) done() Diagnostics {
	ds := r.diags
	sort.SliceStable(ds, func(i, j int) bool {
		a, b := ds[i], ds[j]
		if a.offset != b.offset {
			return a.offset < b.offset
		}
		if a.Code != b.Code {
			return a.Code < b.Code
		}
		return a.Message < b.Message
	})
	if r.full {
		last := Diagnostic{Code: "MAN-049", Severity: SeverityError, Line: 1, Column: 1, Width: 1, Message: fmt.Sprintf("there are more than %d problems; the rest is not shown", maxDiagnostics)}
		ds = append(ds, last)
	}
	return ds
}

// printable replaces what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' {
			return ' '
		}
		if !strconv.IsPrint(c) {
			return '\uFFFD'
		}
		return c
	}, s)
}

// path is where a value stands in a document. It is a list from the value to
// the root, so that walking a document costs no string.
type path struct {
	parent *path
	key    string
	index  int // of an item; -1 for a member
}

func (p *path) member(key string) *path { return &path{parent: p, key: key, index: -1} }
func (p *path) item(i int) *path        { return &path{parent: p, index: i} }

// String returns the path as "marbles.web.calls[0].port". Keys that hold other
// than letters, digits, _ and - are quoted: files["/etc/web.pem"].
func (p *path) String() string {
	if p == nil {
		return ""
	}
	before := p.parent.String()
	switch {
	case p.index >= 0:
		return fmt.Sprintf("%s[%d]", before, p.index)
	case !plainKey(p.key):
		return fmt.Sprintf("%s[%q]", before, p.key)
	case before == "":
		return p.key
	}
	return before + "." + p.key
}

func plainKey(s string) bool {
	for _, c := range s {
		if !(c == '_' || c == '-' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return s != ""
}
