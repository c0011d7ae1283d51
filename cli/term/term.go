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
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

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
	Dumb     bool // the terminal understands no escape code
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
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return true, err
		}
		// What steers stands inside strings only, where \u is the same.
		_, err := io.WriteString(p.Out, jsonEscapes(b.String()))
		return true, err
	case YAML:
		b, err := json.Marshal(v)
		if err == nil {
			b, err = yaml.JSONToYAML([]byte(jsonEscapes(string(b))))
		}
		if err != nil {
			return true, err
		}
		_, err = p.Out.Write(b)
		return true, err
	}
	return false, nil
}

// Printf writes text to Out, each line prefixed if this is a simulation. Lines
// of the format text that are wider than 80 columns are folded at spaces.
func (p *Printer) Printf(format string, args ...any) {
	io.WriteString(p.Out, p.prefixed(p.Fold(fmt.Sprintf(format, oneLine(args)...))))
}

// Raw writes what is not to be folded, such as the lines of a log; each is
// prefixed if this is a simulation.
func (p *Printer) Raw(text string) { io.WriteString(p.Out, p.prefixed(text)) }

// Notef writes to Err: progress, hints, what to do next. Lines are not folded,
// so that a command in them can be copied.
func (p *Printer) Notef(format string, args ...any) {
	io.WriteString(p.Err, p.prefixed(fmt.Sprintf(format, oneLine(args)...)))
}

// Note writes a report of several lines to Err, folded as Printf does.
func (p *Printer) Note(text string) { io.WriteString(p.Err, p.prefixed(p.Fold(text))) }

// Fold breaks lines that are wider than 80 columns at spaces, unless the output
// is wide.
func (p *Printer) Fold(text string) string {
	if p.Format == Wide {
		return text
	}
	return fold(text, p.width())
}

const simulation = "SIMULATION "

// prefixed is the one way out for text: it neutralises what would steer a
// terminal, and says that this is a simulation.
func (p *Printer) prefixed(s string) string {
	s = p.clean(s)
	if !p.Simulation || s == "" {
		return s
	}
	body, end := strings.TrimSuffix(s, "\n"), ""
	if len(body) < len(s) {
		end = "\n"
	}
	return simulation + strings.ReplaceAll(body, "\n", "\n"+simulation) + end
}

// Table writes rows under a header: aligned on a terminal, tab-separated
// elsewhere.
func (p *Printer) Table(header []string, rows [][]string) {
	if !p.TTY {
		var b strings.Builder
		for _, r := range append([][]string{header}, rows...) {
			b.WriteString(strings.Join(cells(r), "\t") + "\n")
		}
		p.Raw(b.String())
		return
	}
	p.Columns(append([][]string{header}, rows...))
}

// Columns writes aligned rows everywhere: for reports that people read. Cells
// are shortened where the rows would be wider than 80 columns, unless the output
// is wide.
func (p *Printer) Columns(rows [][]string) {
	if p.Format != Wide {
		rows = fit(rows, p.width())
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, gap, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(cells(r), "\t"))
	}
	w.Flush()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = p.paintMarks(strings.TrimRight(lines[i], " "))
	}
	p.Raw(strings.Join(lines, "\n") + "\n")
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
	if p.Format == Wide {
		return s
	}
	return elide(s, valueWidth)
}

var longHex = regexp.MustCompile(`[0-9a-fA-F]{32,}`)

// Sentence shortens the digests in a text, unless the output is wide.
func (p *Printer) Sentence(s string) string {
	if p.Format == Wide {
		return s
	}
	return longHex.ReplaceAllStringFunc(s, func(h string) string { return elide(h, valueWidth) })
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

// Ahead says when t comes: "in 41 min" on a terminal, RFC 3339 elsewhere.
func (p *Printer) Ahead(t time.Time) string {
	if !p.TTY || t.IsZero() {
		return p.Until(t)
	}
	return "in " + p.Until(t)
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
