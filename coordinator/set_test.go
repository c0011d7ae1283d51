package coordinator

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func lease(marble, life string) func(object) {
	return func(m object) { m["marbles"].(object)[marble].(object)["lease"] = life }
}

func TestFirstManifest(t *testing.T) {
	d := newDeployment(t)
	_, err := d.Manifest(t.Context())
	wantCode(t, err, "CRD-010")
	raw := shop(t)
	_, err = d.SetManifest(t.Context(), SetManifestRequest{Raw: raw, IfMatch: "00"})
	wantCode(t, err, "CRD-013")
	res, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: raw})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	if !res.OpenFirstSet || res.Revision != 1 || string(res.Digest) != string(sum[:]) || len(res.Effects) == 0 {
		t.Errorf("got %+v", res)
	}
	m, err := d.Manifest(t.Context())
	if err != nil || string(m.Raw) != string(raw) || m.SetBy != First || m.Revision != 1 || !m.SetAt.Equal(d.clock.Now()) {
		t.Errorf("got %+v, %v", m, err)
	}
	status, _ := d.Status(t.Context())
	if !slices.ContainsFunc(status.Attention, func(a apiv1Attention) bool { return a.Code == "CRD-061" }) {
		t.Errorf("status does not say that the first set was open: %+v", status.Attention)
	}
	page, err := d.Audit(t.Context(), 0, 100, false)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(page.Records, func(r apiv1Record) bool { return strings.Contains(r.Text, "ANYBODY") }) {
		t.Errorf("the log does not say that the first set was open: %+v", page.Records)
	}
	before := d.changes.Load()
	again, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: raw})
	if err != nil || again.Revision != 1 || d.changes.Load() != before {
		t.Errorf("the same again: got %+v, %v", again, err)
	}
	d.check()
	d.restart()
	if m, err := d.Manifest(t.Context()); err != nil || string(m.Raw) != string(raw) {
		t.Errorf("after a restart: got %+v, %v", m, err)
	}
}

func TestOwnerSetsTheFirstManifest(t *testing.T) {
	d := newDeployment(t)
	owner := selfSigned("owner")
	d.Coordinator.config.Owner = owner
	raw := shop(t)
	for _, p := range []*Principal{nil, {Name: "alice"}} {
		_, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: raw, Principal: p})
		wantCode(t, err, "CRD-017")
	}
	_, err := d.Authenticate([]*x509.Certificate{alice()})
	wantCode(t, err, "CRD-041")
	p, err := d.Authenticate([]*x509.Certificate{owner})
	if err != nil {
		t.Fatal(err)
	}
	res, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: raw, Principal: p})
	if err != nil || res.OpenFirstSet {
		t.Errorf("got %+v, %v", res, err)
	}
	_, err = d.Authenticate([]*x509.Certificate{owner})
	wantCode(t, err, "CRD-041")
	_, err = d.SetManifest(t.Context(), SetManifestRequest{Raw: shop(t, lease("web", "2h")), Principal: p, IfMatch: res.Digest.String()})
	wantCode(t, err, "CRD-016")
}

