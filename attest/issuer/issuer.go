// Package issuer makes evidence, and sealing keys, on real hardware: through
// the kernel's configfs-tsm and guest devices (SEV-SNP, TDX, Arm CCA), inside
// Gramine, Occlum and EGo (SGX), and through a vTPM (Azure, TPM 2.0).
//
// It owns detection of the TEE that a process runs in, and the byte layouts of
// the kernel's and the vendors' interfaces. Evidence is handed on as the
// hardware gave it, after a look at whether it carries the report data that was
// asked for. It judges and fetches nothing, never falls back to a simulation,
// and takes no path and no device from the command line or the environment:
// Machine is the seam for tests.
//
// Errors are coded: ATT-095 no TEE found, ATT-096 its interface fails, ATT-097
// its answer makes no sense, ATT-098 it has no such sealing key, ATT-099 the
// sealing key is no secret of this software.
package issuer

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// SealPolicy says who gets the same sealing key.
type SealPolicy string

// The policies.
const (
	SealProduct SealPolicy = "product" // each release of the same signer and product
	SealUnique  SealPolicy = "unique"  // this very measurement alone
)

// Sealer is implemented by the issuers whose TEE has a sealing key.
type Sealer interface {
	// SealKey returns a secret of 16 or 32 bytes that only software that policy
	// admits gets, on this machine alone, and what it takes to get it again (at
	// most 512 bytes, no secret). With info nil it is the newest key; with
	// that info the one of then, also after an update of firmware, microcode
	// or, under SealProduct, of the software. Info is the host's to change: one
	// that would give another kind of key is refused (ATT-099).
	SealKey(ctx context.Context, policy SealPolicy, info []byte) (key, newInfo []byte, err error)
}

// SealerOf returns the sealing side of an issuer; ATT-098 if its TEE has none.
func SealerOf(i attest.Issuer) (Sealer, error) {
	if s, ok := i.(Sealer); ok {
		return s, nil
	}
	why, ok := keyless[i.TEE()]
	if !ok {
		why = "gives a guest no key that outlives it"
	}
	return nil, problem.New("ATT-098", "%s %s", i.TEE(), why).
		WithNext("run the coordinator in SGX under Gramine, or in SEV-SNP with --seal unique")
}

// keyless says why there is no Sealer, where it is not that there is no key.
var keyless = map[attest.TEE]string{
	attest.TPM: opensAnybodys, attest.SNPAzure: opensAnybodys, attest.TDXAzure: opensAnybodys,
}

// Whoever else ran on the machine before can have sealed a key of his choice to
// the registers that are to come.
const opensAnybodys = "has a TPM, which opens what anybody sealed: it cannot tell this program's state from another's"

// checkKey refuses what is no secret: environments that only look like a TEE
// give zeros.
func checkKey(what string, key []byte, size int) error {
	if len(key) != size {
		return problem.New("ATT-097", "%s: a sealing key of %d bytes, wanted %d", what, len(key), size)
	}
	if bytes.Equal(key, make([]byte, size)) {
		return problem.New("ATT-099", "%s gave a sealing key of zeros: this is no TEE", what)
	}
	return nil
}

// Where report data stands in evidence: Intel SGX DCAP quote v3 and v4 (header
// 48, in the report body at 320), TDX quote v4 (in the body at 520) and v5 (6
// bytes more before the body), AMD SEV-SNP firmware ABI 56860 table 23 (0x50).
const (
	quoteHeader   = 48
	sgxReportData = quoteHeader + 320
	tdxReportData = quoteHeader + 520
	snpReportData = 0x50
	snpReportSize = 0x4a0 // of a report of versions 2 to 5
)

// carries reports whether raw evidence of a TEE has b as its report data.
func carries(tee attest.TEE, raw []byte, b attest.Binding) bool {
	at := 0
	switch tee {
	case attest.SGX:
		at = sgxReportData
	case attest.TDX:
		at = tdxReportData
		if len(raw) > 1 && binary.LittleEndian.Uint16(raw) >= 5 {
			at += 6
		}
	case attest.SNP:
		if len(raw) < snpReportSize {
			return false
		}
		at = snpReportData
	default: // a token whose encoding this package does not read
		return bytes.Contains(raw, b[:])
	}
	return len(raw) >= at+len(b) && bytes.Equal(raw[at:at+len(b)], b[:])
}

// checked returns the evidence if it is what was asked for.
func checked(tee attest.TEE, raw []byte, b attest.Binding) (attest.Evidence, error) {
	if len(raw) == 0 || len(raw) > attest.MaxEvidence {
		return attest.Evidence{}, problem.New("ATT-097", "%s evidence of %d bytes, wanted 1 to %d", tee, len(raw), attest.MaxEvidence)
	}
	if !carries(tee, raw, b) {
		return attest.Evidence{}, problem.New("ATT-097", "%s evidence of %d bytes carries other report data than was asked for", tee, len(raw))
	}
	return attest.Evidence{TEE: tee, Raw: raw}, nil
}

// gate lets one request at a time through to an interface that serves one.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// alone runs f when no other runs. A call into the kernel cannot be cut off:
// when ctx ends first, alone returns and f ends by itself; until then the gate
// stays shut, so that at most one call lingers.
func alone[T any](ctx context.Context, g gate, f func() (T, error)) (T, error) {
	var none T
	select {
	case g <- struct{}{}:
	case <-ctx.Done():
		return none, problem.Because(context.Cause(ctx), "ATT-096", "waiting for an earlier request to the TEE")
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-g }()
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return none, r.err
		}
		return r.value, nil
	case <-ctx.Done():
		return none, problem.Because(context.Cause(ctx), "ATT-096", "waiting for the TEE")
	}
}

// sealed is a sealing key with what gives it again.
type sealed struct{ key, info []byte }
