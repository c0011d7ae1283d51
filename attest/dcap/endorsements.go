package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// Limits of endorsements, in bytes. Real documents are below 20 KB and real
// CRLs below 100 KB.
const (
	maxDocument = 1 << 20
	maxChain    = 64 << 10
)

// level is one TCB level of a TCB info or an identity, newest first in its
// document.
type level struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		TDX    []component `json:"tdxtcbcomponents"`
		PCESVN *uint16     `json:"pcesvn"`
		ISVSVN *uint16     `json:"isvsvn"`
	} `json:"tcb"`
	Date       string           `json:"tcbDate"`
	Status     attest.TCBStatus `json:"tcbStatus"`
	Advisories []string         `json:"advisoryIDs"`
}

// component is one SVN of a level. Intel names those that it documents.
type component struct {
	SVN      uint8  `json:"svn"`
	Category string `json:"category"` // "BIOS", "OS/VMM"
	Type     string `json:"type"`     // "Early Microcode Update"
}

// header is common to TCB info and QE identity.
type header struct {
	ID         string    `json:"id"`
	Version    int       `json:"version"`
	IssueDate  time.Time `json:"issueDate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Evaluation uint32    `json:"tcbEvaluationDataNumber"`
}

func (h header) valid() pki.Window { return pki.Window{From: h.IssueDate, Until: h.NextUpdate} }

func (h header) check(id string, version int) error {
	switch {
	case h.Version != version:
		return fmt.Errorf("version %d instead of %d", h.Version, version)
	case h.ID != id:
		return fmt.Errorf("of %q, not of %q: %w", h.ID, id, errOtherTEE)
	case h.IssueDate.IsZero() || h.NextUpdate.IsZero():
		return errors.New("issueDate or nextUpdate is missing")
	}
	return nil
}

var errOtherTEE = errors.New("for another TEE")

// tcbInfo is Intel's TCB info version 3 (PCS API v4, "Get SGX/TDX TCB Info").
type tcbInfo struct {
	header
	FMSPC   attest.Hex       `json:"fmspc"`
	PCEID   attest.Hex       `json:"pceId"`
	TCBType int              `json:"tcbType"`
	Module  *moduleIdentity  `json:"tdxModule"`
	Modules []moduleIdentity `json:"tdxModuleIdentities"`
	Levels  []level          `json:"tcbLevels"`
}

// moduleIdentity is what a TDX module of one major version must be.
type moduleIdentity struct {
	ID         string     `json:"id"` // "TDX_01"
	Signer     attest.Hex `json:"mrsigner"`
	Attributes attest.Hex `json:"attributes"`
	Mask       attest.Hex `json:"attributesMask"`
	Levels     []level    `json:"tcbLevels"`
}

// qeIdentity is Intel's enclave identity version 2 of a quoting enclave.
type qeIdentity struct {
	header
	MiscSelect     attest.Hex `json:"miscselect"`
	MiscSelectMask attest.Hex `json:"miscselectMask"`
	Attributes     attest.Hex `json:"attributes"`
	AttributesMask attest.Hex `json:"attributesMask"`
	Signer         attest.Hex `json:"mrsigner"`
	ProductID      uint16     `json:"isvprodid"`
	Levels         []level    `json:"tcbLevels"`
}

// signed returns the member of a document as served, after checking that the
// signer signed its bytes. The signature is r and s in hexadecimal.
func signed(body []byte, name string, signer *x509.Certificate) ([]byte, error) {
	var sig attest.Hex
	if err := json.Unmarshal(member(body, "signature"), &sig); err != nil || len(sig) != signatureSize {
		return nil, errors.New("no signature of 64 bytes")
	}
	data := member(body, name)
	if data == nil {
		return nil, fmt.Errorf("no member %q", name)
	}
	if !verifyP256(signer.PublicKey.(*ecdsa.PublicKey), data, sig) {
		return nil, errors.New("the signature does not hold")
	}
	return data, nil
}

// member returns the bytes of a member of a JSON object, nil if there is none.
func member(body []byte, name string) []byte {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil
	}
	return doc[name]
}

// verifyP256 checks an ECDSA signature over SHA-256 of data; sig is r and s,
// 32 bytes each, big endian.
func verifyP256(key *ecdsa.PublicKey, data, sig []byte) bool {
	sum := sha256.Sum256(data)
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	return ecdsa.Verify(key, sum[:], r, s)
}

func parseTCBInfo(data []byte, shape attest.TEE) (*tcbInfo, error) {
	var t tcbInfo
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, err
	}
	id := map[attest.TEE]string{attest.SGX: "SGX", attest.TDX: "TDX"}[shape]
	if err := t.check(id, 3); err != nil {
		return nil, err
	}
	if len(t.FMSPC) != 6 || len(t.PCEID) != 2 || t.TCBType != 0 {
		return nil, errors.New("fmspc, pceId or tcbType is not of version 3")
	}
	for i, l := range t.Levels {
		if len(l.TCB.SGX) != components || l.TCB.PCESVN == nil || l.Status == "" || shape == attest.TDX && len(l.TCB.TDX) != components {
			return nil, fmt.Errorf("TCB level %d is incomplete", i)
		}
	}
	if shape != attest.TDX {
		return &t, nil
	}
	if t.Module == nil {
		return nil, errors.New("no tdxModule")
	}
	for _, m := range append([]moduleIdentity{*t.Module}, t.Modules...) {
		if len(m.Signer) != 48 || len(m.Attributes) != 8 || len(m.Mask) != 8 {
			return nil, fmt.Errorf("identity of TDX module %q is incomplete", m.ID)
		}
		if err := checkLevels(m.Levels); err != nil {
			return nil, fmt.Errorf("TDX module %q: %w", m.ID, err)
		}
	}
	return &t, nil
}

func parseQEIdentity(data []byte, shape attest.TEE) (*qeIdentity, error) {
	var q qeIdentity
	if err := json.Unmarshal(data, &q); err != nil {
		return nil, err
	}
	id := map[attest.TEE]string{attest.SGX: "QE", attest.TDX: "TD_QE"}[shape]
	if err := q.check(id, 2); err != nil {
		return nil, err
	}
	if len(q.MiscSelect) != 4 || len(q.MiscSelectMask) != 4 || len(q.Attributes) != 16 || len(q.AttributesMask) != 16 || len(q.Signer) != 32 {
		return nil, errors.New("a field has the wrong size")
	}
	return &q, checkLevels(q.Levels)
}

// checkLevels checks levels that are told apart by ISVSVN.
func checkLevels(levels []level) error {
	for i, l := range levels {
		if l.TCB.ISVSVN == nil || l.Status == "" {
			return fmt.Errorf("TCB level %d is incomplete", i)
		}
	}
	return nil
}

// masked reports whether value equals want in the bits of mask.
func masked(value, mask, want []byte) bool {
	if len(value) != len(mask) || len(value) != len(want) {
		return false
	}
	for i := range value {
		if value[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// mismatch names the first field in which a quoting enclave's report differs
// from its identity; "" if none does.
func (q *qeIdentity) mismatch(r sgxReport) (field, want, got string) {
	switch {
	case !bytes.Equal(r.signerID(), q.Signer):
		return "qe.signerID", q.Signer.String(), hex.EncodeToString(r.signerID())
	case r.productID() != q.ProductID:
		return "qe.productID", fmt.Sprint(q.ProductID), fmt.Sprint(r.productID())
	case !masked(r.attributes(), q.AttributesMask, q.Attributes):
		return "qe.attributes", q.Attributes.String() + " under " + q.AttributesMask.String(), hex.EncodeToString(r.attributes())
	case !masked(r.miscSelect(), q.MiscSelectMask, q.MiscSelect):
		return "qe.miscSelect", q.MiscSelect.String() + " under " + q.MiscSelectMask.String(), hex.EncodeToString(r.miscSelect())
	}
	return "", "", ""
}
