package attesttest

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
)

func explain(t *testing.T, s Set, o evidence.Options) attest.Verdict {
	t.Helper()
	if o.At.IsZero() {
		o.At = s.At()
	}
	if o.Root == nil {
		o.Root = s.Root
	}
	v, err := evidence.Explain(s.Set, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// parts are the steps that break "tcb.status" down.
var parts = []string{"tcb.platform", "tcb.qe", "tcb.module"}

func failed(v attest.Verdict) []string {
	var names []string
	for _, s := range v.Failed() {
		if !slices.Contains(parts, s.Field) {
			names = append(names, s.Code+" "+s.Field)
		}
	}
	return names
}

// unmended names the failed steps that do not say who mends them and how.
func unmended(v attest.Verdict) []string {
	var names []string
	for _, s := range v.Failed() {
		if s.Fix.Who == "" || s.Fix.How == "" {
			names = append(names, s.Field)
		}
	}
	return names
}

func behind(v attest.Verdict) []string {
	var words []string
	for _, s := range v.Failed() {
		if slices.Contains(parts, s.Field) {
			words = append(words, s.Field+": "+s.Got)
		}
	}
	return words
}

// TestSets judges every set by the default policy.
func TestSets(t *testing.T) {
	for _, s := range All(t) {
		t.Run(s.Name, func(t *testing.T) {
			v := explain(t, s, evidence.Options{})
			advisories := s.Advisories
			if advisories == nil {
				advisories = []string{}
			}
			for _, c := range []struct {
				field     string
				got, want any
			}{
				{"accepted", v.OK(), s.Accepted()},
				{"genuine", v.Genuine, s.Genuine},
				{"tcbStatus", v.TCBStatus, s.Status},
				{"advisories", v.Advisories, advisories},
				{"debug", v.Debug, s.Debug},
				{"revocationChecked", v.Claims.TCB.RevocationChecked, !s.Unchecked},
				{"failed steps", failed(v), s.Failed},
				{"parts behind", behind(v), s.Behind},
				{"steps without who mends it", unmended(v), []string(nil)},
			} {
				if !reflect.DeepEqual(c.got, c.want) {
					t.Errorf("%s: got %v, want %v", c.field, c.got, c.want)
				}
			}
		})
	}
}

// TestSetsAgreeWithTheirOrigin compares the table with what each meta.json
// says: the decision, and what an independent implementation found.
func TestSetsAgreeWithTheirOrigin(t *testing.T) {
	reference := regexp.MustCompile(`^\w+ platform=.*$`)
	for _, s := range All(t) {
		t.Run(s.Name, func(t *testing.T) {
			data, err := fs.ReadFile(Dir(t, s.Name), evidence.MetaFile)
			if err != nil {
				t.Fatal(err)
			}
			var m struct {
				Expect struct {
					Decision string
					Status   attest.TCBStatus `json:"tcb_status"`
					Debug    bool
				}
				Verified struct{ Results map[string]string }
			}
			if err := json.Unmarshal(data, &m); err != nil {
				t.Fatal(err)
			}
			if got, want := s.Accepted(), m.Expect.Decision == "accept" || (s.Evidence.TEE == attest.SNP || s.Evidence.TEE == attest.NVIDIA) && strings.HasPrefix(m.Expect.Decision, "accept"); got != want {
				t.Errorf("accepted: got %t, meta.json says %q", got, m.Expect.Decision)
			}
			if m.Expect.Status != "" && s.Status != m.Expect.Status {
				t.Errorf("status: got %q, want %q", s.Status, m.Expect.Status)
			}
			if m.Expect.Debug && !s.Debug {
				t.Error("debug: got false, want true")
			}
			r := reference.FindStringSubmatch(m.Verified.Results["reference"])
			if r == nil {
				return
			}
			tcb := explain(t, s, evidence.Options{}).Claims.TCB
			got := fmt.Sprintf("%s platform=%s qe=%s module=%s debug=%t crl=%t adv=[%s]",
				s.Status, tcb.Platform, tcb.QE, tcb.Module, s.Debug, !s.Unchecked, strings.Join(s.Advisories, " "))
			if got != r[0] {
				t.Errorf("got %s, want %s", got, r[0])
			}
		})
	}
}

// TestPolicyDecides shows that a set that only the policy refuses is accepted
// once the policy accepts its status or its debug mode, and no other set is.
func TestPolicyDecides(t *testing.T) {
	for _, s := range All(t) {
		t.Run(s.Name, func(t *testing.T) {
			rules := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.SWHardeningNeeded, attest.ConfigurationNeeded,
				attest.ConfigurationAndSWHardeningNeeded, attest.OutOfDate, attest.OutOfDateConfigurationNeeded, attest.Revoked}}
			v := explain(t, s, evidence.Options{
				Platform: attest.Platform{SGX: rules, TDX: rules},
				Package: &attest.Package{AllowDebug: true, Azure: &attest.AzureReference{TDX: &attest.TDXReference{AllowAny: true, AllowSEPTVE: true}, AllowAny: true},
					SGX: &attest.SGXReference{AllowAny: true}, TDX: &attest.TDXReference{AllowAny: true, AllowSEPTVE: true}},
			})
			want := s.Genuine && s.Status != "" && s.Status != attest.Revoked
			if v.OK() != want {
				t.Errorf("accepted: got %t, want %t; failed: %v", v.OK(), want, failed(v))
			}
		})
	}
}

