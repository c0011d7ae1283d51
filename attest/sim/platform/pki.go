package platform

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/durable"
)

// Names of files in Config.Dir.
const (
	stateFile        = "platform.json"
	rootFile         = "root.pem"
	misbehaviourFile = "misbehaviour.json"
)

const certificateLife = 10 * 365 * 24 * time.Hour

// identity is a certificate and its key.
type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// pki is everything about a platform that must survive a restart.
type pki struct {
	root, ca, pck, signer identity
	sealSecret            []byte // 32 bytes
}

// state is platform.json. It holds private keys of no worth outside of the
// simulation, in clear, for its owner's eyes only.
type state struct {
	Version    int                       `json:"version"` // 1
	Identities map[string]storedIdentity `json:"identities"`
	SealSecret []byte                    `json:"sealSecret"`
}

type storedIdentity struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8 DER
}

func (k *pki) identities() map[string]*identity {
	return map[string]*identity{"root": &k.root, "ca": &k.ca, "pck": &k.pck, "signer": &k.signer}
}

func loadOrCreate(c Config) (*pki, error) {
	if c.Dir == "" {
		return makePKI(c)
	}
	raw, err := os.ReadFile(filepath.Join(c.Dir, stateFile))
	switch {
	case err == nil:
		k, err := parseState(raw)
		if err != nil {
			return nil, err
		}
		return k, k.writeRoot(c.Dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the simulated platform: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the simulated platform: %w", err)
	}
	if err := checkVacant(c.Dir); err != nil {
		return nil, err
	}
	k, err := makePKI(c)
	if err != nil {
		return nil, err
	}
	if raw, err = k.marshal(); err != nil {
		return nil, err
	}
	if err := durable.CreateFile(filepath.Join(c.Dir, stateFile), raw, 0o600); err != nil {
		return nil, fmt.Errorf("writing the simulated platform: %w", err)
	}
	return k, k.writeRoot(c.Dir)
}

func (k *pki) writeRoot(dir string) error {
	if err := durable.WriteFile(filepath.Join(dir, rootFile), encodePEM(k.root.cert), 0o644); err != nil {
		return fmt.Errorf("writing the root of the simulated platform: %w", err)
	}
	return nil
}

// checkVacant refuses a folder that holds something: its platform may be lost,
// and a new one would be another machine. Sockets, orders to misbehave and what
// an interrupted creation leaves do not count.
func checkVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the folder of the simulated platform: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if e.Type()&fs.ModeSocket != 0 || name == misbehaviourFile || strings.HasPrefix(name, ".") {
			continue
		}
		return fmt.Errorf("folder %s holds %q but no %s: give the platform a folder of its own, or restore the file",
			dir, name, stateFile)
	}
	return nil
}

func parseState(raw []byte) (*pki, error) {
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("reading %s: %w", stateFile, err)
	}
	if s.Version != 1 || len(s.SealSecret) != 32 {
		return nil, fmt.Errorf("reading %s: version %d with a secret of %d bytes, want 1 and 32", stateFile, s.Version, len(s.SealSecret))
	}
	k := &pki{sealSecret: s.SealSecret}
	for name, id := range k.identities() {
		cert, err := x509.ParseCertificate(s.Identities[name].Certificate)
		if err != nil {
			return nil, fmt.Errorf("reading certificate %q of %s: %w", name, stateFile, err)
		}
		key, err := x509.ParsePKCS8PrivateKey(s.Identities[name].Key)
		if err != nil {
			return nil, fmt.Errorf("reading key %q of %s: malformed", name, stateFile)
		}
		ec, ok := key.(*ecdsa.PrivateKey)
		if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
			return nil, fmt.Errorf("reading %s: key %q is not its certificate's", stateFile, name)
		}
		*id = identity{cert, ec}
	}
	return k, nil
}

func (k *pki) marshal() ([]byte, error) {
	s := state{Version: 1, Identities: make(map[string]storedIdentity), SealSecret: k.sealSecret}
	for name, id := range k.identities() {
		key, err := x509.MarshalPKCS8PrivateKey(id.key)
		if err != nil {
			return nil, fmt.Errorf("encoding key %q: %w", name, err)
		}
		s.Identities[name] = storedIdentity{Certificate: id.cert.Raw, Key: key}
	}
	return json.Marshal(s)
}

// makePKI makes a vendor with its first machine, or another machine of a vendor.
func makePKI(c Config) (*pki, error) {
	if c.Vendor == "" {
		return newPKI(c.Rand, c.Now())
	}
	raw, err := os.ReadFile(filepath.Join(c.Vendor, stateFile))
	if err != nil {
		return nil, fmt.Errorf("reading the vendor's platform: %w", err)
	}
	k, err := parseState(raw)
	if err != nil {
		return nil, err
	}
	ppid := make([]byte, 16)
	if _, err := io.ReadFull(c.Rand, ppid); err != nil {
		return nil, err
	}
	return k, k.newMachine(c.Rand, c.Now(), ppid)
}

