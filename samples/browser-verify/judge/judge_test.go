package judge_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/samples/browser-verify/judge"
)

func TestJudge(t *testing.T) {
	read := func(name string) []byte {
		raw, err := os.ReadFile("../../../coordinator/client/testdata/bundle/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	bundle, policy, now := read("bundle.json"), read("policy.json"), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name    string
		in      judge.Input
		outcome string
		code    problem.Code
	}{
		{"verified", judge.Input{Bundle: bundle, Policy: policy, Now: now}, judge.Verified, ""},
		{"tampered", judge.Input{Bundle: bytes.Replace(bundle, []byte(`"revision": 1`), []byte(`"revision": 2`), 1), Policy: policy, Now: now}, judge.Refused, "CRD-122"},
		{"before it was made", judge.Input{Bundle: bundle, Policy: policy, Now: now.AddDate(-1, 0, 0)}, judge.Refused, "CRD-124"},
		{"at another time", judge.Input{Bundle: bundle, Policy: policy, At: "2040-01-01", Now: now}, judge.Refused, "CRD-100"},
		{"no policy", judge.Input{Bundle: bundle, Now: now}, judge.Unjudged, "CLI-027"},
		{"hardware wanted", judge.Input{Bundle: bundle, Policy: []byte(`{"tee": "sgx", "package": {"sgx": {"uniqueID": ["` + strings.Repeat("00", 32) + `"]}}}`), Now: now}, judge.Refused, "CRD-100"},
		{"no bundle", judge.Input{Policy: policy, Now: now}, judge.Unreadable, "CRD-121"},
		{"policy as bundle", judge.Input{Bundle: policy, Policy: policy, Now: now}, judge.Unreadable, "CRD-121"},
		{"no time", judge.Input{Bundle: bundle, Policy: policy, At: "soon", Now: now}, judge.Unreadable, "CLI-003"},
		{"zero", judge.Input{}, judge.Unreadable, "CRD-121"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := judge.Judge(c.in)
			if r.Outcome != c.outcome || r.Code != c.code {
				t.Errorf("got %s, %s (%s), want %s, %s", r.Outcome, r.Code, r.Detail, c.outcome, c.code)
			}
			if (r.Verdict == nil) != (r.Outcome == judge.Unreadable) || (r.Accepted == nil) != (r.Outcome != judge.Verified) {
				t.Errorf("got verdict %v, acceptance %v", r.Verdict, r.Accepted)
			}
			if r.Verdict != nil && r.Verdict.OK() != (r.Outcome == judge.Verified) {
				t.Errorf("the verdict is %s, the outcome %s", r.Verdict.Verdict, r.Outcome)
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}