func TestLaterManifests(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	m, _ := d.Manifest(t.Context())
	current := m.Digest.String()
	next := shop(t, lease("web", "2h"))
	who := &Principal{Name: "alice"}
	for _, c := range []struct {
		name string
		code problem.Code
		req  SetManifestRequest
	}{
		{"nobody", "CRD-015", SetManifestRequest{Raw: next, IfMatch: current}},
		{"no user", "CRD-016", SetManifestRequest{Raw: next, IfMatch: current, Principal: &Principal{Name: "mallory"}}},
		{"replaces nothing", "CRD-012", SetManifestRequest{Raw: next, Principal: who}},
		{"replaces another", "CRD-013", SetManifestRequest{Raw: next, Principal: who, IfMatch: strings.Repeat("0", 64)}},
		{"other trust domain", "CRD-014", SetManifestRequest{Raw: shop(t, func(m object) { m["trustDomain"] = "other.example" }), Principal: who, IfMatch: current}},
		{"no JSON", "MAN-001", SetManifestRequest{Raw: []byte("{"), Principal: who, IfMatch: current}},
		{"too large", "MAN-010", SetManifestRequest{Raw: make([]byte, 5<<20), Principal: who, IfMatch: current}},
		{"no JSON, by nobody", "CRD-015", SetManifestRequest{Raw: []byte("{"), IfMatch: current}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := d.SetManifest(t.Context(), c.req)
			wantCode(t, err, c.code)
			if c.code == "CRD-013" && !strings.Contains(err.Error(), current) {
				t.Errorf("%v does not name the manifest in force", err)
			}
			if m, _ := d.Manifest(t.Context()); m.Digest.String() != current {
				t.Error("a refused manifest is in force")
			}
		})
	}
	res, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: next, Principal: who, IfMatch: strings.ToUpper(current)})
	if err != nil || res.Revision != 2 || res.OpenFirstSet {
		t.Fatalf("got %+v, %v", res, err)
	}
	replay, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: next, Principal: who, IfMatch: current})
	if err != nil || replay.Revision != 2 {
		t.Errorf("replayed: got %+v, %v", replay, err)
	}
	err = d.store.View(t.Context(), func(tx *store.Tx) error {
		r, ok := revisions.Get(tx, "00000002")
		if !ok || r.Previous.String() != current || r.SetBy != "alice" {
			t.Errorf("history has %+v", r)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	immutable := shop(t, func(m object) { delete(m, "users"); delete(m, "roles") })
	last, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: immutable, Principal: who, IfMatch: res.Digest.String(), Accept: []string{"lock-out"}})
	if err != nil || !strings.Contains(strings.Join(last.Effects, "\n"), "immutable") {
		t.Errorf("got %+v, %v", last, err)
	}
	_, err = d.SetManifest(t.Context(), SetManifestRequest{Raw: next, Principal: who, IfMatch: last.Digest.String()})
	wantCode(t, err, "CRD-016")
	d.check()
}

func TestRacingManifests(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	m, _ := d.Manifest(t.Context())
	var wg sync.WaitGroup
	codes := make([]problem.Code, 8)
	for i := range codes {
		raw := shop(t, lease("web", fmt.Sprintf("%dm", i+1)))
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: raw, Principal: &Principal{Name: "alice"}, IfMatch: m.Digest.String()})
			codes[i] = problem.CodeOf(err)
		}()
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := d.attempt("web", fmt.Sprint("r", i)).activate(d); err != nil {
				t.Errorf("activating while manifests race: %v", err)
			}
			if s, err := d.Attest(t.Context(), make([]byte, 32), []byte("key")); err != nil || len(s.Evidence.Raw) == 0 {
				t.Errorf("attesting while manifests race: %v", err)
			}
		}()
	}
	wg.Wait()
	won := 0
	for _, c := range codes {
		switch c {
		case "":
			won++
		case "CRD-013":
		default:
			t.Errorf("got code %s, want CRD-013", c)
		}
	}
	if won != 1 {
		t.Errorf("%d of 8 won, want 1", won)
	}
	d.check()
}

func TestAuthenticate(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	_, err := d.Authenticate(nil)
	wantCode(t, err, "CRD-040")
	_, err = d.Authenticate([]*x509.Certificate{selfSigned("alice")})
	wantCode(t, err, "CRD-041")
	p, err := d.Authenticate([]*x509.Certificate{alice()})
	if err != nil || p.Name != "alice" {
		t.Errorf("got %v, %v", p, err)
	}
	d.clock.advance(60 * 24 * time.Hour)
	_, err = d.Authenticate([]*x509.Certificate{alice()})
	wantCode(t, err, "CRD-042")
	d.clock.advance(-120 * 24 * time.Hour)
	_, err = d.Authenticate([]*x509.Certificate{alice()})
	wantCode(t, err, "CRD-042")
}