// certificate says what a certificate of the PKI is, and who issues it.
type certificate struct {
	id, issuer *identity
	name       string
	usage      x509.KeyUsage
	extra      []pkix.Extension
}

// newPKI makes a vendor: root, PCK platform CA, TCB signer, and its first machine.
func newPKI(r io.Reader, now time.Time) (*pki, error) {
	k := &pki{}
	const ca = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	err := issueAll(r, now,
		certificate{&k.root, &k.root, "Root CA", ca, nil},
		certificate{&k.ca, &k.root, "PCK Platform CA", ca, nil},
		certificate{&k.signer, &k.root, "TCB Signing", x509.KeyUsageDigitalSignature, nil})
	if err != nil {
		return nil, err
	}
	return k, k.newMachine(r, now, []byte("SIMULATION PPID."))
}

// newMachine makes a machine's sealing secret, and its PCK certificate with the
// fields of Intel's "SGX PCK Certificate and CRL Profile Specification".
func (k *pki) newMachine(r io.Reader, now time.Time, ppid []byte) error {
	k.sealSecret = make([]byte, 32)
	if _, err := io.ReadFull(r, k.sealSecret); err != nil {
		return err
	}
	extension, err := pckExtension(ppid)
	if err != nil {
		return err
	}
	return issueAll(r, now, certificate{&k.pck, &k.ca, "PCK Certificate", x509.KeyUsageDigitalSignature, []pkix.Extension{extension}})
}

func issueAll(r io.Reader, now time.Time, all ...certificate) error {
	for _, step := range all {
		template := &x509.Certificate{
			Subject:               pkix.Name{CommonName: sim.Names + " " + step.name, Organization: []string{"SIMULATION, not Intel"}},
			NotBefore:             now.Add(-24 * time.Hour),
			NotAfter:              now.Add(certificateLife),
			KeyUsage:              step.usage,
			BasicConstraintsValid: true,
			IsCA:                  step.usage&x509.KeyUsageCertSign != 0,
			CRLDistributionPoints: []string{"https://simulation.invalid/root.crl"},
			ExtraExtensions:       step.extra,
		}
		if err := step.id.issue(r, template, step.issuer); err != nil {
			return fmt.Errorf("making certificate %q: %w", template.Subject.CommonName, err)
		}
	}
	return nil
}

// issue makes a key and has issuer, which may be id itself, certify it.
func (id *identity) issue(r io.Reader, template *x509.Certificate, issuer *identity) error {
	key, err := newKey(r)
	if err != nil {
		return err
	}
	id.key = key
	serial := make([]byte, 16)
	if _, err := io.ReadFull(r, serial); err != nil {
		return err
	}
	serial[0] = serial[0]&0x7f | 0x40
	template.SerialNumber = new(big.Int).SetBytes(serial)
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(spki)
	template.SubjectKeyId = sum[:20]
	parent := template
	if issuer != id {
		parent = issuer.cert
	} else {
		template.AuthorityKeyId = template.SubjectKeyId
	}
	der, err := x509.CreateCertificate(r, template, parent, &key.PublicKey, issuer.key)
	if err != nil {
		return err
	}
	id.cert, err = x509.ParseCertificate(der)
	return err
}

// What the PCK certificate says of the platform.
var (
	fmspc  = []byte{'S', 'I', 'M', 0, 0, 1}
	pceID  = []byte{0, 0}
	cpuSVN = []byte{5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}
)

const pceSVN = 9

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// pckExtension encodes the SGX extension of the PCK certificate.
func pckExtension(ppid []byte) (pkix.Extension, error) {
	oid := func(tail ...int) asn1.ObjectIdentifier {
		return append(append(asn1.ObjectIdentifier{}, oidSGX...), tail...)
	}
	var tcb []attribute
	for i, svn := range cpuSVN {
		tcb = append(tcb, attribute{oid(2, i+1), int(svn)})
	}
	tcb = append(tcb, attribute{oid(2, 17), pceSVN}, attribute{oid(2, 18), cpuSVN})
	value, err := asn1.Marshal([]attribute{
		{oid(1), ppid},
		{oid(2), tcb},
		{oid(3), pceID},
		{oid(4), fmspc},
		{oid(5), asn1.Enumerated(1)}, // scalable
		{oid(6), []byte("SIMULATED DEVICE")},
		{oid(7), []attribute{{oid(7, 1), true}, {oid(7, 2), true}, {oid(7, 3), true}}},
	})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encoding the SGX extension: %w", err)
	}
	return pkix.Extension{Id: oidSGX, Value: value}, nil
}
