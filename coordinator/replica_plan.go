package coordinator

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// planGiver says whether the coordinator that runs would be refused by the section
// coordinators of what is assumed. Who joins judges by it the one that hands the
// key over, so nobody could join then.
func (p *planner) planGiver(ctx context.Context) []string {
	policy, admits := p.policy(binding.Replica, coordinators)
	if !p.hypothesis || !admits {
		return nil
	}
	key := p.c.authority.Load().Root() // any: no connection is made
	nonce := make([]byte, apiv1.NonceSize)
	_, _ = rand.Read(nonce) // never fails
	own := ownStatement{nonce: nonce, policy: policy, incidents: p.c.incidents.Load(), marks: p.c.marks.failed, at: p.at}
	var verdict attest.Verdict
	var bar *problem.Error
	var err error
	if own.Statement, err = p.c.Attest(ctx, nonce, key); err == nil {
		own.Endorsements, _ = p.overlay.apply(own.Endorsements)
		verdict, bar, err = own.judge(p.c.config.Verifiers)
	}
	if err != nil {
		return []string{fmt.Sprintf("coordinators: whether the coordinator that runs would be admitted itself is not known: %v", err)}
	}
	code, reason := verdict.Reason()
	switch {
	case bar != nil:
		code, reason = string(bar.Code), bar.Detail
	case verdict.OK():
		return nil
	}
	return []string{fmt.Sprintf("coordinators: the coordinator that runs would not be admitted itself: %s (%s); who joins judges it by the same section, so nobody could join", reason, code)}
}
