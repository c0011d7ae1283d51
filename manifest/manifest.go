// Package manifest reads, checks and compares Ashlar manifests, version 1.
//
// It owns the schema, the strict parser with its diagnostics, the digest, the
// diff, the graph of who may call whom, and the policies that the coordinator
// judges by. It does no I/O and reads no clock.
package manifest

import (
	"strings"

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
	// Approvals says for an update right, a revoke right or breakGlass how many
	// users who hold it have to agree, the one who asks included.
	Approvals map[string]int `json:"approvals,omitempty"`
	// ProposalLifetime is how long a change waits for its approvals: 1m to 720h,
	// 72h if absent; filled in by Parse.
	ProposalLifetime attest.Duration    `json:"proposalLifetime,omitempty"`
	Recovery         *Recovery          `json:"recovery,omitempty"`
	Seal             SealMode           `json:"seal,omitempty"`         // as the coordinator was started if absent
	Coordinators     *Coordinators      `json:"coordinators,omitempty"` // nil: nothing else gets the key of the state
	CA               CA                 `json:"ca,omitzero"`
	Witnesses        map[string]Witness `json:"witnesses,omitempty"` // of the log, by name

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
	Renewal      Renewal         `json:"renewal,omitzero"`
}

// Renewal says what becomes of an instance whose renewals fail. Times count from
// when the renewal was due; none is after the end of the lease. Without one,
// degraded begins after a quarter of what is left of the lease then, drained
// after three quarters, and cut at its end.
type Renewal struct {
	DegradeAfter attest.Duration `json:"degradeAfter,omitempty"` // is shown as degraded
	DrainAfter   attest.Duration `json:"drainAfter,omitempty"`   // gets no new requests, and is not ready
	CutAfter     attest.Duration `json:"cutAfter,omitempty"`     // its connections are closed
}

// Recovery names who holds shares of the key that opens the state.
type Recovery struct {
	// Keys are the holders' public keys by the name of a user: RSA in PEM (PKIX,
	// 2048 to 4096 bits) or an age recipient (age1…, X25519).
	Keys      map[string]string `json:"keys"`
	Threshold int               `json:"threshold"` // how many shares open the state, 1 to the number of keys
}

// Coordinators says which software on which hardware may hold the deployment's
// state, beside the coordinator that set it up: it gets the key of the state, and
// with that every CA key and secret.
type Coordinators struct {
	Package  string `json:"package"`
	Platform string `json:"platform,omitempty"` // "default" if empty; filled in by Parse
}

// SealMode says which software may open the state on this platform.
type SealMode string

// The modes: any release of the product, this very program, or none: then
// recovery shares or an external KMS alone open the state.
const (
	SealProduct SealMode = "product"
	SealUnique  SealMode = "unique"
	SealNone    SealMode = "none"
)

// CA is the schedule on which CAs are replaced.
type CA struct {
	MeshRotation attest.Duration `json:"meshRotation,omitempty"` // 1h to 720h; 552h if absent; filled in by Parse
	RootRotation attest.Duration `json:"rootRotation,omitempty"` // 24h to 87600h; on demand only if absent
	// Overlap is how long both roots are trusted: 10m to 8760h; 720h if absent;
	// filled in by Parse.
	Overlap attest.Duration `json:"overlap,omitempty"`
}

// Witness co-signs checkpoints of the log.
type Witness struct {
	Key string `json:"key"`           // verifier key: name+hash+base64 (C2SP signed-note)
	URL string `json:"url,omitempty"` // where it takes checkpoints (C2SP tlog-witness); without one, it fetches them
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
	// Reload tells the program that its files were replaced.
	Reload Reload `json:"reload,omitzero"`
	// References are the places where the host puts references to secrets.
	References References `json:"references,omitzero"`
}

// References are the places, outside of the manifest, in which the host puts a
// reference to a secret, with the secrets that each may name: environment
// variables and files by absolute path. The marble puts the secret there. In
// every other place a reference is refused, and one of these without it too.
type References struct {
	Env   map[string][]string `json:"env,omitempty"`
	Files map[string][]string `json:"files,omitempty"`
}

// Reload is what happens after files were replaced.
type Reload struct {
	Signal  string   `json:"signal,omitempty"`  // "HUP", "USR1" or "USR2", to the program
	Command []string `json:"command,omitempty"` // argv, run to its end
}

// SecretType is the kind of a secret.
type SecretType string

