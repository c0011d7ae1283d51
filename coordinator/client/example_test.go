package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// A client verifies a coordinator by a policy file, and gets a TLS configuration
// that trusts that deployment and nothing else.
func ExampleDial() {
	trust := func(ctx context.Context, addr, policyFile string) (*tls.Config, error) {
		raw, err := os.ReadFile(policyFile)
		if err != nil {
			return nil, err
		}
		policy, diagnostics := manifest.ParsePolicyFile(raw)
		if err := diagnostics.Err(); err != nil {
			return nil, err
		}
		c, err := client.Dial(ctx, addr, client.Options{
			Policy:    policy.Policy(),
			Verifiers: attest.NewVerifiers(sgx.NewVerifier(), tdx.NewVerifier()),
			Timeout:   5 * time.Second,
		})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		roots := x509.NewCertPool()
		roots.AddCert(c.Verified().Root)
		return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
	}

	config, err := trust(context.Background(), "127.0.0.1:1", "testdata/policy.json")
	if err != nil {
		fmt.Println(problem.CodeOf(err)) // nobody listens there
		return
	}
	_ = &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	// Output: CRD-105
}
