package coordinator

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// vault adds to the shop what this file's tests need.
func vault(m object) {
	s := m["secrets"].(object)
	s["signer"] = object{"type": "ecdsa", "operations": []string{"sign"}, "readers": []string{"web"}}
	s["pss"] = object{"type": "rsa", "bits": 2048, "operations": []string{"sign", "decrypt"}, "readers": []string{"web"}}
	s["box"] = object{"type": "symmetric", "operations": []string{"encrypt", "decrypt", "hmac"}, "readers": []string{"web"}, "rotation": object{"every": "24h", "overlap": "2h"}}
	s["pair"] = object{"type": "ed25519", "readers": []string{"web"}}
	s["token"] = object{"type": "opaque", "readers": []string{"db"}, "depositors": []string{"web"}, "rotation": object{"overlap": "10m"}}
	s["orders"] = object{"type": "counter", "readers": []string{"web", "db"}}
	s["perRole"] = object{"type": "counter", "scope": "marble", "readers": []string{"web", "db"}}
	s["perInstance"] = object{"type": "counter", "scope": "instance", "readers": []string{"web"}}
	m["marbles"].(object)["web"].(object)["maxInstances"] = 10
	m["users"].(object)["bob"] = object{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bob().Raw})), "roles": []string{"keeper"}}
	m["roles"].(object)["keeper"] = object{"actions": []string{"writeSecret:token", "readSecret:*", "rotateSecret:*"}}
}

var bob = sync.OnceValue(func() *x509.Certificate { return selfSigned("bob") })

var keeper = &Principal{Name: "bob"}

// needsToken has db's parameters name the opaque secret.
func needsToken(m object) {
	db := m["marbles"].(object)["db"].(object)
	db["parameters"].(object)["files"].(object)["/etc/token"] = "{{ raw .Secrets.token }}"
}

func newVault(t testing.TB, changes ...func(object)) *deployment {
	t.Helper()
	d := newDeployment(t)
	d.mustSet(shop(t, append([]func(object){vault}, changes...)...))
	d.work.Wait() // what the manifest begins
	return d
}

func (d *deployment) live1(marble, id string) Peer {
	d.Helper()
	return d.peer(d.mustActivate(marble, id).Lease)
}

func (d *deployment) use(p Peer, name, op string, input []byte) (SecretUse, error) {
	return d.UseSecret(d.Context(), UseSecretRequest{Peer: p, Name: name, Operation: op, Input: input})
}

func (d *deployment) mustUse(p Peer, name, op string, input []byte) SecretUse {
	d.Helper()
	u, err := d.use(p, name, op, input)
	if err != nil {
		d.Fatalf("%s with %s: %v", op, name, err)
	}
	return u
}

// supply sets an opaque secret as bob.
func (d *deployment) supply(name, value string, follows uint64) (apiv1.SecretVersion, error) {
	d.Helper()
	return d.SetSecret(d.Context(), SetSecretRequest{Name: name, Follows: follows, User: keeper, Sealed: d.seal(name, value, follows)})
}

func (d *deployment) seal(name, value string, follows uint64) []byte {
	d.Helper()
	sealed, err := apiv1.SealSecret(d.secret.upload.PublicKey().Bytes(), apiv1.SealBinding{Purpose: apiv1.SealUpload, Root: d.Bundle()[0], Name: name, Version: follows}, []byte(value))
	if err != nil {
		d.Fatal(err)
	}
	return sealed
}

// logged returns the records of some kinds, oldest first.
func (d *deployment) logged(kinds ...audit.Kind) []audit.Entry {
	d.Helper()
	found, err := d.log.Recent(d.Context(), audit.Query{Kinds: kinds, Limit: 1000})
	if err != nil {
		d.Fatal(err)
	}
	slices.Reverse(found)
	return found
}

