// Package differential holds the tests that compare our verdicts with those of
// other implementations, on every golden set and on changed copies of it: the
// dcap-qvl of Phala for SGX and TDX, go-tdx-guest for TDX, go-sev-guest for
// SEV-SNP. Whoever is right, a disagreement is either in a table with its reason
// or it fails the test; a row of a table that nothing needs fails it as well.
package differential

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// answer is what somebody says of a case.
type answer struct {
	ok         bool // genuine, revocation checked, and at a TCB level
	status     attest.TCBStatus
	advisories []string // sorted, each once
	reason     string   // why not; ours: "ATT-010 quote.signature", …
}

func (a answer) String() string {
	if !a.ok {
		return "refused: " + a.reason
	}
	return fmt.Sprintf("accepted, %s %v", a.status, a.advisories)
}

// disagreement is a difference that is known, with its reason.
type disagreement struct {
	ours, theirs string // patterns of the answers, see answer.String
	changed      string // pattern of what was changed; "" is anything
	why          string
}

func (d disagreement) fits(c testCase, ours, theirs answer) bool {
	is := func(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }
	return is(d.ours, ours.String()) && is(d.theirs, theirs.String()) && is(d.changed, c.name)
}

// compare judges all cases by both.
func compare(t *testing.T, all []testCase, ours, theirs func(testCase) answer, agree func(a, b answer) bool, known []disagreement) {
	t.Helper()
	used := make([]int, len(known))
	same, accepted, bugs := 0, 0, 0
	for _, c := range all {
		a, b := ours(c), theirs(c)
		if a.ok {
			accepted++
		}
		if agree(a, b) {
			same++
			continue
		}
		i := slices.IndexFunc(known, func(d disagreement) bool { return d.fits(c, a, b) })
		if i >= 0 {
			used[i]++
			continue
		}
		if bugs++; bugs <= 20 {
			t.Errorf("%s:\n  ours   %s\n  theirs %s", c.name, a, b)
		}
	}
	for i, n := range used {
		t.Logf("%4d × %s", n, known[i].why)
		if n == 0 {
			t.Errorf("no case shows this disagreement any more: %s", known[i].why)
		}
	}
	t.Logf("%d cases, %d accepted, %d agree, %d differ for a known reason, %d for none", len(all), accepted, same, len(all)-same-bugs, bugs)
}

// intel judges by our verifiers of SGX and TDX. They are kept: what caches
// remember must not matter.
func intel(t *testing.T) func(testCase) answer {
	verifiers := map[string]*dcap.Verifier{}
	return func(c testCase) answer {
		key := string(c.evidence.TEE) + string(der(c.root))
		v := verifiers[key]
		if v == nil {
			root := c.root
			if root == nil {
				root = dcap.IntelRoot()
			}
			var err error
			if v, err = dcap.New(dcap.Config{TEE: c.evidence.TEE, Root: root}); err != nil {
				t.Fatal(err)
			}
			verifiers[key] = v
		}
		return judged(v, c)
	}
}

// judged is our answer.
func judged(v attest.Verifier, c testCase) answer {
	claims, steps := v.Verify(c.evidence, c.endorsements, c.at)
	var failed []string
	for _, s := range steps {
		if !s.OK {
			failed = append(failed, s.Code+" "+s.Field)
		}
	}
	if failed == nil && !claims.TCB.RevocationChecked && claims.SNP == nil {
		failed = append(failed, "ATT-018 revocation was not checked")
	}
	return answer{ok: failed == nil, status: claims.TCB.Status, advisories: claims.TCB.Advisories, reason: strings.Join(failed, ", ")}
}

// TestQVL compares with dcap-qvl.
func TestQVL(t *testing.T) {
	q := startQVL(t)
	agree := func(a, b answer) bool {
		return a.ok == b.ok && (!a.ok || a.status == b.status && slices.Equal(a.advisories, b.advisories))
	}
	compare(t, cases(t, attest.SGX, attest.TDX), intel(t), q.ask, agree, []disagreement{
		{"accepted", "Debug mode is enabled", "", "dcap-qvl refuses debug enclaves and guests; here the policy does"},
		{"accepted", "SEPT_VE_DISABLE is not enabled", "", "dcap-qvl demands SEPT_VE_DISABLE, which Azure's guests lack; here the policy may"},
		{"accepted", "Invalid MR service TD", "", "dcap-qvl refuses guests with a service TD; here the policy names it"},
		{"accepted, Revoked", "TCB status is invalid: Revoked", "", "dcap-qvl refuses a revoked TCB; here it is a status, which no policy can accept"},
		{"^refused: ATT-006 pck.chain$", "accepted", "evidence", "dcap-qvl ignores the root certificate that comes with a quote; here one that is damaged or another is refused"},
		{"^refused: ATT-023 (tcbInfo|qeIdentity).signature$", "accepted", "chain of (tcb_info|qe_identity).json", "dcap-qvl ignores the root certificate in issuer chains"},
		{"^refused: ATT-020 pckCRL.chain$", "accepted", "chain of pck_crl.der", "dcap-qvl ignores the chain of the PCK CRL: it takes the CA from the quote"},
		{"^refused: ATT-021 (pckCRL|rootCRL).validity$", "accepted", "_crl.der of ", "dcap-qvl does not look at when a CRL was issued: one of the future is accepted"},
	})
}
