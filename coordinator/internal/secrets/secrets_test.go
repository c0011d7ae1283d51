package secrets

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func with(secrets map[string]manifest.Secret) *manifest.Manifest {
	return &manifest.Manifest{Secrets: secrets}
}

type keeper struct {
	testing.TB
	store     *store.Store
	maker     *Maker
	authority *authority.Authority
}

func newKeeper(t testing.TB) *keeper {
	t.Helper()
	a, err := authority.New(start, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{TB: t, store: storetest.Create(t, storetest.NewDisk().Engine()), maker: NewMaker(rand.Reader), authority: a}
}

// release does what the coordinator does: find, make, settle.
func (k *keeper) release(m *manifest.Manifest, who Asker, at time.Time, names ...string) (map[string]Value, error) {
	var missing []Missing
	err := k.store.View(k.Context(), func(tx *store.Tx) (err error) {
		_, missing, err = Find(tx, Request{Manifest: m, Asker: who, Names: names, At: at})
		return err
	})
	if err != nil {
		return nil, err
	}
	made, err := k.maker.Make(k.Context(), k.authority, missing, at)
	if err != nil {
		return nil, err
	}
	var values map[string]Value
	err = k.store.Update(k.Context(), func(tx *store.Tx) error {
		var complete bool
		var err error
		if values, complete, err = Settle(tx, Request{Manifest: m, Asker: who, Names: names, At: at}, made); err == nil && !complete {
			err = errors.New("incomplete")
		}
		return err
	})
	return values, err
}

func (k *keeper) mustRelease(m *manifest.Manifest, who Asker, at time.Time, name string) Value {
	k.Helper()
	values, err := k.release(m, who, at, name)
	if err != nil {
		k.Fatalf("releasing %s: %v", name, err)
	}
	return values[name]
}

var web = Asker{"web", "one"}

func TestTypes(t *testing.T) {
	k := newKeeper(t)
	for name, c := range map[string]struct {
		spec manifest.Secret
		fits func(Value, any) bool
	}{
		"symmetric":    {manifest.Secret{Type: manifest.Symmetric}, func(v Value, _ any) bool { return len(v.Bytes) == 32 }},
		"symmetric128": {manifest.Secret{Type: manifest.Symmetric, Bits: 128}, func(v Value, _ any) bool { return len(v.Bytes) == 16 }},
		"rsa":          {manifest.Secret{Type: manifest.CertRSA, Bits: 2048}, func(_ Value, k any) bool { r, ok := k.(*rsa.PrivateKey); return ok && r.N.BitLen() == 2048 }},
		"ecdsa":        {manifest.Secret{Type: manifest.CertECDSA}, func(_ Value, k any) bool { e, ok := k.(*ecdsa.PrivateKey); return ok && e.Params().BitSize == 256 }},
		"ecdsa384":     {manifest.Secret{Type: manifest.CertECDSA, Bits: 384}, func(_ Value, k any) bool { e, ok := k.(*ecdsa.PrivateKey); return ok && e.Params().BitSize == 384 }},
		"ed25519":      {manifest.Secret{Type: manifest.CertEd25519, CommonName: "shop", DNSNames: []string{"a.example"}}, func(_ Value, k any) bool { _, ok := k.(ed25519.PrivateKey); return ok }},
	} {
		t.Run(name, func(t *testing.T) {
			c.spec.Readers = []string{"web"}
			v := k.mustRelease(with(map[string]manifest.Secret{name: c.spec}), web, start, name)
			if c.spec.Type == manifest.Symmetric {
				if !c.fits(v, nil) || v.PrivateKey != nil {
					t.Errorf("%d bytes", len(v.Bytes))
				}
				return
			}
			key, err := x509.ParsePKCS8PrivateKey(v.PrivateKey)
			if err != nil || !c.fits(v, key) {
				t.Fatalf("got a key of type %T, %v", key, err)
			}
			cert, err := x509.ParseCertificate(v.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			between := x509.NewCertPool()
			mesh, _ := x509.ParseCertificate(v.Certificates[1])
			between.AddCert(mesh)
			if _, err := cert.Verify(x509.VerifyOptions{Roots: k.authority.Roots(), Intermediates: between, CurrentTime: start}); err != nil {
				t.Error(err)
			}
			if !slices.Equal(cert.DNSNames, c.spec.DNSNames) || len(cert.URIs) != 0 {
				t.Errorf("got names %v and URIs %v: a secret is no identity", cert.DNSNames, cert.URIs)
			}
		})
	}
}

func TestRefusesSizes(t *testing.T) {
	k := newKeeper(t)
	for name, spec := range map[string]manifest.Secret{
		"gigabit":    {Type: manifest.Symmetric, Bits: 1 << 30},
		"tiny":       {Type: manifest.Symmetric, Bits: 8},
		"odd":        {Type: manifest.Symmetric, Bits: 129},
		"negative":   {Type: manifest.Symmetric, Bits: -256},
		"RSA-16384":  {Type: manifest.CertRSA, Bits: 16384},
		"RSA-1024":   {Type: manifest.CertRSA, Bits: 1024},
		"ECDSA-521":  {Type: manifest.CertECDSA, Bits: 521},
		"other type": {Type: "plain"},
	} {
		spec.Readers = []string{"web"}
		if _, err := k.release(with(map[string]manifest.Secret{"s": spec}), web, start, "s"); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
}

func TestReaders(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{
		"s": {Type: manifest.Symmetric, Readers: []string{"web"}},
		"n": {Type: manifest.Symmetric},
		"e": {Type: manifest.Symmetric, Readers: []string{""}},
	})
	k.mustRelease(m, web, start, "s")
	for _, c := range []struct {
		who  Asker
		name string
	}{
		{Asker{"db", "one"}, "s"}, {Asker{"", "one"}, "s"}, {Asker{"web/", "one"}, "s"}, {Asker{"Web", "one"}, "s"},
		{web, "n"}, {Asker{"", "one"}, "e"}, {web, "other"}, {web, ""},
	} {
		values, err := k.release(m, c.who, start, c.name)
		if err == nil || len(values) != 0 {
			t.Errorf("%+v got %q: %d values, %v", c.who, c.name, len(values), err)
		}
		err = k.store.Update(t.Context(), func(tx *store.Tx) error {
			values, _, err := Settle(tx, Request{Manifest: m, Asker: c.who, Names: []string{c.name}, At: start}, map[string]Made{c.name: {}})
			if len(values) != 0 {
				t.Errorf("%+v got %q from Settle", c.who, c.name)
			}
			return err
		})
		if err == nil {
			t.Errorf("%+v settled %q", c.who, c.name)
		}
	}
}

func TestAskersAgree(t *testing.T) {
	k := newKeeper(t)
	m := with(map[string]manifest.Secret{"rsa": {Type: manifest.CertRSA, Bits: 2048, Readers: []string{"web"}}, "s": {Type: manifest.Symmetric, Readers: []string{"web"}}})
	var mu sync.Mutex
	got := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			values, err := k.release(m, Asker{"web", fmt.Sprint(i)}, start, "rsa", "s")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[string(values["rsa"].PrivateKey)+string(values["s"].Bytes)] = true
		}()
	}
	wg.Wait()
	if len(got) != 1 {
		t.Errorf("8 askers got %d values of a shared secret", len(got))
	}
}

