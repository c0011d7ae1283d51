package secrets

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

var readers = []string{"web"}

// rotate does what the coordinator does on demand.
func (k *keeper) rotate(m *manifest.Manifest, t Target, at time.Time) []Rotated {
	k.Helper()
	var due []Missing
	err := k.store.View(k.Context(), func(tx *store.Tx) (err error) {
		due, err = Select(tx, m, t, 100, "")
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
	made, err := k.maker.Make(k.Context(), k.authority, due, at)
	if err != nil {
		k.Fatal(err)
	}
	var done []Rotated
	err = k.store.Update(k.Context(), func(tx *store.Tx) (err error) {
		done, err = Rotate(tx, due, made, at)
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
	return done
}

func overlapping(d time.Duration) manifest.Rotation {
	return manifest.Rotation{Overlap: attest.Duration(d)}
}

func TestKeyPairs(t *testing.T) {
	k := newKeeper(t)
	for typ, bits := range map[manifest.SecretType]int{manifest.RSA: 2048, manifest.ECDSA: 384, manifest.Ed25519: 0} {
		m := with(map[string]manifest.Secret{string(typ): {Type: typ, Bits: bits, Readers: readers}})
		v := k.mustRelease(m, web, start, string(typ))
		key, err := x509.ParsePKCS8PrivateKey(v.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		public, err := x509.MarshalPKIXPublicKey(key.(interface{ Public() crypto.PublicKey }).Public())
		if err != nil || !bytes.Equal(public, v.PublicKey) || len(v.Certificates) != 0 || v.Version != 1 {
			t.Errorf("%s: version %d with %d certificates, %v", typ, v.Version, len(v.Certificates), err)
		}
	}
}

func TestVersions(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{
		"both": {Type: manifest.Symmetric, Readers: readers, Rotation: overlapping(time.Hour)},
		"one":  {Type: manifest.Symmetric, Readers: readers},
	})
	at := start
	first := k.mustRelease(m, web, at, "both")
	k.mustRelease(m, web, at, "one")
	at = at.Add(time.Minute)
	if got := k.rotate(m, Target{Name: "one"}, at); len(got) != 1 || got[0].Version != 2 || !slices.Equal(got[0].Destroyed, []uint64{1}) || !got[0].Until.IsZero() {
		t.Errorf("without overlap: got %+v", got)
	}
	if got := k.rotate(m, Target{Name: "both"}, at); len(got) != 1 || got[0].Version != 2 || len(got[0].Destroyed) != 0 || !got[0].Until.Equal(at.Add(time.Hour)) {
		t.Errorf("with overlap: got %+v", got)
	}
	second := k.mustRelease(m, web, at, "both")
	if second.Previous == nil || !bytes.Equal(second.Previous.Bytes, first.Bytes) || second.Previous.Previous != nil {
		t.Fatal("the version before is not there")
	}
	// Another rotation within the overlap destroys the older one.
	at = at.Add(time.Minute)
	if got := k.rotate(m, Target{Name: "both"}, at); !slices.Equal(got[0].Destroyed, []uint64{1}) {
		t.Errorf("got %+v, want version 1 destroyed", got)
	}
	third := k.mustRelease(m, web, at, "both")
	if third.Version != 3 || third.Previous.Version != 2 || !bytes.Equal(third.Previous.Bytes, second.Bytes) {
		t.Errorf("got version %d after %d", third.Version, third.Previous.Version)
	}
	// What everybody may know is ended at once.
	err := k.store.Update(t.Context(), func(tx *store.Tx) error {
		gone, err := DestroyBefore(tx, m, Target{Name: "both"})
		if len(gone) != 1 || !slices.Equal(gone[0].Destroyed, []uint64{2}) {
			t.Errorf("got %+v", gone)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := k.mustRelease(m, web, at, "both"); v.Previous != nil || v.Version != 3 {
		t.Errorf("version %d, previous %t", v.Version, v.Previous != nil)
	}
}

// TestNumbersAreNeverUsedTwice destroys a secret in every way and makes it again.
func TestNumbersAreNeverUsedTwice(t *testing.T) {
	k := newKeeper(t)
	spec := manifest.Secret{Type: manifest.Symmetric, Readers: readers, OnUpdate: "discard"}
	m := with(map[string]manifest.Secret{"s": spec})
	want := uint64(1)
	for name, next := range map[string]*manifest.Manifest{
		"discarded": m, "gone": with(nil), "of another size": with(map[string]manifest.Secret{"s": {Type: manifest.Symmetric, Bits: 512, Readers: readers}}),
		"of another scope": with(map[string]manifest.Secret{"s": {Type: manifest.Symmetric, Scope: manifest.Instance, Readers: readers}}),
		"use-only":         with(map[string]manifest.Secret{"s": {Type: manifest.Symmetric, Readers: readers, Operations: []manifest.Operation{manifest.HMAC}}}),
	} {
		if v := k.mustRelease(m, web, start, "s"); v.Version != want || v.Previous != nil {
			t.Errorf("before it is %s: version %d, want %d", name, v.Version, want)
		}
		err := k.store.Update(t.Context(), func(tx *store.Tx) error {
			if got := Update(tx, next); !slices.Equal(got.Dropped, []string{"s"}) {
				t.Errorf("%s: dropped %v", name, got.Dropped)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want++
	}
}

// TestRacingRotations makes two next versions of one: the later is given up.
func TestRacingRotations(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{"s": {Type: manifest.Symmetric, Readers: readers, Rotation: overlapping(time.Hour)}})
	k.mustRelease(m, web, start, "s")
	var due []Missing
	err := k.store.View(t.Context(), func(tx *store.Tx) (err error) {
		due, err = Select(tx, m, Target{Name: "s"}, 10, "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.maker.Make(t.Context(), k.authority, due, start)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		err := k.store.Update(t.Context(), func(tx *store.Tx) error {
			done, err := Rotate(tx, due, made, start)
			if len(done) != want {
				t.Errorf("try %d rotated %d, want %d", i, len(done), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSelectRefuses(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{
		"opaque": {Type: manifest.Opaque, Readers: readers}, "counter": {Type: manifest.Counter, Readers: readers},
		"unmade": {Type: manifest.Symmetric, Readers: readers}, "own": {Type: manifest.Symmetric, Scope: manifest.Instance, Readers: readers},
	})
	k.mustRelease(m, web, start, "own")
	k.mustRelease(m, Asker{"web", "two"}, start, "own")
	for _, c := range []struct {
		t    Target
		n    int
		code problem.Code
	}{
		{Target{Name: "none"}, 0, "SEC-001"}, {Target{Name: "opaque"}, 0, "SEC-014"}, {Target{Name: "counter"}, 0, "SEC-014"}, {Target{Name: "unmade"}, 0, "SEC-017"},
		{Target{Name: "own", Asker: Asker{"web", "three"}}, 0, "SEC-017"}, {Target{Name: "own", Asker: web}, 1, ""}, {Target{Name: "own"}, 2, ""},
	} {
		err := k.store.View(t.Context(), func(tx *store.Tx) error {
			got, err := Select(tx, m, c.t, 10, "")
			if problem.CodeOf(err) != c.code || len(got) != c.n {
				t.Errorf("%+v: got %d, %v; want %d, %q", c.t, len(got), err, c.n, c.code)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDueIsBounded checks that much to do is done in parts, RSA keys in small ones.
func TestDueIsBounded(t *testing.T) {
	k := newKeeper(t)
	every := manifest.Rotation{Every: attest.Duration(time.Hour)}
	m := with(map[string]manifest.Secret{"own": {Type: manifest.Symmetric, Scope: manifest.Instance, Readers: readers, Rotation: every},
		"rsa": {Type: manifest.RSA, Bits: 2048, Readers: readers, Rotation: every}, "never": {Type: manifest.Symmetric, Readers: readers}})
	for i := range 5 {
		k.mustRelease(m, Asker{"web", fmt.Sprint(i)}, start, "own")
	}
	k.mustRelease(m, web, start, "rsa")
	k.mustRelease(m, web, start, "never")
	for _, c := range []struct {
		at    time.Time
		limit int
		want  int
		all   bool
	}{{start.Add(time.Hour - 1), 100, 0, true}, {start.Add(time.Hour), 100, 6, true}, {start.Add(time.Hour), 67, 4, false}, {start.Add(time.Hour), 1, 1, false}} {
		err := k.store.View(t.Context(), func(tx *store.Tx) error {
			if due, all := Due(tx, m, c.at, c.limit); len(due) != c.want || all != c.all {
				t.Errorf("limit %d: got %d, all %t; want %d, %t", c.limit, len(due), all, c.want, c.all)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCountersEnd(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{"c": {Type: manifest.Counter, Readers: readers}})
	err := k.store.Update(t.Context(), func(tx *store.Tx) error {
		if err := counters.Put(tx, "c", math.MaxUint64-1); err != nil {
			return err
		}
		n, err := Increment(tx, m, web, "c")
		if err != nil || n != math.MaxUint64 {
			t.Errorf("got %d, %v", n, err)
		}
		if _, err := Increment(tx, m, web, "c"); problem.CodeOf(err) != "SEC-016" {
			t.Errorf("past the end: got %v, want SEC-016", err)
		}
		n, err = Counter(tx, m, web, "c")
		if err != nil || n != math.MaxUint64 {
			t.Errorf("got %d, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUpdateOfCounters keeps those whose secret is there with the same scope.
func TestUpdateOfCounters(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{"a": {Type: manifest.Counter, Readers: readers}, "b": {Type: manifest.Counter, Scope: manifest.PerRole, Readers: readers},
		"c": {Type: manifest.Counter, Scope: manifest.Instance, Readers: readers}})
	err := k.store.Update(t.Context(), func(tx *store.Tx) error {
		for name := range m.Secrets {
			if _, err := Increment(tx, m, web, name); err != nil {
				return err
			}
		}
		if got := Update(tx, m).Dropped; len(got) != 0 {
			t.Errorf("the same manifest dropped %v", got)
		}
		Drop(tx, web)
		if n, err := Counter(tx, m, web, "c"); n != 1 || err != nil {
			t.Errorf("a counter ended with its instance: %d, %v", n, err)
		}
		next := with(map[string]manifest.Secret{"a": m.Secrets["b"], "c": m.Secrets["c"]})
		if got := Update(tx, next).Dropped; !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("dropped %v, want a and b", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCertificatesFollowTheirTemplate checks that all of it is in the certificate.
func TestCertificatesFollowTheirTemplate(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{"s": {Type: manifest.CertECDSA, Readers: readers, CommonName: "shop", Organization: []string{"Shop", "Example"},
		DNSNames: []string{"a.example"}, IPAddresses: []string{"10.0.0.7"}, ExtendedKeyUsages: []string{"serverAuth"}, Validity: attest.Duration(2 * time.Hour)}})
	v := k.mustRelease(m, web, start, "s")
	cert, err := x509.ParseCertificate(v.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(cert.Subject, cert.DNSNames, cert.IPAddresses, cert.ExtKeyUsage, cert.NotAfter.Sub(start)); got != "CN=shop,O=Shop+O=Example [a.example] [10.0.0.7] [serverAuth] 2h0m0s" {
		t.Errorf("got %s", got)
	}
	if v.Serial == "" || !v.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("serial %q until %s", v.Serial, v.NotAfter)
	}
}

// TestSupplyIsBounded fills up what may be supplied at once.
func TestSupplyIsBounded(t *testing.T) {
	k := newKeeper(t)
	all := map[string]manifest.Secret{}
	for i := range maxSupplied + 1 {
		all[fmt.Sprint("s", i)] = manifest.Secret{Type: manifest.Opaque, Readers: readers}
	}
	m := with(all)
	supply := func(name, value string) (err error) {
		return k.store.Update(t.Context(), func(tx *store.Tx) error {
			_, err := Put(tx, m, Supply{Name: name, Value: []byte(value), By: "user bob", At: start})
			return err
		})
	}
	for i := range maxSupplied {
		if err := supply(fmt.Sprint("s", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := supply(fmt.Sprint("s", maxSupplied), "x"); problem.CodeOf(err) != "SEC-008" {
		t.Errorf("one more: got %v, want SEC-008", err)
	}
	if err := supply("s0", "y"); err != nil {
		t.Errorf("another version: %v", err)
	}
	if v := k.mustRelease(m, web, start, "s0"); string(v.Bytes) != "y" || v.Version != 2 {
		t.Errorf("got version %d", v.Version)
	}
	// All of it does not fit one lease.
	large := strings.Repeat("x", MaxValue)
	names := make([]string, 50)
	for i := range names {
		names[i] = fmt.Sprint("s", i)
		if err := supply(names[i], large); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.release(m, web, start, names...); problem.CodeOf(err) != "SEC-008" {
		t.Errorf("3.1 MiB of secrets: got %v, want SEC-008", err)
	}
}

// TestLineageIsBounded notes more than there is room for: what comes after
// stands for its marble, package and machine.
func TestLineageIsBounded(t *testing.T) {
	k := newKeeper(t)
	err := k.store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 10 {
			o := Origin{Marble: "web", Instance: fmt.Sprint(i), Package: "web", Machines: []string{"aa"}}
			if _, err := note(tx, Touch{Secret: "s", Version: 1, Origin: o, Last: start.Add(time.Duration(i) * time.Second)}, ByLease, 3); err != nil {
				return err
			}
		}
		if got := Touched(tx, Filter{Machine: "aa"}); len(got) != 4 || got[3].Origin.Instance != folded {
			t.Errorf("got %+v, want 3 instances and what stands for the rest", got)
		}
		if got := Touched(tx, Filter{Instance: "9"}); len(got) != 1 {
			t.Errorf("the last instance: got %+v", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTargets names what has to be rotated, each once.
func TestTargets(t *testing.T) {
	got := Targets([]Touch{{Secret: "a", Version: 1}, {Secret: "a", Version: 2}, {Secret: Leaf}, {Secret: "own", Of: "web/one"}, {Secret: "own", Of: "web/two"}, {Secret: "own", Of: "web/one"}})
	want := []Target{{Name: "a"}, {Name: "own", Asker: Asker{"web", "one"}}, {Name: "own", Asker: Asker{"web", "two"}}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// FuzzDecrypt gives use-only keys what marbles may send.
func FuzzDecrypt(f *testing.F) {
	k := newKeeper(f)
	m := with(map[string]manifest.Secret{
		"box": {Type: manifest.Symmetric, Readers: readers, Operations: []manifest.Operation{manifest.Encrypt, manifest.Decrypt}},
		"rsa": {Type: manifest.RSA, Bits: 2048, Readers: readers, Operations: []manifest.Operation{manifest.Decrypt}},
	})
	k.release1(m, "box")
	k.release1(m, "rsa")
	keys := NewKeys(rand.Reader)
	good := k.do(keys, m, Usage{Name: "box", Operation: manifest.Encrypt, Input: []byte("x")})
	f.Add("box", good, []byte{}, uint64(0))
	f.Add("box", good[:sealHeader], []byte{}, uint64(1))
	f.Add("rsa", make([]byte, 256), []byte("label"), uint64(0))
	f.Fuzz(func(t *testing.T, name string, input, associated []byte, version uint64) {
		var g Grasp
		err := k.store.View(t.Context(), func(tx *store.Tx) (err error) {
			g, _, err = Grip(tx, Request{Manifest: m, Asker: web, At: start}, Usage{Name: name, Operation: manifest.Decrypt, Input: input, Associated: associated, Version: version})
			return err
		})
		if err != nil {
			return
		}
		if out, _, err := keys.Do(context.Background(), g); err == nil && (name != "box" || !bytes.Equal(input, good)) {
			t.Errorf("decrypted %q", out)
		}
	})
}

// release1 makes a use-only key.
func (k *keeper) release1(m *manifest.Manifest, name string) {
	k.Helper()
	if _, err := k.release(m, web, start, name); err != nil {
		k.Fatal(err)
	}
}

func (k *keeper) do(keys *Keys, m *manifest.Manifest, u Usage) []byte {
	k.Helper()
	var g Grasp
	err := k.store.View(k.Context(), func(tx *store.Tx) error {
		var miss *Missing
		var err error
		if g, miss, err = Grip(tx, Request{Manifest: m, Asker: web, At: start}, u); err == nil && miss != nil {
			err = fmt.Errorf("%s is missing", u.Name)
		}
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
	out, _, err := keys.Do(context.Background(), g)
	if err != nil {
		k.Fatal(err)
	}
	return out
}

// BenchmarkUse measures operations beside their limit, the primitive itself.
func BenchmarkUse(b *testing.B) {
	k := newKeeper(b)
	ops := func(list ...manifest.Operation) []manifest.Operation { return list }
	m := with(map[string]manifest.Secret{
		"ecdsa":   {Type: manifest.ECDSA, Readers: readers, Operations: ops(manifest.Sign)},
		"ed25519": {Type: manifest.Ed25519, Readers: readers, Operations: ops(manifest.Sign)},
		"rsa":     {Type: manifest.RSA, Bits: 3072, Readers: readers, Operations: ops(manifest.Sign)},
		"box":     {Type: manifest.Symmetric, Readers: readers, Operations: ops(manifest.Encrypt, manifest.HMAC)},
	})
	keys := NewKeys(rand.Reader)
	for _, c := range []struct {
		name string
		op   manifest.Operation
	}{{"ecdsa", manifest.Sign}, {"ed25519", manifest.Sign}, {"rsa", manifest.Sign}, {"box", manifest.HMAC}, {"box", manifest.Encrypt}} {
		k.release1(m, c.name)
		b.Run(c.name+"/"+string(c.op), func(b *testing.B) {
			for b.Loop() {
				k.do(keys, m, Usage{Name: c.name, Operation: c.op, Input: make([]byte, 256)})
			}
		})
	}
	// The limits: the primitives alone.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	pair, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ecdsa/limit", func(b *testing.B) {
		for b.Loop() {
			digest := sha256.Sum256(make([]byte, 256))
			if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rsa/limit", func(b *testing.B) {
		for b.Loop() {
			digest := sha256.Sum256(make([]byte, 256))
			if _, err := rsa.SignPSS(rand.Reader, pair, crypto.SHA256, digest[:], nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
