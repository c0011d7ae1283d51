package attest

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// stub is a verifier that answers what a test says.
type stub struct {
	tee    TEE
	claims Claims
	steps  []Step
}

func (s stub) TEE() TEE { return s.tee }

func (s stub) Verify(Evidence, Endorsements, time.Time) (Claims, []Step) {
	return s.claims, append([]Step(nil), s.steps...)
}

var holds = []Step{{Code: CodeQuoteSignature, Field: "quote.signature", OK: true, Want: "w", Got: "g", Source: "quote"}}

func fill(b byte, n int) Hex { return bytes.Repeat([]byte{b}, n) }

func digest(b byte, n int) Hex { return append(fill(b, 32), make([]byte, n-32)...) }

func ptr(n uint16) *uint16 { return &n }

func sgxClaims() Claims {
	return Claims{TEE: SGX, ReportData: fill(9, 64), TCB: goodTCB(), SGX: &SGXClaims{UniqueID: fill(1, 32), SignerID: fill(2, 32), ProductID: 3, SecurityVersion: 4}}
}

func tdxClaims() Claims {
	return Claims{TEE: TDX, ReportData: fill(9, 64), TCB: goodTCB(), TDX: &TDXClaims{MRTD: fill(1, 48), RTMR0: fill(2, 48), RTMR1: fill(3, 48), RTMR2: fill(4, 48),
		RTMR3: fill(5, 48), MRConfigID: fill(6, 48), MROwner: fill(7, 48), MROwnerConfig: fill(8, 48), MRSEAM: fill(9, 48),
		TDAttributes: Hex{0, 0, 0, tdSEPTVEDisable, 0, 0, 0, 0}}}
}

func goodTCB() TCBClaims {
	return TCBClaims{Status: UpToDate, Advisories: []string{"SA-1", "SA-2"}, EvaluationNumber: 18, RevocationChecked: true,
		OldestIssue: now.Add(-48 * time.Hour), NextUpdate: now.Add(24 * time.Hour), NotAfter: now.Add(48 * time.Hour)}
}

func sgxPolicy() Policy {
	return Policy{PackageName: "web", PlatformName: "default", Package: Package{SGX: &SGXReference{UniqueID: []Hex{fill(1, 32)}}}}
}

func failed(steps []Step) []string {
	var out []string
	for _, s := range steps {
		if !s.OK {
			out = append(out, s.Code+" "+s.Field)
		}
	}
	return out
}

// judgement is a change to good inputs and what the verdict must be then.
type judgement struct {
	name    string
	change  func(e *Evidence, v *stub, want *Binding, p *Policy)
	genuine bool
	want    []string // steps that fail
}

