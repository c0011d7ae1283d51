package term_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/cli/term"
)

// hostile is what somebody far away may put into a text that is printed here.
const hostile = "a\x1b]0;title\x07\x1b[2J\x1b[1;1H\r\nb\x7f\u009b31m\u202ec\u2066\u200b\xff"

// TestTerminalObeysNobody checks that no text from elsewhere reaches a terminal
// as anything but text.
func TestTerminalObeysNobody(t *testing.T) {
	for name, write := range map[string]func(*term.Printer){
		"Printf":  func(p *term.Printer) { p.Printf("got %s\n", hostile) },
		"Raw":     func(p *term.Printer) { p.Raw(hostile + "\n") },
		"Notef":   func(p *term.Printer) { p.Notef("error: %s\n", hostile) },
		"Columns": func(p *term.Printer) { p.Columns([][]string{{"a", hostile}, {hostile, "b"}}) },
		"Table":   func(p *term.Printer) { p.Table([]string{"A", "B"}, [][]string{{"x", hostile}}) },
		"painted": func(p *term.Printer) { p.Printf("%s\n", p.Red(hostile)) },
		"JSON": func(p *term.Printer) {
			p.Format = term.JSON
			if _, err := p.Structured(map[string]string{"text": hostile}); err != nil {
				t.Error(err)
			}
		},
		"YAML": func(p *term.Printer) {
			p.Format = term.YAML
			if _, err := p.Structured(map[string]string{"text": hostile}); err != nil {
				t.Error(err)
			}
		},
	} {
		for _, colour := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				var out bytes.Buffer
				write(&term.Printer{Out: &out, Err: &out, Color: colour, Format: term.Text})
				got := out.String()
				for _, style := range []string{"\x1b[31m", "\x1b[32m", "\x1b[0m"} {
					got = strings.ReplaceAll(got, style, "") // the printer's own
				}
				for _, bad := range []string{"\x1b", "\x07", "\r", "\x7f", "\u009b", "\u202e", "\u2066", "\u200b", "\xff"} {
					if name == "YAML" && bad > "\u009b" && bad != "\xff" {
						continue // YAML holds them as they are, within quotes
					}
					if strings.Contains(got, bad) {
						t.Errorf("got %q, want no %q in it", got, bad)
					}
				}
			})
		}
	}
}

func TestCellsStayOneLine(t *testing.T) {
	for _, tty := range []bool{false, true} {
		var out bytes.Buffer
		p := &term.Printer{Out: &out, Err: &out, TTY: tty, Format: term.Text}
		p.Table([]string{"A", "B"}, [][]string{{"x\nACCEPTED", "y\tz"}})
		if n := strings.Count(out.String(), "\n"); n != 2 {
			t.Errorf("terminal %t: got %d lines, want 2: %q", tty, n, out.String())
		}
	}
}

// TestTextsEndNoLine checks that what is put into a line cannot begin another.
func TestTextsEndNoLine(t *testing.T) {
	type code string
	for _, arg := range []any{"no\n✓ accepted", errors.New("no\n✓ accepted"), code("no\n✓ accepted")} {
		var out bytes.Buffer
		p := &term.Printer{Out: &out, Err: &out}
		p.Printf("got %s\n", arg)
		p.Notef("got %v\n", arg)
		if n := strings.Count(out.String(), "\n"); n != 2 {
			t.Errorf("%T: got %d lines, want 2: %q", arg, n, out.String())
		}
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain ✓ ä":      "plain ✓ ä",
		"a\nb\tc":        "a; b c",
		"a\r\nb\rc\n":    `a; b\x0dc`,
		"\x1b[31mred":    `\x1b[31mred`,
		"\u009b0m\u202e": `\u009b0m\u202e`,
		"\xff\xfe":       `\xff\xfe`,
		"":               "",
	} {
		if got := term.Line(in); got != want {
			t.Errorf("Line(%q): got %q, want %q", in, got, want)
		}
	}
}

// TestJSONStaysWhatItWas checks that the escapes of JSON output read back.
func TestJSONStaysWhatItWas(t *testing.T) {
	var out bytes.Buffer
	p := &term.Printer{Out: &out, Err: &out, Format: term.JSON}
	const want = "a\x1b\u009bb\u202e\x7fü✓"
	if _, err := p.Structured(map[string]string{"text": want}); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["text"] != want {
		t.Errorf("got %q, %v, want %q", got["text"], err, want)
	}
}
