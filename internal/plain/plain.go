// Package plain makes words that came from elsewhere fit to be shown: in a
// terminal, in a Kubernetes object, in a message. It judges no words and keeps
// nothing secret.
package plain

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Line returns text from elsewhere as one line that shows itself and steers
// nothing: a line end becomes "; ", other control and direction characters
// become visible escapes such as \x1b.
func Line(s string) string { return Neutral(Flat(s), "", nil) }

// Clip is Line, of at most n bytes; where it was longer it ends in "…".
func Clip(s string, n int) string {
	const more = "…"
	if len(s) > 4*n {
		s = s[:4*n] // escapes make text longer, never shorter
	}
	s = Line(s)
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:max(n-len(more), 0)], "") + more
}

// Flat makes one line of several.
func Flat(s string) string {
	return strings.NewReplacer("\r\n", "; ", "\n", "; ", "\t", " ").Replace(strings.TrimRight(s, "\r\n"))
}

// Neutral replaces what steers a terminal, except the runes of keep and the
// sequences of pass.
func Neutral(s, keep string, pass []string) string {
	if !strings.ContainsFunc(s, Steers) && utf8.ValidString(s) {
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
		case !Steers(r) || strings.ContainsRune(keep, r):
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

// Steers reports whether a rune does something else than show itself: controls
// of C0 and C1 (ECMA-48), line and paragraph separators, marks that change the
// direction of text (UAX 9), and those without a width.
func Steers(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f:
		return true
	case r == 0x061c, 0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}
