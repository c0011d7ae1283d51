package coordinator

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
)

// TestDestructionIsAcceptedByName sets and proposes a manifest that drops a
// secret.
func TestDestructionIsAcceptedByName(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	next := shop(t, rules, func(m object) {
		delete(m["secrets"].(object), "own")
		delete(m["marbles"].(object)["web"].(object)["parameters"].(object)["env"].(object), "OWN")
	})
	for _, accept := range [][]string{nil, {"lock-out"}, {"drop"}} {
		_, err := d.ask("ann", next, accept...)
		wantCode(t, err, "GOV-009")
		if !strings.Contains(err.Error(), "drop-secrets: own ") {
			t.Errorf("%v does not say what is destroyed", err)
		}
	}
	r, err := d.ask("ann", next, "lock-out", "drop-secrets")
	if err != nil || !slices.Equal(r.Proposal.Accepts, []string{"drop-secrets"}) || !slices.Equal(r.Risks, r.Proposal.Accepts) {
		t.Fatalf("got %+v, %v", r, err)
	}
	for _, name := range []string{"ann", "ben"} {
		if _, err := d.approve(name, *r.Proposal); err != nil {
			t.Fatal(err)
		}
	}
	h, err := d.History(t.Context(), 0, 0)
	if err != nil || len(h.Revisions) != 2 || !slices.Equal(h.Revisions[1].Accepted, []string{"drop-secrets"}) || !slices.Equal(h.Revisions[1].ApprovedBy, []string{"ann", "ben"}) {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	for _, rules := range []func(m object){rules, governed(three, nil)} {
		d := newDeployment(t)
		d.mustSet(shop(t, rules))
		before, _ := d.Status(t.Context())
		m, _ := d.Manifest(t.Context())
		r, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: shop(t, rules, lease("web", "2h")), IfMatch: m.Digest.String(), Principal: &Principal{Name: "ann"}, DryRun: true})
		after, _ := d.Status(t.Context())
		if err != nil || !r.DryRun || r.Revision != 2 || after.Revision != 1 || after.Checkpoint.Size != before.Checkpoint.Size || d.proposals() != 0 {
			t.Errorf("got %+v, %v, checkpoint %+v after %+v", r, err, after.Checkpoint, before.Checkpoint)
		}
	}
}

// TestLogShowsWhoSigned writes the text that was signed down from the log alone,
// and checks the signature with the certificate of the manifest before.
func TestLogShowsWhoSigned(t *testing.T) {
	rules := governed(three, object{"updateManifest": 4})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	r, err := d.ask("ann", shop(t, rules, lease("web", "2h")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ann", "ben", "cat", "dan"} {
		if _, err := d.approve(name, *r.Proposal); err != nil {
			t.Fatal(err)
		}
	}
	found := d.entries(audit.Approval)
	if len(found) != 4 {
		t.Fatalf("got %d approvals in the log, want 4", len(found))
	}
	for _, e := range found {
		unhex := func(s string) []byte { return must(hex.DecodeString(s)) }
		p := apiv1.Proposal{Kind: e.Details["kind"], Digest: unhex(e.Subject), ID: unhex(e.Details["proposal"]), Predecessor: unhex(e.Details["predecessor"]),
			Expires: must(time.Parse(time.RFC3339, e.Details["expires"])), Accepts: strings.Fields(e.Details["accepts"])}
		signature := must(base64.StdEncoding.DecodeString(e.Details["signature"]))
		cert := people()[e.Actor].cert
		if sum := digestOf(string(cert.Raw)); sum.String() != e.Details["certificate"] {
			t.Errorf("%s: got certificate %s, want %s", e.Actor, e.Details["certificate"], sum)
		}
		if err := apiv1.VerifyApproval(cert, apiv1.ApprovalText("shop.example", p), signature); err != nil {
			t.Errorf("%s: %v", e.Actor, err)
		}
	}
	h, err := d.History(t.Context(), 2, 1)
	if err != nil || len(h.Revisions) != 1 || h.Next != 0 || h.Revisions[0].Previous.String() != d.revision(1).Digest.String() {
		t.Errorf("got %+v, %v", h, err)
	}
	_, err = d.ManifestRevision(t.Context(), 3)
	wantCode(t, err, "GOV-013")
}

func (d *deployment) revision(n int) apiv1.Manifest {
	d.Helper()
	m, err := d.ManifestRevision(d.Context(), n)
	if err != nil {
		d.Fatal(err)
	}
	return m
}

// TestFaultsOfApprovals fails the commits around the last approval in both ways,
// restarts from the disk, and wants the change in force whole or not at all.
func TestFaultsOfApprovals(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	for _, fault := range []storetest.Fault{storetest.Lost, storetest.Unknown} {
		for at := range 3 {
			t.Run(fmt.Sprintf("fault %d at %d", fault, at), func(t *testing.T) {
				d := newDeployment(t)
				d.mustSet(shop(t, rules))
				next := shop(t, rules, lease("web", "2h"))
				first := d.disk.Commits() + 1
				d.disk.SetFaults(func(n int, _ []store.Entry, _ []string) storetest.Fault {
					if n == first+at {
						return fault
					}
					return storetest.None
				}, nil)
				r, err := d.ask("ann", next)
				var last error
				signed := map[string]bool{}
				if err == nil {
					for _, name := range []string{"ann", "ben"} {
						got, err := d.approve(name, *r.Proposal)
						signed[name] = err == nil
						if last = err; err == nil && got.Settled && name == "ann" {
							t.Errorf("%s: settled %t", name, got.Settled)
						}
					}
				}
				if err := d.store.Close(); err != nil {
					t.Fatal(err)
				}
				d.disk.SetFaults(nil, nil)
				d.reopen()
				d.check()
				m, _ := d.Manifest(t.Context())
				if m.Revision == 2 {
					if string(m.Raw) != string(next) || d.proposals() != 0 {
						t.Errorf("in force, and %d proposals are open", d.proposals())
					}
					return
				}
				if err == nil && signed["ann"] && signed["ben"] || d.proposals() > 1 {
					t.Errorf("what was acknowledged is lost: %v", last)
				}
				if d.proposals() == 0 {
					return
				}
				all, _ := d.Proposals(context.Background())
				for _, name := range []string{"ann", "ben"} {
					if got, err := d.approve(name, all.Proposals[0]); err != nil {
						t.Errorf("%s signs after the restart: %v", name, err)
					} else if got.Settled {
						break
					}
				}
				if m, _ := d.Manifest(t.Context()); m.Revision != 2 {
					t.Error("two signatures do not settle it")
				}
			})
		}
	}
}
