package attesttest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Sample is evidence that a verifier must find genuine.
type Sample struct {
	Evidence     attest.Evidence
	Endorsements attest.Endorsements
	At           time.Time
}

// Verifier is the conformance test of an attest.Verifier. New must return one
// with empty caches. It checks that good evidence holds and gives complete and
// stable steps; that damaged, cut, foreign, early and late evidence does not;
// that a change of any field of evidence, of a document of the vendor or of a
// certificate is refused at the step of that field and shows in no other claim;
// that a changed byte never changes a claim unnoticed; that verifications of
// good evidence stay what they were after bad; and that nothing panics.
func Verifier(t *testing.T, newVerifier func() attest.Verifier, good Sample) {
	t.Helper()
	t.Run("genuine", func(t *testing.T) { genuine(t, newVerifier(), good) })
	t.Run("times", func(t *testing.T) { times(t, newVerifier(), good) })
	t.Run("malformed", func(t *testing.T) { malformed(t, newVerifier(), good) })
	t.Run("mutated", func(t *testing.T) { mutated(t, newVerifier(), good) })
	t.Run("regions", func(t *testing.T) { regions(t, newVerifier(), good, each(20)) })
	t.Run("documents", func(t *testing.T) { documentRegions(t, newVerifier(), good) })
	t.Run("endorsements", func(t *testing.T) { mutatedEndorsements(t, newVerifier(), good) })
	t.Run("concurrent", func(t *testing.T) { concurrent(t, newVerifier(), good) })
}

// holds reports whether every step holds; without steps nothing was checked.
func holds(steps []attest.Step) bool {
	for _, s := range steps {
		if !s.OK {
			return false
		}
	}
	return len(steps) > 0
}

func encode(t testing.TB, c attest.Claims, steps []attest.Step) string {
	t.Helper()
	b, err := json.Marshal(struct {
		C attest.Claims
		S []attest.Step
	}{c, steps})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func genuine(t *testing.T, v attest.Verifier, good Sample) {
	c, steps := v.Verify(good.Evidence, good.Endorsements, good.At)
	if !holds(steps) {
		t.Fatalf("good evidence: got steps %+v, want all to hold", steps)
	}
	if v.TEE() != good.Evidence.TEE || c.TEE != good.Evidence.TEE {
		t.Errorf("TEE: verifier %q, claims %q, want %q", v.TEE(), c.TEE, good.Evidence.TEE)
	}
	if len(c.ReportData) != 64 {
		t.Errorf("report data: got %d bytes, want 64", len(c.ReportData))
	}
	if shape := good.Evidence.TEE.Shape(); shape == attest.SGX && c.SGX == nil || shape == attest.TDX && c.TDX == nil || shape == attest.SNP && c.SNP == nil {
		t.Error("the claims of the shape are missing")
	}
	if c.TCB.ValidUntil().Before(good.At) {
		t.Errorf("valid until %v, before %v", c.TCB.ValidUntil(), good.At)
	}
	checkSteps(t, steps)
	again, steps2 := v.Verify(good.Evidence, good.Endorsements, good.At)
	if encode(t, c, steps) != encode(t, again, steps2) {
		t.Error("a second verification gave other bytes")
	}
}

// checkSteps checks that every step is complete.
func checkSteps(t testing.TB, steps []attest.Step) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range steps {
		if s.Code == "" || s.Field == "" || s.Want == "" || s.Got == "" || s.Source == "" {
			t.Errorf("incomplete step %+v", s)
		}
		if s.OK != (s.Fix == attest.Fix{}) || !s.OK && (s.Fix.Who == "" || s.Fix.How == "") {
			t.Errorf("step %s: ok=%t with fix %+v", s.Field, s.OK, s.Fix)
		}
		if seen[s.Field] {
			t.Errorf("field %s comes twice", s.Field)
		}
		seen[s.Field] = true
	}
}

