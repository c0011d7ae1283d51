package attest

// Policy is what a relying party demands of evidence: reference values for the
// software and a floor for the hardware. The zero Policy refuses everything.
//
// It is assembled from two sections of a manifest that change on different
// schedules and under different rights: Package from "packages", Platform from
// "platforms".
type Policy struct {
	Package  Package
	Platform Platform
	// PackageName and PlatformName name the sections for Step.Source.
	PackageName, PlatformName string
}

// Package is a software identity: one set of reference values for each TEE
// that it may run in. A TEE whose field is nil is refused.
type Package struct {
	SGX *SGXReference `json:"sgx,omitempty"`
	TDX *TDXReference `json:"tdx,omitempty"`
	SNP *SNPReference `json:"snp,omitempty"`
	Sim *SimReference `json:"sim,omitempty"`
	// Azure names what may run in an Azure confidential VM.
	Azure *AzureReference `json:"azure,omitempty"`
	TPM   *TPMReference   `json:"tpm,omitempty"`
	// Plugins are reference values for TEEs without fields of their own here,
	// such as "cca".
	Plugins map[TEE]*RegisterReference `json:"plugins,omitempty"`
	// Devices that must be there, by name. A device that is not named is
	// refused, and so is evidence that lacks a named one.
	Devices map[string]DeviceReference `json:"devices,omitempty"`
	// AllowDebug accepts debug enclaves and guests, whose memory the host can
	// read. Verify prints it in red.
	AllowDebug bool `json:"allowDebug,omitempty"`
}

// SGXReference are reference values for an enclave. At least UniqueID, or
// SignerID with ProductID and MinSecurityVersion, must be given; every field
// that is given is compared. An empty list accepts nothing.
type SGXReference struct {
	UniqueID           []Hex   `json:"uniqueID,omitzero"` // any of these MRENCLAVEs
	SignerID           Hex     `json:"signerID,omitzero"` // MRSIGNER
	ProductID          *uint16 `json:"productID,omitempty"`
	MinSecurityVersion *uint16 `json:"minSecurityVersion,omitempty"`
	// What key separation and sharing (KSS) adds. The host chooses ConfigID when
	// it loads the enclave.
	ConfigID          []Hex   `json:"configID,omitzero"` // 64 bytes each
	MinConfigSVN      *uint16 `json:"minConfigSVN,omitempty"`
	FamilyID          []Hex   `json:"familyID,omitzero"`          // ISVFAMILYID, 16 bytes each
	ExtendedProductID []Hex   `json:"extendedProductID,omitzero"` // ISVEXTPRODID, 16 bytes each
	RequireKSS        bool    `json:"requireKSS,omitempty"`
	Attributes        *Bits   `json:"attributes,omitempty"` // 16 bytes: flags, XFRM
	MiscSelect        *Bits   `json:"miscSelect,omitempty"` // 4 bytes
	// AllowKeyAttributes accepts enclaves that may derive the provisioning key,
	// which names the machine for ever, or the launch key (PROVISIONKEY,
	// EINITTOKENKEY). Attributes decides where its mask covers the two.
	AllowKeyAttributes bool `json:"allowKeyAttributes,omitempty"`
	AllowAny           bool `json:"allowAnyMeasurement,omitempty"`
}

// Bits are wanted bits of a field, in the order of the evidence: Value under
// Mask. Without Mask every bit is compared. A bit of Value outside of Mask is
// met by nothing.
type Bits struct {
	Value Hex `json:"value"`
	Mask  Hex `json:"mask,omitzero"`
}

// TDXReference are reference values for a trust domain: each list holds the
// accepted 48-byte values of one register. MRTD is required.
type TDXReference struct {
	MRTD          []Hex `json:"mrtd,omitzero"`
	RTMR0         []Hex `json:"rtmr0,omitzero"`
	RTMR1         []Hex `json:"rtmr1,omitzero"`
	RTMR2         []Hex `json:"rtmr2,omitzero"`
	RTMR3         []Hex `json:"rtmr3,omitzero"`
	MRConfigID    []Hex `json:"mrConfigID,omitzero"`
	MROwner       []Hex `json:"mrOwner,omitzero"`
	MROwnerConfig []Hex `json:"mrOwnerConfig,omitzero"`
	MRSEAM        []Hex `json:"mrSEAM,omitzero"`
	MRSignerSEAM  []Hex `json:"mrSignerSEAM,omitzero"`
	// MRServiceTD are the accepted service TDs, which act on the guest's behalf,
	// as quotes of version 5 name them. nil accepts none but zero, except that
	// with AllowAny it accepts any.
	MRServiceTD []Hex `json:"mrServiceTD,omitzero"`
	// Events by register ("rtmr0" to "rtmr3"): the event log must hold each.
	Events map[string][]EventReference `json:"events,omitzero"`
	// EventsOnly refuses every further event in the registers that Events names.
	EventsOnly   bool  `json:"eventsOnly,omitempty"`
	TDAttributes *Bits `json:"tdAttributes,omitempty"` // 8 bytes
	XFAM         *Bits `json:"xfam,omitempty"`         // 8 bytes
	// AllowSEPTVE accepts guests without SEPT_VE_DISABLE, in which the host can
	// raise #VE on private memory by taking it away. TDAttributes decides where
	// its mask covers the bit.
	AllowSEPTVE bool `json:"allowSEPTVE,omitempty"`
	// PKS, KeyLocker and Perfmon: the attribute must be set, or must not; nil
	// accepts both.
	PKS       *bool `json:"pks,omitempty"`
	KeyLocker *bool `json:"keyLocker,omitempty"`
	Perfmon   *bool `json:"perfmon,omitempty"`
	AllowAny  bool  `json:"allowAnyMeasurement,omitempty"`
}