func TestUseOnlyKeysWorkAndStay(t *testing.T) {
	d := newVault(t)
	p := d.live1("web", "one")
	message := []byte("pay 5 to bob")
	digest := sha256.Sum256(message)

	public, err := x509.ParsePKIXPublicKey(d.mustUse(p, "signer", "public", nil).Output)
	if err != nil {
		t.Fatal(err)
	}
	if sig := d.mustUse(p, "signer", "sign", message); sig.Version != 1 || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], sig.Output) {
		t.Errorf("version %d: the ECDSA signature does not verify", sig.Version)
	}
	rsaKey, err := x509.ParsePKIXPublicKey(d.mustUse(p, "pss", "public", nil).Output)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPSS(rsaKey.(*rsa.PublicKey), crypto.SHA256, digest[:], d.mustUse(p, "pss", "sign", message).Output, nil); err != nil {
		t.Errorf("the PSS signature: %v", err)
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, rsaKey.(*rsa.PublicKey), message, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.mustUse(p, "pss", "decrypt", sealed).Output; !bytes.Equal(got, message) {
		t.Errorf("decrypted %q", got)
	}
	box := d.mustUse(p, "box", "encrypt", message).Output
	if got := d.mustUse(p, "box", "decrypt", box).Output; !bytes.Equal(got, message) {
		t.Errorf("decrypted %q", got)
	}
	if a, b := d.mustUse(p, "box", "hmac", message).Output, d.mustUse(p, "box", "hmac", message).Output; len(a) != 32 || !bytes.Equal(a, b) {
		t.Errorf("MACs %x and %x", a, b)
	}
	d.noKeyLeaves(p, "signer", "pss", "box")
	d.check()
}

// noKeyLeaves checks that the bytes of use-only keys are in nothing that a
// marble, a user or a reader of the log can get.
func (d *deployment) noKeyLeaves(p Peer, names ...string) {
	d.Helper()
	var seen bytes.Buffer
	for _, name := range names {
		_, err := d.FetchSecret(d.Context(), p, name)
		wantCode(d, err, "SEC-004")
		fmt.Fprintln(&seen, err)
		_, err = d.RevealSecret(d.Context(), RevealSecretRequest{Name: name, User: keeper, Key: make([]byte, 32)})
		wantCode(d, err, "SEC-004")
		fmt.Fprintln(&seen, err)
	}
	next, err := d.renewal(p).renew(d, p)
	if err != nil {
		d.Fatal(err)
	}
	for name, v := range next.Secrets {
		if slices.Contains(names, name) && (len(v.Bytes) > 0 || len(v.PrivateKey) > 0) {
			d.Errorf("%s is in a lease", name)
		}
	}
	entries, err := d.log.Read(d.Context(), 0, 1000)
	if err != nil {
		d.Fatal(err)
	}
	if err := json.NewEncoder(&seen).Encode(entries); err != nil {
		d.Fatal(err)
	}
	on, err := d.disk.Engine().Range(d.Context(), "", "\xff", 1<<20)
	if err != nil {
		d.Fatal(err)
	}
	for _, e := range on {
		seen.Write(e.Value)
	}
	for _, key := range d.privateBytes(names...) {
		if len(key) < 16 {
			d.Fatalf("a key of %d bytes", len(key))
		}
		for _, form := range []string{string(key), hex.EncodeToString(key), fmt.Sprintf("%q", key)} {
			if strings.Contains(seen.String(), form) {
				d.Errorf("a use-only key is in what leaves the coordinator, as %d bytes", len(form))
			}
		}
	}
}

