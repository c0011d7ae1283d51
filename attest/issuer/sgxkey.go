package issuer

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// sgxKeyRequest is KEYREQUEST of EGETKEY (Intel SDM volume 3D, 37.18): {name,
// policy, ISVSVN, 0: 2 bytes; CPUSVN: 16; attribute mask: 8 and 8; key id: 32;
// misc mask: 4; CONFIGSVN: 2; zeros}, little-endian. It holds no secret.
type sgxKeyRequest [512]byte

const (
	sgxSealKeyName = 4

	keyRequestISVSVN = 4
	keyRequestCPUSVN = 8
	keyRequestMasks  = 24
	keyRequestKeyID  = 40
	keyRequestMisc   = 72
)

// Of the attributes, those that matter for security are mixed into the key
// (INITTED, DEBUG and the reserved ones at the top); of MISCSELECT the upper
// four bits: as in the Intel SGX SDK and Open Enclave.
const (
	sgxSealFlags = 0xff0000000000000b
	sgxSealXFRM  = 0
	sgxSealMisc  = 0xf0000000
)

var sgxPolicies = map[SealPolicy]uint16{SealUnique: 1, SealProduct: 2} // MRENCLAVE, MRSIGNER

// newSGXKeyRequest asks for a key that no one had before, of the security
// versions in a REPORT body (SDM 37.15: CPUSVN at 0, ISVSVN at 258).
func newSGXKeyRequest(policy SealPolicy, report []byte) (r sgxKeyRequest) {
	le := binary.LittleEndian
	le.PutUint16(r[0:], sgxSealKeyName)
	le.PutUint16(r[2:], sgxPolicies[policy])
	copy(r[keyRequestISVSVN:], report[258:260])
	copy(r[keyRequestCPUSVN:], report[:16])
	le.PutUint64(r[keyRequestMasks:], sgxSealFlags)
	le.PutUint64(r[keyRequestMasks+8:], sgxSealXFRM)
	rand.Read(r[keyRequestKeyID : keyRequestKeyID+32]) //nolint:errcheck // never fails
	le.PutUint32(r[keyRequestMisc:], sgxSealMisc)
	return r
}

// parseSGXKeyRequest accepts only what newSGXKeyRequest, or EGo, writes for this
// policy: another one may ask for a key that other enclaves get as well.
func parseSGXKeyRequest(policy SealPolicy, info []byte) (r sgxKeyRequest, err error) {
	bad := problem.New("ATT-099", "what is kept of the sealing key is no request for an SGX key of policy %q", policy)
	if len(info) != len(r) {
		return r, bad
	}
	r = sgxKeyRequest(info)
	want := newSGXKeyRequest(policy, make([]byte, 260))
	copy(want[keyRequestISVSVN:keyRequestISVSVN+2], r[keyRequestISVSVN:])
	copy(want[keyRequestCPUSVN:keyRequestCPUSVN+16], r[keyRequestCPUSVN:])
	copy(want[keyRequestKeyID:keyRequestKeyID+32], r[keyRequestKeyID:])
	if !bytes.Equal(want[:], info) {
		return r, bad
	}
	return r, nil
}

// knownSGXPolicy refuses policies that SGX has no key for.
func knownSGXPolicy(policy SealPolicy) error {
	if sgxPolicies[policy] == 0 {
		return problem.New("ATT-098", "SGX has no sealing key of policy %q", policy)
	}
	return nil
}
