package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// DefaultPort is the port of the client API, used when an address has none.
const DefaultPort = "4433"

const (
	defaultTimeout = 10 * time.Second
	maxStatement   = 2 << 20 // bytes; a quote and its endorsements are under 100 KiB
)

// Options say what a coordinator must prove, and who asks.
type Options struct {
	Policy    attest.Policy
	Verifiers attest.Verifiers
	// Manifest is the digest that must be in force, 32 bytes; empty accepts any.
	Manifest attest.Hex
	// Nonce is what the first statement is asked for with, 32 bytes that somebody
	// else chose who will read a bundle of it; nil for random ones. Every later
	// statement has a nonce of its own.
	Nonce []byte
	// Remembered is the newest state seen before (LoadTrust); nil at first.
	Remembered *Remembered
	// Certificate authenticates a user of the manifest; nil asks anonymously.
	Certificate *tls.Certificate
	// Timeout bounds each request and each connection attempt; 10 s if zero.
	Timeout time.Duration
	Now     func() time.Time // time.Now if nil
	// DialContext opens the connections; a net.Dialer's if nil.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client talks to one verified coordinator. It is safe for concurrent use.
// Close it when done.
type Client struct {
	addr string
	o    Options
	http *http.Client

	mu       sync.Mutex // guards what follows
	verified Verified   // the newest that passed
	refusal  error      // why the newest connection was refused; nil if it was not
}

// Dial connects to addr (host, or host:port) and verifies the coordinator on
// that connection. The refusals are those of VerifyStatement; CRD-105 says that
// it cannot be reached, CRD-106 that it was too slow.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), DefaultPort)
	}
	if len(o.Nonce) != 0 && len(o.Nonce) != apiv1.NonceSize {
		return nil, problem.New("CRD-110", "nonce: wanted %d bytes, got %d", apiv1.NonceSize, len(o.Nonce))
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
	c := &Client{addr: addr, o: o}
	transport := &http.Transport{
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
		MaxIdleConns:           2,
		MaxConnsPerHost:        4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// The first request opens the first connection, which verifies.
	if _, err := c.Bundle(ctx); err != nil {
		transport.CloseIdleConnections()
		return nil, err
	}
	return c, nil
}

// Verified returns the newest statement that passed.
func (c *Client) Verified() Verified {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verified
}

// Address returns the host:port that the client talks to.
func (c *Client) Address() string { return c.addr }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// connect opens one connection and verifies the coordinator on it, unless the
// same key was attested before.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	conn, err := c.handshake(ctx)
	if err != nil {
		return nil, c.remember(unreachable(err, c.addr))
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a connection that cannot have one fails at the first read
	}
	if err := c.verify(conn); err != nil {
		conn.Close()
		return nil, c.remember(err)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, c.remember(nil)
}

// remember keeps why the newest connection was refused: net/http hides the
// cause when a connection attempt outlives its request.
func (c *Client) remember(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
	return err
}

func (c *Client) handshake(ctx context.Context) (*tls.Conn, error) {
	raw, err := c.o.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(c.addr)
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             host,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		// The key is attested below, on this connection, before anything else is
		// sent; a chain to a system root would say nothing.
		InsecureSkipVerify: true, //nolint:gosec // replaced by attestation
	}
	if c.o.Certificate != nil {
		// Sent whatever CAs the server hints at: users' certificates are pinned
		// by the manifest, not issued by a CA.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.o.Certificate, nil }
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// verify checks the far end of conn: the key attested before under a chain to
// the attested root, or else a fresh statement over conn itself.
func (c *Client) verify(conn *tls.Conn) error {
	state := conn.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return problem.New("CRD-101", "the server at %s showed no certificate", c.addr)
	}
	in := VerifyInput{Policy: c.o.Policy, Verifiers: c.o.Verifiers, At: c.o.Now(), Manifest: c.o.Manifest,
		TLSKey: state.PeerCertificates[0].RawSubjectPublicKeyInfo, Remembered: c.o.Remembered}
	for _, cert := range state.PeerCertificates {
		in.Certificates = append(in.Certificates, cert.Raw)
	}
	known := c.Verified()
	if known.Root != nil {
		if bytes.Equal(known.TLSKey, in.TLSKey) && checkChain(known.Root, in) == nil {
			return nil
		}
		// A restarted coordinator has a new key. Another manifest may rightly be
		// in force by now, but it must be the same deployment and no older.
		newest := known.Remembered()
		in.Manifest, in.Remembered = nil, &newest
	}
	in.Nonce = make([]byte, apiv1.NonceSize)
	rand.Read(in.Nonce) // never fails (crypto/rand)
	if len(c.o.Nonce) > 0 && known.Root == nil {
		in.Nonce = c.o.Nonce
	}
	s, err := fetchStatement(conn, c.addr, in.Nonce)
	if err != nil {
		return err
	}
	v, err := VerifyStatement(s, in)
	if err != nil {
		return err
	}
	v.Address = c.addr
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified = v
	return nil
}

// fetchStatement asks for the statement over conn and leaves conn ready for the
// next request.
func fetchStatement(conn net.Conn, addr string, nonce []byte) (apiv1.Statement, error) {
	var s apiv1.Statement
	req, err := http.NewRequest(http.MethodGet, "https://"+addr+"/v1/attestation?nonce="+hex.EncodeToString(nonce), nil)
	if err != nil {
		return s, problem.Because(err, "CRD-110", "address %q", addr)
	}
	if err := req.Write(conn); err != nil {
		return s, unreachable(err, addr)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxStatement+64<<10))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return s, unreachable(err, addr)
	}
	defer resp.Body.Close()
	body, err := readBody(resp, maxStatement)
	if err != nil {
		return s, unverified(err)
	}
	if r.Buffered() > 0 || resp.Close {
		return s, problem.New("CRD-107", "the connection cannot be used after the statement")
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, problem.Because(err, "CRD-107", "reading the statement")
	}
	return s, nil
}

// unverified keeps of a problem what a server may say that nobody has verified:
// its code and that it said so. A verdict would pass for ours, and its next step
// for our advice.
func unverified(err error) error {
	var p *problem.Error
	if !errors.As(err, &p) {
		return err
	}
	return problem.New(p.Code, "it gave no statement and said %q", clip(p.Detail, maxInstance))
}

// unreachable gives a network failure its code.
func unreachable(err error, addr string) error {
	var coded *problem.Error
	if errors.As(err, &coded) {
		return coded
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return problem.Because(err, "CRD-106", "%s", addr)
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return problem.Because(err, "CRD-105", "%s does not speak TLS", addr)
	}
	return problem.Because(err, "CRD-105", "%s", addr)
}
