package attest

import "time"

// Platform is the hardware and TCB floor. The zero Platform accepts only
// platforms that are UpToDate, with fresh CRLs.
type Platform struct {
	// SGX, TDX, SNP and Sim each hold the rules for that TEE; nil means the
	// default, which for SNP accepts no machine: AMD publishes no statuses, so
	// there is no floor but the one that is given. Azure's forms are judged by
	// the rules of the hardware beneath.
	SGX *DCAPPlatform `json:"sgx,omitempty"`
	TDX *DCAPPlatform `json:"tdx,omitempty"`
	SNP *SNPPlatform  `json:"snp,omitempty"`
	Sim *DCAPPlatform `json:"sim,omitempty"`
	TPM *TPMPlatform  `json:"tpm,omitempty"`
	// Endorsements rules the age of what the vendor says.
	Endorsements EndorsementRules `json:"endorsements,omitzero"`
}

// DCAPPlatform are the rules for Intel's family of TEEs.
type DCAPPlatform struct {
	// AcceptedTCBStatuses besides UpToDate. Revoked is never accepted.
	AcceptedTCBStatuses []TCBStatus `json:"acceptedTCBStatuses,omitzero"`
	// AcceptedAdvisories: nil accepts any advisory that comes with an accepted
	// status; a list (even an empty one) accepts only these.
	AcceptedAdvisories []string `json:"acceptedAdvisories,omitzero"`
	// RefusedAdvisories are accepted in no case.
	RefusedAdvisories []string `json:"refusedAdvisories,omitzero"`
	// MinTCBEvaluation is the lowest accepted tcbEvaluationDataNumber.
	MinTCBEvaluation uint32 `json:"minTCBEvaluation,omitempty"`
	// MinTCBDate is the earliest accepted tcbDate of the level that the platform
	// meets: how recent its patches are.
	MinTCBDate time.Time `json:"minTCBDate,omitzero"`
	// MinTEETCBSVN is a floor for each of the 16 components of TEE_TCB_SVN (Intel
	// TDX Module, TEE_TCB_SVN); of version 5 quotes for TEE_TCB_SVN2 as well.
	MinTEETCBSVN Hex `json:"minTEETCBSVN,omitzero"`
	// MinModuleSVN is the lowest accepted security version of the TDX module, by
	// the module's identity: "TDX_01", "TDX_03" (PCS API v4); "TDX" is major
	// version 0. A module that is not named is refused.
	MinModuleSVN map[string]uint8 `json:"minModuleSVN,omitzero"`
	// FMSPCs are the accepted families of processors, 6 bytes each; PPIDs, 16
	// bytes each, and PlatformInstanceIDs, 16 bytes each, the accepted machines.
	// nil accepts any.
	FMSPCs              []Hex `json:"fmspcs,omitzero"`
	PPIDs               []Hex `json:"ppids,omitzero"`
	PlatformInstanceIDs []Hex `json:"platformInstanceIDs,omitzero"`
	// Grace is a lower floor that counts too until it ends.
	Grace *DCAPGrace `json:"grace,omitempty"`
}

// DCAPGrace is a lower floor for a while. A field that is absent lowers nothing.
type DCAPGrace struct {
	Until               time.Time   `json:"until"`
	AcceptedTCBStatuses []TCBStatus `json:"acceptedTCBStatuses,omitzero"` // besides those of the rules
	AcceptedAdvisories  []string    `json:"acceptedAdvisories,omitzero"`  // besides those of the rules
	MinTCBEvaluation    *uint32     `json:"minTCBEvaluation,omitempty"`
	MinTCBDate          time.Time   `json:"minTCBDate,omitzero"`
}

