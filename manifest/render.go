package manifest

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// codeColumn is where codes stand in rendered diagnostics; a longer line has
// its code after two spaces.
const codeColumn = 76

// Colours of terminals (ECMA-48 SGR).
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// Render writes the diagnostics for people, as a compiler does: place, message
// and code, the line with carets under what is meant, a suggestion; then their
// number. Without diagnostics it writes nothing. Errors of w are not reported: like
// log output, it is written to where people look.
func (ds Diagnostics) Render(w io.Writer, filename string, color bool) {
	if len(ds) == 0 {
		return
	}
	var b strings.Builder
	paint := func(sgr, s string) string {
		if !color || s == "" {
			return s
		}
		return sgr + s + plain
	}
	filename = printable(filename)
	for _, d := range ds {
		tone := red
		if d.Severity == SeverityWarning {
			tone = yellow
		}
		place := fmt.Sprintf("%s:%d:%d: ", filename, d.Line, d.Column)
		pad := codeColumn - utf8.RuneCountInString(place+string(d.Severity)+": "+d.Message)
		fmt.Fprintf(&b, "%s%s: %s%s%s\n", paint(bold, place), paint(tone, string(d.Severity)), d.Message, strings.Repeat(" ", max(2, pad)), d.Code)
		d.excerpt(&b, func(s string) string { return paint(tone, s) })
		if d.Suggestion != "" {
			fmt.Fprintf(&b, "      = %s\n", paint(cyan, d.Suggestion))
		}
	}
	fmt.Fprintf(&b, "%s in %s\n", ds.count(), filename)
	_, _ = io.WriteString(w, b.String())
}

// excerpt writes the source line, cut to 80 columns, with carets.
func (d Diagnostic) excerpt(b *strings.Builder, paint func(string) string) {
	if strings.TrimSpace(d.Source) == "" {
		return
	}
	const room = 72
	line, at := []rune(d.Source), d.Column-1-d.cut
	from := 0
	if len(line) > room {
		from = max(0, min(at-room/3, len(line)-room))
		line = line[from:min(len(line), from+room)]
	}
	at -= from
	width := max(1, min(d.Width, len(line)-at))
	fmt.Fprintf(b, "%5d | %s\n", d.Line, string(line))
	fmt.Fprintf(b, "      | %s%s\n", strings.Repeat(" ", at), paint(strings.Repeat("^", width)))
}

// count returns "4 problems" for errors, and names warnings where there are any.
func (ds Diagnostics) count() string {
	errors, warnings := ds.Errors(), ds.Warnings()
	switch {
	case warnings == 0:
		return plural(errors, "problem")
	case errors == 0:
		return plural(warnings, "warning")
	}
	return plural(errors, "problem") + " and " + plural(warnings, "warning")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
