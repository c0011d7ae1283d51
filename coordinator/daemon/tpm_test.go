package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestTPMRoots shows that a TPM's certificate counts under --tpm-roots alone.
func TestTPMRoots(t *testing.T) {
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	caKey, ak := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM CA"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: now, NotAfter: now.AddDate(1, 0, 0), BasicConstraintsValid: true}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &ak.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tpm.Encode(tpm.Document{Key: attesttest.TPMPublic(t, &ak.PublicKey), Quote: attesttest.TPMQuote(t, ak, nil, nil), Certificates: [][]byte{leafDER}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	leafFile := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(leafFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	for roots, want := range map[string]string{"": "", file: "TPM CA"} {
		s := settings{Config: Config{TPMRoots: roots}}
		all, err := s.verifiers()
		if err != nil {
			t.Fatal(err)
		}
		c, _ := all[attest.TPM].Verify(attest.Evidence{TEE: attest.TPM, Raw: raw}, attest.Endorsements{}, now)
		if c.TPM == nil || c.TPM.Vouched != want {
			t.Errorf("roots %q: got %+v, want %q to vouch", roots, c.TPM, want)
		}
	}
	for name, path := range map[string]string{"a leaf": leafFile, "no file": filepath.Join(t.TempDir(), "none")} {
		s := settings{Config: Config{TPMRoots: path}}
		if _, err := s.verifiers(); problem.CodeOf(err) != "CRD-130" {
			t.Errorf("%s as root: got %v, want CRD-130", name, err)
		}
	}
}
