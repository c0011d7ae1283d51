package coordinator

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func parts(changes ...func(m object)) func(m object) {
	return func(m object) {
		for _, change := range changes {
			change(m)
		}
	}
}

// TestRoleMatrix tries every set of signers on every kind of change. A change is
// in force exactly if each part of it has a signer who has the right to that
// part: who may change what is measured changes no grant, and the other way round.
func TestRoleMatrix(t *testing.T) {
	rights := map[string][]string{"ann": {"updateManifest:packages/*"}, "ben": {"updateManifest:marbles/*/calls"}, "cat": {"updateManifest:users/*", "updateManifest:roles/*"}, "eve": {"revoke:*"}}
	may := map[string]string{"ann": "integrity", "ben": "grants", "cat": "people"}
	rules := governed(rights, nil)
	integrity := func(m object) {
		m["packages"].(object)["web"] = object{"sim": object{"program": []string{digestOf("web 2").String()}}}
	}
	grants := func(m object) { delete(m["marbles"].(object)["web"].(object), "calls") }
	persons := func(m object) { m["roles"].(object)["eve"] = object{"actions": []string{"rotateCA"}} }
	changes := map[string]func(m object){
		"integrity": integrity, "grants": grants, "people": persons,
		"integrity grants": parts(integrity, grants), "grants people": parts(grants, persons), "integrity people": parts(integrity, persons), "integrity grants people": parts(integrity, grants, persons),
		"other": lease("web", "2h"), "integrity other": parts(integrity, lease("web", "2h")),
	}
	users := []string{"ann", "ben", "cat", "eve"}
	for kinds, change := range changes {
		touched := strings.Fields(kinds)
		for set := range 1 << len(users) {
			if set == 0 {
				continue
			}
			var signers []string
			covered := map[string]bool{}
			for i, name := range users {
				if set&(1<<i) != 0 {
					signers = append(signers, name)
					covered[may[name]] = true
				}
			}
			want := !slices.ContainsFunc(touched, func(kind string) bool { return !covered[kind] })
			t.Run(kinds+" by "+strings.Join(signers, " "), func(t *testing.T) {
				d := newDeployment(t)
				d.mustSet(shop(t, rules))
				d.signAll(signers, shop(t, rules, change), func(name string, err error) {
					wanted := problem.Code("")
					switch {
					case name == "eve":
						wanted = "CRD-016"
					case slices.Contains(touched, "other") && slices.Contains(touched, may[name]):
						wanted = "GOV-002" // nobody may change the rest
					case !slices.Contains(touched, may[name]):
						wanted = "GOV-001"
					}
					wantCode(t, err, wanted)
				})
				if m, _ := d.Manifest(t.Context()); (m.Revision == 2) != want {
					t.Errorf("got revision %d, want it in force: %t", m.Revision, want)
				}
				d.check()
			})
		}
	}
}

// signAll has users propose and sign a manifest, one after the other; refused
// sees what became of who could not propose it.
func (d *deployment) signAll(users []string, raw []byte, refused func(name string, err error)) {
	d.Helper()
	var open *apiv1.Proposal
	for _, name := range users {
		if m, _ := d.Manifest(d.Context()); m.Revision == 2 {
			return
		}
		if open == nil {
			r, err := d.ask(name, raw)
			refused(name, err)
			if open = r.Proposal; err != nil || open == nil {
				continue
			}
		}
		if _, err := d.approve(name, *open); err != nil && problem.CodeOf(err) != "GOV-008" {
			d.Errorf("%s signs: %v", name, err)
		}
	}
}

