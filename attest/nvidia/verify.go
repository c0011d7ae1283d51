package nvidia

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

var (
	fixReport = attest.Fix{Who: attest.Nobody, How: "the evidence is forged or damaged: ask the GPU for a new report"}
	fixClock  = attest.Fix{Who: attest.Operator, How: "check the clock"}
	fixGPU    = attest.Fix{Who: attest.HostOwner, How: "reset the GPU, so that it boots the firmware that its certificate was made for"}
)

// chain is a certificate chain whose signatures hold.
type chain struct {
	key          *ecdsa.PublicKey // of the leaf, P-384
	name         string
	serial       string
	architecture string
	fwids        [][]byte // SHA-384 digests in the leaf's DICE extension
	valid        pki.Window
}

// run is one verification.
type run struct {
	v      *Verifier
	steps  []attest.Step
	doc    document
	report *report
	chain  *chain // nil if it does not hold
}

func (r *run) check(s attest.Step, err error) bool {
	r.steps = append(r.steps, s.Outcome(err))
	return err == nil
}

// Verify implements attest.Verifier. Evidence that does not parse gives no
// claims. It uses no endorsements.
func (v *Verifier) Verify(e attest.Evidence, _ attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	r := &run{v: v}
	if !r.parse(e.Raw) {
		return attest.Claims{TEE: attest.NVIDIA}, r.steps
	}
	r.certificates()
	r.signature()
	if r.chain != nil {
		var err error
		if !r.chain.valid.Contains(at) {
			err = fmt.Errorf("%s at %s", r.chain.valid, pki.Stamp(at))
		}
		r.check(attest.Step{Code: attest.CodeCertWindow, Field: "device.validity", Want: "certificates valid at " + pki.Stamp(at),
			Got: r.chain.valid.String(), Source: "GPU certificate", Fix: fixClock}, err)
		r.firmware()
		r.check(attest.Step{Code: attest.CodeOtherPlatform, Field: "report.label", Want: "what the report and its certificate say", Got: "the same",
			Source: "evidence", Fix: fixReport}, r.doc.agrees(r.report, r.chain.architecture))
	}
	return r.claims(), r.steps
}

func (r *run) parse(raw []byte) bool {
	s := attest.Step{Code: attest.CodeFormat, Field: "report.format", Want: "an SPDM 1.1 report of one GPU", Source: "evidence", Fix: fixReport}
	doc, err := document{}, fmt.Errorf("larger than %d bytes", attest.MaxEvidence)
	if len(raw) <= attest.MaxEvidence {
		doc, err = decode(raw)
	}
	if err == nil {
		r.doc = doc
		r.report, err = parse(doc.Evidence)
	}
	if errors.Is(err, errVersion) {
		s.Code, s.Field = attest.CodeVersion, "report.version"
	}
	if err == nil {
		s.Got = fmt.Sprintf("%d measurements", len(r.report.measurements))
	}
	return r.check(s, err)
}

// certificates verifies the chain up to the pinned root.
func (r *run) certificates() {
	key := sha256.Sum256(r.doc.Certificate)
	c, known := r.v.chains.Get(key)
	var err error
	if !known {
		if c, err = r.v.verifyChain(r.doc.Certificate); err == nil {
			r.v.chains.Put(key, c)
		}
	}
	s := attest.Step{Code: attest.CodeChain, Field: "device.chain", Want: "chain to the pinned " + r.v.root.Subject.CommonName,
		Source: r.v.root.Subject.CommonName, Fix: fixReport}
	if err == nil {
		r.chain, s.Got = c, c.name
	}
	r.check(s, err)
}

