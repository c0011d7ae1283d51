package shares

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func of(b byte) Share {
	s := Share{Generation: 7}
	copy(s.Deployment[:], bytes.Repeat([]byte{b}, DeploymentSize))
	return s
}

// TestEverySubset splits for every threshold and combines every subset of
// shares: those of the threshold give the secret, in any order, and fewer are
// refused.
func TestEverySubset(t *testing.T) {
	const n = 5
	for threshold := 1; threshold <= n; threshold++ {
		secret, all, commitments, err := Split(of(1), threshold, n)
		if err != nil || len(commitments) != threshold || len(all) != n {
			t.Fatalf("%d of %d: got %d shares and %d commitments, %v", threshold, n, len(all), len(commitments), err)
		}
		for subset := range 1 << n {
			var some []Share
			for i := n - 1; i >= 0; i-- {
				if subset>>i&1 == 1 {
					some = append(some, all[i])
				}
			}
			got, err := Combine(threshold, some)
			if enough := len(some) >= threshold; enough != (err == nil) || enough && !bytes.Equal(got.Reveal(), secret.Reveal()) {
				t.Errorf("%d of %d, shares %05b: got %v", threshold, n, subset, err)
			}
		}
	}
	for _, c := range [][2]int{{0, 3}, {4, 3}, {1, MaxHolders + 1}, {-1, 1}} {
		if _, _, _, err := Split(of(1), c[0], c[1]); err == nil {
			t.Errorf("%d of %d was split", c[0], c[1])
		}
	}
}

