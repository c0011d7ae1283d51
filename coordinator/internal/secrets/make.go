package secrets

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of what is generated, again here although the manifest's schema has
// them: a key that takes minutes is an attack.
const (
	minSymmetric, maxSymmetric = 128, 4096 // bits
	defaultSymmetric           = 256
	defaultRSA                 = 3072
	defaultECDSA               = 256
	defaultValidity            = 8760 * time.Hour
	// Most keys are made in microseconds; RSA takes up to seconds of one core.
	maxConcurrentRSA = 1
)

// Maker generates secrets. It holds no lock while it does, makes a shared
// secret that several ask for at once only once, and RSA keys one at a time. It
// is safe for concurrent use.
type Maker struct {
	random  io.Reader
	flights singleflight.Group
	rsa     chan struct{}
}

// NewMaker returns a maker that reads randomness from random.
func NewMaker(random io.Reader) *Maker {
	return &Maker{random: random, rsa: make(chan struct{}, maxConcurrentRSA)}
}

// Made is a version that was generated and not yet settled. It prints nothing.
type Made struct {
	v     version
	shape string
	base  uint64 // of what was missing
}

// Format hides the secret from every verb.
func (Made) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// Make generates what Find or Due said is missing. Certificates are signed by a.
// It honours ctx between two secrets and while it waits for a core.
func (g *Maker) Make(ctx context.Context, a *authority.Authority, missing []Missing, at time.Time) (map[string]Made, error) {
	made := make(map[string]Made, len(missing))
	for _, m := range missing {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// The serial number is in the key: after a rotation of the CA nobody
		// gets what was signed before.
		r, err, _ := g.flights.Do(fmt.Sprintf("%s/%s/%s/%d/%t", a.MeshCA().Serial, m.key, shape(m.spec), m.base, m.keep != nil), func() (any, error) {
			// One caller that gives up does not fail the others.
			return g.make(context.WithoutCancel(ctx), a, m, at)
		})
		if err != nil {
			return nil, fmt.Errorf("generating secret %s: %w", m.Name, err)
		}
		made[m.key] = Made{v: r.(version), shape: shape(m.spec), base: m.base}
	}
	return made, nil
}

func (g *Maker) make(ctx context.Context, a *authority.Authority, m Missing, at time.Time) (version, error) {
	v := version{Profile: certProfile(m.spec), Made: at.UTC()}
	if m.spec.Type == manifest.Symmetric {
		bits := or(m.spec.Bits, defaultSymmetric)
		if bits < minSymmetric || bits > maxSymmetric || bits%8 != 0 {
			return v, fmt.Errorf("%d bits, want a multiple of 8 from %d to %d", bits, minSymmetric, maxSymmetric)
		}
		v.Bytes = make([]byte, bits/8)
		_, err := io.ReadFull(g.random, v.Bytes)
		return v, err
	}
	key, err := g.key(ctx, m)
	if err != nil {
		return v, err
	}
	if v.PrivateKey, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return v, fmt.Errorf("encoding the key: %w", err)
	}
	if v.PublicKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return v, fmt.Errorf("encoding the public key: %w", err)
	}
	if m.keep != nil {
		v.Keyed = m.keep.keyed()
	}
	if m.spec.Type.Certified() {
		err = v.certify(a, m, at)
	}
	return v, err
}

// key returns a key pair: the one that exists, if only its certificate
// has to be renewed, else a new one.
func (g *Maker) key(ctx context.Context, m Missing) (crypto.Signer, error) {
	if m.keep != nil {
		k, err := x509.ParsePKCS8PrivateKey(m.keep.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("the kept key does not parse")
		}
		return k.(crypto.Signer), nil
	}
	switch bits := m.spec.Bits; m.spec.Type {
	case manifest.CertEd25519, manifest.Ed25519:
		_, k, err := ed25519.GenerateKey(g.random)
		return k, err
	case manifest.CertECDSA, manifest.ECDSA:
		curve := map[int]elliptic.Curve{0: elliptic.P256(), 256: elliptic.P256(), 384: elliptic.P384()}[bits]
		if curve == nil {
			return nil, fmt.Errorf("ECDSA of %d bits, want 256 or 384", bits)
		}
		return ecdsa.GenerateKey(curve, g.random)
	case manifest.CertRSA, manifest.RSA:
		bits = or(bits, defaultRSA)
		if bits != 2048 && bits != 3072 && bits != 4096 {
			return nil, fmt.Errorf("RSA of %d bits, want 2048, 3072 or 4096", bits)
		}
		select {
		case g.rsa <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		defer func() { <-g.rsa }()
		return rsa.GenerateKey(g.random, bits)
	}
	return nil, fmt.Errorf("unknown type %q", m.spec.Type)
}

// certify has the mesh CA sign a certificate for the version's key.
func (v *version) certify(a *authority.Authority, m Missing, at time.Time) error {
	validity := time.Duration(m.spec.Validity)
	if validity <= 0 {
		validity = defaultValidity
	}
	name := m.spec.CommonName
	if name == "" {
		name = m.Name
	}
	token, err := a.PrepareSecret(authority.SecretRequest{CommonName: name, Organization: m.spec.Organization, DNSNames: m.spec.DNSNames,
		IPAddresses: m.spec.IPAddresses, ExtendedKeyUsages: m.spec.ExtendedKeyUsages, PublicKey: v.PublicKey, NotAfter: at.Add(validity)}, at)
	if err != nil {
		return err
	}
	issued, err := a.Issue(token)
	if err != nil {
		return err
	}
	v.Certificates, v.NotAfter, v.Serial = issued.Certificates, issued.Leaf.NotAfter, issued.Serial
	return nil
}