func TestAttest(t *testing.T) {
	d := newDeployment(t)
	nonce, key := make([]byte, 32), newKeyDER()
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	for _, set := range []bool{false, true} {
		if set {
			d.mustSet(shop(t))
		}
		s, err := d.Attest(t.Context(), nonce, key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := binding.Parse(s.ClaimsBuffer)
		if err != nil {
			t.Fatal(err)
		}
		root := sha256.Sum256(d.Bundle()[0])
		want := binding.Claims{Purpose: binding.Coordinator, PublicKey: binding.KeyHash(key), Nonce: nonce, Root: root[:], Checkpoint: sum([]byte(s.Checkpoint)), Log: sum([]byte(s.LogKey)), Upload: sum(s.UploadKey)}
		if m, err := d.Manifest(t.Context()); err == nil {
			want.Manifest = m.Digest
		}
		for _, step := range binding.Expect(want, got) {
			if !step.OK {
				t.Errorf("step %+v", step)
			}
		}
		policy := attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{digestOf("coordinator")}}}}
		v := attest.Judge(d.config.Verifiers, s.Evidence, got.Binding(), s.Endorsements, policy, d.clock.Now())
		if !v.OK() || (s.Revision == 1) != set || (s.TrustDomain == "shop.example") != set {
			t.Errorf("got %v, revision %d, domain %q", v.Failed(), s.Revision, s.TrustDomain)
		}
		status, _ := d.Status(t.Context())
		at, err := transparency.Open([]byte(s.Checkpoint), s.LogKey)
		if err != nil || attest.Hex(at.Root[:]).String() != status.Checkpoint.Hash.String() || at.Size != status.Checkpoint.Size || s.LogKey != d.LogKey() {
			t.Errorf("got checkpoint %+v of %s, %v, want %+v", at, s.LogKey, err, status.Checkpoint)
		}
	}
	_, err := d.Attest(t.Context(), nonce[:31], key)
	wantCode(t, err, "CRD-002")
	_, err = d.Attest(t.Context(), nonce, nil)
	wantCode(t, err, "CRD-002")
}

func TestServerCertificate(t *testing.T) {
	d := newDeployment(t)
	first, err := d.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Leaf.URIs) != 0 || first.Leaf.VerifyHostname("localhost") != nil || first.Leaf.VerifyHostname("127.0.0.1") != nil {
		t.Errorf("got URIs %v, names %v %v", first.Leaf.URIs, first.Leaf.DNSNames, first.Leaf.IPAddresses)
	}
	if again, _ := d.ServerCertificate(); again != first {
		t.Error("a new certificate for each call")
	}
	d.mustSet(shop(t))
	second, err := d.ServerCertificate()
	if err != nil || len(second.Leaf.URIs) != 1 || second.Leaf.URIs[0].String() != "spiffe://shop.example/ashlar/coordinator" {
		t.Fatalf("after the first manifest: %v, %v", second.Leaf.URIs, err)
	}
	d.clock.advance(13 * time.Hour)
	third, err := d.ServerCertificate()
	if err != nil || third == second || !third.Leaf.NotAfter.After(second.Leaf.NotAfter) {
		t.Errorf("not renewed at half of its life: %v", err)
	}
}

func TestMeshCARotates(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	before, _ := d.Status(t.Context())
	old := d.mustActivate("web", "one").Lease
	root := string(d.Bundle()[0])
	d.clock.advance(24 * 24 * time.Hour)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, _ := d.Status(t.Context())
	if before.CA.Serial == after.CA.Serial || string(d.Bundle()[0]) != root {
		t.Errorf("CA %s became %s, root kept: %t", before.CA.Serial, after.CA.Serial, string(d.Bundle()[0]) == root)
	}
	d.restart()
	if s, _ := d.Status(t.Context()); s.CA.Serial != after.CA.Serial {
		t.Errorf("after a restart the CA is %s, want %s", s.CA.Serial, after.CA.Serial)
	}
	fresh := d.mustActivate("web", "one").Lease
	if string(fresh.Certificates[1]) == string(old.Certificates[1]) {
		t.Error("the new leaf is of the old CA")
	}
}

// TestFaults fails commits in both ways, restarts from the disk, and wants
// every acknowledged decision to be there and every invariant to hold.
func TestFaults(t *testing.T) {
	for _, fault := range []storetest.Fault{storetest.Lost, storetest.Unknown} {
		for at := range 6 {
			t.Run(fmt.Sprintf("fault %d at %d", fault, at), func(t *testing.T) {
				d := newDeployment(t)
				d.mustSet(shop(t))
				first := d.disk.Commits() + 1
				d.disk.SetFaults(func(n int, _ []store.Entry, _ []string) storetest.Fault {
					if n == first+at {
						return fault
					}
					return storetest.None
				}, nil)
				var granted []Activation
				for i := range 4 {
					if act, err := d.attempt("web", fmt.Sprint("i", i)).activate(d); err == nil {
						granted = append(granted, act)
					} else if problem.CodeOf(err) != "STO-007" {
						t.Errorf("got %v, want STO-007", err)
					}
				}
				next := shop(t, lease("web", "2h"))
				setErr := d.set(next)
				_ = d.Tick(t.Context()) // may meet the fault as well
				if err := d.store.Close(); err != nil {
					t.Fatal(err)
				}
				d.disk.SetFaults(nil, nil)
				d.reopen()
				d.check()
				for _, act := range granted {
					d.peer(act.Lease)
					if dec, err := d.Decision(t.Context(), act.Decision); err != nil || !dec.Accepted {
						t.Errorf("decision %s: %v", act.Decision, err)
					}
				}
				if m, err := d.Manifest(t.Context()); err != nil || setErr == nil && string(m.Raw) != string(next) {
					t.Errorf("the manifest that was acknowledged is not in force: %v", err)
				}
			})
		}
	}
}

