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
