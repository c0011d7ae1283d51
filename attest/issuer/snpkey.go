package issuer

import (
	"context"
	"encoding/binary"
	"unsafe"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// What is mixed into a derived key (GUEST_FIELD_SELECT of MSG_KEY_REQ, AMD
// 56860). The policy keeps guests out that were launched for debugging. The
// family and image ids are left out: whoever launches a guest sets them, and the
// key that signed them is not mixed in, so they name nobody.
const (
	mixPolicy      = 1 << 0
	mixMeasurement = 1 << 3
	mixTCB         = 1 << 5
	mixUnique      = mixPolicy | mixMeasurement | mixTCB
)

// Where the VMPL and COMMITTED_TCB stand in a report.
const (
	snpVMPL         = 0x30
	snpCommittedTCB = 0x1e0
)

// snpKeyInfo is what gives the same key again: version, VMPL, six zero bytes,
// and the TCB version that was mixed in, little-endian. A newer TCB derives the
// keys of older ones.
type snpKeyInfo [16]byte

const snpKeyInfoVersion = 1

func newSNPKeyInfo(vmpl uint32, tcb uint64) []byte {
	info := snpKeyInfo{snpKeyInfoVersion, byte(vmpl)}
	binary.LittleEndian.PutUint64(info[8:], tcb)
	return info[:]
}

// parseSNPKeyInfo returns the TCB version, and refuses what this guest, at this
// level, did not write.
func parseSNPKeyInfo(info []byte, vmpl uint32) (tcb uint64, err error) {
	if len(info) != len(snpKeyInfo{}) || [8]byte(info) != (snpKeyInfo{snpKeyInfoVersion, byte(vmpl)}.head()) {
		return 0, problem.New("ATT-099", "what is kept of the sealing key is not of an SEV-SNP guest at VMPL %d", vmpl)
	}
	return binary.LittleEndian.Uint64(info[8:]), nil
}

func (i snpKeyInfo) head() [8]byte { return [8]byte(i[:8]) }

// SealKey implements Sealer. The key is of this chip, this launch measurement,
// this guest policy and this VMPL. There is no SealProduct: SEV-SNP mixes no
// signer into a key.
func (s *snpGuest) SealKey(ctx context.Context, policy SealPolicy, info []byte) (key, newInfo []byte, err error) {
	if policy != SealUnique {
		return nil, nil, problem.New("ATT-098", "SEV-SNP has no key that the releases of one signer share").WithNext("start with --seal unique")
	}
	k, err := alone(ctx, s.gate, func() (sealed, error) { return s.sealKey(info) })
	return k.key, k.info, err
}

func (s *snpGuest) sealKey(info []byte) (sealed, error) {
	report, err := s.report(attest.Binding{})
	if err != nil {
		return sealed{}, err
	}
	if len(report) < snpReportSize {
		return sealed{}, problem.New("ATT-097", "SEV-SNP report of %d bytes, wanted %d", len(report), snpReportSize)
	}
	vmpl := binary.LittleEndian.Uint32(report[snpVMPL:])
	tcb := binary.LittleEndian.Uint64(report[snpCommittedTCB:])
	if info == nil {
		info = newSNPKeyInfo(vmpl, tcb)
	} else if tcb, err = parseSNPKeyInfo(info, vmpl); err != nil {
		return sealed{}, err
	}
	request := &snpKeyRequest{fields: mixUnique, vmpl: vmpl, tcb: tcb}
	response := new(snpKeyResponse)
	if err := s.ask(snpGetDerivedKey, unsafe.Pointer(request), unsafe.Pointer(response)); err != nil {
		return sealed{}, err
	}
	switch status := binary.LittleEndian.Uint32(response[:]); status {
	case 0:
	case snpStatusInvalid:
		return sealed{}, problem.New("ATT-096", "SEV-SNP firmware refused a key of TCB %#x at VMPL %d: its committed TCB is lower", tcb, vmpl)
	default:
		return sealed{}, problem.New("ATT-096", "SEV-SNP firmware refused a key with status %#x", status)
	}
	key := append([]byte(nil), response[32:]...)
	return sealed{key, info}, checkKey("SEV-SNP", key, 32)
}