var judgements = []judgement{
	{"good", func(*Evidence, *stub, *Binding, *Policy) {}, true, nil},
	{"unknown TEE", func(e *Evidence, _ *stub, _ *Binding, _ *Policy) { e.TEE = SNP }, false, []string{"ATT-002 tee"}},
	{"no TEE", func(e *Evidence, _ *stub, _ *Binding, _ *Policy) { e.TEE = "" }, false, []string{"ATT-002 tee"}},
	{"simulated against production", func(e *Evidence, _ *stub, _ *Binding, _ *Policy) { e.TEE = SimSGX }, false, []string{"ATT-002 tee"}},
	{"empty", func(e *Evidence, _ *stub, _ *Binding, _ *Policy) { e.Raw = nil }, false, []string{"ATT-001 evidence.size"}},
	{"too large", func(e *Evidence, _ *stub, _ *Binding, _ *Policy) { e.Raw = make([]byte, MaxEvidence+1) }, false, []string{"ATT-001 evidence.size"}},
	{"signature fails", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) {
		v.steps = []Step{{Code: CodeQuoteSignature, Field: "quote.signature"}}
	}, false, []string{"ATT-010 quote.signature"}},
	{"does not parse", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) {
		v.steps, v.claims = []Step{{Code: CodeFormat, Field: "quote.format"}}, Claims{}
	}, false, []string{"ATT-003 quote.format"}},
	{"no steps at all", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) { v.steps = nil }, false, nil},
	{"claims without report data", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) { v.claims.ReportData = nil }, true, nil},
	{"no TCB level", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) {
		v.steps, v.claims.TCB.Status = append(v.steps, Step{Code: CodeTCBLevel, Field: "tcb.level"}), ""
	}, true, []string{"ATT-027 tcb.level", "ATT-014 tcb.status"}},
	{"other binding", func(_ *Evidence, _ *stub, want *Binding, _ *Policy) { want[63]++ }, true, []string{"ATT-011 reportData"}},
	{"zero binding is no wildcard", func(_ *Evidence, _ *stub, want *Binding, _ *Policy) { *want = Binding{} }, true, []string{"ATT-011 reportData"}},
	{"debug", func(_ *Evidence, v *stub, _ *Binding, _ *Policy) { v.claims.Debug = true }, true, []string{"ATT-013 sgx.debug"}},
	{"debug allowed", func(_ *Evidence, v *stub, _ *Binding, p *Policy) { v.claims.Debug, p.Package.AllowDebug = true, true }, true, nil},
	{"endorsements young enough", func(_ *Evidence, _ *stub, _ *Binding, p *Policy) {
		p.Platform.Endorsements.MaxAge = Duration(48 * time.Hour)
	}, true, nil},
	{"endorsements too old", func(_ *Evidence, _ *stub, _ *Binding, p *Policy) {
		p.Platform.Endorsements.MaxAge = Duration(48*time.Hour - 1)
	}, true, []string{"ATT-017 endorsements.age"}},
	{"endorsements without a date", func(_ *Evidence, v *stub, _ *Binding, p *Policy) {
		p.Platform.Endorsements.MaxAge, v.claims.TCB.OldestIssue = Duration(time.Hour), time.Time{}
	}, true, []string{"ATT-017 endorsements.age"}},
	{"zero policy", func(_ *Evidence, _ *stub, _ *Binding, p *Policy) { *p = Policy{} }, true, []string{"ATT-029 sgx"}},
	{"everything at once", func(_ *Evidence, v *stub, want *Binding, p *Policy) {
		v.steps = []Step{{Code: CodeQuoteSignature, Field: "quote.signature"}}
		v.claims.Debug, v.claims.TCB.Status, v.claims.TCB.RevocationChecked = true, OutOfDate, false
		*want, p.Package.SGX.UniqueID = Binding{}, []Hex{}
	}, false, []string{"ATT-010 quote.signature", "ATT-011 reportData", "ATT-013 sgx.debug", "ATT-012 sgx.uniqueID", "ATT-014 tcb.status", "ATT-018 tcb.revocationChecked"}},
}

func TestJudge(t *testing.T) {
	good := Evidence{TEE: SGX, Raw: []byte("quote")}
	bound := Binding(fill(9, 64))
	for _, c := range judgements {
		t.Run(c.name, func(t *testing.T) {
			e, v, want, p := good, stub{SGX, sgxClaims(), holds}, bound, sgxPolicy()
			c.change(&e, &v, &want, &p)
			got := Judge(NewVerifiers(v), e, want, Endorsements{}, p, now)
			if f := failed(got.Steps); !reflect.DeepEqual(f, c.want) {
				t.Errorf("failed: got %v, want %v", f, c.want)
			}
			if got.Genuine != c.genuine {
				t.Errorf("genuine: got %t, want %t", got.Genuine, c.genuine)
			}
			accept := c.want == nil && c.genuine && len(v.claims.ReportData) == 64
			if got.OK() != accept {
				t.Errorf("accepted: got %t, want %t", got.OK(), accept)
			}
			if got.Verdict != Accepted && got.Verdict != Refused {
				t.Errorf("got decision %q", got.Verdict)
			}
			if got.TEE != e.TEE || got.Claims.TEE != e.TEE {
				t.Errorf("TEE: got %q and %q, want %q", got.TEE, got.Claims.TEE, e.TEE)
			}
		})
	}
}

