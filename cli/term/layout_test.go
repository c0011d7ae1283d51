package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestFold(t *testing.T) {
	cases := []struct {
		name, text string
		width      int
		want       string
	}{
		{"fits", "a short line\n", 20, "a short line\n"},
		{"breaks at spaces", "one two three four", 10, "one two\n    three\n    four"},
		{"keeps the indent", "  one two three", 10, "  one two\n      three"},
		{"a long word stays whole", "x " + strings.Repeat("y", 12), 10, "x\n    " + strings.Repeat("y", 12)},
		{"colour has no width", "\x1b[31mone\x1b[0m two", 7, "\x1b[31mone\x1b[0m two"},
		{"glyphs count once", "✓✓✓ ✓✓✓", 7, "✓✓✓ ✓✓✓"},
		{"each line for itself", "one two three\nfour", 10, "one two\n    three\nfour"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := fold(c.text, c.width); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestElide(t *testing.T) {
	digest := "0123456789abcdef0123456789abcdef"
	cases := []struct {
		text  string
		width int
		want  string
	}{
		{"short", 8, "short"},
		{digest, 32, digest},
		{digest, 22, "01234567…89abcdef"},
		{digest, 9, "0123…cdef"},
		{"a longer sentence", 9, "a longer…"},
		{"ünïcödé text", 8, "ünïcödé…"},
		{"marbles.cart.parameters.env", 20, "marbles.c…meters.env"},
		{"shop.yaml:1 spec.template.spec.containers[0].env[2]", 24, "shop.yaml:1 …s[0].env[2]"},
		{"k8s/of/the/shop.yaml:1 spec.template.spec", 24, "k8s/of/the/…emplate.spec"},
	}
	for _, c := range cases {
		if got := elide(c.text, c.width); got != c.want {
			t.Errorf("elide(%q, %d): got %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

// TestColumnsKeepTo80 whatever the cells hold, with and without the prefix of a
// simulation, and not where wide output was asked for.
func TestColumnsKeepTo80(t *testing.T) {
	rows := [][]string{{"FIELD", "WANTED", "GOT", "NOTE"}, {"a.rather.long.field.name", strings.Repeat("ab", 48), strings.Repeat("cd", 48), strings.Repeat("many words ", 9)}}
	for _, simulation := range []bool{false, true} {
		var out bytes.Buffer
		p := &Printer{Out: &out, Format: Text, Simulation: simulation}
		p.Columns(rows)
		for line := range strings.Lines(out.String()) {
			if n := visible(strings.TrimSuffix(line, "\n")); n > columns {
				t.Errorf("simulation %v: got a line of %d columns: %s", simulation, n, line)
			}
		}
		if want := "abab"; !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want the beginning of the value in it", out.String())
		}
	}
	var out bytes.Buffer
	p := &Printer{Out: &out, Format: Wide}
	p.Columns(rows)
	if !strings.Contains(out.String(), strings.Repeat("ab", 48)) {
		t.Errorf("wide: got %q, want the whole value", out.String())
	}
}

func TestTableInAPipeIsTabSeparated(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{Out: &out, Format: Text}
	long := strings.Repeat("x", 100)
	p.Table([]string{"A", "B"}, [][]string{{"one", long}})
	if want := "A\tB\none\t" + long + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
