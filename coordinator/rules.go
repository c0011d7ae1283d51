package coordinator

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// rulesOf names what the revision judges a marble's evidence by: the SHA-256 of
// its package and platform. Floors, which are raised without a revision, are no
// part of it. It is nil for an unknown marble.
func (r *revision) rulesOf(marble string) attest.Hex {
	mb, ok := r.m.Marbles[marble]
	if !ok {
		return nil
	}
	names := mb.Package + " " + mb.Platform
	if known, ok := r.rules.Load(names); ok {
		return known.(attest.Hex)
	}
	policy, _ := r.policyFor(marble)
	text, err := json.Marshal(policy)
	if err != nil { // a policy is made of strings, numbers and maps of them
		panic("coordinator: encoding a policy: " + err.Error())
	}
	sum := sha256.Sum256(text)
	r.rules.Store(names, attest.Hex(sum[:]))
	return sum[:]
}

// judgedAnew refuses, with CRD-093, an instance whose evidence was judged by
// other rules than those of the manifest in force: what the manifest gives is for
// those who have shown that they meet it.
func judgedAnew(rev *revision, p Peer, r instanceRecord) error {
	if rules := rev.rulesOf(p.Marble); rules != nil && !bytes.Equal(rules, r.Rules) {
		return problem.New("CRD-093", "the manifest in force judges %s by other rules than those which %s met", p.Marble, short(fmt.Sprint(p.Marble, "/", p.Instance)))
	}
	return nil
}