// verifyChain verifies a PEM chain, leaf first. A root at its end counts only if
// it has the pinned key.
func (v *Verifier) verifyChain(data []byte) (*chain, error) {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	if last := certs[len(certs)-1]; bytes.Equal(last.RawSubjectPublicKeyInfo, v.root.RawSubjectPublicKeyInfo) {
		certs = certs[:len(certs)-1]
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate below the root")
	}
	certs = append(certs, v.root)
	for i, c := range certs[:len(certs)-1] {
		if err := pki.Issued(c, certs[i+1], i > 0); err != nil {
			return nil, err
		}
	}
	leaf := certs[0]
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, fmt.Errorf("the key of %q is not ECDSA P-384", leaf.Subject.CommonName)
	}
	// NVIDIA certifies switches under the same root, and they report alike.
	if architecture(leaf.Subject.CommonName) == "" {
		return nil, fmt.Errorf("%q is no GPU of Hopper or Blackwell", leaf.Subject.CommonName)
	}
	return &chain{key: key, name: leaf.Subject.CommonName, serial: leaf.SerialNumber.Text(16), architecture: architecture(leaf.Subject.CommonName),
		fwids: fwids(leaf), valid: pki.Validity(leaf, certs[1:]...)}, nil
}

// architecture reads a GPU's family from the chip that its certificate names.
func architecture(name string) string {
	switch {
	case strings.HasPrefix(name, "GH1"):
		return "Hopper"
	case strings.HasPrefix(name, "GB1"), strings.HasPrefix(name, "GB2"):
		return "Blackwell"
	}
	return ""
}

// Extensions of TCG's DICE that say which firmware the key was derived with:
// one digest in Hopper's form, a list of them in DiceTcbInfo.
var diceExtensions = []asn1.ObjectIdentifier{{2, 23, 133, 5, 4, 1}, {2, 23, 133, 5, 4, 1, 1}}

// fwidPrefix begins the DER of a FWID: the OID of SHA-384 and an OCTET STRING of
// 48 bytes.
var fwidPrefix = []byte{0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x04, digestSize}

func fwids(leaf *x509.Certificate) [][]byte {
	var found [][]byte
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(diceExtensions[0]) && !e.Id.Equal(diceExtensions[1]) {
			continue
		}
		for rest := e.Value; ; {
			i := bytes.Index(rest, fwidPrefix)
			if i < 0 || len(rest) < i+len(fwidPrefix)+digestSize {
				break
			}
			rest = rest[i+len(fwidPrefix):]
			found = append(found, rest[:digestSize])
		}
	}
	return found
}

// signature checks that the GPU signed request and response.
func (r *run) signature() {
	if r.chain == nil {
		return
	}
	sum := sha512.Sum384(r.report.signed)
	half := signatureSize / 2
	rr, ss := new(big.Int).SetBytes(r.report.signature[:half]), new(big.Int).SetBytes(r.report.signature[half:])
	var err error
	if !ecdsa.Verify(r.chain.key, sum[:], rr, ss) {
		err = errors.New("does not hold")
	}
	r.check(attest.Step{Code: attest.CodeQuoteSignature, Field: "report.signature", Want: "signed by the GPU's key", Got: "holds", Source: "report", Fix: fixReport}, err)
}

// firmware checks that the firmware that signed is the one that its key was
// certified for.
func (r *run) firmware() {
	var err error
	match := false
	for _, id := range r.chain.fwids {
		match = match || bytes.Equal(id, r.report.fwid)
	}
	got := attest.Hex(r.report.fwid).String()
	switch {
	case len(r.report.fwid) == 0:
		err = errors.New("the report names no firmware")
	case !match:
		err = errors.New(got)
	}
	want := "no firmware: the certificate names none"
	if len(r.chain.fwids) > 0 {
		want = attest.Hex(r.chain.fwids[0]).String()
	}
	r.check(attest.Step{Code: attest.CodeDeviceFirmware, Field: "report.fwid", Want: want, Got: got, Source: "GPU certificate", Fix: fixGPU}, err)
}

func (r *run) claims() attest.Claims {
	c := attest.Claims{TEE: attest.NVIDIA, ReportData: make(attest.Hex, len(attest.Binding{})),
		GPU: &attest.GPUClaims{Nonce: bytes.Clone(r.report.nonce), Driver: r.report.driver, VBIOS: r.report.vbios, Measurements: r.report.measurements}}
	copy(c.ReportData, r.report.nonce)
	if r.chain != nil {
		c.GPU.Architecture, c.GPU.Serial, c.TCB.NotAfter = r.chain.architecture, r.chain.serial, r.chain.valid.Until
	}
	return c
}
