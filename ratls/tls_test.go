package ratls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// certificate has the bench's machine vouch for the bench's key.
func (b bench) certificate(t *testing.T, m platform.Measurement, notAfter time.Time) tls.Certificate {
	t.Helper()
	c, err := CreateCertificate(t.Context(), b.NewInsecureIssuer(attest.SimTDX, m), b.key, Template{
		CommonName: "peer", NotBefore: notAfter.Add(-2 * time.Hour), NotAfter: notAfter,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// peer accepts what runs the measured program on the bench's machine.
func (b bench) peer(t *testing.T) Peer {
	t.Helper()
	vs, err := sim.NewVerifiers(b.Root())
	if err != nil {
		t.Fatal(err)
	}
	return Peer{
		Verifiers: attest.NewVerifiers(vs...), Endorse: b.Endorse, Now: time.Now,
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{measured.Program}}}},
	}
}

func present(c tls.Certificate) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return &c, nil }
}

// connection returns the two ends of a connection with buffers, so that neither
// end waits for the other to read its alert.
func connection(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// handshake connects the two ends and returns what each got.
func handshake(t *testing.T, client, server *tls.Config) (cs, ss *tls.Conn, clientErr, serverErr error) {
	t.Helper()
	a, b := connection(t)
	t.Cleanup(func() { a.Close(); b.Close() })
	deadline := time.Now().Add(10 * time.Second)
	_ = a.SetDeadline(deadline)
	_ = b.SetDeadline(deadline)
	cs, ss = tls.Client(a, client), tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := ss.Handshake()
		if err == nil {
			_, err = ss.Write([]byte("x"))
		}
		if err != nil {
			b.Close()
		}
		done <- err
	}()
	clientErr = cs.Handshake()
	if clientErr == nil {
		_, clientErr = cs.Read(make([]byte, 1)) // a server's refusal comes after the handshake
	}
	if clientErr != nil {
		a.Close()
	}
	return cs, ss, clientErr, <-done
}

func TestMutualSession(t *testing.T) {
	b := newBench(t)
	own := b.certificate(t, measured, time.Now().Add(time.Hour))
	s := Settings{Certificate: present(own), Verify: b.peer(t).VerifyConnection}
	c, srv, clientErr, serverErr := handshake(t, ClientConfig(s), ServerConfig(s))
	if clientErr != nil || serverErr != nil {
		t.Fatalf("got %v and %v, want a session", clientErr, serverErr)
	}
	one, err := Exporter(c.ConnectionState())
	if err != nil {
		t.Fatal(err)
	}
	two, err := Exporter(srv.ConnectionState())
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != 32 || !bytes.Equal(one, two) {
		t.Errorf("got exporters %x and %x, want the same 32 bytes", one, two)
	}
	c, _, clientErr, _ = handshake(t, ClientConfig(s), ServerConfig(s))
	if clientErr != nil {
		t.Fatal(clientErr)
	}
	if three, err := Exporter(c.ConnectionState()); err != nil || bytes.Equal(one, three) {
		t.Errorf("two sessions have one exporter (%v): evidence could be relayed", err)
	}
}