// The secret types: random bytes, a key pair, a key with a certificate signed by
// the mesh CA, a value from a user or a marble, or a counter that only grows.
const (
	Symmetric   SecretType = "symmetric"
	RSA         SecretType = "rsa"
	ECDSA       SecretType = "ecdsa"
	Ed25519     SecretType = "ed25519"
	Opaque      SecretType = "opaque"
	Counter     SecretType = "counter"
	CertRSA     SecretType = "cert-rsa"
	CertECDSA   SecretType = "cert-ecdsa"
	CertEd25519 SecretType = "cert-ed25519"
)

// Certified reports whether a certificate of the mesh CA goes with the key.
func (t SecretType) Certified() bool { return strings.HasPrefix(string(t), "cert-") }

// Scope says how many values a secret has.
type Scope string

// The scopes: one value for the deployment, for each marble (counters alone), or
// for each marble instance.
const (
	Shared   Scope = "shared"
	PerRole  Scope = "marble"
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

	Organization      []string `json:"organization,omitempty"`      // certificates
	IPAddresses       []string `json:"ipAddresses,omitempty"`       // certificates
	ExtendedKeyUsages []string `json:"extendedKeyUsages,omitempty"` // certificates: "serverAuth", "clientAuth"; both if absent

	// Operations make a key use-only: readers have the coordinator do these with
	// it, and never get it. "sign" (rsa, ecdsa, ed25519), "decrypt" (rsa),
	// "encrypt", "decrypt", "hmac" (symmetric).
	Operations []Operation `json:"operations,omitempty"`
	Rotation   Rotation    `json:"rotation,omitzero"`
	// Depositors are marbles that may write an opaque secret. Users need the
	// right WriteSecret.
	Depositors []string `json:"depositors,omitempty"`
}

// Exported reports whether readers get the secret's value or key; counters and
// use-only keys stay with the coordinator.
func (s Secret) Exported() bool { return s.Type != Counter && len(s.Operations) == 0 }

// Operation is something that is done with a key that stays where it is.
type Operation string

// The operations.
const (
	Sign    Operation = "sign"
	Encrypt Operation = "encrypt"
	Decrypt Operation = "decrypt"
	HMAC    Operation = "hmac"
)

// Rotation is when a secret gets a new version. Rotation on demand needs none.
type Rotation struct {
	Every   attest.Duration `json:"every,omitempty"`   // 1m to 8760h; on demand only if absent
	Overlap attest.Duration `json:"overlap,omitempty"` // how long readers get the previous version too: 0 to 8760h; 1h if absent; filled in by Parse
}

// User is a principal who authenticates with a client certificate.
type User struct {
	Certificate string   `json:"certificate"` // PEM
	Roles       []string `json:"roles"`
}

// Role lists actions: rights, in which "*" stands for one name.
type Role struct {
	Actions []string `json:"actions"`
}

// Rights. Those that end in ":" are followed by what they are for.
const (
	// UpdateManifest is the right to every change of the manifest. With ":" and a
	// path behind it, such as "updateManifest:packages/web" or
	// "updateManifest:marbles/*/calls", it is the right to changes there alone.
	UpdateManifest = "updateManifest"
	// RaiseFloor and a platform: to raise what the platform demands at least.
	RaiseFloor = "raiseFloor:"
	// RaiseSecurityVersion and a package: to set a manifest that only raises the
	// least security versions of that package.
	RaiseSecurityVersion = "raiseSecurityVersion:"
	// ManageEndorsements is the right to import endorsements.
	ManageEndorsements = "manageEndorsements"
	// WriteSecret, ReadSecret, RotateSecret and a secret: to give it a value, to
	// see its value, to have it replaced.
	WriteSecret  = "writeSecret:"
	ReadSecret   = "readSecret:"
	RotateSecret = "rotateSecret:"
	// RotateCA is the right to replace the mesh CA or the root before their time.
	RotateCA = "rotateCA"
	// Revoke and a path, "marbles/web", "packages/web", "platforms/p" or
	// "users/alice": to revoke, to quarantine, and to lift both.
	Revoke = "revoke:"
	// BreakGlass is the right to lift a rule for a limited time.
	BreakGlass = "breakGlass"
	// Backup is the right to fetch the sealed state.
	Backup = "backup"
)

// Test states what must hold: whether traffic from one marble can reach
// another, directly or through others, or what Ask answers to a question that
// begins with "may".
type Test struct {
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Ask   string `json:"ask,omitempty"` // in place of From and To
	Allow bool   `json:"allow"`
}
