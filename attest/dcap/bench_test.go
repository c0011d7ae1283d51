//go:build unix

package dcap_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
)

// cpu returns the CPU time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// verdict measures whole verdicts by real evidence: Judge with a policy that
// names the software. The physical limit of a cached one is a single P-256
// verification, of the quote's signature.
func verdict(b *testing.B, name string, cached bool) {
	s := attesttest.Load(b, name)
	fresh := func() attest.Verifiers {
		v, err := dcap.New(dcap.Config{TEE: s.Evidence.TEE, Root: dcap.IntelRoot()})
		if err != nil {
			b.Fatal(err)
		}
		return attest.NewVerifiers(v)
	}
	v := fresh()
	c, _ := v[s.Evidence.TEE].Verify(s.Evidence, s.Endorsements, s.At())
	p := attest.Policy{PackageName: "web", PlatformName: "default"}
	rules := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{s.Status}}
	p.Platform.SGX, p.Platform.TDX = rules, rules
	if c.SGX != nil {
		p.Package.SGX = &attest.SGXReference{UniqueID: []attest.Hex{c.SGX.UniqueID}}
	} else {
		p.Package.TDX = &attest.TDXReference{MRTD: []attest.Hex{c.TDX.MRTD}, RTMR0: []attest.Hex{c.TDX.RTMR0}}
	}
	want := attest.Binding(c.ReportData)
	start := cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		if !cached {
			v = fresh()
		}
		if got := attest.Judge(v, s.Evidence, want, s.Endorsements, p, s.At()); !got.OK() {
			b.Fatalf("refused: %+v", got.Failed())
		}
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
}

func BenchmarkVerdictSGXCached(b *testing.B) { verdict(b, "sgx/automata-v3-606a-2025-08", true) }
func BenchmarkVerdictSGXCold(b *testing.B)   { verdict(b, "sgx/automata-v3-606a-2025-08", false) }
func BenchmarkVerdictTDXCached(b *testing.B) { verdict(b, "tdx/phala-v4-b0c0", true) }
func BenchmarkVerdictTDXCold(b *testing.B)   { verdict(b, "tdx/phala-v4-b0c0", false) }
func BenchmarkVerdictTDXBehind(b *testing.B) { verdict(b, "tdx/gcp-v4-8065-2025-02", true) }
