// Package platform plays the CPU and the vendor of the software TEE: it holds
// a throw-away vendor PKI in the shape of Intel's, measures by itself whoever
// asks for evidence, and signs SGX quotes version 3 and TDX quotes version 4
// with TCB info, QE identity and CRLs to go with them.
//
// A caller cannot claim a measurement: Serve takes the asking process from the
// socket's peer credentials and hashes executables and files through /proc.
// It can be told to misbehave (Misbehaviour), by whoever may write in its
// folder and by nobody else.
//
// It is not a TEE and makes no machine trustworthy: whoever runs it, or may
// trace the processes that ask, can have any evidence made. Only the command
// line and tests import it.
package platform

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Config is what a platform is made of.
type Config struct {
	// Dir holds the platform's keys: platform.json (mode 0600), root.pem, and
	// misbehaviour.json where somebody puts one. A folder that does not exist or
	// is empty gets a new platform; one that holds anything else but no
	// platform.json is an error. "" keeps everything in memory.
	Dir string
	// Vendor is the folder of another platform: a new one is one more machine of
	// the same vendor, with a PPID, a PCK key and a sealing secret of its own.
	// "" makes a vendor too.
	Vendor string
	Now    func() time.Time // nil: time.Now
	Rand   io.Reader        // nil: crypto/rand
}

// Platform is one simulated machine. It is safe for concurrent use.
type Platform struct {
	dir  string
	now  func() time.Time
	rand io.Reader

	pki       *pki
	quoting   map[attest.TEE]*quoter // by TEE; never modified
	chain     []byte                 // PEM: PCK certificate, PCK CA, root
	digests   digests
	slots     chan struct{} // one for each connection being served
	hashSlots chan struct{} // one for each file being hashed

	mu           sync.Mutex
	misbehaviour Misbehaviour // set by Misbehave
	endorsements map[attest.TEE]issuedSet
}

// New loads the platform in c.Dir, or makes one there.
func New(c Config) (*Platform, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	keys, err := loadOrCreate(c)
	if err != nil {
		return nil, err
	}
	p := &Platform{
		dir: c.Dir, now: c.Now, rand: c.Rand, pki: keys,
		quoting:      make(map[attest.TEE]*quoter),
		slots:        make(chan struct{}, maxConnections),
		hashSlots:    make(chan struct{}, maxHashing),
		endorsements: make(map[attest.TEE]issuedSet),
	}
	for _, cert := range []*x509.Certificate{keys.pck.cert, keys.ca.cert, keys.root.cert} {
		p.chain = append(p.chain, encodePEM(cert)...)
	}
	for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		if p.quoting[tee], err = newQuoter(c.Rand, tee, keys.pck.key); err != nil {
			return nil, fmt.Errorf("making the quoting enclave of %s: %w", tee, err)
		}
	}
	return p, nil
}

// Root returns the root that verifies this platform's evidence.
func (p *Platform) Root() *x509.Certificate { return p.pki.root.cert }

// RootPEM returns the root as PEM.
func (p *Platform) RootPEM() []byte { return encodePEM(p.pki.root.cert) }

func encodePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Measurement is what a quote says about software; attest.SimReference says
// which register holds what.
type Measurement struct {
	Program, Agent attest.Hex            // SHA-256 each
	Files          map[string]attest.Hex // SHA-256 by name
}

// InsecureIssuer makes evidence for a measurement that it is told.
type InsecureIssuer struct {
	platform    *Platform
	tee         attest.TEE
	measurement Measurement
}

// NewInsecureIssuer returns an issuer that vouches for any measurement without
// looking at any program. It is for tests and benchmarks only; Serve measures.
func (p *Platform) NewInsecureIssuer(tee attest.TEE, m Measurement) *InsecureIssuer {
	return &InsecureIssuer{platform: p, tee: tee, measurement: m}
}

// TEE implements attest.Issuer.
func (i *InsecureIssuer) TEE() attest.TEE { return i.tee }

// Issue implements attest.Issuer.
func (i *InsecureIssuer) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return attest.Evidence{}, err
	}
	m, err := i.platform.current()
	if err != nil {
		return attest.Evidence{}, err
	}
	return i.platform.quote(i.tee, i.measurement, b, m)
}

// Endorse returns the endorsements that a piece of evidence is judged with now.
func (p *Platform) Endorse(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	if err := ctx.Err(); err != nil {
		return attest.Endorsements{}, err
	}
	return p.Endorsements(e.TEE)
}

// newKey makes an ECDSA P-256 key.
func newKey(r io.Reader) (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), r)
}

// signRaw signs SHA-256 of msg; the signature is r and s, 32 bytes each, big
// endian, as in quotes and signed collateral.
func signRaw(r io.Reader, key *ecdsa.PrivateKey, msg []byte) ([]byte, error) {
	sum := sha256.Sum256(msg)
	x, y, err := ecdsa.Sign(r, key, sum[:])
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	x.FillBytes(out[:32])
	y.FillBytes(out[32:])
	return out, nil
}
