package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// CAs returns the CAs in use and when they are replaced.
func (c *Client) CAs(ctx context.Context) (apiv1.CAs, error) {
	return get[apiv1.CAs](ctx, c, "/v1/ca", nil)
}

// RotateCA replaces "mesh" or "root" now.
func (c *Client) RotateCA(ctx context.Context, which string) (apiv1.CAs, error) {
	return send[apiv1.CAs](ctx, c, http.MethodPost, "/v1/ca/rotate", nil, apiv1.RotateCA{CA: which})
}

// FetchRoots asks addr for its root and the signed steps to it, without
// verifying anything: FollowRoots does that from a root that is trusted. It
// answers where even the chains no longer lead to the trusted root, because its
// overlap has ended.
func FetchRoots(ctx context.Context, addr string, timeout time.Duration) (apiv1.Roots, error) {
	var roots apiv1.Roots
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), DefaultPort)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := &http.Transport{MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}} //nolint:gosec // the answer is signed
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/v1/roots", nil)
	if err != nil {
		return roots, problem.Because(err, "CRD-110", "address %q", addr)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return roots, unreachable(err, addr)
	}
	defer resp.Body.Close()
	body, err := readBody(resp, maxStatement)
	if err != nil {
		return roots, unverified(err)
	}
	if err := json.Unmarshal(body, &roots); err != nil {
		return roots, problem.Because(err, "CRD-107", "reading the roots")
	}
	return roots, nil
}

// Follow returns the certificates to trust in place of trusted, the root first:
// the root of today, reached by signed steps, and those on the way that are still
// trusted.
func Follow(trusted *x509.Certificate, r apiv1.Roots, at time.Time) ([][]byte, error) {
	sum := sha256.Sum256(trusted.Raw)
	if _, err := FollowRoots(sum[:], r, at); err != nil {
		return nil, err
	}
	return anchors(apiv1.Statement{Root: r.Root, RootSteps: stepsFrom(sum[:], r)}, at), nil
}
