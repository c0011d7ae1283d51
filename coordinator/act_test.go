package coordinator

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// note is an act that writes down that it was done.
type note struct {
	About string `json:"about"`
	Fails bool   `json:"fails,omitempty"`

	seen *[]string
}

// published is what acts showed.
var published []string

func init() { acts["note"] = func() act { return &note{seen: &published} } }

func (n *note) right() string { return "revoke:" + n.About }
func (n *note) text() string  { return "of " + n.About }
func (n *note) commit(c *Coordinator, tx *store.Tx, by origin) error {
	if n.Fails {
		return problem.New("CRD-067", "there is no %s any more", n.About)
	}
	_, err := c.log.Append(tx, audit.Record{Time: by.at, Kind: audit.Issuance, Subject: n.About, Actor: by.user, Details: by.details(map[string]string{})})
	return err
}
func (n *note) publish(*Coordinator) { *n.seen = append(*n.seen, n.About) }

func (d *deployment) note(user, about string) (*apiv1.Proposal, error) {
	d.Helper()
	return d.perform(d.Context(), &Principal{Name: user}, "note", &note{About: about, seen: &published})
}

// TestActsByOneAndBySeveral does at once what one user may, and has several sign
// what the manifest wants several for.
func TestActsByOneAndBySeveral(t *testing.T) {
	published = nil
	rights := map[string][]string{"ann": {"updateManifest", "revoke:*"}, "ben": {"revoke:*"}, "cat": {"revoke:marbles/*"}, "dan": {"updateManifest"}}
	rules := governed(rights, object{"revoke:marbles/*": 2})
	d := newDeployment(t)
	_, err := d.note("ann", "marbles/web")
	wantCode(t, err, "CRD-010")
	d.mustSet(shop(t, rules))
	if p, err := d.note("ben", "packages/web"); err != nil || p != nil || len(published) != 1 {
		t.Fatalf("one is enough: got %+v, %v, %v", p, err, published)
	}
	_, err = d.note("dan", "packages/web")
	wantCode(t, err, "GOV-001")
	_, err = d.note("cat", "packages/web")
	wantCode(t, err, "GOV-001")
	_, err = d.perform(t.Context(), nil, "note", &note{About: "marbles/web"})
	wantCode(t, err, "CRD-015")

	p, err := d.note("ben", "marbles/web")
	if err != nil || p == nil || p.Kind != apiv1.ActionProposal || len(published) != 1 {
		t.Fatalf("two are wanted: got %+v, %v, %v", p, err, published)
	}
	if got, err := d.approve("ben", *p); err != nil || got.Settled {
		t.Fatalf("got %+v, %v", got, err)
	}
	// Another manifest does not end it, a restart neither.
	if _, err := d.ask("ann", shop(t, rules, lease("web", "2h"))); err != nil {
		t.Fatal(err)
	}
	d.restart()
	_, err = d.approve("dan", *p)
	wantCode(t, err, "GOV-008")
	if got, err := d.approve("cat", *p); err != nil || !got.Settled || got.Set != nil {
		t.Fatalf("got %+v, %v", got, err)
	}
	if len(published) != 2 || published[1] != "marbles/web" || d.proposals() != 0 {
		t.Errorf("got %v, %d open", published, d.proposals())
	}
	done := d.entries(audit.Issuance)
	if len(done) != 2 || done[1].Actor != "ben" || done[1].Details["approvedBy"] != "ben cat" || done[1].Details["proposal"] != p.ID.String() {
		t.Errorf("got %+v", done)
	}
	d.check()
}

// TestApprovalsOfWhoLostTheRight do not count any more: neither of a user whose
// role has gone, nor of one with another certificate.
func TestApprovalsOfWhoLostTheRight(t *testing.T) {
	rights := map[string][]string{"ann": {"updateManifest", "revoke:*"}, "ben": {"revoke:*"}, "cat": {"revoke:*"}, "dan": {"revoke:*"}}
	for name, c := range map[string]struct {
		after map[string][]string
		swap  bool
	}{
		"no role":             {map[string][]string{"ann": rights["ann"], "ben": {"rotateCA"}, "cat": rights["cat"], "dan": rights["dan"]}, false},
		"no user":             {map[string][]string{"ann": rights["ann"], "cat": rights["cat"], "dan": rights["dan"]}, false},
		"another certificate": {rights, true},
	} {
		t.Run(name, func(t *testing.T) {
			rules := governed(rights, object{"revoke:marbles/*": 2})
			d := newDeployment(t)
			d.mustSet(shop(t, rules))
			p, err := d.note("ben", "marbles/web")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.approve("ben", *p); err != nil {
				t.Fatal(err)
			}
			next := shop(t, governed(c.after, object{"revoke:marbles/*": 2}), func(m object) {
				if c.swap {
					m["users"].(object)["ben"].(object)["certificate"] = pemOf(people()["eve"].cert)
				}
			})
			if _, err := d.ask("ann", next); err != nil {
				t.Fatal(err)
			}
			if got, err := d.approve("cat", *p); err != nil || got.Settled || len(got.Proposal.Demands[0].Approved) != 1 {
				t.Fatalf("with one that counts: got %+v, %v", got, err)
			}
			if got, err := d.approve("dan", *p); err != nil || !got.Settled {
				t.Errorf("with two that count: got %+v, %v", got, err)
			}
			d.check()
		})
	}
}

// TestActsThatCannotBeDone stay open, and change nothing.
func TestActsThatCannotBeDone(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, governed(map[string][]string{"ann": {"revoke:*"}, "ben": {"revoke:*"}}, object{"revoke:marbles/*": 2})))
	p, err := d.perform(t.Context(), &Principal{Name: "ann"}, "note", &note{About: "marbles/web", Fails: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.approve("ann", *p); err != nil {
		t.Fatal(err)
	}
	_, err = d.approve("ben", *p)
	wantCode(t, err, "CRD-067")
	if all, err := d.Proposals(t.Context()); err != nil || len(all.Proposals) != 1 || len(all.Proposals[0].Approvals) != 1 {
		t.Errorf("got %+v, %v", all, err)
	}
	d.check()
}
