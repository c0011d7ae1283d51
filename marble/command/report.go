package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// report writes what went wrong, for people, and returns its exit code: code and
// detail, the table of the verdict if one refused, and what to do next.
func report(w io.Writer, err error) int {
	e := problem.From(err)
	var b strings.Builder
	var v attest.Verdict
	next := e.Next
	if len(e.Verdict) > 0 && json.Unmarshal(e.Verdict, &v) == nil {
		fmt.Fprintf(&b, "✗ refused: %s  %s\n", problem.Lookup(e.Code).Title, e.Code)
		if table(&b, v) {
			next = ""
		}
	} else {
		fmt.Fprintf(&b, "✗ %s: %s  %s\n", problem.Lookup(e.Code).Title, e.Detail, e.Code)
	}
	if next != "" {
		fmt.Fprintf(&b, "next: %s\n", next)
	}
	if strings.Contains(e.Instance, "/") { // a decision; a request's id explains nothing
		fmt.Fprintf(&b, "      ashlar explain %s\n", e.Instance)
	}
	_, _ = io.WriteString(w, printable(b.String())) // there is nobody else to tell
	return e.Kind().ExitCode()
}

// compared are the fields that a person compares; the other checks (formats,
// signatures, chains, revocation, windows) are counted where they hold.
var compared = []string{"sgx.", "tdx.", "snp.", "sim.", "tpm.", "cca.", "events.", "devices.", "tcb.", "binding.", "reportData"}

func isCompared(field string) bool {
	for _, prefix := range compared {
		if strings.HasPrefix(field, prefix) {
			return true
		}
	}
	return false
}

// table writes a verdict as field, wanted, got and mark, and what mends it; it
// reports whether anything does.
func table(b *strings.Builder, v attest.Verdict) (mends bool) {
	if v.TEE.Simulated() {
		fmt.Fprintf(b, "SIMULATION: evidence of %s, made by software\n", v.TEE)
	}
	held := 0
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) } //nolint:errcheck // into memory
	row("field", "wanted", "got", "")
	for _, s := range v.Steps {
		if s.OK && !isCompared(s.Field) {
			held++
			continue
		}
		mark := "✓"
		if !s.OK {
			mark = "✗"
		}
		row(s.Field, shorten(s.Want), shorten(s.Got), mark)
	}
	t.Flush() //nolint:errcheck // into memory
	if held > 0 {
		fmt.Fprintf(b, "✓ %d checks of format, signatures, chains, revocation and validity hold\n", held)
	}
	for _, s := range v.Failed() {
		fmt.Fprintf(b, "%s  %s\n  wanted  %s\n  got     %s\n", s.Code, s.Field, s.Want, s.Got)
		if s.Fix.How != "" {
			fmt.Fprintf(b, "  next    %s (%s)\n", s.Fix.How, s.Fix.Who)
			mends = true
		}
	}
	return mends
}

// cellWidth holds a shortened digest: 8 digits, an ellipsis, 4 digits.
const cellWidth = 13

// shorten keeps the start and the end of a long digest, and the start of a long
// text.
func shorten(s string) string {
	r := []rune(s)
	switch {
	case len(r) <= cellWidth:
		return s
	case strings.Trim(s, "0123456789abcdefABCDEF") == "":
		return s[:8] + "…" + s[len(s)-4:]
	}
	return string(r[:cellWidth-1]) + "…"
}

// printable keeps what came over the network from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}
