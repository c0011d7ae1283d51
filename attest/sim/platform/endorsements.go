package platform

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

const (
	endorsementLife  = 30 * 24 * time.Hour
	reissueAfter     = 12 * time.Hour
	evaluationNumber = 20
)

// endorsementKey is what the content of a set depends on besides the time.
type endorsementKey struct {
	revoked       bool
	stale, future bool
	late          bool
	evaluation    int
	status        attest.TCBStatus
	advisories    string
}

// issuedSet is what was issued last for a TEE.
type issuedSet struct {
	key endorsementKey
	at  time.Time
	set attest.Endorsements
}

// Endorsements returns what the simulated vendor says now about evidence of a
// TEE: TCB info, QE identity and the CRLs, each with the chain of its signer.
// They are valid for 30 days and the same bytes for 12 hours, unless what they
// say changes: then they are issued anew, since nobody goes back to older ones.
func (p *Platform) Endorsements(tee attest.TEE) (attest.Endorsements, error) {
	m, err := p.current()
	if err != nil {
		return attest.Endorsements{}, err
	}
	if _, ok := p.quoting[tee]; !ok {
		return attest.Endorsements{}, fmt.Errorf("no endorsements of TEE %.32q: want %q or %q", tee, attest.SimSGX, attest.SimTDX)
	}
	key := endorsementKey{
		revoked: m.RevokedPCK, stale: m.StaleEndorsements, future: m.FutureEndorsements, late: m.LateCRL, evaluation: m.EvaluationNumber,
		status: m.TCBStatus, advisories: strings.Join(m.Advisories, "\n"),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now().UTC()
	if s, ok := p.endorsements[tee]; ok && s.key == key && !now.Before(s.at) && now.Sub(s.at) < reissueAfter {
		return s.set, nil
	}
	set, err := p.issueEndorsements(tee, m, now)
	if err != nil {
		return attest.Endorsements{}, err
	}
	p.endorsements[tee] = issuedSet{key, now, set}
	return set, nil
}

func (p *Platform) issueEndorsements(tee attest.TEE, m Misbehaviour, now time.Time) (attest.Endorsements, error) {
	issued := now.Add(-time.Hour).Truncate(time.Second)
	next := issued.Add(endorsementLife)
	switch {
	case m.StaleEndorsements:
		issued, next = issued.Add(-endorsementLife), now.Add(-time.Hour).Truncate(time.Second)
	case m.FutureEndorsements:
		issued, next = now.Add(time.Hour).Truncate(time.Second), next.Add(endorsementLife)
	}
	window := documentWindow{
		Issued: issued.Format(time.RFC3339), Next: next.Format(time.RFC3339), Evaluation: cmp.Or(m.EvaluationNumber, evaluationNumber),
	}
	crlIssued, crlNext := issued, next
	if m.LateCRL {
		crlIssued, crlNext = issued.Add(-endorsementLife), now.Add(-time.Hour).Truncate(time.Second)
	}
	signers := slices.Concat(encodePEM(p.pki.signer.cert), p.RootPEM())
	tcb, err := p.sign("tcbInfo", newTCBInfo(tee, m, window))
	if err != nil {
		return attest.Endorsements{}, err
	}
	qe, err := p.sign("enclaveIdentity", newQEIdentity(tee, window))
	if err != nil {
		return attest.Endorsements{}, err
	}
	var revoked []x509.RevocationListEntry
	if m.RevokedPCK {
		revoked = append(revoked, x509.RevocationListEntry{SerialNumber: p.pki.pck.cert.SerialNumber, RevocationTime: issued})
	}
	pckCRL, err := p.crl(p.pki.ca, crlIssued, crlNext, revoked)
	if err != nil {
		return attest.Endorsements{}, err
	}
	rootCRL, err := p.crl(p.pki.root, crlIssued, crlNext, nil)
	if err != nil {
		return attest.Endorsements{}, err
	}
	return attest.NewEndorsements(
		attest.Endorsement{Kind: attest.KindTCBInfo, Body: tcb, Chain: signers},
		attest.Endorsement{Kind: attest.KindQEIdentity, Body: qe, Chain: signers},
		attest.Endorsement{Kind: attest.KindPCKCRL, Body: pckCRL, Chain: slices.Concat(encodePEM(p.pki.ca.cert), p.RootPEM())},
		attest.Endorsement{Kind: attest.KindRootCRL, Body: rootCRL},
	), nil
}

func (p *Platform) crl(issuer identity, issued, next time.Time, revoked []x509.RevocationListEntry) ([]byte, error) {
	der, err := x509.CreateRevocationList(p.rand, &x509.RevocationList{
		Number: big.NewInt(issued.Unix()), ThisUpdate: issued, NextUpdate: next, RevokedCertificateEntries: revoked,
	}, issuer.cert, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("signing the CRL of %q: %w", issuer.cert.Subject.CommonName, err)
	}
	return der, nil
}

// sign wraps a document as Intel's PCS serves it: {"<name>":document,
// "signature":"hex of r and s over the document's bytes"}.
func (p *Platform) sign(name string, document any) ([]byte, error) {
	body, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", name, err)
	}
	signature, err := signRaw(p.rand, p.pki.signer.key, body)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", name, err)
	}
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, name, body, signature), nil
}

