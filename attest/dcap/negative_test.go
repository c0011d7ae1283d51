package dcap_test

import (
	"crypto/x509"
	"math/big"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

func failures(steps []attest.Step) []string {
	var out []string
	for _, s := range steps {
		if !s.OK {
			out = append(out, s.Code+" "+s.Field)
		}
	}
	return out
}

func revoke(list *x509.RevocationList, serial int64) {
	list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: forgeTime.Add(-day)}}
}

// TestIntel changes every field of evidence that is signed throughout.
func TestIntel(t *testing.T) {
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		t.Run(string(tee), func(t *testing.T) {
			attesttest.Intel(t, tee, "Test", func(root *x509.Certificate) attest.Verifier {
				v, err := dcap.New(dcap.Config{TEE: tee, Root: root, Names: "Test"})
				if err != nil {
					t.Fatal(err)
				}
				return v
			})
		})
	}
}
