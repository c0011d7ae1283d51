package manifest

import (
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// Defaults that Parse fills in.
const (
	defaultProposalLifetime = 72 * time.Hour
	defaultMeshRotation     = 552 * time.Hour
	defaultRootOverlap      = 720 * time.Hour
	defaultSecretOverlap    = time.Hour
)

// lifecycle checks what happens to the deployment over time: approvals,
// recovery, CA rotation.
func (c *checker) lifecycle() {
	c.duration(c.root, nil, "proposalLifetime", time.Minute, 720*time.Hour)
	orDuration(&c.m.ProposalLifetime, defaultProposalLifetime)
	if ca := c.root.Get("ca"); ca != nil && !c.bad[ca] {
		p := (*path)(nil).member("ca")
		c.duration(ca, p, "meshRotation", time.Hour, 720*time.Hour)
		c.duration(ca, p, "rootRotation", 24*time.Hour, 87600*time.Hour)
		c.duration(ca, p, "overlap", 10*time.Minute, 8760*time.Hour)
	}
	orDuration(&c.m.CA.MeshRotation, defaultMeshRotation)
	orDuration(&c.m.CA.Overlap, defaultRootOverlap)
	if ca := c.m.CA; ca.RootRotation > 0 && ca.Overlap > ca.RootRotation {
		c.report((*path)(nil).member("ca"), keySpan(c.root.Member("ca")), finding{code: "MAN-082", warning: true, message: "the overlap is longer than the time between rotations: of several roots two are trusted", suggest: `give "overlap" at most the time of "rootRotation"`})
	}
	c.section("marbles", c.renewal)
}

func orDuration(d *attest.Duration, initial time.Duration) {
	if *d == 0 {
		*d = attest.Duration(initial)
	}
}

// renewal checks what becomes of a marble whose renewals fail: each step comes
// after the one before it.
func (c *checker) renewal(m *jsonpos.Member, p *path) {
	n := m.Value.Get("renewal")
	if n == nil || c.bad[n] {
		return
	}
	p = p.member("renewal")
	r := c.m.Marbles[m.Key].Renewal
	last := time.Duration(0)
	for _, step := range []struct {
		key string
		at  attest.Duration
	}{{"degradeAfter", r.DegradeAfter}, {"drainAfter", r.DrainAfter}, {"cutAfter", r.CutAfter}} {
		c.duration(n, p, step.key, 0, 24*time.Hour)
		v := n.Get(step.key)
		if v == nil || c.bad[v] {
			continue
		}
		if time.Duration(step.at) < last {
			c.report(p.member(step.key), spanOf(v), finding{code: "MAN-037", message: fmt.Sprintf("%s is earlier than the step before it", step.key)})
		}
		last = time.Duration(step.at)
	}
}

// rotation checks a secret's rotation and fills in its overlap.
func (c *checker) rotation(n *jsonpos.Node, p *path, s *Secret) {
	r := n.Get("rotation")
	if r == nil || c.bad[r] || r.Get("overlap") == nil {
		s.Rotation.Overlap = attest.Duration(defaultSecretOverlap)
	}
	if r == nil || c.bad[r] {
		return
	}
	p = p.member("rotation")
	c.duration(r, p, "every", time.Minute, 8760*time.Hour)
	c.duration(r, p, "overlap", 0, 8760*time.Hour)
}