// documentWindow is what TCB info and QE identity have in common.
type documentWindow struct {
	Issued     string `json:"issueDate"`
	Next       string `json:"nextUpdate"`
	Evaluation int    `json:"tcbEvaluationDataNumber"`
}

// tcbInfo is TCB info version 3 (Intel PCS API version 4).
type tcbInfo struct {
	ID      string `json:"id"`
	Version int    `json:"version"`
	documentWindow
	FMSPC            string           `json:"fmspc"`
	PCEID            string           `json:"pceId"`
	TCBType          int              `json:"tcbType"`
	Module           *module          `json:"tdxModule,omitempty"`
	ModuleIdentities []moduleIdentity `json:"tdxModuleIdentities,omitempty"`
	Levels           []level          `json:"tcbLevels"`
}

type module struct {
	Signer         string `json:"mrsigner"`
	Attributes     string `json:"attributes"`
	AttributesMask string `json:"attributesMask"`
}

type moduleIdentity struct {
	ID string `json:"id"`
	module
	Levels []level `json:"tcbLevels"`
}

type level struct {
	TCB        tcb              `json:"tcb"`
	Date       string           `json:"tcbDate"`
	Status     attest.TCBStatus `json:"tcbStatus"`
	Advisories []string         `json:"advisoryIDs,omitempty"`
}

type tcb struct {
	SGX    []component `json:"sgxtcbcomponents,omitempty"`
	PCESVN int         `json:"pcesvn,omitempty"`
	TDX    []component `json:"tdxtcbcomponents,omitempty"`
	ISVSVN int         `json:"isvsvn,omitempty"`
}

type component struct {
	SVN byte `json:"svn"`
}

const tcbDate = "2026-01-01T00:00:00Z"

func newTCBInfo(tee attest.TEE, m Misbehaviour, w documentWindow) tcbInfo {
	status := m.TCBStatus
	if status == "" {
		status = attest.UpToDate
	}
	l := level{TCB: tcb{PCESVN: pceSVN}, Date: tcbDate, Status: status, Advisories: m.Advisories}
	for _, svn := range cpuSVN {
		l.TCB.SGX = append(l.TCB.SGX, component{svn})
	}
	info := tcbInfo{
		ID: "SGX", Version: 3, documentWindow: w, FMSPC: hex.EncodeToString(fmspc), PCEID: hex.EncodeToString(pceID),
	}
	if tee == attest.SimTDX {
		info.ID = "TDX"
		l.TCB.TDX = make([]component, 16) // the module's own two bytes are judged by its identity
		for i := 2; i < 16; i++ {
			l.TCB.TDX[i].SVN = tdComponentSVN
		}
		of := module{Signer: strings.Repeat("00", 48), Attributes: strings.Repeat("00", 8), AttributesMask: strings.Repeat("FF", 8)}
		info.Module = &of
		info.ModuleIdentities = []moduleIdentity{{
			ID: fmt.Sprintf("TDX_%02x", moduleVersion), module: of,
			Levels: []level{{TCB: tcb{ISVSVN: moduleSVN}, Date: tcbDate, Status: attest.UpToDate}},
		}}
	}
	info.Levels = []level{l}
	return info
}

// qeIdentity is QE identity version 2 (Intel PCS API version 4).
type qeIdentity struct {
	ID      string `json:"id"`
	Version int    `json:"version"`
	documentWindow
	MiscSelect     string  `json:"miscselect"`
	MiscSelectMask string  `json:"miscselectMask"`
	Attributes     string  `json:"attributes"`
	AttributesMask string  `json:"attributesMask"`
	Signer         string  `json:"mrsigner"`
	ProdID         uint16  `json:"isvprodid"`
	Levels         []level `json:"tcbLevels"`
}

func newQEIdentity(tee attest.TEE, w documentWindow) qeIdentity {
	id := "QE"
	if tee == attest.SimTDX {
		id = "TD_QE"
	}
	return qeIdentity{
		ID: id, Version: 2, documentWindow: w,
		MiscSelect: "00000000", MiscSelectMask: "FFFFFFFF",
		Attributes: "15000000000000000000000000000000", AttributesMask: "FFFFFFFFFFFFFFFF0000000000000000",
		Signer: strings.ToUpper(hex.EncodeToString(qeSigner[:])), ProdID: qeProdID[tee],
		Levels: []level{{TCB: tcb{ISVSVN: qeSVN}, Date: tcbDate, Status: attest.UpToDate}},
	}
}
