package nearest

import (
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	names := []string{"sgx", "tdx", "sim", "manifest", "marble", "status", "uniqueID"}
	for word, want := range map[string]string{
		"sxg": "sgx", "statsu": "status", "manifst": "manifest", "uniqeID": "uniqueID", "UNIQUEID": "uniqueID", "marbels": "marble",
		"zzz": "", "": "", "something else": "", strings.Repeat("a", 1000): "",
	} {
		if got := Word(word, names); got != want {
			t.Errorf("Word(%.20q) = %q, want %q", word, got, want)
		}
	}
	if got := Word("sax", []string{"sbx", "scx"}); got != "sbx" {
		t.Errorf("of two equally near ones got %q, want the first", got)
	}
}

func TestDistance(t *testing.T) {
	cases := []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abc", "abc", 0}, {"abcdef", "uvwxyz", 5}}
	for _, c := range cases {
		if got := Distance(c.a, c.b, 5); got != c.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if Distance(c.a, c.b, 5) != Distance(c.b, c.a, 5) {
			t.Errorf("Distance(%q, %q) is not symmetric", c.a, c.b)
		}
	}
}