// TestNumbersGuardParts counts approvals for each part by its own number.
func TestNumbersGuardParts(t *testing.T) {
	rules := governed(map[string][]string{"ann": {"updateManifest"}, "ben": {"updateManifest:packages/*"}, "cat": {"updateManifest:marbles"}}, object{"updateManifest:packages/*": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	if r, err := d.ask("ann", shop(t, rules, lease("web", "2h"))); err != nil || r.Proposal != nil {
		t.Fatalf("one of one: got %+v, %v", r.Proposal, err)
	}
	r, err := d.ask("ann", shop(t, rules, lease("web", "2h"), func(m object) {
		m["packages"].(object)["web"] = object{"sim": object{"program": []string{digestOf("web 2").String()}}}
	}))
	if err != nil || r.Proposal == nil {
		t.Fatalf("one of two: got %+v, %v", r, err)
	}
	if got, err := d.approve("ben", *r.Proposal); err != nil || got.Settled {
		t.Fatalf("the second of two, before the first: got %+v, %v", got, err)
	}
	_, err = d.approve("cat", *r.Proposal)
	wantCode(t, err, "GOV-008")
	if got, err := d.approve("ann", *r.Proposal); err != nil || !got.Settled {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// TestNarrowRights raises with a right to raise alone, and lowers nothing.
func TestNarrowRights(t *testing.T) {
	rules := governed(map[string][]string{"ann": {"updateManifest"}, "ben": {"updateManifest"}, "cat": {"raiseSecurityVersion:enclave"}, "dan": {"raiseFloor:default"}}, object{"updateManifest": 2})
	enclave := func(version int) func(m object) {
		return func(m object) {
			m["packages"].(object)["enclave"] = object{"sgx": object{"signerID": digestOf("signer").String(), "productID": 1, "minSecurityVersion": version}}
		}
	}
	floor := func(n int) func(m object) {
		return func(m object) { m["platforms"] = object{"default": object{"sgx": object{"minTCBEvaluation": n}}} }
	}
	d := newDeployment(t)
	d.mustSet(shop(t, rules, enclave(3), floor(17)))
	for _, c := range []struct {
		name, user string
		change     func(m object)
		code       problem.Code
	}{
		{"raises", "cat", parts(enclave(4), floor(17)), ""},
		{"lowers", "cat", parts(enclave(3), floor(17)), "GOV-001"},
		{"raises a floor", "dan", parts(enclave(4), floor(18)), ""},
		{"lowers a floor", "dan", parts(enclave(4), floor(17)), "GOV-001"},
		{"another's floor", "cat", parts(enclave(4), floor(19)), "GOV-001"},
		{"raises, and more", "cat", parts(enclave(5), floor(18), lease("web", "2h")), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := d.Manifest(t.Context())
			r, err := d.ask(c.user, shop(t, rules, c.change), "lower-floors")
			wantCode(t, err, c.code)
			after, _ := d.Manifest(t.Context())
			if want := c.code == "" && c.name != "raises, and more"; (after.Revision > before.Revision) != want || err == nil && (r.Proposal == nil) != want {
				t.Errorf("got revision %d after %d, proposal %+v", after.Revision, before.Revision, r.Proposal)
			}
		})
	}
}

// TestRacingApprovals has the last signatures come at once.
func TestRacingApprovals(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	var open []apiv1.Proposal
	for i := range 3 {
		r, err := d.ask("ann", shop(t, rules, lease("web", fmt.Sprintf("%dh", i+2))))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, *r.Proposal)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	settled := 0
	for _, p := range open {
		for _, name := range []string{"ann", "ben", "cat", "dan"} {
			wg.Go(func() {
				r, err := d.approve(name, p)
				if err != nil && problem.CodeOf(err) != "GOV-004" {
					t.Errorf("got %v, want GOV-004", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil && r.Settled {
					settled++
				}
			})
		}
	}
	wg.Wait()
	left, err := d.Proposals(t.Context())
	if m, _ := d.Manifest(t.Context()); settled != 1 || m.Revision != 2 || err != nil || len(left.Proposals) != 0 {
		t.Errorf("got %d settled, revision %d, open %d, %v", settled, m.Revision, len(left.Proposals), err)
	}
	d.check()
}

// proposals is the number of open ones.
func (d *deployment) proposals() int {
	d.Helper()
	all, err := d.Proposals(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	return len(all.Proposals)
}

func TestHowProposalsEnd(t *testing.T) {
	rules := governed(map[string][]string{"ann": {"updateManifest"}, "ben": {"updateManifest"}, "cat": {"updateManifest"}, "eve": {"revoke:*"}}, object{"updateManifest": 2})
	for name, c := range map[string]struct {
		end  func(d *deployment, p apiv1.Proposal) error
		code problem.Code
		open bool
		kind audit.Kind
	}{
		"withdrawn": {func(d *deployment, p apiv1.Proposal) error {
			_, err := d.EndProposal(d.Context(), about("ann", p))
			return err
		}, "", false, audit.ProposalWithdrawn},
		"rejected": {func(d *deployment, p apiv1.Proposal) error {
			_, err := d.EndProposal(d.Context(), about("ben", p))
			return err
		}, "", false, audit.ProposalRejected},
		"rejected without a say": {func(d *deployment, p apiv1.Proposal) error {
			_, err := d.EndProposal(d.Context(), about("eve", p))
			return err
		}, "GOV-008", true, audit.ApprovalRefused},
		"approval withdrawn": {func(d *deployment, p apiv1.Proposal) error {
			_, err := d.Withdraw(d.Context(), about("ann", p))
			return err
		}, "", true, audit.ApprovalWithdrawn},
		"approval of nobody": {func(d *deployment, p apiv1.Proposal) error {
			_, err := d.Withdraw(d.Context(), about("ben", p))
			return err
		}, "GOV-010", true, audit.Approval},
		"by nobody": {func(d *deployment, p apiv1.Proposal) error {
			req := about("ben", p)
			req.Principal = nil
			_, err := d.EndProposal(d.Context(), req)
			return err
		}, "CRD-015", true, audit.Approval},
		"without an id": {func(d *deployment, p apiv1.Proposal) error {
			req := about("ben", p)
			req.IfMatch = ""
			_, err := d.EndProposal(d.Context(), req)
			return err
		}, "GOV-012", true, audit.Approval},
		"with another id": {func(d *deployment, p apiv1.Proposal) error {
			req := about("ben", p)
			req.IfMatch = p.Digest.String()
			_, err := d.EndProposal(d.Context(), req)
			return err
		}, "GOV-006", true, audit.Approval},
		"expired, seen by Tick": {func(d *deployment, _ apiv1.Proposal) error {
			d.clock.advance(72 * time.Hour)
			return d.Tick(d.Context())
		}, "", false, audit.ProposalExpired},
		"expired, seen by an approval": {func(d *deployment, p apiv1.Proposal) error {
			d.clock.advance(72 * time.Hour)
			_, err := d.approve("ben", p)
			return err
		}, "GOV-007", false, audit.ProposalExpired},
		"overtaken": {func(d *deployment, _ apiv1.Proposal) error {
			r, err := d.ask("ben", shop(d, rules, lease("web", "3h")))
			if err != nil {
				return err
			}
			for _, name := range []string{"ben", "cat"} {
				if _, err := d.approve(name, *r.Proposal); err != nil {
					return err
				}
			}
			return nil
		}, "", false, audit.ProposalStale},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(t)
			d.mustSet(shop(t, rules))
			r, err := d.ask("ann", shop(t, rules, lease("web", "2h")))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.approve("ann", *r.Proposal); err != nil {
				t.Fatal(err)
			}
			wantCode(t, c.end(d, *r.Proposal), c.code)
			if got := d.proposals() == 1; got != c.open {
				t.Errorf("open: got %t, want %t", got, c.open)
			}
			if !c.open {
				_, err := d.Proposal(t.Context(), r.Proposal.Digest.String())
				wantCode(t, err, "GOV-004")
			}
			if found := d.entries(c.kind); len(found) == 0 {
				t.Errorf("the log has no %s", c.kind)
			}
			if name == "approval withdrawn" { // what was signed does not count, until it is signed again
				if got, err := d.approve("ben", *r.Proposal); err != nil || got.Settled {
					t.Errorf("got %+v, %v", got, err)
				}
				if got, err := d.approve("ann", *r.Proposal); err != nil || !got.Settled {
					t.Errorf("got %+v, %v", got, err)
				}
			}
			d.check()
		})
	}
}

// entries are the log's records of a kind.
func (d *deployment) entries(kind audit.Kind) []audit.Entry {
	d.Helper()
	all, err := d.log.Read(d.Context(), 0, 1000)
	if err != nil {
		d.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e audit.Entry) bool { return e.Kind != kind })
}

// TestReplayedSignatures keeps a signature from counting for what is proposed
// again, though the bytes and the manifest in force are the same.
func TestReplayedSignatures(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	next := shop(t, rules, lease("web", "2h"))
	first, err := d.ask("ann", next)
	if err != nil {
		t.Fatal(err)
	}
	old := d.signed("ben", *first.Proposal)
	if _, err := d.EndProposal(t.Context(), about("ann", *first.Proposal)); err != nil {
		t.Fatal(err)
	}
	again, err := d.ask("ann", next)
	if err != nil || bytes.Equal(again.Proposal.ID, first.Proposal.ID) {
		t.Fatalf("got %+v, %v", again.Proposal, err)
	}
	_, err = d.Approve(t.Context(), about("ben", *again.Proposal), old)
	wantCode(t, err, "GOV-005")
	_, err = d.Approve(t.Context(), about("ben", *first.Proposal), old)
	wantCode(t, err, "GOV-006")
}

func TestProposalsAreBounded(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	n := 0
	for _, name := range []string{"ann", "ben", "cat", "dan"} {
		for range maxUserProposals {
			n++
			if _, err := d.ask(name, shop(t, rules, lease("web", fmt.Sprintf("%dm", n)))); err != nil {
				t.Fatalf("proposal %d: %v", n, err)
			}
		}
		_, err := d.ask(name, shop(t, rules, lease("db", "2h")))
		wantCode(t, err, "GOV-003")
		if r, err := d.ask(name, shop(t, rules, lease("web", "1m"))); err != nil || r.Proposal.ProposedBy != "ann" {
			t.Errorf("the same again: got %+v, %v", r.Proposal, err)
		}
	}
	if got := d.proposals(); got != maxProposals {
		t.Errorf("got %d, want %d", got, maxProposals)
	}
	d.clock.advance(72 * time.Hour)
	if r, err := d.ask("ann", shop(t, rules, lease("db", "2h"))); err != nil || d.proposals() != 1 {
		t.Errorf("after they expired: got %+v, %v, %d open", r, err, d.proposals())
	}
	d.check()
}

func TestImmutable(t *testing.T) {
	for name, rules := range map[string]func(m object){
		"no rights":             governed(map[string][]string{"ann": {"revoke:*"}}, nil),
		"rights to raise alone": governed(map[string][]string{"ann": {"raiseFloor:default"}, "ben": {"raiseSecurityVersion:*"}}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(t)
			d.mustSet(shop(t, rules))
			for _, user := range []string{"ann", "ben"} {
				_, err := d.ask(user, shop(t, rules, lease("web", "2h")), "lock-out")
				if code := problem.CodeOf(err); code != "CRD-016" && code != "GOV-001" {
					t.Errorf("%s: got %v", user, err)
				}
			}
			if m, _ := d.Manifest(t.Context()); m.Revision != 1 || d.proposals() != 0 {
				t.Errorf("got revision %d, %d open", m.Revision, d.proposals())
			}
		})
	}
}
