package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxNVIndex = 16 << 10 // bytes of an NV index that are read
	nvChunk    = 512      // bytes that every TPM reads at once (PC Client Platform TPM Profile)
	maxPCRRead = 8        // digests that TPM2_PCR_Read returns at most
	pcrCount   = 24

	// quoteAttempts is how often registers are read and quoted anew because one
	// was extended meanwhile: the kernel's IMA extends PCR 10 for each file.
	quoteAttempts = 8
)

var errMoving = errors.New("registers were extended faster than they could be quoted")

// withTPM opens the TPM for one use; the kernel's resource manager keeps users
// apart.
func (m Machine) withTPM(use func(transport.TPM) error) error {
	t, err := m.TPM()
	if err != nil {
		return err
	}
	return errors.Join(use(t), t.Close())
}

// attestationKey is a key in the TPM that signs quotes.
type attestationKey struct {
	handle tpm2.NamedHandle
	public []byte // TPMT_PUBLIC
}

// quote quotes all registers of the SHA-256 bank with b as qualifying data: its
// first 32 bytes if the rest is zeros, since TPMs take about 50 bytes.
func quote(t transport.TPM, key attestationKey, b attest.Binding) (tpm.Quote, error) {
	data := b[:]
	if bytes.Equal(b[32:], make([]byte, 32)) {
		data = b[:32]
	}
	all := make([]uint, pcrCount)
	for i := range all {
		all[i] = uint(i)
	}
	for range quoteAttempts {
		before, err := registers(t)
		if err != nil {
			return tpm.Quote{}, err
		}
		rsp, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: key.handle.Handle, Name: key.handle.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: data},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, // the key's own
			PCRSelect:      selection(all),
		}.Execute(t)
		if err != nil {
			return tpm.Quote{}, fmt.Errorf("quoting with the key at %#x: %w", key.handle.Handle.HandleValue(), err)
		}
		after, err := registers(t)
		if err != nil {
			return tpm.Quote{}, err
		}
		if !maps.EqualFunc(before, after, func(a, b attest.Hex) bool { return bytes.Equal(a, b) }) {
			continue
		}
		said, err := rsp.Quoted.Contents()
		if err != nil {
			return tpm.Quote{}, fmt.Errorf("reading the quote: %w", err)
		}
		if !bytes.Equal(said.ExtraData.Buffer, data) {
			return tpm.Quote{}, problem.New("ATT-097", "the TPM's quote carries other data than was asked for")
		}
		return tpm.Quote{Attested: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature), PCRs: before}, nil
	}
	return tpm.Quote{}, errMoving
}

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// registers reads all registers of the SHA-256 bank.
func registers(t transport.TPM) (map[string]attest.Hex, error) {
	values := make(map[string]attest.Hex, pcrCount)
	for first := uint(0); first < pcrCount; first += maxPCRRead {
		pcrs := make([]uint, maxPCRRead)
		for i := range pcrs {
			pcrs[i] = first + uint(i)
		}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(pcrs)}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading registers from %d: %w", first, err)
		}
		if n := len(rsp.PCRValues.Digests); n != len(pcrs) {
			return nil, fmt.Errorf("the TPM gave %d of %d registers of the SHA-256 bank", n, len(pcrs))
		}
		for i, n := range pcrs {
			values[strconv.Itoa(int(n))] = rsp.PCRValues.Digests[i].Buffer
		}
	}
	return values, nil
}

// readNV returns the content of an NV index that needs no secret to be read.
func readNV(t transport.TPM, index uint32) ([]byte, error) {
	handle := tpm2.TPMHandle(index)
	rsp, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("looking for NV index %#x: %w", index, err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading about NV index %#x: %w", index, err)
	}
	if public.DataSize == 0 || public.DataSize > maxNVIndex {
		return nil, fmt.Errorf("NV index %#x has %d bytes, wanted 1 to %d", index, public.DataSize, maxNVIndex)
	}
	auth := tpm2.AuthHandle{Handle: handle, Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)}
	if public.Attributes.OwnerRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	var content []byte
	for left := public.DataSize; left > 0; {
		part, err := tpm2.NVRead{AuthHandle: auth, NVIndex: tpm2.NamedHandle{Handle: handle, Name: rsp.NVName},
			Size: min(left, nvChunk), Offset: public.DataSize - left}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading NV index %#x: %w", index, err)
		}
		n := len(part.Data.Buffer)
		if n == 0 || n > int(left) {
			return nil, fmt.Errorf("reading NV index %#x: %d bytes for %d", index, n, min(left, nvChunk))
		}
		content = append(content, part.Data.Buffer...)
		left -= uint16(n)
	}
	return content, nil
}

// issueTPM makes evidence with the TPM, alone.
func issueTPM(ctx context.Context, g gate, m Machine, tee attest.TEE, collect func(transport.TPM) ([]byte, error)) (attest.Evidence, error) {
	return alone(ctx, g, func() (attest.Evidence, error) {
		e := attest.Evidence{TEE: tee}
		err := m.withTPM(func(t transport.TPM) (err error) {
			e.Raw, err = collect(t)
			return err
		})
		if err != nil {
			var coded *problem.Error
			if errors.As(err, &coded) {
				return attest.Evidence{}, coded
			}
			return attest.Evidence{}, problem.Because(err, "ATT-096", "asking the TPM for %s evidence", tee)
		}
		e.EventLog = m.tpmEventLog()
		return e, nil
	})
}
