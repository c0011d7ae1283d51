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
	// Remembered is the newest state seen before (LoadTrust); nil at first. The log
	// must begin with the one that it names, and the manifest in force be the one
	// that the entries since have set last.
	Remembered *Remembered
	// Entries is how many entries of the log are read at most to see that, at most
	// MaxEntries; zero is DefaultEntries. Where nothing is remembered and Entries
	// is not zero, the entries since the manifest's acceptance are read, if they
	// are no more than that.
	Entries uint64
	// Witnessing is what is demanded of the log's witnesses.
	Witnessing Witnessing
	// Certificate authenticates a user of the manifest; nil asks anonymously.
	Certificate *tls.Certificate
	// Timeout bounds each request and each connection attempt; 10 s if zero. Within
	// it, what a lost connection cut off is tried again: reads, and writes of which
	// nothing was sent.
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
	first    net.Conn   // opened by Dial, until a request takes it; nil then
	verified Verified   // the newest that passed
	refusal  error      // why the newest connection was refused; nil if it was not
}

// Dial connects to addr (host, or host:port) and verifies the coordinator on
// that connection, and its log. The refusals are those of VerifyStatement, and
// LOG-050 to LOG-057 and LOG-082 of what the log shows; CRD-105 says that it
// cannot be reached, CRD-106 that it was too slow.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), DefaultPort)
	}
	switch {
	case len(o.Nonce) != 0 && len(o.Nonce) != apiv1.NonceSize:
		return nil, problem.New("CRD-110", "nonce: wanted %d bytes, got %d", apiv1.NonceSize, len(o.Nonce))
	case o.Entries > MaxEntries:
		return nil, problem.New("CRD-110", "entries: wanted at most %d, got %d", MaxEntries, o.Entries)
	case o.Witnessing.AtLeast < 0 || o.Witnessing.AtLeast > len(o.Witnessing.Keys):
		return nil, problem.New("CRD-110", "witnessing: wanted the word of %d, of %d witnesses", o.Witnessing.AtLeast, len(o.Witnessing.Keys))
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
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.open(ctx) },
		MaxIdleConns:           2,
		MaxConnsPerHost:        4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	conn, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	c.first = conn
	if _, err := c.Bundle(ctx); err != nil { // the connection can be used, and is kept for the next request
		c.Close()
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
func (c *Client) Close() {
	if conn := c.takeFirst(); conn != nil {
		conn.Close()
	}
	c.http.CloseIdleConnections()
}

// open returns the connection that Dial opened, once, and then new ones.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	if conn := c.takeFirst(); conn != nil {
		return conn, nil
	}
	return c.connect(ctx)
}

func (c *Client) takeFirst() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.first
	c.first = nil
	return conn
}

// reach is the first connect. One that is cut is tried again: something passes
// connections on, and perhaps soon to a coordinator. Where nothing listens, it
// is likelier that the address is wrong.
func (c *Client) reach(ctx context.Context) (net.Conn, error) {
	patience, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	for pauses := (rests{}); ; {
		conn, err := c.connect(ctx)
		if err == nil || !lost(err, underWay) || !pauses.rest(patience) {
			return conn, err
		}
	}
}

// connect opens one connection and verifies the coordinator on it, unless the
// same key was attested before.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	early, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	conn, err := c.handshake(early)
	if err != nil {
		return nil, c.remember(unreachable(err, c.addr))
	}
	// Whoever gives up must not wait for an answer.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = c.verify(ctx, conn)
	if !stop() && err == nil {
		err = unreachable(ctx.Err(), c.addr)
	}
	if err != nil {
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

func (c *Client) handshake(ctx context.Context) (*tls.Conn, error) { return c.o.handshake(ctx, c.addr) }

func (o Options) handshake(ctx context.Context, addr string) (*tls.Conn, error) {
	raw, err := o.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(addr)
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             host,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		// The key is attested below, on this connection, before anything else is
		// sent; a chain to a system root would say nothing.
		InsecureSkipVerify: true, //nolint:gosec // replaced by attestation
	}
	if o.Certificate != nil {
		// Sent whatever CAs the server hints at: users' certificates are pinned
		// by the manifest, not issued by a CA.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Certificate, nil }
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// verify checks the far end of conn: the key attested before under a chain to
// the attested root, or else a fresh statement over conn itself, and the log.
func (c *Client) verify(ctx context.Context, conn *tls.Conn) error {
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
	get := c.on(ctx, conn)
	s, err := fetchStatement(get, in.Nonce)
	if err != nil {
		return err
	}
	v, err := VerifyStatement(s, in)
	if err != nil {
		return err
	}
	if v.History, err = c.history(ctx, get, v, in.Remembered); err != nil {
		return err
	}
	v.Address = c.addr
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified = v
	return nil
}

func fetchStatement(get getter, nonce []byte) (apiv1.Statement, error) {
	var s apiv1.Statement
	body, err := get("/v1/attestation?nonce="+hex.EncodeToString(nonce), maxStatement)
	if err != nil {
		return s, unverified(err)
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, problem.Because(err, "CRD-107", "reading the statement")
	}
	return s, nil
}

// exchange asks for a resource over conn and leaves conn ready for the next
// request.
func exchange(conn net.Conn, addr, path string, limit int64) ([]byte, error) {
	return converse(conn, addr, call{method: http.MethodGet, path: path, limit: limit})
}

// converse is exchange for any call.
func converse(conn net.Conn, addr string, c call) ([]byte, error) {
	path, limit := c.path, c.limit
	var document io.Reader
	if c.body != nil {
		document = bytes.NewReader(c.body)
	}
	req, err := http.NewRequest(c.method, "https://"+addr+path, document)
	if err != nil {
		return nil, problem.Because(err, "CRD-110", "address %q", addr)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if err := req.Write(conn); err != nil {
		return nil, unreachable(err, addr)
	}
	r := bufio.NewReader(io.LimitReader(conn, limit+64<<10))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, unreachable(err, addr)
	}
	defer resp.Body.Close()
	body, err := readBody(resp, limit)
	if err != nil {
		return nil, err
	}
	if r.Buffered() > 0 || resp.Close {
		return nil, problem.New("CRD-107", "the connection cannot be used after %s", path)
	}
	return body, nil
}

// unverified keeps of a problem what a server may say that nobody has verified:
// its code and that it said so. A verdict would pass for ours, and its next step
// for our advice.
func unverified(err error) error {
	var p *problem.Error
	if !errors.As(err, &p) || p.Unwrap() != nil { // ours: a cause crosses no wire
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
	e := problem.Because(err, "CRD-105", "%s", addr)
	if host, port, split := net.SplitHostPort(addr); split == nil {
		if name := strings.Split(host, "."); len(name) == 3 && name[2] == "svc" {
			return e.WithNext("from outside of the cluster: kubectl -n %s port-forward service/%s %s, and --address localhost:%s", name[1], name[0], port, port)
		}
	}
	return e
}
