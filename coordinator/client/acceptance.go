package client

import (
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Accepted is what the log says of the acceptance of a manifest.
type Accepted struct {
	Seq      uint64    `json:"seq"` // of the entry
	Time     time.Time `json:"time"`
	Actor    string    `json:"actor"` // user name, "owner", or "first" for the open first set
	Revision int       `json:"revision"`
	Open     bool      `json:"open"` // anybody who reached the coordinator could have set it
}

// checkAcceptance checks that a's entry says that the statement's manifest was
// accepted, and that it stands in the log of the statement's checkpoint.
func checkAcceptance(s apiv1.Statement, at transparency.Checkpoint, a apiv1.Acceptance) (*Accepted, error) {
	e, err := transparency.ParseEntry(a.Entry)
	if err != nil {
		return nil, problem.Because(err, "CRD-122", "its entry cannot be read")
	}
	revision, err := strconv.Atoi(e.Details["revision"])
	switch {
	case e.Kind != transparency.KindManifestSet || err != nil:
		return nil, problem.New("CRD-122", "its entry is of kind %.40q", e.Kind)
	case e.Subject != s.Manifest.String() || revision != s.Revision:
		return nil, problem.New("CRD-122", "its entry is of revision %d, %.80s; attested is revision %d, %s", revision, e.Subject, s.Revision, s.Manifest)
	}
	if err := transparency.VerifyInclusion(e.Seq, transparency.LeafHash(a.Entry), a.Proof, at); err != nil {
		return nil, problem.Because(err, "CRD-122", "its proof does not lead to the attested checkpoint")
	}
	return &Accepted{Seq: e.Seq, Time: e.Time, Actor: e.Actor, Revision: revision, Open: e.Details["open"] == "true"}, nil
}
