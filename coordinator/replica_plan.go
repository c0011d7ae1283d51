package coordinator

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
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
	own, err := p.c.Attest(ctx, nonce, key)
	if err != nil {
		return []string{fmt.Sprintf("coordinators: whether the coordinator that runs would be admitted itself is not known: %v", err)}
	}
	m := matter{evidence: own.Evidence, claims: bound(own, nonce), expected: bound(own, nonce), policy: policy, at: p.at}
	m.expected.Devices = binding.Devices(own.Evidence.Devices)
	m.endorsements, _ = p.overlay.apply(own.Endorsements)
	verdict := withSteps(m.judge(p.c.config.Verifiers), p.c.marks.failed(m.endorsements))
	code, reason := verdict.Reason()
	who := suspect{packageName: policy.PackageName, platform: policy.PlatformName}
	who.add(provenanceOf(verdict.Claims, time.Time{}))
	if in := p.c.incidents.Load().barred(who); verdict.OK() && in != nil {
		bar := refusalOf(in)
		code, reason = string(bar.Code), bar.Detail
	} else if verdict.OK() {
		return nil
	}
	return []string{fmt.Sprintf("coordinators: the coordinator that runs would not be admitted itself: %s (%s); who joins judges it by the same section, so nobody could join", reason, code)}
}