func TestCertificateIsRenewedUnderItsKey(t *testing.T) {
	k := newKeeper(t)
	spec := manifest.Secret{Type: manifest.CertECDSA, Readers: []string{"web"}, Validity: attest.Duration(100 * time.Hour)}
	m := with(map[string]manifest.Secret{"s": spec})
	first := k.mustRelease(m, web, start, "s")
	if same := k.mustRelease(m, web, start.Add(74*time.Hour), "s"); string(same.Certificates[0]) != string(first.Certificates[0]) {
		t.Error("renewed with more than a quarter of its life left")
	}
	renewed := k.mustRelease(m, web, start.Add(76*time.Hour), "s")
	if string(renewed.Certificates[0]) == string(first.Certificates[0]) || string(renewed.PrivateKey) != string(first.PrivateKey) {
		t.Error("near its end: want a new certificate for the same key")
	}
	spec.DNSNames = []string{"new.example"}
	renamed := k.mustRelease(with(map[string]manifest.Secret{"s": spec}), web, start.Add(76*time.Hour), "s")
	if cert, err := x509.ParseCertificate(renamed.Certificates[0]); err != nil || cert.VerifyHostname("new.example") != nil || string(renamed.PrivateKey) != string(first.PrivateKey) {
		t.Errorf("other names: want a new certificate for the same key, got %v, %v", cert.DNSNames, err)
	}
}

