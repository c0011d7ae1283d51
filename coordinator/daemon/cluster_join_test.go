package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestClusterJoining goes through all that keeps a replica from the key: no
// manifest, one that admits nobody, and one that admits others; then it is named.
func TestClusterJoining(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	second := c.run(1)
	waits := func(ready bool, reason string) {
		t.Helper()
		if p := second.until("joining", reason); p.Ready != ready {
			t.Errorf("got %+v, want ready %v", p, ready)
		}
		if _, err := os.Stat(filepath.Join(second.config.State, "seal.json")); err == nil {
			t.Error("a replica that was not admitted has a sealed key")
		}
	}
	waits(true, "no manifest")
	digest := c.set(second, alice, nil, manifestOf(alice, "1h")) // it passes connections on all the same
	waits(true, "coordinators")
	others := with(t, manifestOf(alice, "1h"), map[string]any{"coordinators": map[string]any{"package": "coordinator"}},
		map[string]any{"coordinator": map[string]any{"sim": map[string]any{"program": []string{strings.Repeat("ab", 32)}}}})
	digest = c.set(first, alice, digest, others)
	waits(false, "REP-021")
	cl := c.serves(first, alice)
	st, err := cl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]string{}
	for _, r := range st.Replicas {
		roles[r.Name] = r.Role
	}
	if roles["r0"] != apiv1.ReplicaActive || roles["r1"] != apiv1.ReplicaJoining {
		t.Errorf("the status has the replicas %v, want r0 active and r1 joining", roles)
	}
	c.set(first, alice, digest, c.admitting(alice, "1h"))
	second.until("standby", "r0 is active")
	if got := second.metric(`ashlar_replica_joins_total{code="",result="accepted"}`); got != "1" {
		t.Errorf("got %s accepted joins, want 1", got)
	}
}

