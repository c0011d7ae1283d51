package apiv1

import (
	"crypto/hpke"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Roles of a replica, one of the coordinators that share a state.
const (
	ReplicaActive  = "active"  // decides and writes; one at most
	ReplicaStandby = "standby" // holds the state's key, and passes requests on to the active one
	ReplicaJoining = "joining" // waits for the key, and passes requests on
)

// Replica is one of several coordinators, as it says of itself.
type Replica struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Reason  string    `json:"reason,omitempty"` // why it is still joining, or would not take over
	Version string    `json:"version"`
	TEE     string    `json:"tee"`
	Since   time.Time `json:"since"` // when it took that role
}

var replicaName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// IsReplicaName reports whether a replica may be called so: 1 to 63 letters, digits
// and dashes, as a label of a DNS name.
func IsReplicaName(name string) bool { return replicaName.MatchString(name) }

// ReplicaQuestion begins the handing over of the state's key. Nonce (32 bytes) is
// fresh, so that the statement that comes back is.
type ReplicaQuestion struct {
	Nonce attest.Hex `json:"nonce"`
}

// ReplicaChallenge answers a ReplicaQuestion.
type ReplicaChallenge struct {
	Nonce     attest.Hex `json:"nonce"`     // 32 bytes; counts once, for 60 s, in this TLS session
	Statement Statement  `json:"statement"` // for the nonce of the question and the key of the connection
}

// ReplicaRequest is a coordinator that asks for the state's key, with evidence
// that binds its public key, the nonce and the TLS session (purpose "replica").
type ReplicaRequest struct {
	Name         string          `json:"name"`
	Evidence     attest.Evidence `json:"evidence"`
	ClaimsBuffer []byte          `json:"claimsBuffer"`
	PublicKey    []byte          `json:"publicKey"` // X25519, 32 bytes, for HPKE
	Nonce        attest.Hex      `json:"nonce"`
}

// ReplicaKey is the state's key for an accepted replica.
type ReplicaKey struct {
	// Sealed is the data key (32 bytes) for the request's public key: HPKE
	// (RFC 9180) base mode, X25519, HKDF-SHA256, AES-256-GCM; the encapsulated key
	// (32 bytes) and the ciphertext (48).
	Sealed   []byte `json:"sealed"`
	Decision string `json:"decision"` // "coordinators/7f2c19ab"
}

// Sizes of what is handed over, in bytes.
const (
	ReplicaKeySize    = 32           // the state's key, and a public key
	SealedReplicaSize = 32 + 32 + 16 // encapsulated key, ciphertext, tag
	sealReplica       = "ashlar replica key v1"
)

// ReplicaBinding is what the sealed key is bound to: opened with any other, it
// gives nothing.
type ReplicaBinding struct {
	Root  []byte // root CA certificate of the deployment, DER, as in the giver's statement
	Nonce []byte // of the challenge
}

// info is the HPKE info: the purpose, a zero byte, SHA-256 of the root (32), and
// the nonce.
func (b ReplicaBinding) info() []byte {
	root := sha256.Sum256(b.Root)
	out := append([]byte(sealReplica), 0)
	out = append(out, root[:]...)
	return append(out, b.Nonce...)
}

// SealReplicaKey encrypts the state's key to a public key (X25519, 32 bytes) with
// HPKE as SealSecret does.
func SealReplicaKey(public []byte, b ReplicaBinding, key []byte) ([]byte, error) {
	return sealTo(public, b.info(), key)
}

// OpenReplicaKey is the inverse. The error says nothing about the key.
func OpenReplicaKey(private hpke.PrivateKey, b ReplicaBinding, sealed []byte) ([]byte, error) {
	if len(sealed) != SealedReplicaSize {
		return nil, fmt.Errorf("wanted %d bytes, got %d", SealedReplicaSize, len(sealed))
	}
	key, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), b.info(), sealed)
	if err != nil {
		return nil, errors.New("it is sealed to another key, or for another deployment or challenge, or was changed")
	}
	return key, nil
}
