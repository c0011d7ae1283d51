package attest

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Hex is a byte string that reads and writes as lower-case hexadecimal.
type Hex []byte

// String returns the lower-case hexadecimal form.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Upper case is accepted.
func (h *Hex) UnmarshalText(t []byte) error {
	b, err := hex.DecodeString(string(t))
	if err != nil {
		return fmt.Errorf("not hexadecimal: %w", err)
	}
	*h = b
	return nil
}

// Claims is what evidence says. Which parts are filled depends on the TEE's
// shape: one of SGX, TDX and SNP, for Azure's forms with TPM beside it; TPM
// alone; GPU; or Registers for a TEE that has no fields of its own here.
type Claims struct {
	TEE        TEE        `json:"tee"`
	ReportData Hex        `json:"reportData"` // 64 bytes: what the evidence binds
	Debug      bool       `json:"debug"`
	SGX        *SGXClaims `json:"sgx,omitempty"`
	TDX        *TDXClaims `json:"tdx,omitempty"`
	SNP        *SNPClaims `json:"snp,omitempty"`
	TPM        *TPMClaims `json:"tpm,omitempty"`
	GPU        *GPUClaims `json:"gpu,omitempty"`
	// Registers are the measurements of a TEE without fields of its own, by the
	// names that its verifier documents: "rim", "rem0" of Arm CCA.
	Registers map[string]Hex `json:"registers,omitempty"`
	// Events are those of the event log, where it replays to the registers.
	Events []Event   `json:"-"`
	TCB    TCBClaims `json:"tcb"`
}

// Event is one measurement in an event log whose replay gave the registers that
// the evidence vouches for.
type Event struct {
	Register string `json:"register"` // "rtmr1", "pcr4"
	Type     string `json:"type"`     // name of the TCG event type: "EV_EFI_BOOT_SERVICES_APPLICATION"
	Digest   Hex    `json:"digest"`   // as it was extended
	Name     string `json:"name"`     // what was measured, as far as the event says: "grub_cmd: linux /vmlinuz", a path, a variable
	// Proven says that Digest is the hash of what Name shows, after a prefix
	// such as "grub_cmd: ". Otherwise Name is the word of a log that nobody
	// signed, and Digest alone counts.
	Proven bool `json:"proven"`
}

// TPMClaims is what a TPM's quote says (TPM 2.0 Library, part 2, TPMS_ATTEST).
type TPMClaims struct {
	// PCRs that the quote covers, "0" to "23", of the SHA-256 bank.
	PCRs map[string]Hex `json:"pcrs"`
	// AttestationKey is SHA-256 of the key that signed, PKIX DER.
	AttestationKey Hex `json:"attestationKey"`
	// Vouched says who stands for the key: the common name of the root that its
	// certificate leads to, "snp" or "tdx" for hardware that reports its hash,
	// or "" for nobody.
	Vouched      string `json:"vouched"`
	Firmware     Hex    `json:"firmware"` // 8 bytes: firmwareVersion
	ResetCount   uint32 `json:"resetCount"`
	RestartCount uint32 `json:"restartCount"`
	Safe         bool   `json:"safe"` // the clock never went back
}

// GPUClaims is what a GPU of NVIDIA says (SPDM 1.1 MEASUREMENTS, DMTF DSP0274).
type GPUClaims struct {
	Architecture string         `json:"architecture"` // "Hopper", "Blackwell"
	Nonce        Hex            `json:"nonce"`        // 32 bytes, of the request
	Driver       string         `json:"driver"`       // version
	VBIOS        string         `json:"vbios"`        // version
	Measurements map[string]Hex `json:"measurements"` // by index, "1" to "64"
	Serial       string         `json:"serial"`       // of the device's certificate
	// RIMChecked and OCSPChecked say whether the vendor's reference
	// measurements and its word on revocation were looked at.
	RIMChecked  bool `json:"rimChecked"`
	OCSPChecked bool `json:"ocspChecked"`
}

// SGXClaims are the fields of an SGX report body (Intel SGX DCAP quote format).
type SGXClaims struct {
	UniqueID        Hex    `json:"uniqueID"` // MRENCLAVE, 32 bytes
	SignerID        Hex    `json:"signerID"` // MRSIGNER, 32 bytes
	ProductID       uint16 `json:"productID"`
	SecurityVersion uint16 `json:"securityVersion"`
	CPUSVN          Hex    `json:"cpusvn"`            // 16 bytes
	MiscSelect      Hex    `json:"miscSelect"`        // 4 bytes
	Attributes      Hex    `json:"attributes"`        // 16 bytes: flags, XFRM
	ConfigID        Hex    `json:"configID"`          // 64 bytes (KSS)
	ConfigSVN       uint16 `json:"configSVN"`         // (KSS)
	FamilyID        Hex    `json:"familyID"`          // 16 bytes (KSS)
	ExtendedProdID  Hex    `json:"extendedProductID"` // 16 bytes (KSS)
}

