package plain

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		name, in string
		n        int
		want     string
	}{
		{"short", "web is away", 20, "web is away"},
		{"lines", "a\r\nb\nc\t.\n", 20, "a; b; c ."},
		{"escape sequence", "\x1b[31mred", 20, `\x1b[31mred`},
		{"direction", "abc\u202etxt", 20, `abc\u202etxt`},
		{"not UTF-8", "a\xff", 20, `a\xff`},
		{"long", "0123456789", 8, "01234…"},
		{"cut rune", "01234é789", 9, "01234…"},
		{"nothing", "", 8, ""},
		{"no room", "0123", 2, "…"},
	} {
		got := Clip(c.in, c.n)
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if got := Clip(strings.Repeat("\u202e", 1<<20), 100); len(got) > 100 || !utf8.ValidString(got) {
		t.Errorf("got %d bytes, want at most 100 of UTF-8", len(got))
	}
}