// privateBytes reads keys from the sealed tables, as only a test may.
func (d *deployment) privateBytes(names ...string) [][]byte {
	d.Helper()
	raw := store.NewTable[struct {
		Now struct {
			Bytes      []byte `json:"bytes"`
			PrivateKey []byte `json:"privateKey"`
		} `json:"now"`
	}]("secrets")
	var keys [][]byte
	// The store keeps decoded values, of another type: read a copy from the disk.
	s := storetest.Open(d, d.disk.Engine())
	defer s.Close()
	err := s.View(d.Context(), func(tx *store.Tx) error {
		for _, name := range names {
			r, ok := raw.Get(tx, name)
			if !ok {
				return fmt.Errorf("no secret %s", name)
			}
			keys = append(keys, append(r.Now.Bytes, r.Now.PrivateKey...))
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	return keys
}

func TestUseRefuses(t *testing.T) {
	d := newVault(t)
	web, db := d.live1("web", "one"), d.live1("db", "one")
	box := d.mustUse(web, "box", "encrypt", []byte("x")).Output
	changed := slices.Clone(box)
	changed[len(changed)-1] ^= 1
	cases := []struct {
		name string
		peer Peer
		req  UseSecretRequest
		code problem.Code
	}{
		{"no such secret", web, UseSecretRequest{Name: "other", Operation: "sign"}, "SEC-001"},
		{"no reader", db, UseSecretRequest{Name: "signer", Operation: "sign"}, "SEC-002"},
		{"no reader of the public key", db, UseSecretRequest{Name: "signer", Operation: "public"}, "SEC-002"},
		{"another operation", web, UseSecretRequest{Name: "signer", Operation: "decrypt"}, "SEC-005"},
		{"a made-up operation", web, UseSecretRequest{Name: "signer", Operation: "export"}, "SEC-005"},
		{"a key that is released", web, UseSecretRequest{Name: "pair", Operation: "sign"}, "SEC-005"},
		{"a public key of a symmetric one", web, UseSecretRequest{Name: "box", Operation: "public"}, "SEC-005"},
		{"counting with a key", web, UseSecretRequest{Name: "signer", Operation: "increment"}, "SEC-005"},
		{"signing with a counter", web, UseSecretRequest{Name: "orders", Operation: "sign"}, "SEC-005"},
		{"another hash", web, UseSecretRequest{Name: "signer", Operation: "sign", Hash: "md5"}, "SEC-006"},
		{"a changed ciphertext", web, UseSecretRequest{Name: "box", Operation: "decrypt", Input: changed}, "SEC-006"},
		{"other associated data", web, UseSecretRequest{Name: "box", Operation: "decrypt", Input: box, Associated: []byte("y")}, "SEC-006"},
		{"no ciphertext", web, UseSecretRequest{Name: "box", Operation: "decrypt", Input: []byte("abc")}, "SEC-006"},
		{"a version to come", web, UseSecretRequest{Name: "box", Operation: "encrypt", Version: 2}, "SEC-007"},
		{"too much input", web, UseSecretRequest{Name: "box", Operation: "encrypt", Input: make([]byte, secrets.MaxValue+1)}, "SEC-008"},
		{"too much beside it", web, UseSecretRequest{Name: "box", Operation: "encrypt", Associated: make([]byte, secrets.MaxAssociated+1)}, "SEC-008"},
		{"another leaf", Peer{Marble: "web", Instance: "one", Serial: "00"}, UseSecretRequest{Name: "box", Operation: "hmac"}, "CRD-035"},
		{"no instance", Peer{Marble: "web", Instance: "two", Serial: web.Serial}, UseSecretRequest{Name: "box", Operation: "hmac"}, "CRD-034"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.req.Peer = c.peer
			used, err := d.UseSecret(t.Context(), c.req)
			wantCode(t, err, c.code)
			if len(used.Output) > 0 || used.Count > 0 {
				t.Error("there is an answer all the same")
			}
		})
	}
	if n := len(d.logged(audit.SecretRefused)); n == 0 || n > len(cases) {
		t.Errorf("%d records of refusals", n)
	}
	d.clock.advance(2 * time.Hour)
	_, err := d.use(web, "box", "hmac", nil)
	wantCode(t, err, "CRD-033")
}

func TestOverlapEndsAtItsMoment(t *testing.T) {
	d := newVault(t, func(m object) { m["marbles"].(object)["web"].(object)["lease"] = "24h" })
	p := d.live1("web", "one")
	box := d.mustUse(p, "box", "encrypt", []byte("old")).Output
	rotated, err := d.RotateSecret(t.Context(), keeper, "box", "")
	if err != nil {
		t.Fatal(err)
	}
	if want := d.clock.Now().Add(2 * time.Hour); rotated.Version != 2 || !rotated.Until.Equal(want) {
		t.Errorf("got %+v, want version 2 until %s", rotated, want)
	}
	if u := d.mustUse(p, "box", "decrypt", box); u.Version != 1 || string(u.Output) != "old" {
		t.Errorf("got %q under version %d", u.Output, u.Version)
	}
	if u := d.mustUse(p, "box", "encrypt", nil); u.Version != 2 {
		t.Errorf("encrypted under version %d", u.Version)
	}
	d.clock.advance(2*time.Hour - time.Nanosecond)
	d.mustUse(p, "box", "decrypt", box)
	d.clock.advance(time.Nanosecond)
	_, err = d.use(p, "box", "decrypt", box)
	wantCode(t, err, "SEC-007")
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone := d.logged(audit.SecretDestroyed)
	if len(gone) != 1 || gone[0].Subject != "box" || gone[0].Details["version"] != "1" {
		t.Errorf("destroyed: %+v", gone)
	}
	d.restart()
	_, err = d.use(p, "box", "decrypt", box)
	wantCode(t, err, "SEC-007")
	d.check()
}

func TestRotationBySchedule(t *testing.T) {
	d := newVault(t, func(m object) {
		m["secrets"].(object)["sessionKey"].(object)["rotation"] = object{"every": "30m", "overlap": "10m"}
		m["secrets"].(object)["own"].(object)["rotation"] = object{"every": "30m", "overlap": "0s"}
		m["marbles"].(object)["web"].(object)["lease"] = "24h"
	})
	var told []map[string]bool
	d.WatchSecrets(func(m map[string]bool) { told = append(told, m) })
	first := d.mustActivate("web", "one").Lease
	other := d.mustActivate("web", "two").Lease
	tick := func(after time.Duration) {
		t.Helper()
		d.clock.advance(after)
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tick(30*time.Minute - time.Second)
	if len(told) != 0 || len(d.logged(audit.SecretRotated)) != 0 {
		t.Error("rotated before its time")
	}
	tick(time.Second)
	if len(told) != 1 || !told[0]["web"] || told[0]["db"] {
		t.Errorf("told %v", told)
	}
	if got := d.logged(audit.SecretRotated); len(got) != 2 || got[0].Subject != "own" || got[0].Details["values"] != "2" || got[1].Details["until"] == "" {
		t.Errorf("logged %+v", got)
	}
	lease, changed, err := d.Refresh(t.Context(), d.peer(first), Sent{})
	if err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	key, own := lease.Secrets["sessionKey"], lease.Secrets["own"]
	if key.Version != 2 || key.Previous == nil || !bytes.Equal(key.Previous.Bytes, first.Secrets["sessionKey"].Bytes) || bytes.Equal(key.Bytes, key.Previous.Bytes) {
		t.Errorf("version %d of sessionKey: the one before is not what was released", key.Version)
	}
	if own.Version != 2 || own.Previous != nil || bytes.Equal(own.Bytes, first.Secrets["own"].Bytes) || bytes.Equal(own.Bytes, other.Secrets["own"].Bytes) {
		t.Errorf("version %d of own", own.Version)
	}
	if len(lease.Certificates) != 0 || len(lease.Bundle) == 0 || !lease.NotAfter.Equal(first.NotAfter) {
		t.Errorf("a pushed lease with %d certificates, until %s", len(lease.Certificates), lease.NotAfter)
	}
	if _, changed, err := d.Refresh(t.Context(), d.peer(first), Sent{versions(lease.Secrets), lease.Revision}); err != nil || changed {
		t.Errorf("sent again: %t, %v", changed, err)
	}
	d.check()
}

// TestRotationSurvivesFaults fails each commit of a rotation in both ways: what
// is there after a restart is either the old state or the whole of the new one.
func TestRotationSurvivesFaults(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{"lost": storetest.Lost, "unknown": storetest.Unknown} {
		t.Run(name, func(t *testing.T) {
			d := newVault(t)
			p := d.live1("web", "one")
			box := d.mustUse(p, "box", "encrypt", []byte("old")).Output
			d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return fault }, nil)
			if _, err := d.RotateSecret(t.Context(), keeper, "box", ""); err == nil {
				t.Fatal("rotated on a failing disk")
			}
			d.disk.SetFaults(nil, nil)
			_ = d.Coordinator.Close()
			if err := d.store.Close(); err != nil {
				t.Fatal(err)
			}
			d.reopen()
			u := d.mustUse(p, "box", "decrypt", box)
			if string(u.Output) != "old" || u.Version != 1 {
				t.Errorf("got %q of version %d", u.Output, u.Version)
			}
			want, records := uint64(1), 0
			if fault == storetest.Unknown {
				want, records = 2, 1
			}
			if v := d.mustUse(p, "box", "encrypt", nil).Version; v != want || len(d.logged(audit.SecretRotated)) != records {
				t.Errorf("version %d with %d records, want %d with %d", v, len(d.logged(audit.SecretRotated)), want, records)
			}
			d.check()
		})
	}
}
