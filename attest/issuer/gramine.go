package issuer

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// The pseudo-files of Gramine (its manual, "Attestation and Secret
// Provisioning"). They are one set for the process: report data that is written
// counts when the file is closed, and a quote is made when its file is opened.
const (
	gramineType  = "/dev/attestation/attestation_type"
	gramineData  = "/dev/attestation/user_report_data"
	gramineQuote = "/dev/attestation/quote"
	gramineKeys  = "/dev/attestation/keys/_sgx_"
)

// sgxKeySize is the length of a key of EGETKEY, in bytes.
const sgxKeySize = 16

// gramineAttempts is how often a quote is asked for when other code in the
// process exchanged the report data meanwhile.
const gramineAttempts = 3

type gramine struct {
	machine Machine
	gate    gate
}

// probeGramine looks at how the enclave was made to attest.
func probeGramine(_ context.Context, m Machine) (attest.Issuer, error) {
	kind, err := m.readFile(gramineType, 64)
	if err != nil {
		return nil, err
	}
	if k := strings.TrimRight(string(kind), "\x00\n"); k != "dcap" {
		return nil, problem.New("ATT-095", "Gramine's remote attestation is %q, wanted \"dcap\"", k).
			WithNext(`set sgx.remote_attestation = "dcap" in the Gramine manifest, and sign again`)
	}
	return &gramine{machine: m, gate: newGate()}, nil
}

// TEE implements attest.Issuer.
func (g *gramine) TEE() attest.TEE { return attest.SGX }

// Issue implements attest.Issuer.
func (g *gramine) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, g.gate, func() (e attest.Evidence, err error) {
		for range gramineAttempts {
			var quote []byte
			if quote, err = g.quote(b); err != nil {
				return attest.Evidence{}, problem.Because(err, "ATT-096", "asking Gramine for a quote")
			}
			if e, err = checked(attest.SGX, quote, b); err == nil {
				return e, nil
			}
		}
		return attest.Evidence{}, err
	})
}

func (g *gramine) quote(b attest.Binding) ([]byte, error) {
	f, err := g.machine.Open(gramineData, os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	n, err := f.Write(b[:])
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return g.machine.readFile(gramineQuote, attest.MaxEvidence)
}

// gramineKeyFiles are the keys that Gramine gives by policy: of MRSIGNER and
// product id, and of MRENCLAVE.
var gramineKeyFiles = map[SealPolicy]string{SealProduct: gramineKeys + "mrsigner", SealUnique: gramineKeys + "mrenclave"}

// SealKey implements Sealer. Gramine gives the key of the CPU's present security
// version alone, so info is empty, and a microcode update changes the key.
func (g *gramine) SealKey(ctx context.Context, policy SealPolicy, _ []byte) (key, info []byte, err error) {
	path, ok := gramineKeyFiles[policy]
	if !ok {
		return nil, nil, problem.New("ATT-098", "Gramine has no sealing key of policy %q", policy)
	}
	key, err = alone(ctx, g.gate, func() ([]byte, error) {
		key, err := g.machine.readFile(path, sgxKeySize)
		if err != nil {
			return nil, problem.Because(err, "ATT-096", "asking Gramine for its sealing key")
		}
		return key, checkKey("Gramine", key, sgxKeySize)
	})
	return key, nil, err
}
