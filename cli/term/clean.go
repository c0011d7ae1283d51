package term

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// styles are the escape sequences that this package writes itself.
var styles = []string{"\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"}

// Line returns text from elsewhere (an error, a proxy's words, a field of a
// verdict) as one line that a terminal shows and does not obey: a line end
// becomes "; ", other control and direction characters become visible escapes
// such as \x1b.
func Line(s string) string { return neutral(flat(s), "", nil) }

// flat makes one line of several.
func flat(s string) string {
	return strings.NewReplacer("\r\n", "; ", "\n", "; ", "\t", " ").Replace(strings.TrimRight(s, "\r\n"))
}

// oneLine keeps texts that are put into a line from ending it: nobody else's
// words become lines of our own.
func oneLine(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a
		if err, ok := a.(error); ok {
			out[i] = flat(err.Error())
		} else if v := reflect.ValueOf(a); v.Kind() == reflect.String {
			if text := v.String(); strings.ContainsAny(text, "\r\n\t") {
				out[i] = flat(text)
			}
		}
	}
	return out
}

// clean neutralises a finished text but for line ends, tabs, and the styles
// that the printer put in.
func (p *Printer) clean(s string) string {
	if p.Color {
		return neutral(s, "\n\t", styles)
	}
	return neutral(s, "\n\t", nil)
}

// neutral replaces what steers a terminal, except the runes of keep and the
// sequences of pass.
func neutral(s, keep string, pass []string) string {
	if !strings.ContainsFunc(s, steers) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
next:
	for len(s) > 0 {
		for _, seq := range pass {
			if strings.HasPrefix(s, seq) {
				b.WriteString(seq)
				s = s[len(seq):]
				continue next
			}
		}
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !steers(r) || strings.ContainsRune(keep, r):
			b.WriteString(s[:size])
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[size:]
	}
	return b.String()
}

// steers reports whether a rune does something else than show itself: controls
// of C0 and C1 (ECMA-48), line and paragraph separators, marks that change the
// direction of text (UAX 9), and those without a width.
func steers(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f:
		return true
	case r == 0x061c, 0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}

// jsonEscapes writes what steers as \u escapes, in JSON that holds it inside
// strings only. encoding/json escapes C0 itself.
func jsonEscapes(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r > ' ' && steers(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && steers(r) {
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