func TestNoVerifiers(t *testing.T) {
	for _, v := range []Verifiers{nil, {SGX: nil}} {
		if got := Judge(v, Evidence{TEE: SGX, Raw: []byte("quote")}, Binding{}, Endorsements{}, sgxPolicy(), now); got.OK() || got.Genuine {
			t.Errorf("verifiers %v: got %+v, want a refusal", v, got)
		}
	}
}

func TestJudgeUnbound(t *testing.T) {
	v := JudgeUnbound(NewVerifiers(stub{SGX, sgxClaims(), holds}), Evidence{TEE: SGX, Raw: []byte("quote")}, Endorsements{}, sgxPolicy(), now)
	if !v.OK() {
		t.Errorf("got refused (%v), want accepted", failed(v.Steps))
	}
	for _, s := range v.Steps {
		if s.Field == "reportData" && strings.Contains(s.Want, "not checked") {
			return
		}
	}
	t.Error("no step says that the binding was not checked")
}

// TestVerdictJSON checks that a verdict has the same bytes every time, and
// never a null list.
func TestVerdictJSON(t *testing.T) {
	claims := sgxClaims()
	claims.TCB.Advisories = nil
	for _, vs := range []Verifiers{nil, NewVerifiers(stub{SGX, claims, holds}), NewVerifiers(stub{SGX, Claims{}, holds})} {
		var first []byte
		for range 3 {
			b, err := json.Marshal(Judge(vs, Evidence{TEE: SGX, Raw: []byte("quote")}, Binding{}, Endorsements{}, sgxPolicy(), now))
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = b
			}
			if !bytes.Equal(first, b) {
				t.Errorf("got %s, then %s", first, b)
			}
		}
		if bytes.Contains(first, []byte("null")) {
			t.Errorf("got a null in %s", first)
		}
	}
}

func TestReason(t *testing.T) {
	v := Verdict{Steps: []Step{{Code: "ATT-001", OK: true}, {Code: "ATT-012", Field: "tdx.rtmr1", Want: "aa", Got: "bb"}, {Code: "ATT-014"}}}
	if code, text := v.Reason(); code != "ATT-012" || text != "tdx.rtmr1: wanted aa, got bb" {
		t.Errorf("got %q, %q", code, text)
	}
	if code, text := (Verdict{}).Reason(); code != "" || text != "" {
		t.Errorf("nothing failed: got %q, %q", code, text)
	}
}

// TestCodes checks that every code of a step is in the table, as a refusal.
func TestCodes(t *testing.T) {
	for n := 1; n <= 31; n++ {
		code := problem.Code("ATT-0" + string(rune('0'+n/10)) + string(rune('0'+n%10)))
		if e := problem.Lookup(code); !problem.Known(code) || e.Kind != problem.Refused || e.Title == "" || e.Next == "" {
			t.Errorf("%s: got entry %+v, want a refusal with title and next step", code, e)
		}
	}
}

func TestFilesDigest(t *testing.T) {
	if got := FilesDigest(nil); got != [32]byte{} {
		t.Errorf("no files: got %x, want zeros", got)
	}
	a := FilesDigest(map[string]Hex{"a": fill(1, 32), "b": fill(2, 32)})
	if got, want := Hex(a[:]).String(), "4024212d51d25e6b1602cca69f62320900ca61c24a700ff8f674e13678d54fa5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, other := range map[string]map[string]Hex{
		"one less": {"a": fill(1, 32)}, "other content": {"a": fill(1, 32), "b": fill(3, 32)}, "swapped": {"a": fill(2, 32), "b": fill(1, 32)},
		"moved boundary": {"ab": fill(1, 32), "": fill(2, 32)}, "other name": {"a": fill(1, 32), "c": fill(2, 32)},
	} {
		if FilesDigest(other) == a {
			t.Errorf("%s: got the same digest", name)
		}
	}
}