func TestUpdate(t *testing.T) {
	k := newKeeper(t)
	reader := []string{"web"}
	m := with(map[string]manifest.Secret{
		"keep":     {Type: manifest.Symmetric, Readers: reader},
		"rederive": {Type: manifest.Symmetric, Readers: reader, OnUpdate: "rederive"},
		"discard":  {Type: manifest.Symmetric, Readers: reader, OnUpdate: "discard", Scope: manifest.Instance},
		"size":     {Type: manifest.Symmetric, Readers: reader, OnUpdate: "keep"},
		"scope":    {Type: manifest.Symmetric, Readers: reader, Scope: manifest.Instance},
		"gone":     {Type: manifest.Symmetric, Readers: reader},
		"mine":     {Type: manifest.Symmetric, Readers: reader, Scope: manifest.Instance},
	})
	before := map[string]string{}
	for name := range m.Secrets {
		before[name] = string(k.mustRelease(m, web, start, name).Bytes)
	}
	next := with(maps.Clone(m.Secrets))
	delete(next.Secrets, "gone")
	next.Secrets["size"] = manifest.Secret{Type: manifest.Symmetric, Readers: reader, Bits: 512}
	next.Secrets["scope"] = manifest.Secret{Type: manifest.Symmetric, Readers: reader}
	var changed Updated
	err := k.store.Update(t.Context(), func(tx *store.Tx) error { changed = Update(tx, next); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"discard", "gone", "scope", "size"}; !slices.Equal(changed.Dropped, want) || !slices.Equal(changed.Stale, []string{"rederive"}) {
		t.Errorf("dropped %v and stale %v, want %v and rederive", changed.Dropped, changed.Stale, want)
	}
	for name := range next.Secrets {
		stays := string(k.mustRelease(next, web, start, name).Bytes) == before[name]
		if want := name == "keep" || name == "mine"; stays != want {
			t.Errorf("%s: stays %t, want %t", name, stays, want)
		}
	}
	err = k.store.Update(t.Context(), func(tx *store.Tx) error {
		Drop(tx, Asker{"web", "on"}) // another instance's name begins like it
		Drop(tx, Asker{"we", "b/one"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if string(k.mustRelease(next, web, start, "mine").Bytes) != before["mine"] {
		t.Error("dropping another instance dropped this one's secret")
	}
	err = k.store.Update(t.Context(), func(tx *store.Tx) error { Drop(tx, web); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if string(k.mustRelease(next, web, start, "mine").Bytes) == before["mine"] {
		t.Error("the secret outlived its instance")
	}
}

func TestMakeHonoursContext(t *testing.T) {
	k := newKeeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	missing := []Missing{{Name: "s", spec: manifest.Secret{Type: manifest.Symmetric}, key: "s"}}
	if _, err := k.maker.Make(ctx, k.authority, missing, start); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestValuesPrintNothing(t *testing.T) {
	v := Value{Bytes: []byte("hunter2hunter2"), PrivateKey: []byte("hunter2hunter2"), Certificates: [][]byte{[]byte("hunter2hunter2")}}
	made := Made{v: version{Bytes: v.Bytes}}
	for _, x := range []any{v, &v, made, map[string]Value{"s": v}, struct{ V Value }{v}} {
		asJSON, _ := json.Marshal(x)
		for _, s := range []string{fmt.Sprint(x), fmt.Sprintf("%+v", x), fmt.Sprintf("%#v", x), fmt.Sprintf("%x", x), fmt.Sprintf("%q", x), string(asJSON), slog.AnyValue(x).Resolve().String()} {
			if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e746572") || strings.Contains(s, "aHVudGVy") || strings.Contains(s, "0x68") {
				t.Errorf("%T prints %q", x, s)
			}
		}
	}
}
