package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Recovery talks to a coordinator about one recovery session, which its evidence
// binds together with the key of the connection. Close it when done.
type Recovery struct {
	Statement apiv1.RecoveryStatement
	Session   apiv1.RecoverySession
	Verdict   attest.Verdict // accepted; with the steps of the binding

	c    *Client
	conn net.Conn
	http *http.Client
}

// DialRecovery connects to addr, asks for the session of a purpose, and verifies
// the evidence that binds it to this connection. No root and no log stand behind
// it: a coordinator whose state is closed has neither. The refusals are CRD-100
// with the verdict, CRD-105 and CRD-106, and what the coordinator answers:
// REC-001 (it waits for recovery, and nothing else can be done), REC-005 (nobody
// holds a share), REC-031 (nothing is to be done).
func DialRecovery(ctx context.Context, addr, purpose string, o Options) (*Recovery, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(addr, DefaultPort)
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{Timeout: o.Timeout}).DialContext
	}
	r := &Recovery{c: &Client{addr: addr, o: o}}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, err := r.c.handshake(ctx)
	if err != nil {
		return nil, unreachable(err, addr)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a connection that cannot have one fails at the first read
	}
	if err := r.verify(conn, conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo, purpose); err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	r.conn = conn
	r.http = &http.Client{
		Transport: &http.Transport{MaxConnsPerHost: 1, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.again(ctx) }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r.c.http = r.http
	return r, nil
}

// again returns the connection that was verified, once, and then new ones to the
// same key.
func (r *Recovery) again(ctx context.Context) (net.Conn, error) {
	if conn := r.conn; conn != nil {
		r.conn = nil
		return conn, nil
	}
	conn, err := r.c.handshake(ctx)
	if err != nil {
		return nil, unreachable(err, r.c.addr)
	}
	if !bytes.Equal(conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo, r.Statement.TLSKey) {
		conn.Close()
		return nil, problem.New("CRD-101", "the coordinator has another key than the attested one")
	}
	return conn, nil
}

// verify judges the evidence for a session on a connection with a key.
func (r *Recovery) verify(conn net.Conn, tlsKey []byte, purpose string) error {
	nonce := make([]byte, apiv1.NonceSize)
	rand.Read(nonce) // never fails (crypto/rand)
	q := url.Values{"nonce": {hex.EncodeToString(nonce)}, "purpose": {purpose}}
	body, err := exchange(conn, r.c.addr, "/v1/recovery/attestation?"+q.Encode(), maxStatement)
	if err != nil {
		return unverified(err)
	}
	if err := json.Unmarshal(body, &r.Statement); err != nil {
		return problem.Because(err, "CRD-107", "reading the statement")
	}
	r.Verdict = judgeSession(r.Statement, nonce, tlsKey, r.c.o)
	if !r.Verdict.OK() {
		return refused(r.Verdict)
	}
	r.Statement.TLSKey = tlsKey
	if err := json.Unmarshal(r.Statement.Session, &r.Session); err != nil {
		return problem.Because(err, "CRD-107", "reading the session")
	}
	if r.Session.Purpose != purpose {
		return problem.New("CRD-101", "wanted a session to %s, got one to %.40q", purpose, r.Session.Purpose)
	}
	return nil
}

// judgeSession makes the verdict over the evidence and what it binds: this nonce,
// this connection's key, and the session's bytes.
func judgeSession(s apiv1.RecoveryStatement, nonce, tlsKey []byte, o Options) attest.Verdict {
	verdict := attest.Judge(o.Verifiers, s.Evidence, attest.Bind(s.ClaimsBuffer), s.Endorsements, o.Policy, o.Now())
	got, err := binding.Parse(s.ClaimsBuffer)
	if err != nil {
		verdict.Steps = append(verdict.Steps, attest.Step{Code: "ATT-011", Field: "binding", Want: "a claims buffer of purpose recovery", Got: err.Error(),
			Source: "claims buffer", Fix: attest.Fix{Who: attest.Nobody, How: "the coordinator's statement is damaged"}})
	} else {
		session := sha256.Sum256(s.Session)
		want := binding.Claims{Purpose: binding.Recovery, PublicKey: binding.KeyHash(tlsKey), Nonce: nonce, Session: session[:]}
		verdict.Steps = append(verdict.Steps, binding.Expect(want, got)...)
	}
	if len(verdict.Failed()) > 0 {
		verdict.Verdict = attest.Refused
	}
	return verdict
}

// Close closes the connection.
func (r *Recovery) Close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
	r.http.CloseIdleConnections()
}

// Status returns who holds shares, and how far sessions are.
func (r *Recovery) Status(ctx context.Context) (apiv1.Recovery, error) {
	return get[apiv1.Recovery](ctx, r.c, "/v1/recovery", nil)
}

// Send gives a share to the session.
func (r *Recovery) Send(ctx context.Context, m apiv1.RecoveryShare) (apiv1.RecoveryProgress, error) {
	return send[apiv1.RecoveryProgress](ctx, r.c, http.MethodPost, "/v1/recovery/shares", nil, m)
}

// Recovery returns who holds shares of the key that opens the state.
func (c *Client) Recovery(ctx context.Context) (apiv1.Recovery, error) {
	return get[apiv1.Recovery](ctx, c, "/v1/recovery", nil)
}

// Backup writes the sealed state to w. It needs a user with the right backup. The
// request's context alone bounds its time. What was written is whole only if
// backup.Verify says so.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.addr+"/v1/backup", nil)
	if err != nil {
		return problem.Because(err, "CRD-110", "address %q", c.addr)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.because(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		_, err := readBody(resp, maxAnswer)
		return err
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return unreachable(err, c.addr)
	}
	return nil
}
