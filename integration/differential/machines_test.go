package differential

import (
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"

	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// TestSEVGuestMachines compares with go-sev-guest what a report may say that is
// signed throughout, by machines that are made up.
func TestSEVGuestMachines(t *testing.T) {
	logger.Init("go-sev-guest", false, false, io.Discard)
	for _, signer := range []attesttest.AMDSigner{attesttest.VCEK, attesttest.VLEK} {
		t.Run(string(signer), func(t *testing.T) {
			f := attesttest.NewAMDForge(t, snp.Milan, signer)
			v, err := snp.New(snp.Config{Roots: []*x509.Certificate{f.Root}})
			if err != nil {
				t.Fatal(err)
			}
			roots := trust.AMDRootCertsProduct(snp.Milan)
			roots.ProductCerts = &trust.ProductCerts{Ask: f.CA, Ark: f.Root, Asvk: f.CA}
			ours := func(c testCase) answer { return judged(v, c) }
			theirs := sevGuest(map[string][]*trust.AMDRootCerts{snp.Milan: {roots}})
			compare(t, machines(f), ours, theirs, func(a, b answer) bool { return a.ok == b.ok }, []disagreement{
				{"accepted", "is lower than the report's COMMITTED_TCB", "byte 0x1e[2-5]$", "go-sev-guest compares reserved bytes of committed and current TCB as if they were levels"},
			})
		})
	}
}

// machines returns reports with bits changed before they are signed.
func machines(f *attesttest.AMDForge) []testCase {
	r := rand.New(rand.NewPCG(seed, 1))
	good := append([]byte(nil), f.Report...)
	endorsements := f.Endorsements()
	out := []testCase{{name: "good", evidence: f.Evidence(), endorsements: endorsements, at: attesttest.AMDForgeTime}}
	for range 250 {
		f.Report = append([]byte(nil), good...)
		at, bit := r.IntN(0x2a0), r.IntN(8)
		f.Report[at] ^= 1 << bit
		out = append(out, testCase{name: fmt.Sprintf("bit %d of byte %#x", bit, at), evidence: f.Evidence(), endorsements: endorsements, at: attesttest.AMDForgeTime})
	}
	f.Report = good
	return out
}