// SNPPlatform are the rules for AMD SEV-SNP machines. The zero rules accept
// none: a floor must be given.
type SNPPlatform struct {
	// MinTCB is the floor of the reported and of the launch TCB, by product:
	// "Milan", "Genoa" (with Bergamo and Siena) or "Turin". A product that is
	// not named is refused.
	MinTCB map[string]SNPTCB `json:"minTCB,omitzero"`
	// MinLaunchTCB is the floor of the launch TCB in place of MinTCB, for the
	// products that it names.
	MinLaunchTCB map[string]SNPTCB `json:"minLaunchTCB,omitzero"`
	// MinFirmware is the lowest accepted version of the committed SNP firmware.
	MinFirmware *SNPFirmware `json:"minFirmware,omitempty"`
	// LaunchMitigations and CurrentMitigations are bits that must be set in the
	// mitigation vectors, 8 bytes each, most significant first. Reports before
	// version 5 have none and are refused then.
	LaunchMitigations  Hex `json:"launchMitigations,omitzero"`
	CurrentMitigations Hex `json:"currentMitigations,omitzero"`
	// AllowSMT accepts guests that may run where SMT is on, so that a sibling
	// thread of somebody else's shares their core.
	AllowSMT bool `json:"allowSMT,omitempty"`
	// AllowProvisionalFirmware accepts machines whose host can still go back to
	// an older firmware.
	AllowProvisionalFirmware bool `json:"allowProvisionalFirmware,omitempty"`
	// What the machine must have switched on, or off (AMD 56860, PLATFORM_INFO).
	RequireECC              bool `json:"requireECC,omitempty"`
	RequireTSME             bool `json:"requireTSME,omitempty"`
	RequireRAPLDisabled     bool `json:"requireRAPLDisabled,omitempty"`
	RequireCiphertextHiding bool `json:"requireCiphertextHiding,omitempty"`
	RequireAliasCheck       bool `json:"requireAliasCheck,omitempty"` // AMD-SB-3015
	RefuseTIO               bool `json:"refuseTIO,omitempty"`         // trusted devices
	// PlatformInfo are bits of all this, 8 bytes, most significant first.
	PlatformInfo *Bits `json:"platformInfo,omitempty"`
	// Signers are the accepted kinds of key: "VCEK", of a chip, and "VLEK", of a
	// provider. nil accepts both.
	Signers []string `json:"signers,omitzero"`
	// Providers are the clouds whose VLEK is accepted, as AMD's certificate names
	// them; nil accepts any. A VCEK has none.
	Providers []string `json:"providers,omitzero"`
	// ChipIDs are the accepted machines, 64 bytes each; nil accepts any. A
	// machine that masks its chip ID is in no list.
	ChipIDs []Hex `json:"chipIDs,omitzero"`
	// Grace is a lower floor that counts too until it ends.
	Grace *SNPGrace `json:"grace,omitempty"`
}

// SNPGrace is a lower floor for a while. A field that is absent lowers nothing.
type SNPGrace struct {
	Until time.Time `json:"until"`
	// MinTCB of the reported and of the launch TCB, for products that the rules
	// name.
	MinTCB      map[string]SNPTCB `json:"minTCB,omitzero"`
	MinFirmware *SNPFirmware      `json:"minFirmware,omitempty"`
}

// TPMPlatform are the rules for machines that have only a TPM.
type TPMPlatform struct {
	// RequireSafeClock refuses a TPM whose clock may have gone back.
	RequireSafeClock bool `json:"requireSafeClock,omitempty"`
	// VouchedBy are the common names of the roots that may stand for the TPM's
	// key; nil accepts any that the verifier was made with, and keys that the
	// package lists.
	VouchedBy []string `json:"vouchedBy,omitzero"`
	// AllowUncheckedRevocation accepts keys with a certificate about which no CRL
	// was at hand.
	AllowUncheckedRevocation bool `json:"allowUncheckedRevocation,omitempty"`
}

// EndorsementRules bound the age of endorsements.
type EndorsementRules struct {
	MaxAge       Duration `json:"maxAge,omitempty"` // 0: their own nextUpdate alone decides
	MaxAgeByKind AgeRules `json:"maxAgeByKind,omitzero"`
	// GraceUntil: until then endorsements that have ended, or are older than
	// MaxAge allows, are accepted all the same. One that is not yet valid never
	// is, nor one whose signature does not hold.
	GraceUntil time.Time `json:"graceUntil,omitzero"`
	// AllowUncheckedRevocation accepts evidence whose certificates no CRL
	// covered. For judging archives; a manifest cannot set it.
	AllowUncheckedRevocation bool `json:"-"`
}

// AgeRules bound the age of endorsements by kind; 0 bounds nothing.
type AgeRules struct {
	TCBInfo    Duration `json:"tcbInfo,omitempty"`
	QEIdentity Duration `json:"qeIdentity,omitempty"`
	// CRL is of the PCK CA's or of AMD's; not of Intel's root, which is issued
	// once a year.
	CRL Duration `json:"crl,omitempty"`
}
