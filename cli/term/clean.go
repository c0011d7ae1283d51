package term

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/plain"
)

// styles are the escape sequences that this package writes itself.
var styles = []string{"\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"}

// Line returns text from elsewhere (an error, a proxy's words, a field of a
// verdict) as one line that a terminal shows and does not obey.
func Line(s string) string { return plain.Line(s) }

// oneLine keeps texts that are put into a line from ending it: nobody else's
// words become lines of our own.
func oneLine(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a
		if err, ok := a.(error); ok {
			out[i] = plain.Flat(err.Error())
		} else if v := reflect.ValueOf(a); v.Kind() == reflect.String {
			if text := v.String(); strings.ContainsAny(text, "\r\n\t") {
				out[i] = plain.Flat(text)
			}
		}
	}
	return out
}

// clean neutralises a finished text but for line ends, tabs, and the styles
// that the printer put in.
func (p *Printer) clean(s string) string {
	if p.Color {
		return plain.Neutral(s, "\n\t", styles)
	}
	return plain.Neutral(s, "\n\t", nil)
}

// jsonEscapes writes what steers as \u escapes, in JSON that holds it inside
// strings only. encoding/json escapes C0 itself.
func jsonEscapes(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r > ' ' && plain.Steers(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && plain.Steers(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cells makes each cell of a row one line.
func cells(row []string) []string {
	out := make([]string, len(row))
	for i, cell := range row {
		out[i] = Line(cell)
	}
	return out
}
