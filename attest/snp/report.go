package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/ashlar-mesh/ashlar/attest"
)

// reportSize is the size of a report, in bytes: 672 that are signed, 512 of
// signature.
const (
	reportSize = 0x4a0
	signedSize = 0x2a0
)

// ecdsaP384 is the one signature algorithm: ECDSA P-384 with SHA-384. A number
// of its signature has 72 bytes, the least significant first.
const (
	ecdsaP384  = 1
	numberSize = 72
)

// signer is the kind of key that signed a report.
type signer string

const (
	vcek signer = "VCEK"
	vlek signer = "VLEK"
)

// kind returns the kind of endorsement that holds the key's certificate.
func (s signer) kind() string {
	if s == vlek {
		return attest.KindVLEK
	}
	return attest.KindVCEK
}

// field returns the name of a step about the key's certificate.
func (s signer) field(name string) string {
	if s == vlek {
		return "vlek." + name
	}
	return "vcek." + name
}

// report is a parsed report (AMD 56860, ATTESTATION_REPORT).
type report struct {
	raw    []byte
	signer signer
	// product is what family and model of the CPU say, from version 3 on; cpu
	// holds both as words. Both are empty in version 2.
	product, cpu string

	version, guestSVN, vmpl                          uint32
	policy, platform                                 uint64
	currentTCB, reportedTCB, committedTCB, launchTCB uint64
	launchMitigations, currentMitigations            uint64
	current, committed                               attest.SNPFirmware
	familyID, imageID, reportData, measurement       []byte
	hostData, idKeyDigest, authorKeyDigest           []byte
	reportID, reportIDMA, chipID                     []byte
}

var errVersion = errors.New("not supported")

// parse reads a report of exactly reportSize bytes. Reserved fields must be
// zero; the signature is not checked.
func parse(raw []byte) (*report, error) {
	if len(raw) != reportSize {
		return nil, fmt.Errorf("%d bytes, a report has %d", len(raw), reportSize)
	}
	le := binary.LittleEndian
	r := &report{raw: raw, version: le.Uint32(raw), guestSVN: le.Uint32(raw[0x04:]), policy: le.Uint64(raw[0x08:]), vmpl: le.Uint32(raw[0x30:]),
		currentTCB: le.Uint64(raw[0x38:]), platform: le.Uint64(raw[0x40:]), reportedTCB: le.Uint64(raw[0x180:]),
		committedTCB: le.Uint64(raw[0x1e0:]), launchTCB: le.Uint64(raw[0x1f0:]),
		launchMitigations: le.Uint64(raw[0x1f8:]), currentMitigations: le.Uint64(raw[0x200:]),
		current:   attest.SNPFirmware{Build: raw[0x1e8], Minor: raw[0x1e9], Major: raw[0x1ea]},
		committed: attest.SNPFirmware{Build: raw[0x1ec], Minor: raw[0x1ed], Major: raw[0x1ee]},
		familyID:  raw[0x10:0x20], imageID: raw[0x20:0x30], reportData: raw[0x50:0x90], measurement: raw[0x90:0xc0],
		hostData: raw[0xc0:0xe0], idKeyDigest: raw[0xe0:0x110], authorKeyDigest: raw[0x110:0x140],
		reportID: raw[0x140:0x160], reportIDMA: raw[0x160:0x180], chipID: raw[0x1a0:0x1e0]}
	if r.version < 2 || r.version > 5 {
		return nil, fmt.Errorf("version %d is %w", r.version, errVersion)
	}
	if a := le.Uint32(raw[0x34:]); a != ecdsaP384 {
		return nil, fmt.Errorf("signature algorithm %d is %w", a, errVersion)
	}
	if err := r.reserved(); err != nil {
		return nil, err
	}
	switch key := le.Uint32(raw[0x48:]) >> 2 & 7; key {
	case 0:
		r.signer = vcek
	case 1:
		r.signer = vlek
	case 7:
		return nil, fmt.Errorf("a report that no key signed is %w", errVersion)
	default:
		return nil, fmt.Errorf("signing key %d is reserved", key)
	}
	if r.version >= 3 {
		family, model := raw[0x188], raw[0x189]
		r.product, r.cpu = productOf(family, model), fmt.Sprintf("CPU family %d, model %d", family, model)
	}
	return r, nil
}

// Bits of GUEST_POLICY, and the highest that has a meaning.
const (
	policySMT = 16 + iota
	policyReserved
	policyMigrateMA
	policyDebug
	policySingleSocket
	policyCXL
	policyAES256XTS
	policyRAPLDisabled
	policyCiphertextHiding
	policyPageSwapDisabled
	policyEnd
)

