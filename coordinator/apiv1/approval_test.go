package apiv1

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
	"encoding/hex"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

func seeded(b byte) attest.Hex { return bytes.Repeat([]byte{b}, 32) }

// example is the proposal of the vector in docs/wire.md.
func example() Proposal {
	return Proposal{Kind: ManifestProposal, Digest: seeded(0xd1), ID: seeded(0x1d), Predecessor: seeded(0xbe),
		Expires: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Accepts: []string{"drop-secrets"}}
}

// TestApprovalVector holds the signed text, and a signature under it, to what
// docs/wire.md gives.
func TestApprovalVector(t *testing.T) {
	doc, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```vector approval\nseed: ([0-9a-f]+)\nsignature:\n((?:  [0-9a-f]+\n)+)text:\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/wire.md has no vector approval")
	}
	var text strings.Builder
	for line := range strings.Lines(string(block[3])) {
		text.WriteString(strings.TrimPrefix(line, "  "))
	}
	if got := ApprovalText("shop.example", example()); string(got) != text.String() {
		t.Errorf("got\n%swant\n%s", got, text.String())
	}
	seed, err := hex.DecodeString(string(block[1]))
	if err != nil {
		t.Fatal(err)
	}
	got, err := SignApproval(ed25519.NewKeyFromSeed(seed), []byte(text.String()))
	if want := strings.Join(strings.Fields(string(block[2])), ""); err != nil || hex.EncodeToString(got) != want {
		t.Errorf("got %x, %v, want %s", got, err, want)
	}
}

// TestApprovalSignatures signs with each type of key, and wants no other text, no
// other key and no changed signature to hold.
func TestApprovalSignatures(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"Ed25519": ed}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if keys["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	text := ApprovalText("shop.example", example())
	certs := map[string]*x509.Certificate{}
	for name, key := range keys {
		certs[name] = certificate(t, key)
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			signature, err := SignApproval(key, text)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyApproval(certs[name], text, signature); err != nil {
				t.Errorf("its own: %v", err)
			}
			for other, cert := range certs {
				if other != name && VerifyApproval(cert, text, signature) == nil {
					t.Errorf("it holds for the key %s", other)
				}
			}
			for i := range text {
				changed := bytes.Clone(text)
				changed[i] ^= 1
				if VerifyApproval(certs[name], changed, signature) == nil {
					t.Fatalf("it holds for a text that differs in byte %d", i)
				}
			}
			signature[len(signature)/2] ^= 1
			if VerifyApproval(certs[name], text, signature) == nil || VerifyApproval(certs[name], text, nil) == nil {
				t.Error("a changed one holds")
			}
		})
	}
	sum := sha256.Sum256(text)
	old, err := rsa.SignPKCS1v15(nil, keys["RSA"].(*rsa.PrivateKey), crypto.SHA256, sum[:])
	if err != nil || VerifyApproval(certs["RSA"], text, old) != nil {
		t.Errorf("PKCS #1 v1.5: %v, %v", err, VerifyApproval(certs["RSA"], text, old))
	}
}

func certificate(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestApprovalTextsDiffer changes each part of a proposal that counts.
func TestApprovalTextsDiffer(t *testing.T) {
	seen := map[string]string{string(ApprovalText("shop.example", example())): "nothing", string(ApprovalText("shop.exampl", example())): "trust domain"}
	for name, change := range map[string]func(*Proposal){
		"kind": func(p *Proposal) { p.Kind = ActionProposal }, "digest": func(p *Proposal) { p.Digest = seeded(1) },
		"id": func(p *Proposal) { p.ID = seeded(1) }, "predecessor": func(p *Proposal) { p.Predecessor = seeded(1) },
		"time": func(p *Proposal) { p.Expires = p.Expires.Add(time.Second) }, "no risks": func(p *Proposal) { p.Accepts = nil },
		"more risks": func(p *Proposal) { p.Accepts = []string{"drop-secrets", "lock-out"} },
	} {
		p := example()
		change(&p)
		text := string(ApprovalText("shop.example", p))
		if other, same := seen[text]; same {
			t.Errorf("%s and %s give one text", name, other)
		}
		seen[text] = name
	}
}