// TestSessionsRefused: the client refuses the server, with a code.
func TestSessionsRefused(t *testing.T) {
	b := newBench(t)
	hour := time.Now().Add(time.Hour)
	evil := measured
	evil.Program = bytes.Repeat([]byte{9}, 32)
	stolen := b.certificate(t, measured, hour)
	other := bench{b.Platform, newKey(t)}
	relabelled, err := Template{NotBefore: hour.Add(-2 * time.Hour), NotAfter: hour}.sign(other.key, stolen.Leaf.Extensions[len(stolen.Leaf.Extensions)-1])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Template{NotBefore: hour.Add(-2 * time.Hour), NotAfter: hour}.sign(b.key)
	if err != nil {
		t.Fatal(err)
	}
	debug := newBench(t)
	debug.Misbehave(platform.Misbehaviour{Debug: true})
	accept := b.peer(t)
	for _, c := range []struct {
		name string
		cert tls.Certificate
		peer Peer
		want problem.Code
	}{
		{"tampered program", b.certificate(t, evil, hour), accept, attest.CodeMeasurement},
		{"evidence for another key", relabelled, accept, codeKey},
		{"no evidence", plain, accept, "ATT-080"},
		{"expired", b.certificate(t, measured, time.Now().Add(-time.Minute)), accept, codeValidity},
		{"not yet valid", b.certificate(t, measured, time.Now().Add(100*time.Hour)), accept, codeValidity},
		{"another platform", newBench(t).certificate(t, measured, hour), accept, attest.CodeChain},
		{"debug", debug.certificate(t, measured, hour), debug.peer(t), attest.CodeDebug},
		{"nothing configured", b.certificate(t, measured, hour), Peer{}, attest.CodeNoVerifier},
		{"no verifier", b.certificate(t, measured, hour), Peer{Now: time.Now, Endorse: b.Endorse}, attest.CodeNoVerifier},
		{"no endorsements", b.certificate(t, measured, hour), Peer{Verifiers: accept.Verifiers, Now: time.Now,
			Endorse: func(context.Context, attest.Evidence) (attest.Endorsements, error) {
				return attest.Endorsements{}, errors.New("unreachable")
			}}, attest.CodeNoEndorsement},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := ServerConfig(Settings{Certificate: present(c.cert), AllowAnonymous: true, Verify: func(tls.ConnectionState) error { return nil }})
			_, _, err, _ := handshake(t, ClientConfig(Settings{Verify: c.peer.VerifyConnection}), server)
			if problem.CodeOf(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestServerRefuses: the server refuses clients as a client refuses servers.
func TestServerRefuses(t *testing.T) {
	b := newBench(t)
	own := b.certificate(t, measured, time.Now().Add(time.Hour))
	evil := measured
	evil.Program = bytes.Repeat([]byte{9}, 32)
	anybody := func(tls.ConnectionState) error { return nil }
	verify := b.peer(t).VerifyConnection
	for _, c := range []struct {
		name   string
		server Settings
		client Settings
		want   problem.Code
	}{
		{"tampered client", Settings{Certificate: present(own), Verify: verify},
			Settings{Certificate: present(b.certificate(t, evil, time.Now().Add(time.Hour))), Verify: anybody}, attest.CodeMeasurement},
		{"anonymous client, judged", Settings{Certificate: present(own), Verify: verify, AllowAnonymous: true}, Settings{Verify: anybody}, "ATT-080"},
		{"nobody to decide", Settings{Certificate: present(own), AllowAnonymous: true}, Settings{Verify: anybody}, codeSession},
		{"no certificate", Settings{Verify: anybody, AllowAnonymous: true}, Settings{Verify: anybody}, codeSession},
		{"anonymous client", Settings{Certificate: present(own), Verify: anybody}, Settings{Verify: anybody}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, clientErr, serverErr := handshake(t, ClientConfig(c.client), ServerConfig(c.server))
			if clientErr == nil || serverErr == nil {
				t.Fatalf("got a session, want refusal (%v, %v)", clientErr, serverErr)
			}
			if problem.CodeOf(serverErr) != c.want {
				t.Errorf("got %v, want %s", serverErr, c.want)
			}
		})
	}
}

// TestOldSessions: no TLS 1.2, no resumption, no exporter from either.
func TestOldSessions(t *testing.T) {
	b := newBench(t)
	own := b.certificate(t, measured, time.Now().Add(time.Hour))
	s := Settings{Certificate: present(own), AllowAnonymous: true, Verify: func(tls.ConnectionState) error { return nil }}
	old := ClientConfig(s)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err, _ := handshake(t, old, ServerConfig(s)); err == nil {
		t.Error("the server took TLS 1.2")
	}
	oldServer := ServerConfig(s)
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err, _ := handshake(t, ClientConfig(s), oldServer); err == nil {
		t.Error("the client took TLS 1.2")
	}
	if c := ServerConfig(s); !c.SessionTicketsDisabled || c.MinVersion != tls.VersionTLS13 || c.VerifyPeerCertificate != nil {
		t.Error("the server's settings allow resumption or old versions")
	}
	// A server that gives tickets out all the same, and a client that keeps them.
	server := ServerConfig(s)
	server.SessionTicketsDisabled = false
	server.VerifyConnection = nil
	client := ClientConfig(s)
	client.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.ServerName = "peer"
	if _, _, err, _ := handshake(t, client, server); err != nil {
		t.Fatal(err)
	}
	if _, _, err, _ := handshake(t, client, server); problem.CodeOf(err) != codeSession {
		t.Errorf("resumed session: got %v, want %s", err, codeSession)
	}
	if _, err := Exporter(tls.ConnectionState{Version: tls.VersionTLS12}); problem.CodeOf(err) != codeSession {
		t.Errorf("exporter of TLS 1.2: got %v, want %s", err, codeSession)
	}
	if _, err := Exporter(tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true}); problem.CodeOf(err) != codeSession {
		t.Errorf("exporter of a resumed session: got %v, want %s", err, codeSession)
	}
}

// TestRelay: evidence made on one session is refused on another, even when
// nonce and key are those that the verifier expects.
func TestRelay(t *testing.T) {
	b := newBench(t)
	own := b.certificate(t, measured, time.Now().Add(time.Hour))
	s := Settings{Certificate: present(own), AllowAnonymous: true, Verify: func(tls.ConnectionState) error { return nil }}
	session := func() (client, server []byte) {
		t.Helper()
		c, srv, clientErr, serverErr := handshake(t, ClientConfig(s), ServerConfig(s))
		if clientErr != nil || serverErr != nil {
			t.Fatal(clientErr, serverErr)
		}
		one, err := Exporter(c.ConnectionState())
		if err != nil {
			t.Fatal(err)
		}
		two, err := Exporter(srv.ConnectionState())
		if err != nil {
			t.Fatal(err)
		}
		return one, two
	}
	claims := func(exporter []byte) binding.Claims {
		return binding.Claims{Purpose: binding.Activate, PublicKey: binding.KeyHash(spki(t, b.key)), Nonce: make([]byte, 32), Exporter: exporter}
	}
	marble, relay := session()
	_, coordinator := session() // the relay's own session
	if bad := codes(binding.Expect(claims(relay), claims(marble))); bad != nil {
		t.Errorf("on its own session: got failed %v, want none", bad)
	}
	if bad := codes(binding.Expect(claims(coordinator), claims(marble))); len(bad) != 1 || bad[0] != "ATT-073" {
		t.Errorf("relayed: got failed %v, want ATT-073", bad)
	}
}
