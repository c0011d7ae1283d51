//go:build linux

package integration

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// oddMesh is what does not speak HTTP/2 under TLS 1.3 on the mesh port.
func (d *deployment) oddMesh(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) {
		closes(t, plain(t, dev.DefaultMesh, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 2")
	})
	t.Run("HTTP/2 in plaintext", func(t *testing.T) {
		closes(t, plain(t, dev.DefaultMesh, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), "\x00\x00")
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}
		if conn, err := dialer.DialContext(t.Context(), "tcp", dev.DefaultMesh); err == nil {
			conn.Close()
			t.Error("TLS 1.2 was accepted")
		}
	})
	for name, frames := range map[string]string{
		"HTTP/1.1 over TLS":     "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"noise":                 strings.Repeat("\xde\xad\xbe\xef", 4096),
		"frame of 16 MB":        http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\xff\xff\xff\x00\x00\x00\x00\x00\x01" + strings.Repeat("x", 100_000),
		"headers on stream 0":   http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x04\x00\x00\x00\x00\x82",
		"data without a stream": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x00\x00\x00\x00\x00\x09x",
		"malformed HPACK":       http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			conn := tlsTo(t, dev.DefaultMesh, []string{"h2"})
			_ = conn.SetDeadline(time.Now().Add(patience))
			go io.WriteString(conn, frames) //nolint:errcheck // it may be cut off
			if name == "data without a stream" {
				return // the peer may ignore it: that it lives on is checked after
			}
			closes(t, conn, "HTTP/1.1 2")
		})
	}
}

// oddGRPC are calls that gRPC or the marble API refuses.
func (d *deployment) oddGRPC(t *testing.T) {
	only := new(http.Protocols)
	only.SetHTTP2(true)
	transport := &http.Transport{Protocols: only, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	for name, one := range map[string]struct{ method, kind, body string }{
		"not protobuf":       {"Activate", "application/grpc", "\x00\x00\x00\x00\x04\xff\xff\xff\xff"},
		"message cut short":  {"Activate", "application/grpc", "\x00\x00\x00\x10\x00abc"},
		"message of 4 GB":    {"Activate", "application/grpc", "\x00\xff\xff\xff\xff" + strings.Repeat("x", 1000)},
		"unknown compressor": {"Activate", "application/grpc", "\x01\x00\x00\x00\x04abcd"},
		"no such method":     {"Reboot", "application/grpc", "\x00\x00\x00\x00\x00"},
		"no gRPC":            {"Activate", "application/json", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+dev.DefaultMesh+"/ashlar.marble.v1.Marble/"+one.method, strings.NewReader(one.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", one.kind)
			req.Header.Set("Te", "trailers")
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return // the stream was reset
			}
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body) //nolint:errcheck // the status is what counts
			said := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
			if resp.StatusCode == http.StatusOK && (said == "" || said == "0") {
				t.Errorf("got %s with gRPC status %q, want a refusal", resp.Status, said)
			}
		})
	}
	for name, one := range map[string]struct {
		request *marblepb.ActivateRequest
		want    codes.Code
		coded   bool
	}{
		"empty": {&marblepb.ActivateRequest{}, codes.InvalidArgument, true},
		"evidence of 100 KB": {&marblepb.ActivateRequest{Instance: probeInstance(), Nonce: make([]byte, 32), PublicKey: []byte("x"),
			Evidence: &marblepb.Evidence{Tee: "sgx", Raw: make([]byte, 100<<10)}}, codes.InvalidArgument, true},
		"message of 8 MB": {&marblepb.ActivateRequest{Instance: probeInstance(), Evidence: &marblepb.Evidence{Tee: "sgx", Raw: make([]byte, 8<<20)}},
			codes.ResourceExhausted, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.dial(nil).API.Activate(t.Context(), one.request)
			e, coded := marblepb.Problem(err)
			if one.coded && !coded || status.Code(err) == codes.OK || status.Code(err) == codes.Unknown {
				t.Errorf("got %v, want a refusal with a code", err)
			}
			if !one.coded && status.Code(err) != one.want {
				t.Errorf("got %v, want %v", err, one.want)
			}
			t.Logf("%v %v", status.Code(err), e)
		})
	}
}
