package attest

// SNPReference are reference values for an SEV-SNP guest. Measurement is
// required; every field that is given is compared, and an empty list accepts
// nothing.
type SNPReference struct {
	Measurement     []Hex `json:"measurement,omitzero"`     // any of these launch digests, 48 bytes each
	HostData        []Hex `json:"hostData,omitzero"`        // 32 bytes each
	IDKeyDigest     []Hex `json:"idKeyDigest,omitzero"`     // 48 bytes each
	AuthorKeyDigest []Hex `json:"authorKeyDigest,omitzero"` // 48 bytes each
	FamilyID        []Hex `json:"familyID,omitzero"`        // 16 bytes each
	ImageID         []Hex `json:"imageID,omitzero"`         // 16 bytes each
	// VMPL is the privilege level that must have asked for the report, 0 to 3.
	// nil means 0, except that with AllowAny it means any.
	VMPL *uint32 `json:"vmpl,omitempty"`
	// MinGuestSVN is the lowest accepted security version of the ID block.
	MinGuestSVN *uint32 `json:"minGuestSVN,omitempty"`
	// AllowMigration accepts guests that may have a migration agent, which then
	// holds their keys and is not judged.
	AllowMigration bool `json:"allowMigration,omitempty"`
	AllowAny       bool `json:"allowAnyMeasurement,omitempty"`
}

// SNPPlatform are the rules for AMD SEV-SNP machines. The zero rules accept
// none: a floor must be given.
type SNPPlatform struct {
	// MinTCB is the floor of the reported and of the launch TCB, by product:
	// "Milan", "Genoa" (with Bergamo and Siena) or "Turin". A product that is
	// not named is refused.
	MinTCB map[string]SNPTCB `json:"minTCB,omitzero"`
	// MinFirmware is the lowest accepted version of the committed SNP firmware.
	MinFirmware *SNPFirmware `json:"minFirmware,omitempty"`
	// AllowSMT accepts guests that may run where SMT is on, so that a sibling
	// thread of somebody else's shares their core.
	AllowSMT bool `json:"allowSMT,omitempty"`
	// AllowProvisionalFirmware accepts machines whose host can still go back to
	// an older firmware.
	AllowProvisionalFirmware bool `json:"allowProvisionalFirmware,omitempty"`
	// ChipIDs are the accepted machines, 64 bytes each; nil accepts any. A
	// machine that masks its chip ID is in no list.
	ChipIDs []Hex `json:"chipIDs,omitzero"`
}
