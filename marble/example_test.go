package marble_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/marble"
)

// A Go program in an enclave or a confidential VM becomes a marble by itself.
func ExampleRun() {
	join := func(ctx context.Context, root *x509.Certificate) error {
		tee, err := issuer.Open(ctx, issuer.Host(), issuer.Auto)
		if err != nil {
			return err
		}
		m, err := marble.Run(ctx, marble.Config{Marble: "web", ID: "1", Coordinator: "coord:2001",
			Trust: marble.Trust{Root: root}, Issuer: tee})
		if err != nil {
			return err
		}
		defer m.Close()
		lease, _ := m.Lease()
		fmt.Fprintln(os.Stderr, "I am", lease.SPIFFEID)
		return nil
	}
	_ = join
}
