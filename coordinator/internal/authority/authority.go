// Package authority is the only one that holds CA private keys. It owns the
// root (P-384) and the mesh CA under it (P-256), the way from one root to the
// next, the profiles of the certificates that they sign, and the way to a
// signature:
//
//	template → encoded, unsigned → lint → the same bytes signed by the mesh CA,
//	once → judged by a second function
//
// What was linted is, byte for byte, what is signed. Names come from the
// caller, who takes them from the manifest alone; the package refuses to put
// anything into a certificate that a requester chose besides its public key.
//
// It keeps no clock and no state: an Authority is immutable, and its keys leave
// it only as a State, for the sealed store.
package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// Lifetimes.
const (
	RootLife = 10 * 365 * 24 * time.Hour
	MeshLife = 30 * 24 * time.Hour
	// RotateBefore is how long before its end a mesh CA is replaced: longer
	// than the longest lease, so that it never shortens one.
	RotateBefore = 7 * 24 * time.Hour
	// Backdate allows for clocks that are behind.
	Backdate = time.Minute
)

const redacted = "[redacted]"

// key is a CA's private key. It cannot be compared and prints nothing.
type key struct {
	_      [0]func()
	signer *ecdsa.PrivateKey
}

// String hides the key.
func (key) String() string { return redacted }

// GoString hides the key.
func (key) GoString() string { return redacted }

// Format hides the key from every verb.
func (key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key.
func (key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the key.
func (key) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// ca is a certificate with its key.
type ca struct {
	cert *x509.Certificate
	key  key
}

// Authority is a root and the mesh CA under it. It is immutable and safe for
// concurrent use.
type Authority struct {
	root   ca
	mesh   ca
	older  []older          // roots that are trusted beside the root, newest first
	steps  []apiv1.RootStep // all that led to the root, oldest first
	random io.Reader
}

// New makes a root and a mesh CA that are valid from at on.
func New(at time.Time, random io.Reader) (*Authority, error) {
	root, err := newRoot(at, random)
	if err != nil {
		return nil, err
	}
	a := &Authority{root: root, random: random}
	return a.Rotated(at)
}

func newRoot(at time.Time, random io.Reader) (ca, error) {
	rootKey, err := newKey(elliptic.P384(), random)
	if err != nil {
		return ca{}, fmt.Errorf("making the root key: %w", err)
	}
	tmpl, err := caTemplate("Ashlar Root CA", at, RootLife, random)
	if err != nil {
		return ca{}, fmt.Errorf("making the root: %w", err)
	}
	tmpl.MaxPathLen, tmpl.SignatureAlgorithm = -1, x509.ECDSAWithSHA384
	cert, err := signCA(tmpl, rootKey.signer.Public(), ca{cert: tmpl, key: rootKey}, random)
	if err != nil {
		return ca{}, fmt.Errorf("signing the root: %w", err)
	}
	return ca{cert: cert, key: rootKey}, nil
}

// Rotated returns an authority with the same root and a new mesh CA, valid from
// at on. Leaves of the old one stay valid: peers trust the root.
func (a *Authority) Rotated(at time.Time) (*Authority, error) {
	meshKey, err := newKey(elliptic.P256(), a.random)
	if err != nil {
		return nil, fmt.Errorf("making the mesh CA's key: %w", err)
	}
	tmpl, err := caTemplate("Ashlar Mesh CA", at, MeshLife, a.random)
	if err != nil {
		return nil, fmt.Errorf("making the mesh CA: %w", err)
	}
	if tmpl.NotAfter.After(a.root.cert.NotAfter) {
		tmpl.NotAfter = a.root.cert.NotAfter
	}
	tmpl.MaxPathLenZero, tmpl.SignatureAlgorithm = true, x509.ECDSAWithSHA384
	cert, err := signCA(tmpl, meshKey.signer.Public(), a.root, a.random)
	if err != nil {
		return nil, fmt.Errorf("signing the mesh CA: %w", err)
	}
	next := *a
	next.mesh = ca{cert: cert, key: meshKey}
	return &next, nil
}

// RotateDue reports whether the mesh CA is so near its end that it would
// shorten leaves, or not yet valid.
func (a *Authority) RotateDue(at time.Time) bool {
	return a.mesh.cert.NotAfter.Sub(at) < RotateBefore && a.mesh.cert.NotAfter.Before(a.root.cert.NotAfter) ||
		at.Before(a.mesh.cert.NotBefore)
}

// Root returns the root certificate, DER. The caller must not change it.
func (a *Authority) Root() []byte { return a.root.cert.Raw }

// Bundle returns the trust anchors, DER, the root first.
func (a *Authority) Bundle() [][]byte {
	all := [][]byte{a.root.cert.Raw}
	for _, o := range a.older {
		all = append(all, o.root.Raw)
	}
	return all
}

// Roots returns the trust anchors as a new pool.
func (a *Authority) Roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.root.cert)
	for _, o := range a.older {
		p.AddCert(o.root)
	}
	return p
}

// CAInfo describes a CA.
type CAInfo struct {
	Serial              string // hex
	NotBefore, NotAfter time.Time
}

// MeshCA describes the mesh CA in use.
func (a *Authority) MeshCA() CAInfo { return describe(a.mesh.cert) }

