//go:build linux

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// Store is an etcd for a release's coordinators. It is not the API server's, and
// takes connections with certificates of the cluster's CA alone.
type Store struct {
	Endpoint string // HOST:PORT, as pods reach it
	Client   Pair   // a certificate that it takes

	client *http.Client
}

// Store starts one. It ends with the control plane.
func (c *Cluster) Store(t testing.TB) *Store {
	t.Helper()
	serving, err := c.Serving("etcd", isolate.Gateway)
	if err == nil {
		err = c.pki.files("store", serving)
	}
	s := &Store{Endpoint: isolate.Gateway + ":12379"}
	if err == nil {
		s.Client, err = c.pki.issue("coordinators", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(s.Client.Cert, s.Client.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA())
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
	url := "https://" + s.Endpoint
	err = c.start("etcd", "store", "--name=store", "--data-dir="+c.path("store"), "--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls=http://127.0.0.1:12380", "--initial-advertise-peer-urls=http://127.0.0.1:12380", "--initial-cluster=store=http://127.0.0.1:12380",
		"--cert-file="+c.path("store.crt"), "--key-file="+c.path("store.key"), "--trusted-ca-file="+c.path("ca.crt"), "--client-cert-auth",
		"--auto-compaction-mode=periodic", "--auto-compaction-retention=1h", "--quota-backend-bytes=2147483648", "--log-level=warn", "--unsafe-no-fsync")
	if err == nil {
		err = c.await(t.Context(), "the coordinators' etcd", func() error { return answers(t.Context(), s.client, url+"/health") })
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Raw calls f with each key and its value, as they are stored.
func (s *Store) Raw(ctx context.Context, f func(key string, value []byte)) error {
	return each(ctx, server{s.client, "https://" + s.Endpoint}, f)
}
