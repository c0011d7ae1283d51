package attest

import (
	"fmt"
	"strconv"
	"strings"
)

// SNPClaims are the fields of an SEV-SNP attestation report, versions 2 to 5
// (AMD 56860, SEV Secure Nested Paging Firmware ABI, ATTESTATION_REPORT).
type SNPClaims struct {
	Version         uint32 `json:"reportVersion"`
	Measurement     Hex    `json:"measurement"`     // 48 bytes: launch digest
	HostData        Hex    `json:"hostData"`        // 32 bytes, given by the host at launch
	IDKeyDigest     Hex    `json:"idKeyDigest"`     // 48 bytes: SHA-384 of the ID key, zero without an ID block
	AuthorKeyDigest Hex    `json:"authorKeyDigest"` // 48 bytes, zero without an author key
	FamilyID        Hex    `json:"familyID"`        // 16 bytes of the ID block
	ImageID         Hex    `json:"imageID"`         // 16 bytes of the ID block
	ReportID        Hex    `json:"reportID"`        // 32 bytes: the guest
	ReportIDMA      Hex    `json:"reportIDMA"`      // 32 bytes: its migration agent, all ones without
	VMPL            uint32 `json:"vmpl"`            // privilege level that asked, 0 the highest
	GuestSVN        uint32 `json:"guestSVN"`        // of the ID block

	Policy   SNPPolicy       `json:"policy"`
	Platform SNPPlatformInfo `json:"platformInfo"`

	// The four patch levels: what the signing key is derived from, what the
	// host can no longer go below, what runs, and what ran at launch.
	ReportedTCB  SNPTCB `json:"reportedTCB"`
	CommittedTCB SNPTCB `json:"committedTCB"`
	CurrentTCB   SNPTCB `json:"currentTCB"`
	LaunchTCB    SNPTCB `json:"launchTCB"`
	// CurrentFirmware and CommittedFirmware are versions of the SNP firmware.
	CurrentFirmware   SNPFirmware `json:"currentFirmware"`
	CommittedFirmware SNPFirmware `json:"committedFirmware"`
	// ProvisionalFirmware says that the firmware that runs is not committed: the
	// host can go back to the committed one.
	ProvisionalFirmware bool `json:"provisionalFirmware"`
	// LaunchMitigations and CurrentMitigations are bit vectors, version 5 only.
	LaunchMitigations  uint64 `json:"launchMitigations,omitempty"`
	CurrentMitigations uint64 `json:"currentMitigations,omitempty"`

	Signer   string `json:"signer"`             // "VCEK" or "VLEK"
	Product  string `json:"product,omitempty"`  // "Milan", "Genoa" or "Turin"; "" if nothing says
	ChipID   Hex    `json:"chipID"`             // 64 bytes, zero where the host masks it
	Provider string `json:"provider,omitempty"` // the cloud in a VLEK certificate
}

// SNPPolicy is the guest policy, fixed at launch (AMD 56860, GUEST_POLICY).
type SNPPolicy struct {
	ABI              string `json:"abi"`       // lowest firmware ABI, "major.minor"
	SMT              bool   `json:"smt"`       // may run where SMT is on
	MigrateMA        bool   `json:"migrateMA"` // may have a migration agent
	Debug            bool   `json:"debug"`     // the host may read its memory
	SingleSocket     bool   `json:"singleSocket"`
	CXL              bool   `json:"cxl"`              // CXL devices and memory allowed
	AES256XTS        bool   `json:"aes256XTS"`        // AES-256-XTS required
	RAPLDisabled     bool   `json:"raplDisabled"`     // power measurement must be off
	CiphertextHiding bool   `json:"ciphertextHiding"` // ciphertext of DRAM must be hidden
	PageSwapDisabled bool   `json:"pageSwapDisabled"` // no page moves and swaps
	Bits             Hex    `json:"bits"`             // all 8 bytes, most significant first
}

// SNPPlatformInfo is how the machine was configured when it made the report
// (AMD 56860, PLATFORM_INFO). Bits that have no name here are in Bits only.
type SNPPlatformInfo struct {
	SMT              bool `json:"smt"`
	TSME             bool `json:"tsme"`
	ECC              bool `json:"ecc"`
	RAPLDisabled     bool `json:"raplDisabled"`
	CiphertextHiding bool `json:"ciphertextHiding"`
	AliasCheck       bool `json:"aliasCheck"` // memory aliases were looked for (AMD-SB-3015)
	TIO              bool `json:"tio"`
	Bits             Hex  `json:"bits"` // all 8 bytes, most significant first
}

// SNPTCB is a patch level by component. Levels are compared component by
// component, and only between machines of one product.
type SNPTCB struct {
	FMC        uint8 `json:"fmc"` // Turin and later
	Bootloader uint8 `json:"bootloader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

// String lists the components, FMC only where it is not zero.
func (t SNPTCB) String() string {
	s := fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != 0 {
		s = fmt.Sprintf("fmc %d, ", t.FMC) + s
	}
	return s
}

// floorIs stands between what is there and what is wanted.
const floorIs = ", the floor is "

// Below names the components in which t is below floor: "microcode is 69, the
// floor is 88".
func (t SNPTCB) Below(floor SNPTCB) []string {
	var low []string
	for _, c := range []struct {
		name      string
		got, want uint8
	}{
		{"FMC", t.FMC, floor.FMC}, {"bootloader", t.Bootloader, floor.Bootloader}, {"TEE", t.TEE, floor.TEE},
		{"SNP firmware", t.SNP, floor.SNP}, {"microcode", t.Microcode, floor.Microcode},
	} {
		if c.got < c.want {
			low = append(low, fmt.Sprintf("%s is %d%s%d", c.name, c.got, floorIs, c.want))
		}
	}
	return low
}

// SNPFirmware is a version of the SNP firmware. As text it is
// "major.minor.build"; a floor may leave the build out.
type SNPFirmware struct{ Major, Minor, Build uint8 }

// String returns "1.55.29".
func (v SNPFirmware) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Build) }

// MarshalText implements encoding.TextMarshaler.
func (v SNPFirmware) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It reads "1.55" and
// "1.55.29", each part 0 to 255 without leading zeros.
func (v *SNPFirmware) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ".")
	if len(parts) != 2 && len(parts) != 3 {
		return fmt.Errorf("%q is no firmware version such as 1.55", text)
	}
	var n [3]uint8
	for i, part := range parts {
		x, err := strconv.ParseUint(part, 10, 8)
		if err != nil || part != strconv.FormatUint(x, 10) {
			return fmt.Errorf("%q is no firmware version such as 1.55", text)
		}
		n[i] = uint8(x)
	}
	*v = SNPFirmware{n[0], n[1], n[2]}
	return nil
}

// Less reports whether v is older than o.
func (v SNPFirmware) Less(o SNPFirmware) bool {
	return v.number() < o.number()
}

func (v SNPFirmware) number() int { return int(v.Major)<<16 | int(v.Minor)<<8 | int(v.Build) }