// TestFewerSayNothing shows that shares below the threshold go with every
// secret: a polynomial through them and any other value at 0 exists.
func TestFewerSayNothing(t *testing.T) {
	_, all, _, err := Split(of(1), 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 50 {
		third := all[2]
		third.value = field.RandomScalar(nil)
		secret, err := Combine(3, []Share{all[0], all[1], third})
		if err != nil {
			t.Fatal(err)
		}
		seen[hex.EncodeToString(secret.Reveal())] = true
	}
	if len(seen) != 50 {
		t.Errorf("50 third shares gave %d secrets", len(seen))
	}
}

func TestVerifyNamesTheWrongShare(t *testing.T) {
	_, all, commitments, err := Split(of(1), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, others, otherCommitments, err := Split(of(1), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	moved := all[0]
	moved.Index = 2
	for name, c := range map[string]struct {
		share       Share
		commitments [][]byte
		want        problem.Code
	}{
		"good":             {all[0], commitments, ""},
		"third":            {all[2], commitments, ""},
		"another split":    {others[0], commitments, "REC-014"},
		"other commitment": {all[0], otherCommitments, "REC-014"},
		"fewer":            {all[0], commitments[:1], "REC-014"},
		"none":             {all[0], nil, "REC-014"},
		"moved":            {moved, commitments, "REC-014"},
		"empty":            {Share{Index: 1}, commitments, "REC-014"},
		"no point":         {all[0], [][]byte{commitments[0], bytes.Repeat([]byte{0xff}, CommitmentSize)}, "REC-002"},
		"short point":      {all[0], [][]byte{commitments[0], commitments[1][:30]}, "REC-002"},
	} {
		if got := problem.CodeOf(c.share.Verify(c.commitments)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if _, err := Combine(2, []Share{all[0], all[0]}); err == nil {
		t.Error("the same share twice was combined")
	}
}

// TestVector holds the format of a share to what docs/wire.md gives.
func TestVector(t *testing.T) {
	s := of(0xd1)
	s.Index, s.value = 2, number(66051)
	got, err := s.encode()
	want := "6173686c617220736861726520763100" + strings.Repeat("d1", 32) + "0000000000000007" + "00000002" + "030201" + strings.Repeat("00", 29)
	if err != nil || hex.EncodeToString(got) != want {
		t.Errorf("got %x, %v, want %s", got, err, want)
	}
	m := apiv1.RecoveryShare{Session: bytes.Repeat([]byte{0x5e}, 32), Sealed: []byte("sealed"), Time: time.Unix(1795350896, 0)}
	sum := sha256.Sum256([]byte("sealed"))
	wantMessage := "6173686c6172207265636f7665727920617070726f76616c20763100" + strings.Repeat("5e", 32) + "00000002" + hex.EncodeToString(sum[:]) + "000000006b02e170"
	if got := hex.EncodeToString(approval(2, m)); got != wantMessage {
		t.Errorf("approval: got %s, want %s", got, wantMessage)
	}
}

var rsaKey = sync.OnceValue(func() PrivateKey {
	k, err := NewRSAKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func ageKey(t testing.TB) PrivateKey {
	k, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func recipient(t testing.TB, k PrivateKey) (Recipient, string) {
	t.Helper()
	text, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecipient(text)
	if err != nil {
		t.Fatal(err)
	}
	return r, text
}

func TestKeys(t *testing.T) {
	_, all, _, err := Split(of(3), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]PrivateKey{"RSA": rsaKey(), "age": ageKey(t)} {
		to, _ := recipient(t, k)
		sealed, err := all[0].Seal(rand.Reader, to)
		if err != nil {
			t.Fatal(err)
		}
		file, err := k.Reveal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePrivateKey(append([]byte("# a comment\n"), file...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.Open(sealed)
		if err != nil || got.Index != 1 || got.Deployment != all[0].Deployment || !got.value.IsEqual(all[0].value) {
			t.Errorf("%s: %v", name, err)
		}
		sealed[len(sealed)-1] ^= 1
		if _, err := k.Open(sealed); problem.CodeOf(err) != "REC-011" {
			t.Errorf("%s changed: got %v, want REC-011", name, err)
		}
		sealed[len(sealed)-1] ^= 1
		if _, err := ageKey(t).Open(sealed); problem.CodeOf(err) != "REC-011" {
			t.Errorf("%s by another key: got %v, want REC-011", name, err)
		}
		for _, out := range []string{fmt.Sprintf("%v %+v %#v %s", k, k, k, k), fmt.Sprintf("%v %+v %#v", all[0], all[0], &all[0])} {
			if strings.Contains(out, "SECRET") || strings.Contains(out, "0x") || !strings.Contains(out, redacted) {
				t.Errorf("%s prints %s", name, out)
			}
		}
	}
	if _, err := ageKey(t).Open(make([]byte, maxSealed+1)); problem.CodeOf(err) != "REC-016" {
		t.Errorf("too large: got %v, want REC-016", err)
	}
}

func TestKeysRefused(t *testing.T) {
	_, public := recipient(t, rsaKey())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&small.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "not age": "age1xyz", "text": "hello", "two": public + public,
		"small RSA":   "-----BEGIN PUBLIC KEY-----\n" + b64(der) + "\n-----END PUBLIC KEY-----\n",
		"certificate": strings.ReplaceAll(public, "PUBLIC KEY", "CERTIFICATE"),
	} {
		if _, err := ParseRecipient(text); problem.CodeOf(err) != "REC-010" {
			t.Errorf("recipient %s: got %v, want REC-010", name, err)
		}
	}
	one, two := ageKey(t), ageKey(t)
	a, _ := one.Reveal()
	b, _ := two.Reveal()
	for name, file := range map[string]string{"empty": "", "two": string(a) + string(b), "public": public, "text": "hello", "cut": string(a[:40])} {
		_, err := ParsePrivateKey([]byte(file))
		if problem.CodeOf(err) != "REC-010" {
			t.Errorf("private key %s: got %v, want REC-010", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET-KEY-1"+string(a[16:30])) {
			t.Errorf("private key %s: the error shows it", name)
		}
	}
	if _, err := NewRSAKey(rand.Reader, 1024); problem.CodeOf(err) != "REC-010" {
		t.Errorf("RSA-1024: got %v, want REC-010", err)
	}
}

func b64(der []byte) string {
	text, _ := json.Marshal(der)
	return strings.Trim(string(text), `"`)
}

// person is a user with a certificate and a recovery key.
type person struct {
	holder Holder
	cert   []byte
}

func newPerson(t testing.TB, name string, signer crypto.Signer, key PrivateKey) person {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return person{Holder{User: name, Key: key, Signer: signer, Random: rand.Reader}, der}
}

// document gives each person a share.
func document(t testing.TB, threshold int, people ...person) (apiv1.RecoveryDocument, Secret) {
	t.Helper()
	secret, all, commitments, err := Split(of(9), threshold, len(people))
	if err != nil {
		t.Fatal(err)
	}
	d := apiv1.RecoveryDocument{Version: 1, Deployment: all[0].Deployment[:], Generation: 7, Threshold: threshold, Commitments: commitments}
	for i, p := range people {
		to, text := recipient(t, p.holder.Key)
		sealed, err := all[i].Seal(rand.Reader, to)
		if err != nil {
			t.Fatal(err)
		}
		d.Holders = append(d.Holders, apiv1.RecoveryHolder{User: p.holder.User, Certificate: p.cert, Key: text, Share: sealed})
	}
	return d, secret
}

func session(t testing.TB, d apiv1.RecoveryDocument, to PrivateKey, changes ...func(*apiv1.RecoverySession)) []byte {
	t.Helper()
	_, text := recipient(t, to)
	s := apiv1.RecoverySession{Version: 1, Purpose: apiv1.PurposeRecover, Deployment: d.Deployment, Generation: d.Generation, Recipient: text, Begun: time.Unix(1795350000, 0).UTC()}
	for _, change := range changes {
		change(&s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func people(t testing.TB) []person {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return []person{newPerson(t, "alice", ec, ageKey(t)), newPerson(t, "bob", rsaKey().rsa, rsaKey()), newPerson(t, "carol", ed, ageKey(t))}
}

func TestApprovals(t *testing.T) {
	all := people(t)
	d, secret := document(t, 3, all...)
	coordinator := ageKey(t)
	raw := session(t, d, coordinator)
	now := time.Unix(1795350896, 0)
	var given []Share
	for i, p := range all {
		m, err := p.holder.Approve(d, raw, now)
		if err != nil {
			t.Fatalf("%s: %v", p.holder.User, err)
		}
		place, err := CheckApproval(d, raw, m, now.Add(time.Minute))
		if err != nil || place != i {
			t.Fatalf("%s: got place %d, %v", p.holder.User, place, err)
		}
		share, err := coordinator.Open(m.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, share)
		for name, change := range map[string]struct {
			edit func(*apiv1.RecoveryShare)
			want problem.Code
		}{
			"another share":     {func(m *apiv1.RecoveryShare) { m.Sealed = append(bytes.Clone(m.Sealed), 0) }, "REC-017"},
			"another session":   {func(m *apiv1.RecoveryShare) { m.Session = bytes.Repeat([]byte{1}, 32) }, "REC-018"},
			"no session":        {func(m *apiv1.RecoveryShare) { m.Session = nil }, "REC-016"},
			"another signature": {func(m *apiv1.RecoveryShare) { m.Signature = bytes.Clone(m.Signature); m.Signature[5] ^= 1 }, "REC-017"},
			"no signature":      {func(m *apiv1.RecoveryShare) { m.Signature = nil }, "REC-016"},
			"another user":      {func(m *apiv1.RecoveryShare) { m.User = all[(i+1)%3].holder.User }, "REC-017"},
			"no holder":         {func(m *apiv1.RecoveryShare) { m.User = "dave" }, "REC-012"},
			"a second later":    {func(m *apiv1.RecoveryShare) { m.Time = m.Time.Add(time.Second) }, "REC-017"},
			"yesterday":         {func(m *apiv1.RecoveryShare) { m.Time = m.Time.Add(-24 * time.Hour) }, "REC-019"},
			"tomorrow":          {func(m *apiv1.RecoveryShare) { m.Time = m.Time.Add(24 * time.Hour) }, "REC-019"},
			"empty":             {func(m *apiv1.RecoveryShare) { m.Sealed = nil }, "REC-016"},
			"huge":              {func(m *apiv1.RecoveryShare) { m.Sealed = make([]byte, maxSealed+1) }, "REC-016"},
		} {
			changed := m
			change.edit(&changed)
			if _, err := CheckApproval(d, raw, changed, now); problem.CodeOf(err) != change.want {
				t.Errorf("%s, %s: got %v, want %s", p.holder.User, name, err, change.want)
			}
		}
	}
	if got, err := Combine(3, given); err != nil || !bytes.Equal(got.Reveal(), secret.Reveal()) {
		t.Errorf("the shares that were sent give another secret, %v", err)
	}
}

func TestHoldersRefuse(t *testing.T) {
	all := people(t)
	d, _ := document(t, 2, all...)
	other, _ := document(t, 2, all...)
	to := ageKey(t)
	swapped := d
	swapped.Holders = append([]apiv1.RecoveryHolder{}, d.Holders...)
	swapped.Holders[0].Share = other.Holders[0].Share
	moved := d
	moved.Holders = []apiv1.RecoveryHolder{d.Holders[1], d.Holders[0], d.Holders[2]}
	stranger := all[0].holder
	stranger.User = "dave"
	wrongKey := all[0].holder
	wrongKey.Key = ageKey(t)
	alice := all[0].holder
	for name, c := range map[string]struct {
		holder  Holder
		d       apiv1.RecoveryDocument
		session []byte
		want    problem.Code
	}{
		"good":               {alice, d, session(t, d, to), ""},
		"drill":              {alice, d, session(t, d, to, func(s *apiv1.RecoverySession) { s.Purpose = apiv1.PurposeDrill }), ""},
		"no holder":          {stranger, d, session(t, d, to), "REC-012"},
		"wrong key":          {wrongKey, d, session(t, d, to), "REC-011"},
		"share of a split":   {alice, swapped, session(t, d, to), "REC-014"},
		"place changed":      {alice, moved, session(t, d, to), "REC-013"},
		"another deployment": {alice, d, session(t, d, to, func(s *apiv1.RecoverySession) { s.Deployment = bytes.Repeat([]byte{1}, 32) }), "REC-013"},
		"another generation": {alice, d, session(t, d, to, func(s *apiv1.RecoverySession) { s.Generation = 8 }), "REC-013"},
		"unknown purpose":    {alice, d, session(t, d, to, func(s *apiv1.RecoverySession) { s.Purpose = "sign" }), "REC-016"},
		"rollback to what":   {alice, d, session(t, d, to, func(s *apiv1.RecoverySession) { s.Purpose = apiv1.PurposeRollback }), "REC-016"},
		"RSA recipient":      {alice, d, session(t, d, rsaKey()), "REC-016"},
		"not JSON":           {alice, d, []byte("{"), "REC-016"},
		"two documents":      {alice, d, append(session(t, d, to), []byte("{}")...), "REC-016"},
		"unknown field":      {alice, d, []byte(`{"version":1,"x":2}`), "REC-016"},
		"huge":               {alice, d, make([]byte, maxSession+1), "REC-016"},
	} {
		if _, err := c.holder.Approve(c.d, c.session, time.Unix(1795350896, 0)); problem.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func FuzzShare(f *testing.F) {
	s := of(1)
	s.Index, s.value = 2, number(3)
	good, _ := s.encode()
	f.Add(good)
	f.Add(good[:91])
	f.Add(bytes.Repeat([]byte{0xff}, shareSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseShare(b)
		if err != nil {
			return
		}
		if again, err := s.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x was read as %x, %v", b, again, err)
		}
	})
}

func FuzzSession(f *testing.F) {
	f.Add([]byte(`{"version":1,"purpose":"drill","deployment":"` + strings.Repeat("00", 32) + `","generation":1,"recipient":"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p","begun":"2026-11-22T12:00:00Z"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, _, err := ParseSession(b); err == nil && (s.Version != 1 || len(s.Deployment) != DeploymentSize) {
			t.Errorf("%q passed", b)
		}
	})
}
