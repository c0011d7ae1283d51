// Package manifest reads, checks and compares Ashlar manifests, version 1.
//
// It owns the schema, the strict parser with its diagnostics, the digest, the
// diff, the graph of who may call whom, and the policies that the coordinator
// judges by. It does no I/O and reads no clock.
package manifest

import (
	"github.com/ashlar-mesh/ashlar/attest"
)

// MaxSize is the size limit of a manifest, in bytes.
const MaxSize = 4 << 20

// Digest is SHA-256 of a manifest's bytes as uploaded.
type Digest [32]byte

// Manifest is a parsed and valid manifest. Only Parse makes one.
type Manifest struct {
	Schema      string                     `json:"$schema,omitempty"`
	Version     int                        `json:"version"`
	TrustDomain string                     `json:"trustDomain"`
	Packages    map[string]attest.Package  `json:"packages"`
	Platforms   map[string]attest.Platform `json:"platforms,omitempty"` // "default" always exists after Parse
	Marbles     map[string]Marble          `json:"marbles"`
	Secrets     map[string]Secret          `json:"secrets,omitempty"`
	Users       map[string]User            `json:"users,omitempty"`
	Roles       map[string]Role            `json:"roles,omitempty"`
	Tests       []Test                     `json:"tests,omitempty"`

	digest Digest // of the bytes that were parsed
	raw    []byte // those bytes

	callLines map[string][]int    // by marble: the line of each call
	secretsOf map[string][]string // by marble: the secrets that its parameters name, sorted
}

// Marble is a role in the deployment.
type Marble struct {
	Package      string          `json:"package"`
	Platform     string          `json:"platform,omitempty"`     // "default" if empty; filled in by Parse
	Lease        attest.Duration `json:"lease,omitempty"`        // 1h if absent, 10s to 24h; filled in by Parse
	MaxInstances int             `json:"maxInstances,omitempty"` // 0: no limit but 10,000
	DNSNames     []string        `json:"dnsNames,omitempty"`
	Serves       map[string]Port `json:"serves,omitempty"` // by port name
	Calls        []Call          `json:"calls,omitempty"`
	Parameters   Parameters      `json:"parameters,omitzero"`
}

// Protocol of a served port.
type Protocol string

// The protocols. TCP hops are authorised per connection, HTTP hops per request.
const (
	HTTP Protocol = "http"
	TCP  Protocol = "tcp"
)

// Port is where a marble's program listens on loopback, and on the same number
// where its Envoy listens for attested peers.
type Port struct {
	Port     uint16   `json:"port"`
	Protocol Protocol `json:"protocol,omitempty"` // tcp if absent; filled in by Parse
}

// Call grants one edge: this marble may call the named port of another.
type Call struct {
	Marble string   `json:"marble"`
	Port   string   `json:"port"`
	Listen uint16   `json:"listen,omitempty"` // loopback port on which the caller reaches it; the callee's number if absent; filled in by Parse
	Routes []string `json:"routes,omitempty"` // "GET /items/*"; HTTP only; nil allows all
}

// Parameters are what the program gets. Values are templates that are rendered
// in the marble, so that its private key never travels.
type Parameters struct {
	Argv  []string          `json:"argv,omitempty"`
	Env   map[string]string `json:"env,omitempty"`
	Files map[string]string `json:"files,omitempty"` // absolute path: content
}

// SecretType is the kind of a secret.
type SecretType string

// The secret types: random bytes, or a key with a certificate signed by the
// mesh CA.
const (
	Symmetric   SecretType = "symmetric"
	CertRSA     SecretType = "cert-rsa"
	CertECDSA   SecretType = "cert-ecdsa"
	CertEd25519 SecretType = "cert-ed25519"
)

// Scope says how many values a secret has.
type Scope string

// The scopes: one value for the deployment, or one for each marble instance.
const (
	Shared   Scope = "shared"
	Instance Scope = "instance"
)

// Secret is something that the coordinator generates and releases to readers.
type Secret struct {
	Type       SecretType      `json:"type"`
	Bits       int             `json:"bits,omitempty"`       // symmetric: 128 to 4096 (default 256); RSA: 2048, 3072, 4096; ECDSA: 256, 384
	Scope      Scope           `json:"scope,omitempty"`      // shared if absent
	Readers    []string        `json:"readers"`              // marbles; nobody else ever gets it
	OnUpdate   string          `json:"onUpdate,omitempty"`   // "keep" (default), "rederive", "discard"
	CommonName string          `json:"commonName,omitempty"` // certificates
	DNSNames   []string        `json:"dnsNames,omitempty"`   // certificates
	Validity   attest.Duration `json:"validity,omitempty"`   // certificates: 1h to 8760h, default 8760h
}

// User is a principal who authenticates with a client certificate.
type User struct {
	Certificate string   `json:"certificate"` // PEM
	Roles       []string `json:"roles"`
}

// Role lists actions: UpdateManifest, ManageEndorsements, or RaiseFloor and the
// name of a platform.
type Role struct {
	Actions []string `json:"actions"`
}

// UpdateManifest is the right to set the next manifest.
const UpdateManifest = "updateManifest"

// RaiseFloor, followed by the name of a platform or by "*" for all of them, is
// the right to raise what the platform demands at least.
const RaiseFloor = "raiseFloor:"

// ManageEndorsements is the right to import endorsements.
const ManageEndorsements = "manageEndorsements"

// Test states what must hold: whether traffic from one marble can reach
// another, directly or through others, or what Ask answers to a question that
// begins with "may".
type Test struct {
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Ask   string `json:"ask,omitempty"` // in place of From and To
	Allow bool   `json:"allow"`
}
