// Package term writes what a person or a pipe reads: tables, marks, colour and
// the machine formats. Results go to Out, everything else to Err. Colour,
// aligned columns and relative times are for terminals only; a pipe gets
// tab-separated values, RFC 3339 times and no escape code.
package term

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	xterm "golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// Format is an output format, the value of -o.
type Format string

// The formats. Wide is text with every column and full digests.
const (
	Text Format = "text"
	Wide Format = "wide"
	JSON Format = "json"
	YAML Format = "yaml"
)

// Formats lists the values of -o.
var Formats = []string{string(Text), string(Wide), string(JSON), string(YAML)}

// Printer writes to one pair of streams. The zero value of each field is the
// plain choice: no colour, not a terminal, text.
type Printer struct {
	Out, Err io.Writer
	Format   Format
	TTY      bool // Out is a terminal
	Color    bool
	Now      func() time.Time
	// Simulation prefixes every line of text output.
	Simulation bool
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && xterm.IsTerminal(int(f.Fd()))
}

// UseColor decides about colour from the --color flag and the environment
// (NO_COLOR, TERM=dumb).
func UseColor(flag string, tty bool, getenv func(string) string) bool {
	switch flag {
	case "always":
		return true
	case "never":
		return false
	}
	return tty && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// Structured writes v as JSON or YAML if that was asked for, and reports
// whether it did. The caller writes text otherwise.
func (p *Printer) Structured(v any) (bool, error) {
	switch p.Format {
	case JSON:
		enc := json.NewEncoder(p.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return true, enc.Encode(v)
	case YAML:
		b, err := yaml.Marshal(v)
		if err != nil {
			return true, err
		}
		_, err = p.Out.Write(b)
		return true, err
	}
	return false, nil
}

// Printf writes text to Out, each line prefixed if this is a simulation.
func (p *Printer) Printf(format string, args ...any) {
	io.WriteString(p.Out, p.prefixed(fmt.Sprintf(format, args...)))
}

// Notef writes to Err: progress, hints, what to do next.
func (p *Printer) Notef(format string, args ...any) {
	fmt.Fprintf(p.Err, format, args...)
}

func (p *Printer) prefixed(s string) string {
	if !p.Simulation || s == "" {
		return s
	}
	body, end := strings.TrimSuffix(s, "\n"), ""
	if len(body) < len(s) {
		end = "\n"
	}
	return "SIMULATION " + strings.ReplaceAll(body, "\n", "\nSIMULATION ") + end
}

// Table writes rows under a header: aligned on a terminal, tab-separated
// elsewhere.
func (p *Printer) Table(header []string, rows [][]string) {
	if !p.TTY {
		var b strings.Builder
		for _, r := range append([][]string{header}, rows...) {
			b.WriteString(strings.Join(r, "\t") + "\n")
		}
		p.Printf("%s", b.String())
		return
	}
	p.Columns(append([][]string{header}, rows...))
}

// Columns writes aligned rows everywhere: for reports that people read.
func (p *Printer) Columns(rows [][]string) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = p.paintMarks(strings.TrimRight(lines[i], " "))
	}
	p.Printf("%s\n", strings.Join(lines, "\n"))
}

// The marks. Each stands beside a word, so that meaning survives without colour
// or the glyph.
const (
	OK   = "✓"
	Warn = "!"
	Bad  = "✗"
)

// Mark returns ✓ or ✗.
func Mark(ok bool) string {
	if ok {
		return OK
	}
	return Bad
}

// paintMarks colours the marks of a finished line: colouring before alignment
// would count the escape codes as width.
func (p *Printer) paintMarks(line string) string {
	line = strings.ReplaceAll(line, OK, p.Green(OK))
	return strings.ReplaceAll(line, Bad, p.Red(Bad))
}

// Red returns s in red where colour is on.
func (p *Printer) Red(s string) string { return p.paint("31", s) }

// Green returns s in green where colour is on.
func (p *Printer) Green(s string) string { return p.paint("32", s) }

// Yellow returns s in yellow where colour is on.
func (p *Printer) Yellow(s string) string { return p.paint("33", s) }

// Bold returns s in bold where colour is on.
func (p *Printer) Bold(s string) string { return p.paint("1", s) }

func (p *Printer) paint(code, s string) string {
	if !p.Color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Digest shortens a digest to its first 8 characters, unless the output is wide.
func (p *Printer) Digest(hex string) string {
	if p.Format == Wide || len(hex) <= 8 {
		return hex
	}
	return hex[:8]
}

// valueWidth is the widest cell that Value leaves whole: three such columns and
// a name fit into 80.
const valueWidth = 22

// Value shortens a long hexadecimal or other value for a table cell.
func (p *Printer) Value(s string) string {
	if p.Format == Wide || utf8.RuneCountInString(s) <= valueWidth {
		return s
	}
	if isHex(s) {
		return s[:8] + "…" + s[len(s)-8:]
	}
	r := []rune(s)
	return string(r[:valueWidth-1]) + "…"
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// Until says how long from now t is: "41 min" on a terminal, RFC 3339 elsewhere.
func (p *Printer) Until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if !p.TTY {
		return t.UTC().Format(time.RFC3339)
	}
	return Span(t.Sub(p.Now()))
}

// Since says how long ago t was: "3 min ago" on a terminal, RFC 3339 elsewhere.
func (p *Printer) Since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if !p.TTY {
		return t.UTC().Format(time.RFC3339)
	}
	return Span(p.Now().Sub(t)) + " ago"
}

// Span is a duration in its largest fitting unit.
func Span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}