// reserved checks the bits and bytes that AMD 56860 reserves: one bit of the
// policy must be set, all else must be zero.
func (r *report) reserved() error {
	if !bit(r.policy, policyReserved) {
		return fmt.Errorf("guest policy: bit %d must be set", policyReserved)
	}
	if r.policy>>policyEnd != 0 {
		return fmt.Errorf("guest policy: a bit above %d is set", policyEnd-1)
	}
	if binary.LittleEndian.Uint32(r.raw[0x48:])>>5 != 0 {
		return errors.New("signer information: a bit above 4 is set")
	}
	cpu := 0x18b // family, model and stepping stand before it
	if r.version < 3 {
		cpu = 0x188
	}
	for _, span := range [][2]int{{0x4c, 0x50}, {cpu, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, signedSize}, {signedSize + 2*numberSize, reportSize}} {
		for i := span[0]; i < span[1]; i++ {
			if r.raw[i] != 0 {
				return fmt.Errorf("byte %#x is reserved and must be zero, got %#02x", i, r.raw[i])
			}
		}
	}
	return nil
}

func bit(v uint64, n uint) bool { return v>>n&1 == 1 }

// signedBy reports whether key signed the report.
func (r *report) signedBy(key *ecdsa.PublicKey) bool {
	number := func(at int) *big.Int {
		b := bytes.Clone(r.raw[at : at+numberSize])
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	sum := sha512.Sum384(r.raw[:signedSize])
	return ecdsa.Verify(key, sum[:], number(signedSize), number(signedSize+numberSize))
}

// productOf tells the product line by family and model (AMD 57230, table of
// product names); "" where there is none.
func productOf(family, model byte) string {
	switch {
	case family == 0x19 && model <= 0x0f:
		return Milan
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa
	case family == 0x1a && model <= 0x1f:
		return Turin
	}
	return ""
}

// claims renders the report; product decides how patch levels are laid out. They
// share no memory with the report.
func (r *report) claims(product string) attest.Claims {
	has := func(n uint) bool { return bit(r.policy, n) }
	s := &attest.SNPClaims{Version: r.version, Measurement: bytes.Clone(r.measurement), HostData: bytes.Clone(r.hostData),
		IDKeyDigest: bytes.Clone(r.idKeyDigest), AuthorKeyDigest: bytes.Clone(r.authorKeyDigest),
		FamilyID: bytes.Clone(r.familyID), ImageID: bytes.Clone(r.imageID), ReportID: bytes.Clone(r.reportID), ReportIDMA: bytes.Clone(r.reportIDMA),
		VMPL: r.vmpl, GuestSVN: r.guestSVN, LaunchMitigations: r.launchMitigations, CurrentMitigations: r.currentMitigations,
		Signer: string(r.signer), Product: product, ChipID: bytes.Clone(r.chipID),
		Policy: attest.SNPPolicy{ABI: fmt.Sprintf("%d.%d", uint8(r.policy>>8), uint8(r.policy)), SMT: has(policySMT), MigrateMA: has(policyMigrateMA),
			Debug: has(policyDebug), SingleSocket: has(policySingleSocket), CXL: has(policyCXL), AES256XTS: has(policyAES256XTS),
			RAPLDisabled: has(policyRAPLDisabled), CiphertextHiding: has(policyCiphertextHiding), PageSwapDisabled: has(policyPageSwapDisabled),
			Bits: bits(r.policy)},
		Platform:    platformInfo(r.platform),
		ReportedTCB: level(product, r.reportedTCB), CommittedTCB: level(product, r.committedTCB),
		CurrentTCB: level(product, r.currentTCB), LaunchTCB: level(product, r.launchTCB),
		CurrentFirmware: r.current, CommittedFirmware: r.committed,
		ProvisionalFirmware: r.committedTCB != r.currentTCB || r.committed != r.current}
	return attest.Claims{TEE: attest.SNP, ReportData: bytes.Clone(r.reportData), Debug: s.Policy.Debug, SNP: s, TCB: attest.TCBClaims{Advisories: []string{}}}
}

func bits(v uint64) attest.Hex { return binary.BigEndian.AppendUint64(nil, v) }

// platformInfo names the bits of PLATFORM_INFO. Firmware gives new bits a
// meaning at any time, so unknown ones are no error.
func platformInfo(v uint64) attest.SNPPlatformInfo {
	return attest.SNPPlatformInfo{SMT: bit(v, 0), TSME: bit(v, 1), ECC: bit(v, 2), RAPLDisabled: bit(v, 3), CiphertextHiding: bit(v, 4),
		AliasCheck: bit(v, 5), TIO: bit(v, 7), Bits: bits(v)}
}

// level takes a TCB_VERSION apart (AMD 56860, TCB_VERSION): from byte 0 on
// bootloader, TEE, four reserved, SNP, microcode; on Turin FMC, bootloader, TEE,
// SNP, three reserved, microcode.
func level(product string, tcb uint64) attest.SNPTCB {
	b := binary.LittleEndian.AppendUint64(nil, tcb)
	if product == Turin {
		return attest.SNPTCB{FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	return attest.SNPTCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
}
