package coordinator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// person is a user with a key.
type person struct {
	name string
	key  crypto.Signer
	cert *x509.Certificate
}

func newPerson(name string, key crypto.Signer) *person {
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
	return &person{name, key, cert}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// people have a key of each type that a manifest takes.
var people = sync.OnceValue(func() map[string]*person {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	all := map[string]*person{}
	for name, key := range map[string]crypto.Signer{
		"ann": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "ben": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"cat": ed, "dan": must(rsa.GenerateKey(rand.Reader, 2048)), "eve": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
	} {
		all[name] = newPerson(name, key)
	}
	return all
})

func pemOf(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// governed is a change that replaces users and roles: users have the rights
// given, and approvals are as given.
func governed(rights map[string][]string, approvals object) func(m object) {
	return func(m object) {
		users, roles := object{}, object{}
		for name, actions := range rights {
			users[name] = object{"certificate": pemOf(people()[name].cert), "roles": []string{name}}
			roles[name] = object{"actions": actions}
		}
		m["users"], m["roles"] = users, roles
		if approvals != nil {
			m["approvals"] = approvals
		}
	}
}

// ask sets a manifest as a user, over the one in force.
func (d *deployment) ask(user string, raw []byte, accept ...string) (apiv1.SetResult, error) {
	d.Helper()
	m, err := d.Manifest(d.Context())
	if err != nil {
		d.Fatal(err)
	}
	return d.SetManifest(d.Context(), SetManifestRequest{Raw: raw, IfMatch: m.Digest.String(), Principal: &Principal{Name: user}, Accept: accept})
}

// signed is a user's signature under a proposal as it is.
func (d *deployment) signed(user string, p apiv1.Proposal) []byte {
	d.Helper()
	s, err := apiv1.SignApproval(people()[user].key, apiv1.ApprovalText("shop.example", p))
	if err != nil {
		d.Fatal(err)
	}
	return s
}

func about(user string, p apiv1.Proposal) ProposalRequest {
	return ProposalRequest{Digest: p.Digest.String(), IfMatch: p.ID.String(), Principal: &Principal{Name: user}}
}

func (d *deployment) approve(user string, p apiv1.Proposal) (apiv1.ApproveResult, error) {
	d.Helper()
	return d.Approve(d.Context(), about(user, p), d.signed(user, p))
}

var three = map[string][]string{"ann": {"updateManifest"}, "ben": {"updateManifest"}, "cat": {"updateManifest"}, "dan": {"updateManifest"}, "eve": {"revoke:*"}}

// TestTwoOfFour takes a revision through its approvals, with keys of all types.
func TestTwoOfFour(t *testing.T) {
	rules := governed(three, object{"updateManifest": 4})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	next := shop(t, rules, lease("web", "2h"))
	_, err := d.ask("eve", next)
	wantCode(t, err, "CRD-016")
	r, err := d.ask("ann", next)
	if err != nil || r.Proposal == nil || len(r.Proposal.Approvals) != 0 || r.Proposal.ProposedBy != "ann" {
		t.Fatalf("got %+v, %v, want a proposal that nobody has signed", r, err)
	}
	p := *r.Proposal
	status, err := d.Status(t.Context())
	if err != nil || !slices.ContainsFunc(status.Attention, func(a apiv1.Attention) bool { return a.Code == "GOV-011" }) {
		t.Errorf("status does not say that something waits: %+v, %v", status.Attention, err)
	}
	for i, name := range []string{"ann", "ben", "cat", "dan"} {
		if i == 2 {
			d.restart()
		}
		d.check()
		if m, _ := d.Manifest(t.Context()); m.Revision != 1 {
			t.Fatalf("in force after %d signatures", i)
		}
		for range 2 { // the second changes nothing
			got, err := d.approve(name, p)
			if i == 3 {
				if err != nil || !got.Settled || got.Set == nil || got.Set.Revision != 2 || len(got.Proposal.Approvals) != 4 {
					t.Fatalf("last signature: got %+v, %v", got, err)
				}
				break
			}
			if err != nil || got.Settled || len(got.Proposal.Approvals) != i+1 || len(got.Proposal.Demands) != 1 || len(got.Proposal.Demands[0].Approved) != i+1 {
				t.Fatalf("signature of %s: got %+v, %v", name, got, err)
			}
		}
	}
	m, err := d.Manifest(t.Context())
	if err != nil || string(m.Raw) != string(next) || m.SetBy != "ann" {
		t.Errorf("got %+v, %v", m, err)
	}
	_, err = d.approve("ann", p)
	wantCode(t, err, "GOV-004")
	d.check()
}

func TestSignaturesThatDoNotHold(t *testing.T) {
	rules := governed(three, object{"updateManifest": 2})
	d := newDeployment(t)
	d.mustSet(shop(t, rules))
	r, err := d.ask("ann", shop(t, rules, lease("web", "2h")))
	if err != nil {
		t.Fatal(err)
	}
	p := *r.Proposal
	other := func(change func(p *apiv1.Proposal)) []byte {
		q := p
		change(&q)
		return d.signed("ben", q)
	}
	for name, c := range map[string]struct {
		code problem.Code
		by   string
		sign []byte
	}{
		"none":                  {"GOV-005", "ben", nil},
		"another's":             {"GOV-005", "ben", d.signed("cat", p)},
		"without a say":         {"GOV-008", "eve", d.signed("eve", p)},
		"other digest":          {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.Digest = p.ID })},
		"other predecessor":     {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.Predecessor = p.ID })},
		"other proposal":        {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.ID = p.Digest })},
		"other kind":            {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.Kind = apiv1.ActionProposal })},
		"other time":            {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.Expires = p.Expires.Add(time.Second) })},
		"other risks":           {"GOV-005", "ben", other(func(p *apiv1.Proposal) { p.Accepts = []string{"drop-secrets"} })},
		"of another deployment": {"GOV-005", "ben", must(apiv1.SignApproval(people()["ben"].key, apiv1.ApprovalText("other.example", p)))},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Approve(t.Context(), about(c.by, p), c.sign)
			wantCode(t, err, c.code)
		})
	}
	if m, _ := d.Manifest(t.Context()); m.Revision != 1 {
		t.Error("a signature that does not hold took effect")
	}
	d.check()
}