// TestForeignRoot shows that Intel's root refuses synthetic evidence and a
// throw-away root real evidence, each at the chain.
func TestForeignRoot(t *testing.T) {
	throwAway := Load(t, "synthetic/sgx/synthetic-ok").Root
	for name, o := range map[string]evidence.Options{
		"synthetic/sgx/synthetic-ok": {Root: dcap.IntelRoot()},
		"synthetic/tdx/synthetic-ok": {Root: dcap.IntelRoot()},
		"tdx/phala-v4-b0c0":          {Root: throwAway},
	} {
		t.Run(name, func(t *testing.T) {
			v := explain(t, Load(t, name), o)
			if code, _ := v.Reason(); v.OK() || v.Genuine || code != attest.CodeChain {
				t.Errorf("got accepted=%t genuine=%t code=%s, want a refusal with %s", v.OK(), v.Genuine, code, attest.CodeChain)
			}
		})
	}
}

// TestTrailingSetLater is the second half of what is known about one set: three
// days later its PCK certificate is valid.
func TestTrailingSetLater(t *testing.T) {
	s := Load(t, "tdx/oasis-v4-c080-trailing")
	v := explain(t, s, evidence.Options{At: time.Date(2024, 9, 20, 11, 12, 20, 0, time.UTC)})
	if !v.OK() {
		t.Errorf("got refused (%v), want accepted", failed(v))
	}
}

// TestEndorsementsTakenAway removes one endorsement at a time.
func TestEndorsementsTakenAway(t *testing.T) {
	s := Load(t, "tdx/phala-v4-b0c0")
	for kind, want := range map[string][]string{
		attest.KindTCBInfo:    {"ATT-022 tcbInfo.signature", "ATT-014 tcb.status"},
		attest.KindQEIdentity: {"ATT-022 qeIdentity.signature", "ATT-014 tcb.status"},
		attest.KindPCKCRL:     {"ATT-018 tcb.revocationChecked"},
		attest.KindRootCRL:    {"ATT-018 tcb.revocationChecked"},
	} {
		t.Run(kind, func(t *testing.T) {
			var rest []attest.Endorsement
			for _, it := range s.Endorsements.Items() {
				if it.Kind != kind {
					rest = append(rest, it)
				}
			}
			less := s
			less.Endorsements = attest.NewEndorsements(rest...)
			if got := failed(explain(t, less, evidence.Options{})); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
