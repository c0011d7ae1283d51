package snp_test

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// BenchmarkVerify measures a verification with the chain cached, whose limit is
// one P-384 verification, and with nothing cached.
func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"snp/msft-milan-v3-vcek", "snp/msft-turin-v5-vcek"} {
		s := attesttest.Load(b, name)
		verify := func(b *testing.B, v attest.Verifier) {
			if _, steps := v.Verify(s.Evidence, s.Endorsements, s.At()); failed(steps) != nil {
				b.Fatal(failed(steps))
			}
		}
		b.Run(name+"/cached", func(b *testing.B) {
			v := snp.NewVerifier()
			b.ReportAllocs()
			for b.Loop() {
				verify(b, v)
			}
		})
		b.Run(name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				v := snp.NewVerifier()
				b.StartTimer()
				verify(b, v)
			}
		})
	}
}
