package daemon

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/shares"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// member is a user who holds a share.
type member struct {
	name string
	cert *tls.Certificate
	key  shares.PrivateKey
}

func newMember(t testing.TB, name string) member {
	t.Helper()
	k, err := shares.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return member{name, user(t), k}
}

// recoverable is a manifest whose members hold shares.
func recoverable(t testing.TB, seal, lease string, threshold int, members ...member) []byte {
	t.Helper()
	users, keys := map[string]any{}, map[string]string{}
	for _, m := range members {
		users[m.name] = map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Certificate[0]})), "roles": []string{"operator"}}
		var err error
		if keys[m.name], err = m.key.Public(); err != nil {
			t.Fatal(err)
		}
	}
	sim := func(n int) any {
		return map[string]any{"sim": map[string]any{"program": []string{fmt.Sprintf("%064d", n)}, "agent": []string{fmt.Sprintf("%064d", 2)}}}
	}
	doc := map[string]any{"version": 1, "trustDomain": "shop.example", "packages": map[string]any{"web": sim(1)},
		"marbles": map[string]any{"web": map[string]any{"package": "web", "lease": lease}}, "users": users,
		"roles": map[string]any{"operator": map[string]any{"actions": []string{"updateManifest", "backup"}}}}
	if threshold > 0 {
		doc["recovery"] = map[string]any{"keys": keys, "threshold": threshold}
	}
	if seal != "" {
		doc["seal"] = seal
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (m *machine) options() client.Options {
	return client.Options{Verifiers: m.verifiers, Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{m.self}}}}}
}