func times(t *testing.T, v attest.Verifier, good Sample) {
	c, _ := v.Verify(good.Evidence, good.Endorsements, good.At)
	for name, at := range map[string]time.Time{
		"zero":        {},
		"ten years":   good.At.AddDate(-10, 0, 0),
		"after end":   c.TCB.ValidUntil().Add(time.Second),
		"far future":  good.At.AddDate(50, 0, 0),
		"before sets": c.TCB.OldestIssue.Add(-time.Second),
	} {
		if _, steps := v.Verify(good.Evidence, good.Endorsements, at); holds(steps) {
			t.Errorf("%s (%v): got genuine, want a window to fail", name, at)
		}
	}
	if _, steps := v.Verify(good.Evidence, good.Endorsements, c.TCB.ValidUntil()); !holds(steps) {
		t.Error("at its last instant: got refused, want genuine")
	}
}

func malformed(t *testing.T, v attest.Verifier, good Sample) {
	raw := good.Evidence.Raw
	cases := map[string][]byte{
		"nil": nil, "one byte": {3}, "zeros": make([]byte, attest.MaxEvidence), "too large": make([]byte, attest.MaxEvidence+1), "doubled front": append([]byte{raw[0]}, raw...),
	}
	for n := 0; n < len(raw); n += 1 + len(raw)/200 {
		cases[fmt.Sprintf("cut to %d", n)] = raw[:n]
	}
	want, _ := v.Verify(good.Evidence, good.Endorsements, good.At)
	for name, b := range cases {
		c, steps := v.Verify(attest.Evidence{TEE: good.Evidence.TEE, Raw: b}, good.Endorsements, good.At)
		if holds(steps) && !reflect.DeepEqual(c, want) { // a cut within padding is harmless
			t.Errorf("%s: got genuine with other claims", name)
		}
		checkSteps(t, steps)
	}
	if _, steps := v.Verify(good.Evidence, attest.Endorsements{}, good.At); holds(steps) {
		t.Error("no endorsements: got genuine")
	}
}

// mutated flips bits of the evidence: either a step fails, or the byte meant
// nothing and the claims are the same.
func mutated(t *testing.T, v attest.Verifier, good Sample) {
	want, _ := v.Verify(good.Evidence, good.Endorsements, good.At)
	raw := make([]byte, len(good.Evidence.Raw))
	for i := 0; i < len(raw); i += stride(len(raw)) {
		copy(raw, good.Evidence.Raw)
		raw[i] ^= 1 << (i % 8)
		c, steps := v.Verify(attest.Evidence{TEE: good.Evidence.TEE, Raw: raw}, good.Endorsements, good.At)
		if holds(steps) && !reflect.DeepEqual(c, want) {
			t.Fatalf("byte %d changed: got genuine with other claims", i)
		}
	}
	if c, steps := v.Verify(good.Evidence, good.Endorsements, good.At); !holds(steps) || !reflect.DeepEqual(c, want) {
		t.Error("good evidence after damaged: got another result than before")
	}
}

// stride is odd, so that every bit position is met.
func stride(n int) int { return n/each(300)*2 + 1 }

// each is how many places of one kind a test changes: fewer in short mode, for
// systems on which a signature takes a hundred times as long.
func each(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

func mutatedEndorsements(t *testing.T, v attest.Verifier, good Sample) {
	want, _ := v.Verify(good.Evidence, good.Endorsements, good.At)
	for k, item := range good.Endorsements.Items() {
		for i := 0; i < len(item.Body); i += stride(len(item.Body)) {
			items := append([]attest.Endorsement(nil), good.Endorsements.Items()...)
			body := append([]byte(nil), item.Body...)
			body[i] ^= 1 << (i % 8)
			items[k].Body = body
			c, steps := v.Verify(good.Evidence, attest.NewEndorsements(items...), good.At)
			if holds(steps) && !reflect.DeepEqual(c, want) {
				t.Fatalf("%s, byte %d changed: got genuine with other claims", item.Kind, i)
			}
		}
	}
}

func concurrent(t *testing.T, v attest.Verifier, good Sample) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			bad := good.Evidence
			bad.Raw = append([]byte(nil), bad.Raw...)
			bad.Raw[100] ^= 1
			for range 20 {
				if _, steps := v.Verify(good.Evidence, good.Endorsements, good.At); !holds(steps) {
					t.Error("good evidence: got refused")
				}
				if _, steps := v.Verify(bad, good.Endorsements, good.At); holds(steps) {
					t.Error("damaged evidence: got genuine")
				}
			}
		})
	}
	wg.Wait()
}
