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
	ReportID        []Hex `json:"reportID,omitzero"`        // 32 bytes each: the guest
	ReportIDMA      []Hex `json:"reportIDMA,omitzero"`      // 32 bytes each: its migration agent
	// RequireIDBlock and RequireAuthorKey refuse guests that were launched
	// without; whose they must be, IDKeyDigest and AuthorKeyDigest say.
	RequireIDBlock   bool `json:"requireIDBlock,omitempty"`
	RequireAuthorKey bool `json:"requireAuthorKey,omitempty"`
	// VMPL is the privilege level that must have asked for the report, 0 to 3.
	// nil means 0, except that with AllowAny it means any.
	VMPL *uint32 `json:"vmpl,omitempty"`
	// MinGuestSVN is the lowest accepted security version of the ID block.
	MinGuestSVN *uint32 `json:"minGuestSVN,omitempty"`
	// AllowMigration accepts guests that may have a migration agent, which then
	// holds their keys and is not judged.
	AllowMigration bool `json:"allowMigration,omitempty"`
	// AllowCXL accepts guests that may use memory on CXL devices.
	AllowCXL bool `json:"allowCXL,omitempty"`
	// What the guest's policy must demand of the machine (AMD 56860,
	// GUEST_POLICY): at least this firmware ABI, and the rest switched on.
	MinABI                  *SNPFirmware `json:"minABI,omitempty"`
	RequireSingleSocket     bool         `json:"requireSingleSocket,omitempty"`
	RequireAES256XTS        bool         `json:"requireAES256XTS,omitempty"`
	RequireRAPLDisabled     bool         `json:"requireRAPLDisabled,omitempty"`
	RequireCiphertextHiding bool         `json:"requireCiphertextHiding,omitempty"`
	RequirePageSwapDisabled bool         `json:"requirePageSwapDisabled,omitempty"`
	// GuestPolicy are bits of the policy, 8 bytes, most significant first.
	GuestPolicy *Bits `json:"guestPolicy,omitempty"`
	AllowAny    bool  `json:"allowAnyMeasurement,omitempty"`
}