// TDXClaims are the fields of a TD report body, v4 and v5 (TD 1.0 and 1.5).
type TDXClaims struct {
	MRTD          Hex    `json:"mrtd"` // 48 bytes, as all measurement registers
	RTMR0         Hex    `json:"rtmr0"`
	RTMR1         Hex    `json:"rtmr1"`
	RTMR2         Hex    `json:"rtmr2"`
	RTMR3         Hex    `json:"rtmr3"`
	MRConfigID    Hex    `json:"mrConfigID"`
	MROwner       Hex    `json:"mrOwner"`
	MROwnerConfig Hex    `json:"mrOwnerConfig"`
	MRSEAM        Hex    `json:"mrSEAM"`
	MRSignerSEAM  Hex    `json:"mrSignerSEAM"`
	MRServiceTD   Hex    `json:"mrServiceTD,omitempty"` // v5 only
	TEETCBSVN     Hex    `json:"teeTCBSVN"`             // 16 bytes
	TEETCBSVN2    Hex    `json:"teeTCBSVN2,omitempty"`  // 16 bytes, v5 only
	SEAMAttrs     Hex    `json:"seamAttributes"`        // 8 bytes
	TDAttributes  Hex    `json:"tdAttributes"`          // 8 bytes
	XFAM          Hex    `json:"xfam"`                  // 8 bytes
	Version       uint16 `json:"quoteVersion"`
}

// TCBStatus is Intel's word for how a platform stands against its TCB levels.
type TCBStatus string

// The statuses of the Intel PCS API v4. The empty status is "not known".
const (
	UpToDate                          TCBStatus = "UpToDate"
	SWHardeningNeeded                 TCBStatus = "SWHardeningNeeded"
	ConfigurationNeeded               TCBStatus = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded TCBStatus = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                         TCBStatus = "OutOfDate"
	OutOfDateConfigurationNeeded      TCBStatus = "OutOfDateConfigurationNeeded"
	Revoked                           TCBStatus = "Revoked"
)

// TCBClaims is the platform's patch level, as data: policy decides. AMD has no
// statuses: for SNP the patch level is in SNPClaims, and of these fields only
// revocation and times are filled.
type TCBClaims struct {
	Status           TCBStatus `json:"status"` // converged over platform, QE and TDX module
	Platform         TCBStatus `json:"platform,omitempty"`
	QE               TCBStatus `json:"qe,omitempty"`
	Module           TCBStatus `json:"module,omitempty"` // TDX module
	Advisories       []string  `json:"advisories"`       // sorted, unique
	EvaluationNumber uint32    `json:"evaluationNumber"` // lowest tcbEvaluationDataNumber of TCB info and QE identity
	// LevelDate is the tcbDate of the level that the platform meets; of a TDX
	// guest, the earlier of the platform's and the module's.
	LevelDate        time.Time `json:"levelDate,omitzero"`
	FMSPC            Hex       `json:"fmspc,omitempty"` // 6 bytes
	PCEID            Hex       `json:"pceID,omitempty"` // 2 bytes
	PCKSerial        string    `json:"pckSerial,omitempty"`
	PCKIssuer        string    `json:"pckIssuer,omitempty"` // common name of the CA: "Intel SGX PCK Platform CA"
	PlatformInstance Hex       `json:"platformInstanceID,omitempty"`
	PPID             Hex       `json:"ppid,omitempty"` // 16 bytes: names the machine

	// Gaps are the parts that are below the vendor's best level, in words and
	// numbers; empty where the status is as good as it can be.
	Gaps []TCBGap `json:"gaps,omitempty"`

	// RevocationChecked says that fresh CRLs covered every certificate.
	RevocationChecked bool `json:"revocationChecked"`
	// OldestIssue and NextUpdate bound the endorsements: the earliest issue
	// date among them and the earliest instant at which one ends. The CRL of a
	// root CA, which is issued once a year, counts for the end only.
	OldestIssue time.Time `json:"oldestIssue,omitzero"`
	NextUpdate  time.Time `json:"nextUpdate,omitzero"`
	// Issued says when each kind of endorsement was issued.
	Issued Issued `json:"issued,omitzero"`
	// CRLsEnded says that CRLs covered every certificate, but that one of them has
	// ended: RevocationChecked is false for no other reason.
	CRLsEnded bool `json:"crlsEnded,omitempty"`
	// EndedUntil and GraceUntil are filled in by Judge where a grace of the
	// platform's made something acceptable: until when endorsements that have
	// ended count, and the earliest end of the other graces.
	EndedUntil time.Time `json:"endedUntil,omitzero"`
	GraceUntil time.Time `json:"graceUntil,omitzero"`
	// NotAfter is when the certificates of the evidence's own chain end.
	NotAfter time.Time `json:"notAfter,omitzero"`
}

// Issued are dates of issue by kind of endorsement. CRL is of the PCK CA or of
// AMD's product root.
type Issued struct {
	TCBInfo    time.Time `json:"tcbInfo,omitzero"`
	QEIdentity time.Time `json:"qeIdentity,omitzero"`
	CRL        time.Time `json:"crl,omitzero"`
}

// ValidUntil is the instant after which the claims may not be relied on: the
// earliest of the endorsements' end, or that of the grace which accepts them
// beyond it, of any other grace, and of the chain's end.
func (t TCBClaims) ValidUntil() time.Time {
	end := t.NextUpdate
	if !t.EndedUntil.IsZero() {
		end = t.EndedUntil
	}
	for _, other := range [...]time.Time{t.GraceUntil, t.NotAfter} {
		if end.IsZero() || !other.IsZero() && other.Before(end) {
			end = other
		}
	}
	return end
}