// TestClusterKeyOfAnotherState starts a replica with the sealed key of another
// deployment: it is not thrown away.
func TestClusterKeyOfAnotherState(t *testing.T) {
	c := newCrew(t, 2)
	elsewhere := c.config(1)
	elsewhere.Store = c.etcd.Location("other")
	for _, o := range []Config{c.config(0), elsewhere} {
		if err := Init(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if err := Run(t.Context(), c.config(1)); problem.CodeOf(err) != "STO-004" {
		t.Errorf("got %v, want STO-004", err)
	}
	if _, err := os.Stat(filepath.Join(elsewhere.State, "seal.json")); err != nil {
		t.Errorf("the sealed key is gone: %v", err)
	}
}

// TestClusterKeySealedElsewhere does the same with one that does not open here: it
// may be all that there is of that deployment's key.
func TestClusterKeySealedElsewhere(t *testing.T) {
	c, alice := newCrew(t, 2), user(t)
	elsewhere := c.config(0)
	elsewhere.Store, elsewhere.State = c.etcd.Location("other"), c.config(1).State
	if err := Init(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(elsewhere.State, "seal.json")
	before, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	c.deploy(alice)
	second := c.run(1)
	if p := second.until("joining", "STO-004"); p.Ready {
		t.Errorf("got %+v, want it not to be ready", p)
	}
	if after, err := os.ReadFile(sealed); err != nil || string(after) != string(before) {
		t.Errorf("the sealed key became %s, %v", after, err)
	}
}

func TestClusterNothingToRun(t *testing.T) {
	c := newCrew(t, 1)
	for name, prepare := range map[string]func(){
		"no folder":                              func() {},
		"the key of a state that was never made": func() { c.begun(0) },
	} {
		prepare()
		if err := Run(t.Context(), c.config(0)); problem.CodeOf(err) != "STO-002" {
			t.Errorf("%s: got %v, want STO-002", name, err)
		}
	}
	// What was begun is made by the next init.
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	c.run(0).until("waiting for a manifest", "")
}

// TestClusterInitInterrupted leaves what a crash leaves between the state and the
// name of its key: the next start finishes it, and so does init.
func TestClusterInitInterrupted(t *testing.T) {
	c := newCrew(t, 2)
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(c.config(0).State, "seal.json")
	interrupt := func() {
		t.Helper()
		if err := os.Rename(sealed, sealed+unfinished); err != nil {
			t.Fatal(err)
		}
	}
	interrupt()
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Errorf("init again: %v", err)
	}
	interrupt()
	first := c.run(0)
	first.until("waiting for a manifest", "")
	if _, err := os.Stat(sealed); err != nil {
		t.Error(err)
	}
	// Another replica was faster than one that was interrupted before.
	o := c.config(1)
	c.begun(1)
	if err := Init(t.Context(), o); problem.CodeOf(err) != "STO-001" {
		t.Errorf("got %v, want STO-001", err)
	}
	second := c.run(1)
	second.until("joining", "")
	if _, err := os.Stat(filepath.Join(o.State, "seal.json"+unfinished)); err == nil {
		t.Error("a key of nothing was kept")
	}
}

// TestClusterSealMode changes the mode by a manifest: the standby's key follows,
// and where nothing seals it the replica joins again.
func TestClusterSealMode(t *testing.T) {
	c := newCrew(t, 2)
	alice := newMember(t, "alice")
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	manifest := func(seal string) []byte { return c.alsoAdmitting(recoverable(t, seal, "1h", 1, alice)) }
	digest := c.set(first, alice.cert, nil, manifest("product"))
	second := c.run(1)
	second.until("standby", "r0 is active")
	sealed := func() string {
		b, err := os.ReadFile(filepath.Join(second.config.State, "seal.json"))
		if err != nil {
			t.Fatal(err)
		}
		var d struct{ Source string }
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		return d.Source
	}
	for _, mode := range []string{"unique", "none"} {
		want := "sim:sgx:" + mode
		if mode == "none" {
			want = mode
		}
		digest = c.set(first, alice.cert, digest, manifest(mode))
		eventually(t, func() bool { return sealed() == want }, "the standby's key is sealed by "+want)
	}
	second.stop()
	again := c.run(1)
	again.until("standby", "r0 is active")
	if !strings.Contains(again.log.String(), "came from the active replica") {
		t.Errorf("a replica that nothing seals for has not asked for the key:\n%s", again.log)
	}
	first.stop()
	again.until("serving", "")
}

// TestClusterRecovery starts all replicas on machines that have no key: one of them
// takes the shares, and the other gets the key from it.
func TestClusterRecovery(t *testing.T) {
	c := newCrew(t, 3)
	alice := newMember(t, "alice")
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	digest := c.set(first, alice.cert, nil, c.alsoAdmitting(recoverable(t, "", "1h", 1, alice)))
	first.stop()
	second, third := c.run(1), c.run(2)
	for _, m := range []*mate{second, third} {
		m.until(waitingStage, "")
	}
	// Whichever has the desk, each passes on to it.
	var r *client.Recovery
	eventually(t, func() (ok bool) {
		var err error
		r, err = client.DialRecovery(t.Context(), third.Client, apiv1.PurposeRecover, third.options())
		return err == nil
	}, "a desk answers")
	if p, err := give(t, r, alice); err != nil || !p.Done {
		t.Fatalf("got %+v, %v", p, err)
	}
	r.Close()
	var active, standby *mate
	eventually(t, func() bool {
		for _, pair := range [][2]*mate{{second, third}, {third, second}} {
			a, _ := pair[0].probe()
			b, _ := pair[1].probe()
			if a.Stage == "serving" && b.Stage == "standby" {
				active, standby = pair[0], pair[1]
			}
		}
		return active != nil
	}, "one is active and the other stands by")
	cl := c.serves(standby, alice.cert)
	if e := cl.Verified().Epoch; e.Number != 2 || e.Cause != "recovery" {
		t.Errorf("got epoch %+v, want the second, of a recovery", e)
	}
	kindsLogged(t, cl, map[string]int{"recovery": 1, "recoveryApproval": 1})
	if got, err := cl.Manifest(t.Context()); err != nil || string(got.Digest) != string(digest) {
		t.Errorf("got manifest %s, %v, want %s", got.Digest, err, digest)
	}
	// No further epoch begins with the next takeover.
	active.stop()
	standby.until("serving", "")
	if e := c.serves(standby, nil).Verified().Epoch.Number; e != 2 {
		t.Errorf("got epoch %d after a takeover, want 2", e)
	}
}

// alsoAdmitting is a manifest that admits this test's program, too.
func (c *crew) alsoAdmitting(raw []byte) []byte {
	return with(c.t, raw, map[string]any{"coordinators": map[string]any{"package": "coordinator"}},
		map[string]any{"coordinator": map[string]any{"sim": map[string]any{"program": []attest.Hex{c.machines[0].self}}}})
}
