// Package probe speaks the marble API by hand, honestly or not: integration
// tests use it to replay, relay and lie, benchmarks to be many marbles at once.
// It trusts whoever answers and is of no use in production.
package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// window is what the coordinator may send ahead, in bytes. A marble has the
// same.
const window = 1 << 20

// Options of a connection.
type Options struct {
	Certificate *tls.Certificate // client certificate; nil for none
	LocalIP     string           // source address; "" for any
}

// Client is one TLS connection to a mesh port.
type Client struct {
	API      marblepb.MarbleClient
	Conn     *grpc.ClientConn
	Exporter []byte // of this connection
}

// Dial opens one connection; it is not opened again when it breaks.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	if o.Certificate != nil {
		cfg.Certificates = []tls.Certificate{*o.Certificate}
	}
	var dialer net.Dialer
	if o.LocalIP != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.LocalIP)}
	}
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	exporter, err := ratls.Exporter(conn.ConnectionState())
	if err != nil {
		conn.Close()
		return nil, err
	}
	handed := make(chan net.Conn, 1)
	handed <- conn
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(0), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-handed:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		}))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{API: marblepb.NewMarbleClient(cc), Conn: cc, Exporter: exporter}, nil
}

// Close closes the connection.
func (c *Client) Close() { c.Conn.Close() }

// Challenge returns a fresh nonce.
func (c *Client) Challenge(ctx context.Context) ([]byte, error) {
	resp, err := c.API.Challenge(ctx, &marblepb.ChallengeRequest{})
	return resp.GetNonce(), err
}

// Attempt is one activation. Zero fields are filled in honestly.
type Attempt struct {
	Instance  *marblepb.Instance
	Issuer    attest.Issuer
	Purpose   binding.Purpose // Activate
	Nonce     []byte          // a fresh one
	Exporter  []byte          // this connection's
	SignedKey []byte          // PKIX DER of the key in the claims buffer; the offered one
	TEE       attest.TEE      // what the evidence is said to be; what it is
}

// Activation is what an accepted attempt gave.
type Activation struct {
	Response *marblepb.ActivateResponse
	Key      *ecdsa.PrivateKey
	Evidence *marblepb.Evidence
	Nonce    []byte
	Public   []byte
}

// Certificate is the leaf with its key, for connecting as this marble.
func (a Activation) Certificate() tls.Certificate {
	return tls.Certificate{Certificate: a.Response.GetLease().GetCertificates(), PrivateKey: a.Key}
}

// Activate makes an attempt. The evidence is in the result even if it fails.
func (c *Client) Activate(ctx context.Context, a Attempt) (Activation, error) {
	var out Activation
	var err error
	if out.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return out, err
	}
	if out.Public, err = x509.MarshalPKIXPublicKey(out.Key.Public()); err != nil {
		return out, err
	}
	if out.Nonce = a.Nonce; out.Nonce == nil {
		if out.Nonce, err = c.Challenge(ctx); err != nil {
			return out, err
		}
	}
	claims := binding.Claims{Purpose: a.Purpose, PublicKey: binding.KeyHash(out.Public), Nonce: out.Nonce, Exporter: a.Exporter}
	if claims.Purpose == "" {
		claims.Purpose = binding.Activate
	}
	if claims.Exporter == nil {
		claims.Exporter = c.Exporter
	}
	if a.SignedKey != nil {
		claims.PublicKey = binding.KeyHash(a.SignedKey)
	}
	buffer := claims.Encode()
	e, err := a.Issuer.Issue(ctx, attest.Bind(buffer))
	if err != nil {
		return out, err
	}
	if a.TEE != "" {
		e.TEE = a.TEE
	}
	out.Evidence = &marblepb.Evidence{Tee: string(e.TEE), Raw: e.Raw, ClaimsBuffer: buffer}
	out.Response, err = c.Send(ctx, a.Instance, out)
	return out, err
}

// Send offers evidence that exists already: replayed, or relayed from another
// connection.
func (c *Client) Send(ctx context.Context, instance *marblepb.Instance, a Activation) (*marblepb.ActivateResponse, error) {
	return c.API.Activate(ctx, &marblepb.ActivateRequest{Instance: instance, Evidence: a.Evidence, PublicKey: a.Public, Nonce: a.Nonce})
}
