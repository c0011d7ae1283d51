package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// replayer presents a quote that somebody else got.
type replayer struct{ quote attest.Evidence }

func (r replayer) TEE() attest.TEE { return r.quote.TEE }

func (r replayer) Issue(context.Context, attest.Binding) (attest.Evidence, error) {
	return r.quote, nil
}

// answer handles connections to a listener, one after the other, and closes them.
// What it returns ends that, which the end of the test does too.
func answer(t *testing.T, l net.Listener, handle func(net.Conn)) (end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	end = func() {
		l.Close()
		<-done
	}
	t.Cleanup(end)
	return end
}

// serve answers TLS handshakes on a loopback port with a certificate, and fails
// the test if a client sends a byte where none is expected.
func serve(t *testing.T, cert tls.Certificate, silent bool) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	answer(t, l, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); silent && (n > 0 || !errors.Is(err, io.EOF)) {
			t.Errorf("the client sent %d bytes, %v, want nothing", n, err)
		}
	})
	return l.Addr().(*net.TCPAddr).String()
}

// TestInspectServer takes evidence out of a server's certificate, says that it
// vouches for another key, and makes no policy of it. Nothing is sent.
func TestInspectServer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := attesttest.Load(t, "tdx/phala-v4-b0c0")
	cert, err := ratls.CreateCertificate(context.Background(), replayer{set.Evidence}, key,
		ratls.Template{CommonName: "replay", NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, cert, true)
	out, errs, code := run(t, "inspect", addr)
	if code != 0 || !strings.Contains(out, "tdx.mrtd") || !strings.Contains(out, "NOT VERIFIED") || !strings.Contains(errs, "certificate's key") {
		t.Errorf("got exit %d, %s%s", code, out, errs)
	}
	_, errs, code = run(t, "inspect", addr, "--as", "policy", "--unverified")
	if code != 3 || !strings.Contains(errs, "CLI-026") {
		t.Errorf("as policy: got exit %d, %s, want 3 and CLI-026", code, errs)
	}
}

// TestInspectPlainServer finds no evidence at a server that is no coordinator.
func TestInspectPlainServer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plain"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, false)
	out, errs, code := run(t, "inspect", addr, "--timeout", "1s")
	if code != 4 || out != "" || !strings.Contains(errs, "CRD-105") {
		t.Errorf("got exit %d, %s%s, want 4 and CRD-105", code, out, errs)
	}
}
