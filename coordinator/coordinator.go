// Package coordinator holds the decisions of Ashlar: which manifest is in
// force, which marble gets an identity, and who may change what. Values go in,
// values come out: it opens no socket, speaks no protocol and knows no Envoy.
//
// State is changed in one store.Update for each decision, and a decision is
// acknowledged only when that is durable. Reads never wait for writes.
package coordinator

import (
	"context"
	"crypto/x509"
	"io"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// State is where a coordinator stands.
type State int

// The states. Closed: transitions are in one function.
const (
	Starting State = iota
	WaitingForManifest
	Serving
	Stopping
)

// Endorser finds the endorsements that a piece of evidence has to be judged
// with. It honours ctx and is safe for concurrent use.
type Endorser func(ctx context.Context, e attest.Evidence) (attest.Endorsements, error)

// Quoter asks the hardware for evidence.
type Quoter func(ctx context.Context, b attest.Binding) (attest.Evidence, error)

// Session is the transport session that a request came over.
type Session struct {
	Exporter []byte // 32 bytes, TLS exporter (ratls.Exporter)
	Remote   string // address, for the log
}

// ActivateRequest is a marble that asks for its first lease.
type ActivateRequest struct {
	Session      Session
	Instance     InstanceInfo
	Evidence     attest.Evidence
	ClaimsBuffer []byte
	PublicKey    []byte // PKIX DER, ECDSA P-256
	Nonce        []byte
}

// InstanceInfo is what an instance says of itself. Only Marble decides
// anything, and only together with accepted evidence.
type InstanceInfo struct {
	Marble   string
	ID       string // UUID
	Address  string // IP where its Envoy listens
	Loopback string // IP where its program listens; "127.0.0.1" if empty
}

// RenewRequest is a marble that offers fresh evidence for its next leaf.
type RenewRequest struct {
	Session      Session
	Peer         Peer // by the leaf of the session
	Evidence     attest.Evidence
	ClaimsBuffer []byte
	PublicKey    []byte
	Nonce        []byte
}

// Peer is a marble instance, identified by its leaf.
type Peer struct {
	Marble   string
	Instance string
	Serial   string // of the leaf, hex
	NotAfter time.Time
}

// Lease is an identity and what goes with it.
type Lease struct {
	Certificates [][]byte // DER, leaf first, then the mesh CA
	Bundle       [][]byte // DER trust anchors
	RenewAfter   time.Time
	DegradeAt    time.Time // when an instance whose renewals fail is shown as degraded
	DrainAt      time.Time // when it gets no new requests any more
	NotAfter     time.Time // when it is cut: its leaf ends
	Secrets      map[string]secrets.Value
	Revision     string
	SPIFFEID     string
	Parameters   *manifest.Parameters // of a renewal and of what is pushed
}

// Activation is an accepted activation.
type Activation struct {
	Lease      Lease
	Parameters manifest.Parameters
	Serves     []uint16 // ports on which the program is to listen, ascending
	Decision   string
}

// SetManifestRequest carries the bytes of a manifest.
type SetManifestRequest struct {
	Raw []byte
	// IfMatch is the digest of the manifest that this one replaces, hex; empty
	// only for the first.
	IfMatch string
	// Principal is the authenticated user, nil for nobody.
	Principal *Principal
	Accept    []string // risks that are accepted, by name
	DryRun    bool     // judge it, and write nothing but a refusal
}

// Principal is an authenticated user of the manifest in force.
type Principal struct{ Name string }

// View is an immutable picture of the deployment, for compiling Envoy's
// configuration.
type View struct {
	Revision    string // manifest digest, hex; empty before the first
	TrustDomain string
	Manifest    *manifest.Manifest // nil before the first
	Instances   []ViewInstance     // with a live lease, ordered by marble and id
	// Barred are those who may call nobody, and whom nobody may call, ordered.
	Barred []BarredPeer
}

// BarredPeer is one instance, or every instance of a marble if Instance is "".
type BarredPeer struct{ Marble, Instance string }

// ViewInstance is one live instance.
type ViewInstance struct {
	Marble, ID        string
	Address, Loopback string
	Drained           bool // gets no new requests: its renewal is overdue
}

// ProxyEvent is something that a proxy did with what it was sent.
type ProxyEvent struct {
	Peer      Peer
	Connected *bool  // set on connect and disconnect
	Type      string // "cluster", "endpoint", "listener", "route"; empty: Revision changes nothing for this proxy
	State     string // "sent", "applied", "refused"
	Error     string
	Names     []string
	Revision  string
}

// Config is what a coordinator is made of.
type Config struct {
	Issuer      attest.Issuer
	Verifiers   attest.Verifiers
	Endorse     Endorser
	Now         func() time.Time
	Rand        io.Reader
	Changed     func()            // after each commit that changes the View; must not block
	ServerNames []string          // DNS names and IPs of the serving certificate
	Owner       *x509.Certificate // who alone may set the first manifest; nil leaves it open
	Version     string
	// Keeper keeps what opens the state in step with the manifest; nil keeps
	// nothing. Opening says how the state came to be open.
	Keeper  *recovery.Keeper
	Opening Opening
	// Replica is the name of this one among several coordinators; empty if it is
	// alone. Replicas are those that there are; nil for none. It must not block.
	Replica  string
	Replicas func() []apiv1.Replica
	// Warnings are what else needs attention; nil for nothing. It must not block.
	Warnings func() []apiv1.Attention
}
