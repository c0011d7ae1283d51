package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// Inbound listeners of two Envoys of the shop.
const (
	webInbound     = "127.0.77.12:8081" // HTTP
	catalogInbound = "127.0.77.14:8083" // TCP
)

// rejoin has the probe ask for a lease, honestly.
func (d *deployment) rejoin() (probe.Activation, error) {
	d.t.Helper()
	return d.dial(nil).Activate(d.t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: probeInstance()})
}

// join activates the probe.
func (d *deployment) join() probe.Activation {
	d.t.Helper()
	a, err := d.rejoin()
	if err != nil {
		d.t.Fatalf("the probe was refused: %v", err)
	}
	return a
}

func probeInstance() *marblepb.Instance {
	return &marblepb.Instance{Marble: "probe", Id: "00000000-0000-4000-8000-000000000001", Address: "127.0.77.50"}
}

func (d *deployment) dial(cert *tls.Certificate) *probe.Client {
	d.t.Helper()
	c, err := probe.Dial(d.t.Context(), dev.DefaultMesh, probe.Options{Certificate: cert})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}

// selfMade is a certificate with a name that it has no right to, under a CA of
// its own.
func selfMade(t *testing.T, spiffeID string) *tls.Certificate {
	t.Helper()
	id, err := url.Parse(spiffeID)
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "someone's CA"}, NotBefore: now.Add(-time.Minute),
		NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}
}

// throughTLS sends a request to an Envoy's inbound listener over TLS and returns
// what comes back, "" if nothing does.
func throughTLS(ctx context.Context, addr string, cert *tls.Certificate) (string, error) {
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /page HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(io.LimitReader(conn, 4096))
	if err != nil && !bytes.HasPrefix(b, []byte("HTTP/")) {
		return "", err
	}
	return string(b), nil
}

func TestHops(t *testing.T) {
	d := up(t, nil)
	leaf := d.join().Certificate()

	t.Run("allowed", func(t *testing.T) {
		status, body, err := page(t.Context())
		if err != nil || status != http.StatusOK || !strings.Contains(body, "plumb bob") {
			t.Fatalf("got %d %s, %v; want 200 and the catalog's items", status, body, err)
		}
	})
	t.Run("route that no call grants", func(t *testing.T) {
		status, body, err := get(t.Context(), shopURL+"/admin")
		if err != nil || status != http.StatusForbidden {
			t.Fatalf("got %d %s, %v; want 403", status, body, err)
		}
	})
	strangers := []struct {
		name string
		cert *tls.Certificate
	}{
		{"no certificate", nil},
		{"right name, own CA", selfMade(t, "spiffe://shop.example/gateway")},
		{"other trust domain", selfMade(t, "spiffe://other.example/gateway")},
		{"attested, but not a caller", &leaf},
	}
	for _, addr := range []string{webInbound, catalogInbound} {
		for _, s := range strangers {
			t.Run(s.name+" at "+addr, func(t *testing.T) {
				got, err := throughTLS(t.Context(), addr, s.cert)
				if err == nil && got != "" && !strings.HasPrefix(got, "HTTP/1.1 403") {
					t.Fatalf("got %.200q, want no answer or 403", got)
				}
			})
		}
		t.Run("plaintext at "+addr, func(t *testing.T) {
			if status, body, err := get(t.Context(), "http://"+addr+"/page"); err == nil {
				t.Fatalf("got %d %s, want no answer", status, body)
			}
		})
	}
	t.Run("spoofed node id", func(t *testing.T) { spoofedNode(t, d, &leaf) })
	t.Run("the shop still works", func(t *testing.T) {
		if status, body, err := page(t.Context()); err != nil || status != http.StatusOK {
			t.Fatalf("got %d %s, %v", status, body, err)
		}
	})
}

// spoofedNode says in its stream that it is gateway's Envoy: the answer is the
// probe's own, empty configuration.
func spoofedNode(t *testing.T, d *deployment, leaf *tls.Certificate) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := deltaStream(ctx, t, d.dial(leaf).Conn)
	for _, typ := range []string{"envoy.config.cluster.v3.Cluster", "envoy.config.listener.v3.Listener"} {
		err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "gateway", Cluster: "gateway"},
			TypeUrl: "type.googleapis.com/" + typ, ResourceNamesSubscribe: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Resources) != 0 {
			t.Errorf("%s: got %d resources, first %q; want none: the probe has no edge", typ, len(resp.Resources), resp.Resources[0].Name)
		}
	}
}

func deltaStream(ctx context.Context, t *testing.T, conn *grpc.ClientConn) discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}