// EventReference is a measured event that an event log must hold, by name, with
// the accepted values of its digest (48 bytes in a TDX guest's log, 32 in a
// TPM's). Every event of that name in the register must have one of them. A log
// names its events itself, so that only EventsOnly, or the register's value,
// rules out that something else was measured under another name.
type EventReference struct {
	Name   string `json:"name"`
	Digest []Hex  `json:"digest"`
}

// AzureReference are reference values for an Azure confidential VM: for what
// the hardware measured, which is Microsoft's firmware, and for the PCRs of its
// vTPM, which measured the guest. SNP or TDX must be given, and PCRs.
type AzureReference struct {
	SNP        *SNPReference               `json:"snp,omitempty"`
	TDX        *TDXReference               `json:"tdx,omitempty"`
	PCRs       map[string][]Hex            `json:"pcrs,omitzero"`   // "0" to "23": accepted values of the SHA-256 bank, 32 bytes each
	Events     map[string][]EventReference `json:"events,omitzero"` // by "pcr0" to "pcr23"
	EventsOnly bool                        `json:"eventsOnly,omitempty"`
	AllowAny   bool                        `json:"allowAnyMeasurement,omitempty"` // of PCRs
}

// TPMReference are reference values for a machine that has only a TPM. PCRs
// must be given, and what makes its key worth something: AttestationKeys, or a
// root that the verifier was made with.
type TPMReference struct {
	PCRs            map[string][]Hex            `json:"pcrs,omitzero"`
	Events          map[string][]EventReference `json:"events,omitzero"` // by "pcr0" to "pcr23"
	EventsOnly      bool                        `json:"eventsOnly,omitempty"`
	AttestationKeys []Hex                       `json:"attestationKeys,omitzero"`      // SHA-256 of PKIX DER, 32 bytes each
	AllowAny        bool                        `json:"allowAnyMeasurement,omitempty"` // of PCRs
}

// RegisterReference are accepted values by register. At least one register must
// be given.
type RegisterReference struct {
	Registers map[string][]Hex `json:"registers,omitzero"`
	AllowAny  bool             `json:"allowAnyMeasurement,omitempty"`
}

// DeviceReference says what a device must be; exactly one kind must be given.
type DeviceReference struct {
	NVIDIA *GPUReference `json:"nvidia,omitempty"`
}

// GPUReference are reference values for a GPU of NVIDIA.
type GPUReference struct {
	Architectures []string         `json:"architectures,omitzero"` // "Hopper", "Blackwell"; nil accepts any
	Drivers       []string         `json:"drivers,omitzero"`       // accepted versions; nil accepts any
	VBIOS         []string         `json:"vbios,omitzero"`         // accepted versions; nil accepts any
	Measurements  map[string][]Hex `json:"measurements,omitzero"`  // accepted values by index
	// AllowUncheckedMeasurements accepts a GPU whose measurements neither the
	// vendor's reference values (RIM) nor Measurements were held against.
	AllowUncheckedMeasurements bool `json:"allowUncheckedMeasurements,omitempty"`
	// AllowUncheckedRevocation accepts a GPU about which the vendor's OCSP was
	// not asked.
	AllowUncheckedRevocation bool `json:"allowUncheckedRevocation,omitempty"`
}

// SimReference are reference values for a process under the software TEE, in
// either shape. Program is SHA-256 of the executable file that runs; Agent is
// SHA-256 of the ashlar-marble (or other) executable that asks for evidence and
// supervises it; Files maps a name to SHA-256 of each further file measured
// (scripts, data). The files measured must be exactly these.
//
// In SGX shape: UniqueID = program, SignerID = agent, ConfigID = files digest
// and 32 zero bytes. In TDX shape: MRTD = program, MROwner = agent, MRConfigID =
// files digest, each followed by 16 zero bytes. The files digest is
// FilesDigest; a process that measures itself alone has agent = program.
type SimReference struct {
	Program  []Hex          `json:"program,omitzero"`
	Agent    []Hex          `json:"agent,omitzero"` // nil: any agent; validate warns
	Files    map[string]Hex `json:"files,omitzero"`
	AllowAny bool           `json:"allowAnyMeasurement,omitempty"`
}
