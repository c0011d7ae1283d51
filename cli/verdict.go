package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// decisive are the fields that a person compares; the other checks (formats,
// signatures, chains, revocation, windows, binding) are counted where they hold.
var decisive = []string{"sgx.", "tdx.", "snp.", "sim.", "tpm.", "cca.", "events.", "devices.", "tcb.status", "tcb.advisories"}

func isDecisive(s attest.Step) bool {
	for _, prefix := range decisive {
		if strings.HasPrefix(s.Field, prefix) {
			return true
		}
	}
	return !s.OK || !s.Grace.IsZero()
}

// stepTable writes steps as field, wanted, got and mark. Wide output lists
// every step, text counts those that hold and leave nothing to compare.
func (a *app) stepTable(steps []attest.Step) {
	var shown []attest.Step
	for _, s := range steps {
		if a.p.Format == term.Wide || isDecisive(s) {
			shown = append(shown, s)
		}
	}
	held := len(steps) - len(shown)
	if held > 0 {
		a.p.Printf("%s %d more checks hold: signatures, validity, binding … (-o wide)\n", a.p.Green(term.OK), held)
	}
	a.stepRows(shown)
}

// stepRows writes each step as a row.
func (a *app) stepRows(steps []attest.Step) {
	if len(steps) == 0 {
		return
	}
	rows := [][]string{{"field", "wanted", "got", ""}}
	for _, s := range steps {
		rows = append(rows, []string{s.Field, a.p.Value(s.Want), a.p.Value(s.Got), term.Mark(s.OK)})
	}
	a.p.Columns(rows)
}

// findings writes each failed step in full, with who can mend it and how.
func (a *app) findings(v attest.Verdict) {
	for _, s := range v.Failed() {
		a.p.Printf("%s %s  %s\n", a.p.Red(term.Bad), s.Field, s.Code)
		a.p.Printf("  wanted %s\n  got    %s\n", a.p.Sentence(s.Want), a.p.Sentence(s.Got))
		if s.Source != "" {
			a.p.Printf("  source %s\n", s.Source)
		}
		if s.Fix.How != "" {
			a.p.Printf("  next   %s (%s)\n", s.Fix.How, s.Fix.Who)
		}
	}
}

// verdictReport writes a whole verdict for a person.
func (a *app) verdictReport(v attest.Verdict) {
	a.p.Simulation = a.p.Simulation || v.TEE.Simulated()
	genuine := a.p.Green("genuine")
	if !v.Genuine {
		genuine = a.p.Red("not genuine")
	}
	a.p.Printf("%s evidence, %s, %s%s%s\n", v.TEE, genuine, patchLevel(v), advisories(v.Advisories), debugNote(v.Debug))
	a.stepTable(v.Steps)
	a.findings(v)
	if v.OK() {
		a.p.Printf("%s accepted\n", a.p.Green(term.OK))
	} else {
		a.p.Printf("%s refused: %d of %d checks do not hold\n", a.p.Red(term.Bad), len(v.Failed()), len(v.Steps))
	}
}

// patchLevel says how current a platform is: Intel's status, or of AMD, which
// has none, product, key and microcode.
func patchLevel(v attest.Verdict) string {
	c := v.Claims.SNP
	if v.TEE != attest.SNP || c == nil {
		return "TCB status " + orDash(string(v.TCBStatus))
	}
	return fmt.Sprintf("%s, signed by a %s, microcode %d", orDash(c.Product), c.Signer, c.ReportedTCB.Microcode)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func advisories(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return ", advisories " + strings.Join(list, " ")
}

func debugNote(debug bool) string {
	if debug {
		return ", DEBUG"
	}
	return ""
}

// verdictOf returns the verdict that a refusal carries.
func verdictOf(err error) (attest.Verdict, bool) {
	var e *problem.Error
	var v attest.Verdict
	if !errors.As(err, &e) || len(e.Verdict) == 0 || json.Unmarshal(e.Verdict, &v) != nil {
		return v, false
	}
	return v, true
}
