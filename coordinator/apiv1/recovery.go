package apiv1

import (
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// What shares are sent in for.
const (
	PurposeRecover  = "recover"         // to open the state of a coordinator that waits for it
	PurposeDrill    = "drill"           // to show that they would, and nothing else
	PurposeRollback = "accept-rollback" // to accept that the state is an older one
)

// RecoveryDocument says who holds shares of the key that opens a state, and
// has their shares, each encrypted to its holder. Nothing in it is secret. It is
// recovery.json in the folder of the state, byte for byte.
type RecoveryDocument struct {
	Version    int        `json:"version"`    // 1
	Deployment attest.Hex `json:"deployment"` // 32 bytes that name the state, for its whole life
	Generation int        `json:"generation"` // from 1; shares of one do not go with another's
	Threshold  int        `json:"threshold"`  // how many shares open the state
	// Holders are ordered by name. The number of a holder's share is his place,
	// from 1.
	Holders []RecoveryHolder `json:"holders"`
	// Commitments are Feldman's: threshold elements of Ristretto255 (32 bytes
	// each), by which each share is checked.
	Commitments [][]byte `json:"commitments"`
	// Wrapped is the state's data key under the key that the shares give:
	// 12-byte nonce, AES-256-GCM.
	Wrapped []byte `json:"wrapped"`
	MAC     []byte `json:"mac"` // 32 bytes, under the data key
}

// RecoveryHolder is a user who holds a share.
type RecoveryHolder struct {
	User        string `json:"user"`
	Certificate []byte `json:"certificate"` // DER, as the manifest had it; signs what the holder sends
	Key         string `json:"key"`         // as the manifest had it: RSA in PEM, or an age recipient
	Share       []byte `json:"share"`       // encrypted to Key: RSA-OAEP-SHA256 or age
}

// Recovery is GET /v1/recovery.
type Recovery struct {
	// State is "waiting for recovery", or that of the coordinator otherwise.
	State string `json:"state"`
	// Reason is why the state does not open, or why it is behind.
	Reason   string             `json:"reason,omitempty"`
	Document *RecoveryDocument  `json:"document,omitempty"` // absent if nobody holds a share
	Sessions []RecoveryProgress `json:"sessions"`           // those that have shares
}

// RecoveryStatement is GET /v1/recovery/attestation?nonce=HEX&purpose=WORD: a
// session that shares can be sent to, and evidence that binds it.
type RecoveryStatement struct {
	Evidence     attest.Evidence     `json:"evidence"`
	ClaimsBuffer []byte              `json:"claimsBuffer"` // package binding, purpose "recovery"
	Endorsements attest.Endorsements `json:"endorsements"`
	Session      []byte              `json:"session"` // RecoverySession as JSON, byte for byte as the evidence binds it
	TLSKey       []byte              `json:"tlsKey"`  // PKIX DER of the key that serves this connection
	Time         time.Time           `json:"time"`    // by the coordinator's clock: information only
}

// RecoverySession is what the holders of shares agree to: which state, for what,
// and to whom their shares are encrypted.
type RecoverySession struct {
	Version    int        `json:"version"` // 1
	Purpose    string     `json:"purpose"`
	Deployment attest.Hex `json:"deployment"`
	Generation int        `json:"generation"`
	Recipient  string     `json:"recipient"` // age recipient, of this session alone
	Begun      time.Time  `json:"begun"`
	// Checkpoint is the log of the older state that is to be accepted.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
}

// RecoveryShare is POST /v1/recovery/shares: one holder's share, encrypted to a
// session, and his signature. At most 16 KiB.
type RecoveryShare struct {
	User      string     `json:"user"`
	Session   attest.Hex `json:"session"`   // SHA-256 of the session's bytes
	Sealed    []byte     `json:"sealed"`    // the share, age to the session's recipient
	Time      time.Time  `json:"time"`      // whole seconds
	Signature []byte     `json:"signature"` // by the key of the holder's certificate
}

// RecoveryProgress is how far a session is.
type RecoveryProgress struct {
	Purpose string    `json:"purpose"`
	Needed  int       `json:"needed"`
	Given   []string  `json:"given"`   // users whose shares are in
	Missing []string  `json:"missing"` // users whose shares are not
	Until   time.Time `json:"until"`   // when the shares are forgotten
	Done    bool      `json:"done"`
	// Epoch is the one that began, when done and it is no drill.
	Epoch int `json:"epoch,omitempty"`
}

// Epoch says since when a state goes on without a break that its log alone
// would not show. The first has number 1 and no cause.
type Epoch struct {
	Number int       `json:"number"`
	Cause  string    `json:"cause"` // "recovery", "restore", "rollback"
	Begun  time.Time `json:"begun"`
	// Size is the number of records that the log had when the epoch began.
	Size uint64 `json:"size"`
}
