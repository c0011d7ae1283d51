package marbletest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// CA is a root and a mesh CA under it.
type CA struct {
	Root, Mesh *x509.Certificate
	meshKey    *ecdsa.PrivateKey
}

// NewCA makes a CA.
func NewCA(t testing.TB) *CA {
	t.Helper()
	rootKey, meshKey := newKey(t), newKey(t)
	root := template("Test Root CA", time.Now().Add(24*time.Hour))
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	ca := &CA{meshKey: meshKey}
	var err error
	if ca.Root, err = sign(root, root, &rootKey.PublicKey, rootKey); err != nil {
		t.Fatal(err)
	}
	mesh := template("Test Mesh CA", time.Now().Add(24*time.Hour))
	mesh.IsCA, mesh.KeyUsage = true, x509.KeyUsageCertSign
	if ca.Mesh, err = sign(mesh, ca.Root, &meshKey.PublicKey, rootKey); err != nil {
		t.Fatal(err)
	}
	return ca
}

// RootPEM returns the root certificate.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw})
}

// Leaf signs a marble's leaf for a key in PKIX DER.
func (ca *CA) Leaf(marble string, key []byte, notAfter time.Time) (*x509.Certificate, error) {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("reading the leaf's key: %w", err)
	}
	t := template(marble, notAfter)
	t.URIs = []*url.URL{{Scheme: "spiffe", Host: TrustDomain, Path: "/" + marble}}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return sign(t, ca.Mesh, public, ca.meshKey)
}

// Identity makes a marble's leaf with a key of its own.
func (ca *CA) Identity(t testing.TB, marble string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Leaf(marble, der, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Mesh.Raw}, PrivateKey: key, Leaf: leaf}
}

// Serving makes a coordinator's serving certificate.
func (ca *CA) Serving(t testing.TB) tls.Certificate {
	t.Helper()
	return ca.ServingAs(t, "/ashlar/coordinator", x509.ExtKeyUsageServerAuth)
}

// ServingAs makes a certificate with a SPIFFE path, none if empty, and usages.
func (ca *CA) ServingAs(t testing.TB, path string, usages ...x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key := newKey(t)
	tmpl := template("coordinator", time.Now().Add(time.Hour))
	if path != "" {
		tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: TrustDomain, Path: path}}
	}
	tmpl.ExtKeyUsage = usages
	cert, err := sign(tmpl, ca.Mesh, &key.PublicKey, ca.meshKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw, ca.Mesh.Raw}, PrivateKey: key, Leaf: cert}
}

func template(name string, notAfter time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("marbletest: " + err.Error()) // crypto/rand never fails
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: notAfter, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}
