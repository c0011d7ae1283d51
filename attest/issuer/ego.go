//go:build ego && cgo

package issuer

import (
	"context"
	"encoding/binary"

	"github.com/edgelesssys/ego/enclave"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// openEnclaveHeader is what EGo puts before a quote: version 1, type 2 (remote
// SGX report), 4 bytes each, and the quote's length, 8 bytes, little-endian
// (Open Enclave, oe_report_header_t).
const openEnclaveHeader = 16

// ego is an enclave of EGo around this very process.
type ego struct{ gate gate }

// probeEGo makes a report: outside an enclave that is the one thing that fails,
// where sealing keys of zeros are given without an error.
func probeEGo(ctx context.Context, _ Machine) (attest.Issuer, error) {
	e := &ego{gate: newGate()}
	if _, err := e.Issue(ctx, attest.Binding{}); err != nil {
		return nil, err
	}
	return e, nil
}

// TEE implements attest.Issuer.
func (e *ego) TEE() attest.TEE { return attest.SGX }

// Issue implements attest.Issuer.
func (e *ego) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, e.gate, func() (attest.Evidence, error) {
		report, err := enclave.GetRemoteReport(b[:])
		if err != nil {
			return attest.Evidence{}, problem.Because(err, "ATT-096", "asking EGo for a quote")
		}
		quote, err := stripOpenEnclave(report)
		if err != nil {
			return attest.Evidence{}, err
		}
		return checked(attest.SGX, quote, b)
	})
}

// SealKey implements Sealer.
func (e *ego) SealKey(ctx context.Context, policy SealPolicy, info []byte) (key, newInfo []byte, err error) {
	if err := knownSGXPolicy(policy); err != nil {
		return nil, nil, err
	}
	// Issue fails outside an enclave.
	if _, err := e.Issue(ctx, attest.Binding{}); err != nil {
		return nil, nil, err
	}
	k, err := alone(ctx, e.gate, func() (sealed, error) {
		k, err := egoKey(policy, info)
		if err != nil {
			return sealed{}, err
		}
		return k, checkKey("EGo", k.key, sgxKeySize)
	})
	return k.key, k.info, err
}

func egoKey(policy SealPolicy, info []byte) (k sealed, err error) {
	switch {
	case info != nil:
		request, err := parseSGXKeyRequest(policy, info)
		if err != nil {
			return sealed{}, err
		}
		k.info = request[:]
		k.key, err = enclave.GetSealKey(k.info)
		return k, egoFailed(err)
	case policy == SealProduct:
		k.key, k.info, err = enclave.GetRandomProductSealKey()
	default:
		k.key, k.info, err = enclave.GetRandomUniqueSealKey()
	}
	if err != nil {
		return sealed{}, egoFailed(err)
	}
	_, err = parseSGXKeyRequest(policy, k.info) // or it could not be opened again
	return k, err
}

func egoFailed(err error) error {
	if err == nil {
		return nil
	}
	return problem.Because(err, "ATT-096", "asking EGo for a sealing key")
}

// stripOpenEnclave returns the quote behind Open Enclave's header.
func stripOpenEnclave(report []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(report) <= openEnclaveHeader || le.Uint32(report) != 1 || le.Uint32(report[4:]) != 2 ||
		le.Uint64(report[8:]) > uint64(len(report)-openEnclaveHeader) {
		return nil, problem.New("ATT-097", "EGo gave a report of %d bytes without Open Enclave's header", len(report))
	}
	return report[openEnclaveHeader:][:le.Uint64(report[8:])], nil
}
