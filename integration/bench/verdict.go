package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/snp"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
)

// limits are what no implementation on this machine can beat.
type limits struct {
	verifyUS    float64 // one P-256 verification
	p384US      float64 // one P-384 verification
	handshakeUS float64 // one TLS 1.3 handshake, both ends, no client certificate
	fsyncUS     float64 // one small write with fsync
}

// activationUS is what an activation costs at least: the serving half of a
// handshake, two verifications (the quote, the leaf as it was signed) and a
// signature.
func (l limits) activationUS() float64 { return l.handshakeUS/2 + 2.4*l.verifyUS }

// evidenceDir holds the golden evidence, from the root of the repository.
const evidenceDir = "attest/attesttest/testdata/evidence/"

// cpu is the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp is the CPU time of one call of f in microseconds: the median of chunks,
// each of about 20 ms.
func perOp(f func()) float64 {
	const chunks = 25
	n := 1
	for start := cpu(); cpu()-start < 20*time.Millisecond; n++ {
		f()
	}
	var us []float64
	for range chunks {
		start := cpu()
		for range n {
			f()
		}
		us = append(us, float64((cpu()-start).Nanoseconds())/1000/float64(n))
	}
	slices.Sort(us)
	return us[chunks/2]
}

func measureLimits() limits {
	key, digest, sig := signed(elliptic.P256())
	large, _, largeSig := signed(elliptic.P384())
	return limits{verifyUS: perOp(func() { ecdsa.VerifyASN1(&key.PublicKey, digest, sig) }), fsyncUS: fsyncCost(),
		p384US: perOp(func() { ecdsa.VerifyASN1(&large.PublicKey, digest, largeSig) }), handshakeUS: perOp(handshake(key))}
}

// signed returns a new key and a signature that it made.
func signed(curve elliptic.Curve) (key *ecdsa.PrivateKey, digest, sig []byte) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256([]byte("limit"))
	if sig, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
		panic(err)
	}
	return key, sum[:], sig
}

// handshake returns a function that makes one TLS handshake in memory, as Go
// does by default: X25519 with ML-KEM-768, and a P-256 certificate.
func handshake(key *ecdsa.PrivateKey) func() {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	server := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	client := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	return func() {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		var g errgroup.Group
		g.Go(tls.Server(a, server).Handshake)
		if err := errors.Join(tls.Client(b, client).Handshake(), g.Wait()); err != nil {
			panic(err)
		}
	}
}

// fsyncCost is the median wall time of a 4 KiB append with fsync, in
// microseconds.
func fsyncCost() float64 {
	f, err := os.CreateTemp("", "ashlar-bench-")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var us []float64
	for range 200 {
		start := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			panic(err)
		}
		if err := f.Sync(); err != nil {
			panic(err)
		}
		us = append(us, float64(time.Since(start).Nanoseconds())/1000)
	}
	slices.Sort(us)
	return us[len(us)/2]
}

// verdicts judges real evidence: with everything cached, and by a verifier that
// has seen nothing.
func (b *bench) verdicts() error {
	b.add("limit.p256.verify_us", b.limits.verifyUS, "us CPU", b.limits.verifyUS, "one P-256 verification")
	b.add("limit.tls.handshake_us", b.limits.handshakeUS, "us CPU", b.limits.handshakeUS, "one TLS 1.3 handshake, both ends")
	b.add("limit.fsync_us", b.limits.fsyncUS, "us", b.limits.fsyncUS, "one fsync of 4 KiB")
	cases := []struct {
		name, set string
		fresh     func() attest.Verifier
		limitUS   float64
		limit     string
	}{
		{"sgx", "sgx/automata-v3-606a-2025-08", sgx.NewVerifier, b.limits.verifyUS, "one P-256 verification: the quote's own"},
		{"tdx", "tdx/phala-v4-b0c0", tdx.NewVerifier, b.limits.verifyUS, "one P-256 verification: the quote's own"},
		{"snp", "snp/msft-milan-v3-vcek", snp.NewVerifier, b.limits.p384US, "one P-384 verification: the report's own"},
	}
	for _, c := range cases {
		set, err := evidence.Load(os.DirFS(evidenceDir + c.set))
		if err != nil {
			return err
		}
		floor := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.SWHardeningNeeded}}
		p := attest.Policy{Platform: attest.Platform{SGX: floor, TDX: floor, SNP: evidence.AnySNPPlatform()}, Package: evidence.AnyPackage()}
		p.Platform.Endorsements.AllowUncheckedRevocation = !set.HasCRL
		judge := func(v attest.Verifiers) attest.Verdict {
			return attest.JudgeUnbound(v, set.Evidence, set.Endorsements, p, set.VerifyAt)
		}
		warm := attest.NewVerifiers(c.fresh())
		if v := judge(warm); !v.OK() {
			return fmt.Errorf("%s is refused: %v", c.set, v.Failed())
		}
		b.add("verdict."+c.name+".cached.cpu_us", perOp(func() { judge(warm) }), "us CPU", c.limitUS, c.limit)
		if c.name == "snp" {
			continue // cold, parsing the embedded roots outweighs the verdict
		}
		b.add("verdict."+c.name+".cold.cpu_us", perOp(func() { judge(attest.NewVerifiers(c.fresh())) }), "us CPU", 11*b.limits.verifyUS, "eleven P-256 verifications")
	}
	return nil
}