func describe(c *x509.Certificate) CAInfo {
	return CAInfo{Serial: Serial(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

// Serial returns a certificate's serial number as this package's callers write
// it: lower-case hexadecimal without leading zeros.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// State is an Authority with its private keys, for the sealed store alone. It
// prints nothing; Reveal returns the bytes.
type State struct {
	_ [0]func()
	b []byte
}

type stateJSON struct {
	Root, RootKey, Mesh, MeshKey []byte           // certificates DER, keys PKCS #8 DER
	Older                        []olderJSON      `json:",omitempty"`
	Steps                        []apiv1.RootStep `json:",omitempty"`
}

// olderJSON keeps no key: a root that was replaced signs nothing any more.
type olderJSON struct {
	Root, Cross []byte // DER
	Until       time.Time
}

// State returns what Restore needs.
func (a *Authority) State() (State, error) {
	s := stateJSON{Root: a.root.cert.Raw, Mesh: a.mesh.cert.Raw, Steps: a.steps}
	for _, o := range a.older {
		s.Older = append(s.Older, olderJSON{Root: o.root.Raw, Cross: o.cross.Raw, Until: o.until})
	}
	var err error
	if s.RootKey, err = x509.MarshalPKCS8PrivateKey(a.root.key.signer); err != nil {
		return State{}, fmt.Errorf("encoding the root key: %w", err)
	}
	if s.MeshKey, err = x509.MarshalPKCS8PrivateKey(a.mesh.key.signer); err != nil {
		return State{}, fmt.Errorf("encoding the mesh CA's key: %w", err)
	}
	b, err := json.Marshal(s)
	return State{b: b}, err
}

// Reveal returns the bytes with the private keys in them.
func (s State) Reveal() []byte { return s.b }

// Format hides the state from every verb.
func (State) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the state.
func (State) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the state.
func (State) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Restore returns the authority that State.Reveal was taken of. It checks that
// keys and certificates belong together and that the root signed the mesh CA.
func Restore(state []byte, random io.Reader) (*Authority, error) {
	var s stateJSON
	if err := json.Unmarshal(state, &s); err != nil {
		return nil, errors.New("restoring the authority: the state is not of this format") // the cause could quote key bytes
	}
	root, err := restoreCA(s.Root, s.RootKey)
	if err != nil {
		return nil, fmt.Errorf("restoring the root: %w", err)
	}
	mesh, err := restoreCA(s.Mesh, s.MeshKey)
	if err != nil {
		return nil, fmt.Errorf("restoring the mesh CA: %w", err)
	}
	if err := mesh.cert.CheckSignatureFrom(root.cert); err != nil {
		return nil, fmt.Errorf("restoring the mesh CA: not signed by the root: %w", err)
	}
	a := &Authority{root: root, mesh: mesh, steps: s.Steps, random: random}
	return a, a.restoreOlder(s.Older)
}

func restoreCA(certDER, keyDER []byte) (ca, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return ca{}, fmt.Errorf("reading the certificate: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return ca{}, errors.New("the private key does not parse")
	}
	signer, ok := k.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(cert.PublicKey) {
		return ca{}, errors.New("the private key is not the certificate's")
	}
	return ca{cert: cert, key: key{signer: signer}}, nil
}

func newKey(curve elliptic.Curve, random io.Reader) (key, error) {
	k, err := ecdsa.GenerateKey(curve, random)
	return key{signer: k}, err
}

// SerialNumber is the serial number of a certificate to be: 126 random bits.
// Only NewSerial makes one.
type SerialNumber struct{ n *big.Int }

// NewSerial draws a serial number, for a caller that has to write it down
// before the certificate is prepared.
func (a *Authority) NewSerial() (SerialNumber, error) { return newSerial(a.random) }

// String returns the number as Serial does.
func (s SerialNumber) String() string { return s.n.Text(16) }

func newSerial(random io.Reader) (SerialNumber, error) {
	b := make([]byte, serialSize)
	if _, err := io.ReadFull(random, b); err != nil {
		return SerialNumber{}, fmt.Errorf("reading random bytes: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always of 127 bits
	return SerialNumber{n: new(big.Int).SetBytes(b)}, nil
}

func caTemplate(name string, at time.Time, life time.Duration, random io.Reader) (*x509.Certificate, error) {
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial.n, Subject: pkix.Name{CommonName: name, SerialNumber: serial.String()[:16]},
		NotBefore: at.Add(-Backdate).UTC().Truncate(time.Second), NotAfter: at.Add(life).UTC().Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}, nil
}

// signCA signs a CA certificate and judges what came out. The root's template
// is its own parent.
func signCA(tmpl *x509.Certificate, pub crypto.PublicKey, parent ca, random io.Reader) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(random, tmpl, parent.cert, pub, parent.key.signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	issuer := parent.cert
	if tmpl == issuer {
		issuer = cert
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return nil, err
	}
	if !cert.IsCA || cert.MaxPathLen != tmpl.MaxPathLen || cert.NotAfter.After(issuer.NotAfter) ||
		!bytes.Equal(cert.RawIssuer, issuer.RawSubject) || len(cert.UnhandledCriticalExtensions) > 0 {
		return nil, errors.New("the signed CA certificate is not what the template said")
	}
	return cert, nil
}
