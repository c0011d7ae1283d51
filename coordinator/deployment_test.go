package coordinator

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// clock is a clock that stands still until it is moved.
type clock struct{ now atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(0, c.now.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

// deployment is a coordinator on a disk in memory, and the platform that all
// marbles and the coordinator run on.
type deployment struct {
	testing.TB
	*Coordinator
	clock    *clock
	disk     *storetest.Disk
	store    *store.Store
	platform *platform.Platform
	config   Config
	changes  atomic.Int64
}

func newDeployment(t testing.TB) *deployment {
	t.Helper()
	d := &deployment{TB: t, clock: &clock{}, disk: storetest.NewDisk()}
	d.clock.now.Store(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixNano())
	var err error
	if d.platform, err = platform.New(platform.Config{Now: d.clock.Now}); err != nil {
		t.Fatal(err)
	}
	vs, err := sim.NewVerifiers(d.platform.Root())
	if err != nil {
		t.Fatal(err)
	}
	d.config = Config{
		Issuer:    d.platform.NewInsecureIssuer(attest.SimSGX, measured("coordinator")),
		Verifiers: attest.NewVerifiers(vs...), Endorse: d.platform.Endorse,
		Now: d.clock.Now, Rand: rand.Reader, Changed: func() { d.changes.Add(1) },
		ServerNames: []string{"localhost", "127.0.0.1"}, Version: "test",
	}
	d.store = storetest.Create(t, d.disk.Engine())
	if d.Coordinator, err = Create(t.Context(), d.store, d.config); err != nil {
		t.Fatal(err)
	}
	return d
}

// restart closes everything and opens it again from the disk.
func (d *deployment) restart() {
	d.Helper()
	if err := d.Coordinator.Close(); err != nil {
		d.Fatal(err)
	}
	if err := d.store.Close(); err != nil {
		d.Fatal(err)
	}
	d.reopen()
}

func (d *deployment) reopen() {
	d.Helper()
	d.store = storetest.Open(d.TB, d.disk.Engine())
	var err error
	if d.Coordinator, err = Open(d.Context(), d.store, d.config); err != nil {
		d.Fatal(err)
	}
}

func digestOf(s string) attest.Hex {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

func measured(program string) platform.Measurement {
	return platform.Measurement{Program: digestOf(program), Agent: digestOf("agent")}
}

type object = map[string]any

// shop is a manifest with marbles web, db and job, and alice who may set the
// next one. Changes are made to it before it is encoded.
func shop(t testing.TB, changes ...func(m object)) []byte {
	t.Helper()
	sim := func(program string) object {
		return object{"sim": object{"program": []string{digestOf(program).String()}, "agent": []string{digestOf("agent").String()}}}
	}
	m := object{
		"version": 1, "trustDomain": "shop.example",
		"packages": object{"web": sim("web"), "db": sim("db"), "job": sim("job")},
		"marbles": object{
			"web": object{"package": "web", "lease": "1h", "dnsNames": []string{"web.shop.example"},
				"calls":      []object{{"marble": "db", "port": "sql"}},
				"parameters": object{"env": object{"KEY": "{{ hex .Secrets.sessionKey }}", "OWN": "{{ hex .Secrets.own }}"}}},
			"db": object{"package": "db", "lease": "1h", "serves": object{"sql": object{"port": 5432}},
				"parameters": object{"files": object{"/etc/db.pem": "{{ pem .Secrets.dbCert.Certificate }}{{ pem .Secrets.dbCert.PrivateKey }}"}}},
			"job": object{"package": "job", "maxInstances": 2},
		},
		"secrets": object{
			"sessionKey": object{"type": "symmetric", "bits": 256, "readers": []string{"web"}},
			"own":        object{"type": "symmetric", "scope": "instance", "readers": []string{"web"}},
			"dbCert":     object{"type": "cert-ecdsa", "readers": []string{"db"}, "dnsNames": []string{"db.shop.example"}},
		},
		"users": object{"alice": object{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: alice().Raw})), "roles": []string{"operator"}}},
		"roles": object{"operator": object{"actions": []string{"updateManifest"}}},
	}
	for _, change := range changes {
		change(m)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, problems := manifest.Parse(raw); problems.HasErrors() {
		t.Fatalf("the test's manifest is invalid: %v", problems)
	}
	return raw
}

// alice is the certificate of the user who may set manifests; it is valid from
// a day before the tests' clock for a month.
var alice = sync.OnceValue(func() *x509.Certificate { return selfSigned("alice") })

func selfSigned(name string) *x509.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2026, 12, 21, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

// set sets a manifest as alice, over the one in force.
func (d *deployment) set(raw []byte) error {
	req := SetManifestRequest{Raw: raw, Accept: manifest.AllRisks()}
	if m, err := d.Manifest(d.Context()); err == nil {
		req.IfMatch, req.Principal = m.Digest.String(), &Principal{Name: "alice"}
	}
	_, err := d.SetManifest(d.Context(), req)
	return err
}

func (d *deployment) mustSet(raw []byte) {
	d.Helper()
	if err := d.set(raw); err != nil {
		d.Fatal(err)
	}
}

// attempt is everything that an activation or renewal is made of, so that a
// test can change one thing of it.
type attempt struct {
	session  Session
	info     InstanceInfo
	issuer   attest.Issuer
	nonce    []byte
	key      []byte
	claims   binding.Claims
	evidence attest.Evidence
}

func newSession() Session {
	s := Session{Exporter: make([]byte, 32), Remote: "10.0.0.9:1234"}
	if _, err := rand.Read(s.Exporter); err != nil {
		panic(err)
	}
	return s
}

func newKeyDER() []byte {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	return der
}

// attempt prepares an activation of a marble by the program of its name.
func (d *deployment) attempt(marble, id string) *attempt {
	d.Helper()
	a := &attempt{session: newSession(), key: newKeyDER(), info: InstanceInfo{Marble: marble, ID: id, Address: "10.0.0.9"},
		issuer: d.platform.NewInsecureIssuer(attest.SimSGX, measured(marble))}
	var err error
	if a.nonce, err = d.Challenge(d.Context(), a.session); err != nil {
		d.Fatal(err)
	}
	a.claims = binding.Claims{Purpose: binding.Activate, PublicKey: binding.KeyHash(a.key), Nonce: a.nonce, Exporter: a.session.Exporter}
	return a
}

// quote makes the evidence, unless the test has put some there.
func (a *attempt) quote(d *deployment) {
	d.Helper()
	if a.evidence.Raw != nil {
		return
	}
	var err error
	if a.evidence, err = a.issuer.Issue(d.Context(), a.claims.Binding()); err != nil {
		d.Fatal(err)
	}
}

func (a *attempt) activate(d *deployment) (Activation, error) {
	d.Helper()
	a.quote(d)
	return d.Activate(d.Context(), ActivateRequest{Session: a.session, Instance: a.info, Evidence: a.evidence, ClaimsBuffer: a.claims.Encode(), PublicKey: a.key, Nonce: a.nonce})
}

func (d *deployment) mustActivate(marble, id string) Activation {
	d.Helper()
	act, err := d.attempt(marble, id).activate(d)
	if err != nil {
		d.Fatalf("activating %s/%s: %v", marble, id, err)
	}
	return act
}

func leafOfLease(t testing.TB, l Lease) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(l.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// peer identifies an instance by its lease.
func (d *deployment) peer(l Lease) Peer {
	d.Helper()
	p, err := d.Identify(leafOfLease(d, l))
	if err != nil {
		d.Fatal(err)
	}
	return p
}

// renewal prepares the renewal of a lease.
func (d *deployment) renewal(p Peer) *attempt {
	d.Helper()
	a := &attempt{session: newSession(), key: newKeyDER(), info: InstanceInfo{Marble: p.Marble, ID: p.Instance},
		issuer: d.platform.NewInsecureIssuer(attest.SimSGX, measured(p.Marble))}
	var err error
	if a.nonce, err = d.NewDemand(d.Context(), p, a.session); err != nil {
		d.Fatal(err)
	}
	a.claims = binding.Claims{Purpose: binding.Renew, PublicKey: binding.KeyHash(a.key), Nonce: a.nonce, Exporter: a.session.Exporter}
	return a
}

func (a *attempt) renew(d *deployment, p Peer) (Lease, error) {
	d.Helper()
	a.quote(d)
	return d.Renew(d.Context(), RenewRequest{Session: a.session, Peer: p, Evidence: a.evidence, ClaimsBuffer: a.claims.Encode(), PublicKey: a.key, Nonce: a.nonce})
}

// wantCode fails unless err has the code; an empty code wants no error.
func wantCode(t testing.TB, err error, code problem.Code) {
	t.Helper()
	if err == nil && code == "" {
		return
	}
	if got := problem.CodeOf(err); got != code || err == nil {
		t.Errorf("got %v, want code %q", err, code)
	}
}

// check is what must hold of a deployment after every step.
func (d *deployment) check() {
	d.Helper()
	ctx := context.Background()
	status, err := d.Status(ctx)
	if err != nil {
		d.Fatal(err)
	}
	verified, err := d.log.Verify(ctx)
	if err != nil {
		d.Errorf("the audit log does not verify: %v", err)
	}
	if verified.Size != status.Checkpoint.Size || hex.EncodeToString(verified.Root[:]) != status.Checkpoint.Hash.String() {
		d.Errorf("checkpoint %+v, the log gives %+v", status.Checkpoint, verified)
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		perMarble, serials := map[string]int{}, map[string]bool{}
		for key, r := range instances.All(tx) {
			marble, _, _ := cut(key)
			perMarble[marble]++
			serials[r.Serial] = true
			if leaf, ok := d.live.find(r.Serial); !ok || leaf.key != key {
				return fmt.Errorf("serial of %s is not in the index", key)
			}
		}
		for marble, n := range counts.All(tx) {
			if perMarble[marble] != n {
				return fmt.Errorf("%s counts %d instances, has %d", marble, n, perMarble[marble])
			}
			delete(perMarble, marble)
		}
		if len(perMarble) != 0 {
			return fmt.Errorf("not counted: %v", perMarble)
		}
		if n := instances.Len(tx); len(d.live.runs) != n || len(d.live.serials) > 2*n {
			return fmt.Errorf("%d instances, but %d reports and %d serials", n, len(d.live.runs), len(d.live.serials))
		}
		return nil
	})
	if err != nil {
		d.Error(err)
	}
	d.checkKept()
}

// checkKept holds what is kept against what refers to it: nothing is missing,
// and nothing is left over but endorsement sets, until the next Tick.
func (d *deployment) checkKept() {
	d.Helper()
	ctx := context.Background()
	keys, setNames := map[string]basis{}, map[string]bool{}
	err := d.store.View(ctx, func(tx *store.Tx) error {
		for key, r := range instances.All(tx) {
			keys[instanceEvidence(key)] = r.Basis
		}
		for name, r := range replicas.All(tx) {
			keys[replicaEvidence(name)] = r.Basis
		}
		for id, r := range refusals.All(tx) {
			keys[decisionKey(id)] = r.Basis
		}
		for name := range sets.All(tx) {
			setNames[name] = true
		}
		for key := range proposals.All(tx) {
			setNames["proposed "+key] = true
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	for key, b := range keys {
		k, err := d.readKept(ctx, key, b)
		if err != nil || k.Evidence.TEE == "" {
			d.Errorf("evidence %s: %v", key, err)
		}
		if _, err := d.readSet(ctx, b.Set); err != nil {
			d.Errorf("endorsements of %s: %v", key, err)
		}
	}
	found, err := d.disk.Engine().Range(ctx, store.BlobPrefix, "c", 1<<20)
	if err != nil {
		d.Fatal(err)
	}
	if want := len(keys) + len(setNames); len(found) != want {
		d.Errorf("%d blobs on the medium, want %d", len(found), want)
	}
}

func cut(key string) (marble, id string, ok bool) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}

var errMadeUp = errors.New("made up")

type (
	apiv1Attention = apiv1.Attention
	apiv1Record    = apiv1.AuditRecord
	cryptoPublic   = crypto.PublicKey
)
