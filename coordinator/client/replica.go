package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
)

const (
	joinTime   = 30 * time.Second
	maxGiven   = 16 << 10 // bytes of the answer with the key
	maxRefused = 64 << 10 // bytes of the verdict of a refusal
)

// JoinOptions say who asks for the key of a state.
type JoinOptions struct {
	Name string // of the replica
	// Issue asks the hardware for evidence.
	Issue func(ctx context.Context, b attest.Binding) (attest.Evidence, error)
	// Timeout bounds all of it; 30 s if zero.
	Timeout time.Duration
	// DialContext opens the connection; a net.Dialer's if nil.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Joined is what an active coordinator gave. Nobody has verified it: what opens
// with the key judges who gave it (coordinator.Standing.JudgeGiver).
type Joined struct {
	Key       StateKey
	Statement apiv1.Statement // of the giver, for Nonce and TLSKey
	Nonce     []byte
	TLSKey    []byte // PKIX DER of the key of the connection
	Decision  string // "coordinators/7f2c19ab"
}

// StateKey is the key of a state. It prints nothing of itself in any format, nor
// does what holds it.
type StateKey struct {
	b func() []byte // fmt reaches through an unexported field for slices and pointers, and shows a function's address
}

// Reveal returns a copy of the 32 bytes; nil of the zero StateKey.
func (k StateKey) Reveal() []byte {
	if k.b == nil {
		return nil
	}
	return bytes.Clone(k.b())
}

// Format hides the key from every verb.
func (StateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// LogValue hides the key from log/slog.
func (StateKey) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON hides the key from encoding/json.
func (StateKey) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// JoinReplica asks the active coordinator at addr (host, or host:port) for the key
// of its state, over one TLS connection that the evidence is bound to. Whoever
// answers is not verified, and cannot be before the state is open: the answers are
// bounded, and whoever gives a wrong key gives nothing. The asker shows no more
// than its evidence.
//
// REP-020 says that nobody may join, REP-021 that this one may not: the instance
// is the decision, which users of the manifest can have explained. REP-034 is a key that does not
// open. Further: CRD-105 to CRD-108 (unreachable, slow, or no such answer), and what the
// coordinator refuses with.
func JoinReplica(ctx context.Context, addr string, o JoinOptions) (Joined, error) {
	if o.Name == "" || o.Issue == nil {
		return Joined{}, errors.New("client: JoinOptions.Name or Issue is missing")
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), DefaultPort)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Timeout, joinTime))
	defer cancel()
	dial := Options{DialContext: o.DialContext}
	if dial.DialContext == nil {
		dial.DialContext = (&net.Dialer{}).DialContext
	}
	conn, err := dial.handshake(ctx, addr)
	if err != nil {
		return Joined{}, unreachable(err, addr)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	j := joining{addr: addr, conn: conn, o: o}
	joined, err := j.join(ctx)
	if err != nil && ctx.Err() != nil && problem.CodeOf(err) == "CRD-105" {
		return Joined{}, unreachable(ctx.Err(), addr)
	}
	return joined, err
}

// joining is one asking, over one connection.
type joining struct {
	addr string
	conn *tls.Conn
	o    JoinOptions
}

func (j joining) join(ctx context.Context) (Joined, error) {
	state := j.conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return Joined{}, problem.New("CRD-101", "the server at %s showed no certificate", j.addr)
	}
	exporter, err := ratls.Exporter(state)
	if err != nil {
		return Joined{}, err
	}
	out := Joined{Nonce: make([]byte, apiv1.NonceSize), TLSKey: state.PeerCertificates[0].RawSubjectPublicKeyInfo}
	rand.Read(out.Nonce) // never fails (crypto/rand)
	var challenge apiv1.ReplicaChallenge
	if err := j.post("/v1/replicas/challenge", maxStatement, apiv1.ReplicaQuestion{Nonce: out.Nonce}, &challenge); err != nil {
		return Joined{}, err
	}
	out.Statement = challenge.Statement
	if len(challenge.Nonce) != apiv1.NonceSize {
		return Joined{}, problem.New("CRD-107", "wanted a challenge of %d bytes, got %d", apiv1.NonceSize, len(challenge.Nonce))
	}
	private, err := apiv1.NewUploadKey()
	if err != nil {
		return Joined{}, fmt.Errorf("making a key pair: %w", err)
	}
	req := apiv1.ReplicaRequest{Name: j.o.Name, PublicKey: private.PublicKey().Bytes(), Nonce: challenge.Nonce}
	claims := binding.Claims{Purpose: binding.Replica, PublicKey: binding.KeyHashX25519(req.PublicKey), Nonce: req.Nonce, Exporter: exporter}
	if req.Evidence, err = j.o.Issue(ctx, claims.Binding()); err != nil {
		return Joined{}, fmt.Errorf("making evidence: %w", err)
	}
	req.ClaimsBuffer = claims.Encode()
	var given apiv1.ReplicaKey
	if err := j.post("/v1/replicas", maxGiven, req, &given); err != nil {
		return Joined{}, err
	}
	key, err := apiv1.OpenReplicaKey(private, apiv1.ReplicaBinding{Root: challenge.Statement.Root, Nonce: req.Nonce}, given.Sealed)
	if err != nil {
		return Joined{}, problem.Because(err, "REP-034", "from %s", j.addr)
	}
	out.Key = StateKey{b: func() []byte { return key }}
	if decisionForm.MatchString(given.Decision) {
		out.Decision = given.Decision
	}
	return out, nil
}

// post sends a document and reads the answer, of at most limit bytes.
func (j joining) post(path string, limit int64, document, into any) error {
	raw, err := json.Marshal(document)
	if err != nil {
		return problem.Because(err, "CRD-110", "encoding the request")
	}
	header := http.Header{"Content-Type": {"application/json"}}
	body, err := converse(j.conn, j.addr, call{method: http.MethodPost, path: path, header: header, body: raw, limit: max(limit, maxRefused)})
	if err != nil {
		return j.said(err)
	}
	return decode(body, into)
}

// said keeps of a refusal what a coordinator may say that nobody has verified: its
// code, in its words, and which decision it was. A verdict would pass for ours, and
// its next step for our advice.
func (j joining) said(err error) error {
	var p *problem.Error
	if !errors.As(err, &p) || p.Unwrap() != nil {
		return err // ours
	}
	if !problem.Known(p.Code) {
		return problem.New("CRD-107", "%s refused with an unknown code", j.addr)
	}
	e := problem.New(p.Code, "%s: %s", j.addr, plain.Clip(p.Detail, maxDetail))
	if decisionForm.MatchString(p.Instance) {
		e.Instance = p.Instance
		e.Next = "ashlar explain " + p.Instance
	}
	return e
}

var decisionForm = regexp.MustCompile(`^coordinators/[0-9a-f]{8}$`)