// session dials a recovery session.
func (m *machine) session(t testing.TB, addr, purpose string) *client.Recovery {
	t.Helper()
	r, err := client.DialRecovery(t.Context(), addr, purpose, m.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// give sends a member's share to a session.
func give(t testing.TB, r *client.Recovery, who member) (apiv1.RecoveryProgress, error) {
	t.Helper()
	st, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := shares.Holder{User: who.name, Key: who.key, Signer: who.cert.PrivateKey.(crypto.Signer), Random: rand.Reader}
	msg, err := h.Approve(*st.Document, r.Statement.Session, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r.Send(t.Context(), msg)
}

// deployed starts a deployment whose members hold shares.
func deployed(t testing.TB, m *machine, c Config, seal string, threshold int, members ...member) (Addresses, func() error, apiv1.SetResult) {
	t.Helper()
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	addr, stop := run(t, c)
	cl, err := m.dial(addr.Client, "", members[0].cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	set, err := cl.SetManifest(t.Context(), recoverable(t, seal, "1h", threshold, members...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return addr, stop, set
}

// waits runs a coordinator that is to wait for recovery. ready waits until it
// serves.
func waits(t testing.TB, c Config) (waiting Addresses, ready func() Addresses, stop func() error) {
	t.Helper()
	wait, up, ended := make(chan Addresses, 1), make(chan Addresses, 1), make(chan error, 1)
	c.Waiting = func(a Addresses) { wait <- a }
	c.Ready = func(a Addresses) { up <- a }
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- Run(ctx, c) }()
	stop = func() error {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
	ready = func() Addresses {
		t.Helper()
		select {
		case a := <-up:
			return a
		case err := <-ended:
			ended <- err
			t.Fatalf("the coordinator ended with %v, want it to serve", err)
			return Addresses{}
		}
	}
	select {
	case a := <-wait:
		return a, ready, stop
	case <-up:
		_ = stop()
		t.Fatal("the coordinator opened its state, want it to wait for recovery")
	case err := <-ended:
		cancel()
		t.Fatalf("the coordinator ended with %v, want it to wait for recovery", err)
	}
	return Addresses{}, nil, nil
}

// moved returns the configuration of m's state on another machine.
func moved(m, to *machine) Config {
	c := to.config()
	c.State = m.config().State
	return c
}

func TestRecoveryOnAnotherMachine(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	alice, bob, carol := newMember(t, "alice"), newMember(t, "bob"), newMember(t, "carol")
	addr, stop, set := deployed(t, m, m.config(), "", 2, alice, bob, carol)
	if set.Recovery == nil || len(set.Recovery.Holders) != 3 || set.Recovery.Generation != 1 || set.Recovery.Threshold != 2 {
		t.Fatalf("the manifest gave out %+v", set.Recovery)
	}
	cl, err := m.dial(addr.Client, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := cl.Verified()
	cl.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	waiting, ready, stop := waits(t, moved(m, other))
	refusedWhileWaiting(t, other, waiting)

	r := other.session(t, waiting.Client, apiv1.PurposeRecover)
	first, err := give(t, r, alice)
	if err != nil || first.Done || first.Needed != 2 || fmt.Sprint(first.Given, first.Missing) != "[alice] [bob carol]" {
		t.Fatalf("alice's share: got %+v, %v", first, err)
	}
	if _, err := give(t, r, alice); problem.CodeOf(err) != "REC-015" || !strings.Contains(err.Error(), "1 of 2 are in") {
		t.Errorf("alice's share again: got %v, want REC-015 that says how far it is", err)
	}
	last, err := give(t, r, carol)
	if err != nil || !last.Done {
		t.Fatalf("carol's share: got %+v, %v", last, err)
	}
	again := ready()
	if again.Client != waiting.Client {
		t.Errorf("it came up at %s, want %s", again.Client, waiting.Client)
	}
	cl, err = other.dial(again.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	after := cl.Verified()
	if after.Epoch.Number != 2 || after.Epoch.Cause != "recovery" || !bytes.Equal(after.Statement.Root, before.Statement.Root) || !bytes.Equal(after.Statement.Manifest, before.Statement.Manifest) {
		t.Errorf("got epoch %+v, want the second of the same deployment", after.Epoch)
	}
	kindsLogged(t, cl, map[string]int{"recovery": 1, "recoveryApproval": 2, "resealed": 1})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// It is sealed to the new machine now, and opens there alone.
	addr, stop = run(t, moved(m, other))
	_ = addr
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, _, stop = waits(t, m.config())
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// kindsLogged counts the kinds of records in the log.
func kindsLogged(t testing.TB, cl *client.Client, want map[string]int) {
	t.Helper()
	log, err := cl.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, r := range log.Records {
		got[r.Kind]++
	}
	for kind, n := range want {
		if got[kind] != n {
			t.Errorf("the log has %d records of kind %s, want %d", got[kind], kind, n)
		}
	}
}

// refusedWhileWaiting asks a waiting coordinator for all sorts of things.
func refusedWhileWaiting(t *testing.T, m *machine, addr Addresses) {
	t.Helper()
	if _, err := m.dial(addr.Client, "", nil); problem.CodeOf(err) != "REC-001" {
		t.Errorf("attestation: got %v, want REC-001", err)
	}
	o := m.options()
	for _, purpose := range []string{apiv1.PurposeDrill, apiv1.PurposeRollback, "other"} {
		if _, err := client.DialRecovery(t.Context(), addr.Client, purpose, o); problem.CodeOf(err) != "REC-001" {
			t.Errorf("%s: got %v, want REC-001", purpose, err)
		}
	}
	o.Policy = attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{bytes.Repeat([]byte{1}, 32)}}}}
	if _, err := client.DialRecovery(t.Context(), addr.Client, apiv1.PurposeRecover, o); problem.CodeOf(err) != "CRD-100" {
		t.Errorf("another program: got %v, want CRD-100", err)
	}
	resp, err := http.Get("http://" + addr.Metrics + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), waitingStage) {
		t.Errorf("readyz: got %d %s, %v, want 503 with the stage", resp.StatusCode, body, err)
	}
}

// files returns the bytes of a state's folder by name.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func TestDrillChangesNothing(t *testing.T) {
	m := newMachine(t)
	alice, bob := newMember(t, "alice"), newMember(t, "bob")
	addr, stop, _ := deployed(t, m, m.config(), "", 2, alice, bob)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	cl, err := m.dial(addr.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	st, err := cl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := files(t, m.config().State)
	r := m.session(t, addr.Client, apiv1.PurposeDrill)
	if p, err := give(t, r, alice); err != nil || p.Done {
		t.Fatalf("got %+v, %v", p, err)
	}
	if p, err := give(t, r, bob); err != nil || !p.Done || p.Epoch != 0 {
		t.Fatalf("got %+v, %v, want a drill that is done", p, err)
	}
	after := files(t, m.config().State)
	for name := range before {
		if name != "state.db" && before[name] != after[name] {
			t.Errorf("%s changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("the folder has %d files, want %d", len(after), len(before))
	}
	now, err := cl.Status(t.Context())
	if err != nil || now.Checkpoint.Size != st.Checkpoint.Size+3 || now.Revision != st.Revision || now.State != st.State {
		t.Errorf("got %+v, %v, want three records more and nothing else", now, err)
	}
	kindsLogged(t, cl, map[string]int{"recoveryDrill": 1, "recoveryApproval": 2, "recovery": 0})
	// A drill's session is over, and a share is for its purpose alone.
	if _, err := give(t, r, alice); problem.CodeOf(err) != "REC-018" {
		t.Errorf("a share for a session that is over: got %v, want REC-018", err)
	}
	if _, err := client.DialRecovery(t.Context(), addr.Client, apiv1.PurposeRecover, m.options()); problem.CodeOf(err) != "REC-031" {
		t.Errorf("recovering an open state: got %v, want REC-031", err)
	}
}

func TestSealNoneWaitsForItsHolders(t *testing.T) {
	m := newMachine(t)
	alice := newMember(t, "alice")
	_, stop, _ := deployed(t, m, m.config(), "none", 1, alice)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if text := files(t, m.config().State)["seal.json"]; !strings.Contains(text, `"source": "none"`) || !strings.Contains(text, `"wrapped": null`) {
		t.Errorf("seal.json is %s, want no key in it", text)
	}
	for epoch := 2; epoch < 4; epoch++ { // each start needs them
		waiting, ready, stop := waits(t, m.config())
		if p, err := give(t, m.session(t, waiting.Client, apiv1.PurposeRecover), alice); err != nil || !p.Done {
			t.Fatalf("got %+v, %v", p, err)
		}
		addr := ready()
		cl, err := m.dial(addr.Client, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := cl.Verified().Epoch.Number; got != epoch {
			t.Errorf("got epoch %d, want %d", got, epoch)
		}
		cl.Close()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNobodyHoldsAShare(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	alice := newMember(t, "alice")
	addr, stop, set := deployed(t, m, m.config(), "", 0, alice)
	if set.Recovery != nil {
		t.Errorf("shares were given out: %+v", set.Recovery)
	}
	if _, err := client.DialRecovery(t.Context(), addr.Client, apiv1.PurposeDrill, m.options()); problem.CodeOf(err) != "REC-005" {
		t.Errorf("a drill: got %v, want REC-005", err)
	}
	cl, err := m.dial(addr.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.SetManifest(t.Context(), recoverable(t, "none", "1h", 0, alice), set.Digest); problem.CodeOf(err) == "" {
		t.Error("seal none without holders was accepted")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), moved(m, other)); problem.CodeOf(err) != "STO-015" {
		t.Errorf("got %v, want STO-015: there is nothing to wait for", err)
	}
}

// TestOldGeneration replaces the holders and puts the former document back.
func TestOldGeneration(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	alice, bob := newMember(t, "alice"), newMember(t, "bob")
	addr, stop, set := deployed(t, m, m.config(), "", 1, alice)
	path := filepath.Join(m.config().State, recovery.File)
	former, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := m.dial(addr.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	next, err := cl.SetManifest(t.Context(), recoverable(t, "", "1h", 1, alice, bob), set.Digest, risks...)
	if err != nil || next.Recovery == nil || next.Recovery.Generation != 2 {
		t.Fatalf("got %+v, %v, want generation 2", next.Recovery, err)
	}
	cl.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	newest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, former, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), m.config()); problem.CodeOf(err) != "REC-004" {
		t.Errorf("sealed, with the former document: got %v, want REC-004", err)
	}
	waiting, _, stop := waits(t, moved(m, other))
	if _, err := give(t, other.session(t, waiting.Client, apiv1.PurposeRecover), alice); problem.CodeOf(err) != "REC-004" {
		t.Errorf("a share of the former generation: got %v, want REC-004", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, newest, 0o600); err != nil {
		t.Fatal(err)
	}
	waiting, ready, stop := waits(t, moved(m, other))
	if p, err := give(t, other.session(t, waiting.Client, apiv1.PurposeRecover), bob); err != nil || !p.Done {
		t.Fatalf("bob's share: got %+v, %v", p, err)
	}
	ready()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// risks are all that a manifest of these tests brings.
var risks = []string{"new-identities", "weaken-recovery", "lock-out", "lower-approvals"}
