// Package judge makes the report that the page shows of a bundle: values in, a
// JSON document out.
//
// It owns how a verdict is worded for the page, and nothing of the decision,
// which is client.VerifyBundle's. It refuses to fetch anything.
package judge

import (
	"encoding/json"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Input is what a reader gave to the page.
type Input struct {
	Bundle []byte
	Policy []byte // empty: none
	At     string // RFC 3339 or a date; empty: the bundle's own time
	Now    time.Time
}

// The outcomes.
const (
	Verified   = "verified"
	Refused    = "refused"
	Unjudged   = "unjudged"   // nobody's policy was applied
	Unreadable = "unreadable" // the bundle, the policy or the time
)

// Report is what the page shows.
type Report struct {
	Outcome    string           `json:"outcome"`
	Code       problem.Code     `json:"code,omitempty"` // why not verified
	Detail     string           `json:"detail,omitempty"`
	Next       string           `json:"next,omitempty"`
	Simulation bool             `json:"simulation"`
	Bundle     *Summary         `json:"bundle,omitempty"`
	Verdict    *attest.Verdict  `json:"verdict,omitempty"`
	Accepted   *client.Accepted `json:"accepted,omitempty"`
}

// Summary is what a bundle says of itself.
type Summary struct {
	Address     string     `json:"address,omitempty"`
	Time        time.Time  `json:"time"`
	At          time.Time  `json:"at"` // when it was judged
	TEE         attest.TEE `json:"tee"`
	Evidence    int        `json:"evidence"` // bytes
	TrustDomain string     `json:"trustDomain,omitempty"`
	Manifest    attest.Hex `json:"manifest,omitempty"`
	Revision    int        `json:"revision"`
	Records     uint64     `json:"records"` // of the log
	Text        string     `json:"text,omitempty"`
}

// Judge judges a bundle. It never fails: what is wrong is in the report.
func Judge(in Input) Report {
	b, err := client.ParseBundle(in.Bundle)
	if err != nil {
		return unreadable(err)
	}
	by := client.BundleInput{Now: in.Now, Verifiers: hardware.Verifiers()}
	if in.At != "" {
		if by.At, err = evidence.ParseTime(in.At); err != nil {
			return unreadable(problem.Because(err, "CLI-003", "the time %q", in.At))
		}
	}
	if len(in.Policy) > 0 {
		if err := policy(in.Policy, &by); err != nil {
			return unreadable(err)
		}
	}
	s := b.Statement
	r := Report{Outcome: Verified, Simulation: s.Evidence.TEE.Simulated(), Bundle: &Summary{Address: b.Address, Time: b.Time, At: by.At, TEE: s.Evidence.TEE,
		Evidence: len(s.Evidence.Raw), TrustDomain: s.TrustDomain, Manifest: s.Manifest, Revision: s.Revision, Text: string(b.Manifest)}}
	if by.At.IsZero() {
		r.Bundle.At = b.Time
	}
	v, err := client.VerifyBundle(b, by)
	if err == nil {
		r.Verdict, r.Accepted, r.Bundle.Records = &v.Verdict, v.Accepted, v.Checkpoint.Size
		return r
	}
	r.refuse(problem.From(err), len(in.Policy) > 0)
	return r
}

// refuse notes a refusal with its verdict. Without a policy that is expected,
// and what the page says is that nobody has judged.
func (r *Report) refuse(e *problem.Error, held bool) {
	var v attest.Verdict
	if json.Unmarshal(e.Verdict, &v) == nil {
		r.Verdict = &v
	}
	r.Outcome = Refused
	if !held {
		r.Outcome = Unjudged
		e = problem.New("CLI-027", "this is what the bundle shows; nobody has said what it should be").WithNext("give the policy of somebody whom you trust")
	}
	r.Code, r.Detail, r.Next = e.Code, e.Detail, e.Next
}

func unreadable(err error) Report {
	e := problem.From(err)
	return Report{Outcome: Unreadable, Code: e.Code, Detail: e.Detail, Next: e.Next}
}

// policy reads a policy file. It alone can allow simulated evidence, under the
// root that it names.
func policy(raw []byte, by *client.BundleInput) error {
	file, diags := manifest.ParsePolicyFile(raw)
	if err := diags.Err(); err != nil {
		return err
	}
	by.Policy = file.Policy()
	if !file.Simulated() {
		return nil
	}
	root, err := evidence.ParseRoot([]byte(file.SimulationRoot))
	if err != nil {
		return err
	}
	return sim.AddVerifiers(by.Verifiers, root)
}