func TestOpenRefusesAnEmptyStore(t *testing.T) {
	d := newDeployment(t)
	empty := storetest.Create(t, storetest.NewDisk().Engine())
	_, err := Open(t.Context(), empty, d.config)
	wantCode(t, err, "STO-012")
	_, err = Create(t.Context(), d.store, d.config)
	wantCode(t, err, "STO-001")
	for name, change := range map[string]func(*Config){
		"Issuer": func(c *Config) { c.Issuer = nil }, "Verifiers": func(c *Config) { c.Verifiers = nil }, "Endorse": func(c *Config) { c.Endorse = nil },
		"Now": func(c *Config) { c.Now = nil }, "Rand": func(c *Config) { c.Rand = nil },
	} {
		config := d.config
		change(&config)
		if _, err := Open(t.Context(), d.store, config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: got %v", name, err)
		}
	}
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		from, to State
		ok       bool
	}{
		{Starting, WaitingForManifest, true}, {Starting, Serving, true}, {WaitingForManifest, Serving, true}, {Serving, Serving, true},
		{Serving, Stopping, true}, {Serving, WaitingForManifest, false}, {Stopping, Serving, false}, {Serving, Starting, false},
	} {
		if got, err := c.from.next(c.to); (err == nil) != c.ok || c.ok && got != c.to || !c.ok && got != c.from {
			t.Errorf("%s to %s: got %s, %v, want ok %t", c.from, c.to, got, err, c.ok)
		}
	}
}

// TestNamesOfTheCoordinatorStayItsOwn checks that no manifest gives a marble or a
// secret a certificate for a name that the coordinator is reached by.
func TestNamesOfTheCoordinatorStayItsOwn(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   problem.Code
		change func(m object)
	}{
		{"others", "", func(object) {}},
		{"marble", "CRD-019", func(m object) { m["marbles"].(object)["web"].(object)["dnsNames"] = []string{"localhost"} }},
		{"secret", "CRD-019", func(m object) {
			m["secrets"].(object)["dbCert"].(object)["dnsNames"] = []string{"db.shop.example", "localhost"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeployment(t)
			wantCode(t, d.set(shop(t, c.change)), c.code)
			_, err := d.Manifest(t.Context())
			if (err == nil) != (c.code == "") {
				t.Errorf("manifest in force: %v", err)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		name, host string
		want       bool
	}{
		{"a.example", "a.example", true}, {"A.Example", "a.example.", true}, {"*.example", "a.example", true},
		{"*.example", "b.a.example", false}, {"*.example", "example", false}, {"*.localhost", "localhost", false},
		{"b.example", "a.example", false}, {"localhost", "127.0.0.1", false},
	} {
		if got := covers(c.name, c.host); got != c.want {
			t.Errorf("covers(%q, %q): got %t, want %t", c.name, c.host, got, c.want)
		}
	}
}

// TestOwnTestsAreRun checks that a manifest whose own tests fail is refused, and
// that the refusal names what makes them fail.
func TestOwnTestsAreRun(t *testing.T) {
	d := newDeployment(t)
	for test, want := range map[string]string{
		`{"from": "web", "to": "db", "allow": false}`:            "web must not reach db, but it does: web → db (line 1)",
		`{"ask": "may web reach db directly", "allow": false}`:   "but yes: web calls db",
		`{"ask": "may web read sessionKey", "allow": false}`:     "but yes: web is sent sessionKey",
		`{"ask": "may db reach web", "allow": true}`:             "but no: no chain of calls leads from db to web",
		`{"ask": "may alice do updateManifest", "allow": false}`: "but yes: alice has updateManifest",
	} {
		raw := strings.Replace(string(shop(t)), "{", `{"tests":[`+test+`],`, 1)
		_, err := d.SetManifest(t.Context(), SetManifestRequest{Raw: []byte(raw)})
		wantCode(t, err, "MAN-040")
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", test, err, want)
		}
	}
	d.check()
}
