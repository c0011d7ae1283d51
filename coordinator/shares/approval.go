package shares

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	approvalLabel = "ashlar recovery approval v1\x00"
	maxSession    = 4 << 10 // bytes
	// MaxSkew is how far a holder's clock may be from the coordinator's.
	MaxSkew = 10 * time.Minute
)

var pss = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}

// approval returns what a holder signs: the label, SHA-256 of the session,
// index (4 bytes, big endian), SHA-256 of the encrypted share, seconds since
// 1970 (8 bytes, big endian).
func approval(index int, m apiv1.RecoveryShare) []byte {
	sum := sha256.Sum256(m.Sealed)
	b := append([]byte(approvalLabel), m.Session...)
	b = binary.BigEndian.AppendUint32(b, uint32(index))
	b = append(b, sum[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(m.Time.Unix()))
}

// Holder is what a person has who holds a share.
type Holder struct {
	User   string
	Key    PrivateKey    // opens the share
	Signer crypto.Signer // the key of the user's certificate
	Random io.Reader
}

// Approve decrypts the holder's share of a document and makes the message that
// gives it to a session. The caller has judged the evidence that binds the
// session. Errors: REC-011 to REC-014, REC-016.
func (h Holder) Approve(d apiv1.RecoveryDocument, session []byte, at time.Time) (apiv1.RecoveryShare, error) {
	var m apiv1.RecoveryShare
	s, to, err := ParseSession(session)
	if err != nil {
		return m, err
	}
	i := slices.IndexFunc(d.Holders, func(x apiv1.RecoveryHolder) bool { return x.User == h.User })
	if i < 0 {
		return m, problem.New("REC-012", "%s is not among the holders of generation %d", h.User, d.Generation)
	}
	share, err := h.Key.Open(d.Holders[i].Share)
	if err != nil {
		return m, err
	}
	if err := share.Of(s, i+1); err != nil {
		return m, err
	}
	if err := share.Verify(d.Commitments); err != nil {
		return m, err
	}
	if m.Sealed, err = share.Seal(h.Random, to); err != nil {
		return m, err
	}
	sum := sha256.Sum256(session)
	m.User, m.Session, m.Time = h.User, sum[:], at.UTC().Truncate(time.Second)
	message := approval(i+1, m)
	digest := sha256.Sum256(message)
	switch h.Signer.Public().(type) {
	case ed25519.PublicKey:
		m.Signature, err = h.Signer.Sign(h.Random, message, crypto.Hash(0))
	case *rsa.PublicKey:
		m.Signature, err = h.Signer.Sign(h.Random, digest[:], pss)
	default:
		m.Signature, err = h.Signer.Sign(h.Random, digest[:], crypto.SHA256)
	}
	if err != nil {
		return m, problem.Because(err, "REC-017", "signing as %s", h.User)
	}
	return m, nil
}

// Of checks that a share is the one of a number that a session is for; REC-013.
func (s Share) Of(session apiv1.RecoverySession, index int) error {
	switch {
	case !bytes.Equal(s.Deployment[:], session.Deployment):
		return problem.New("REC-013", "the share is of deployment %x, the session of %x", s.Deployment[:8], session.Deployment[:8])
	case s.Generation != session.Generation:
		return problem.New("REC-013", "the share is of generation %d, the session of %d", s.Generation, session.Generation)
	case s.Index != index:
		return problem.New("REC-013", "it is share %d, the holder's is %d", s.Index, index)
	}
	return nil
}

// CheckApproval checks who sent a message and returns the place of the holder:
// he is in the document, and signed it for this session at about this time. It
// opens nothing. Errors: REC-012, REC-016 to REC-019.
func CheckApproval(d apiv1.RecoveryDocument, session []byte, m apiv1.RecoveryShare, at time.Time) (int, error) {
	sum := sha256.Sum256(session)
	switch {
	case len(m.Sealed) == 0 || len(m.Sealed) > maxSealed || len(m.Signature) == 0 || len(m.Session) != len(sum):
		return 0, problem.New("REC-016", "a share of %d bytes with a signature of %d for a session of %d", len(m.Sealed), len(m.Signature), len(m.Session))
	case !bytes.Equal(m.Session, sum[:]):
		return 0, problem.New("REC-018", "the share is for session %x, and this is %x", m.Session[:8], sum[:8])
	}
	i := slices.IndexFunc(d.Holders, func(x apiv1.RecoveryHolder) bool { return x.User == m.User })
	if i < 0 {
		return 0, problem.New("REC-012", "%.64q is not among the holders of generation %d", m.User, d.Generation)
	}
	if skew := at.Sub(m.Time); skew > MaxSkew || skew < -MaxSkew {
		return 0, problem.New("REC-019", "it was signed at %s, and it is %s", m.Time.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return i, CheckSignature(d.Holders[i].Certificate, i+1, m)
}

// CheckSignature checks a holder's signature under his certificate (DER):
// ECDSA or RSA-PSS over SHA-256, or Ed25519. The error is REC-017.
func CheckSignature(certificate []byte, index int, m apiv1.RecoveryShare) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return problem.Because(err, "REC-002", "the certificate of %s", m.User)
	}
	message := approval(index, m)
	digest := sha256.Sum256(message)
	good := false
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest[:], m.Signature)
	case ed25519.PublicKey:
		good = ed25519.Verify(key, message, m.Signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPSS(key, crypto.SHA256, digest[:], m.Signature, pss) == nil
	}
	if !good {
		return problem.New("REC-017", "the signature is not of the certificate of %s", m.User)
	}
	return nil
}

// ParseSession reads a session, strictly. The error is REC-016.
func ParseSession(b []byte) (apiv1.RecoverySession, Recipient, error) {
	var s apiv1.RecoverySession
	if len(b) > maxSession {
		return s, Recipient{}, problem.New("REC-016", "a session has at most %d bytes, got %d", maxSession, len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, Recipient{}, problem.Because(err, "REC-016", "reading the session")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, Recipient{}, problem.New("REC-016", "the session goes on after its end")
	}
	known := s.Purpose == apiv1.PurposeRecover || s.Purpose == apiv1.PurposeDrill || s.Purpose == apiv1.PurposeRollback
	if s.Version != 1 || !known || len(s.Deployment) != DeploymentSize || s.Generation < 1 || (s.Checkpoint != nil) != (s.Purpose == apiv1.PurposeRollback) {
		return s, Recipient{}, problem.New("REC-016", "the session has version %d, purpose %.40q, generation %d", s.Version, s.Purpose, s.Generation)
	}
	r, err := ParseRecipient(s.Recipient)
	if err != nil || r.age == nil {
		return s, Recipient{}, problem.New("REC-016", "the session's recipient is no age recipient")
	}
	return s, r, nil
}
