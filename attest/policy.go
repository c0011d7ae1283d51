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
	UniqueID           []Hex   `json:"uniqueID,omitempty"` // any of these MRENCLAVEs
	SignerID           Hex     `json:"signerID,omitempty"` // MRSIGNER
	ProductID          *uint16 `json:"productID,omitempty"`
	MinSecurityVersion *uint16 `json:"minSecurityVersion,omitempty"`
	AllowAny           bool    `json:"allowAnyMeasurement,omitempty"`
}

// TDXReference are reference values for a trust domain: each is a list of
// accepted 48-byte values of one register. MRTD is required.
type TDXReference struct {
	MRTD          []Hex `json:"mrtd,omitempty"`
	RTMR0         []Hex `json:"rtmr0,omitempty"`
	RTMR1         []Hex `json:"rtmr1,omitempty"`
	RTMR2         []Hex `json:"rtmr2,omitempty"`
	RTMR3         []Hex `json:"rtmr3,omitempty"`
	MRConfigID    []Hex `json:"mrConfigID,omitempty"`
	MROwner       []Hex `json:"mrOwner,omitempty"`
	MROwnerConfig []Hex `json:"mrOwnerConfig,omitempty"`
	MRSEAM        []Hex `json:"mrSEAM,omitempty"`
	AllowAny      bool  `json:"allowAnyMeasurement,omitempty"`
}

// AzureReference are reference values for an Azure confidential VM: for what
// the hardware measured, which is Microsoft's firmware, and for the PCRs of its
// vTPM, which measured the guest. SNP or TDX must be given, and PCRs.
type AzureReference struct {
	SNP      *SNPReference    `json:"snp,omitempty"`
	TDX      *TDXReference    `json:"tdx,omitempty"`
	PCRs     map[string][]Hex `json:"pcrs,omitempty"`                // "0" to "23": accepted values of the SHA-256 bank, 32 bytes each
	AllowAny bool             `json:"allowAnyMeasurement,omitempty"` // of PCRs
}

// TPMReference are reference values for a machine that has only a TPM. PCRs
// must be given, and what makes its key worth something: AttestationKeys, or a
// root that the verifier was made with.
type TPMReference struct {
	PCRs            map[string][]Hex `json:"pcrs,omitempty"`
	AttestationKeys []Hex            `json:"attestationKeys,omitempty"`     // SHA-256 of PKIX DER, 32 bytes each
	AllowAny        bool             `json:"allowAnyMeasurement,omitempty"` // of PCRs
}

// RegisterReference are accepted values by register. At least one register must
// be given.
type RegisterReference struct {
	Registers map[string][]Hex `json:"registers,omitempty"`
	AllowAny  bool             `json:"allowAnyMeasurement,omitempty"`
}

// DeviceReference says what a device must be; exactly one kind must be given.
type DeviceReference struct {
	NVIDIA *GPUReference `json:"nvidia,omitempty"`
}

// GPUReference are reference values for a GPU of NVIDIA.
type GPUReference struct {
	Architectures []string         `json:"architectures,omitempty"` // "Hopper", "Blackwell"; nil accepts any
	Drivers       []string         `json:"drivers,omitempty"`       // accepted versions; nil accepts any
	VBIOS         []string         `json:"vbios,omitempty"`         // accepted versions; nil accepts any
	Measurements  map[string][]Hex `json:"measurements,omitempty"`  // accepted values by index
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
	Program  []Hex          `json:"program,omitempty"`
	Agent    []Hex          `json:"agent,omitempty"` // nil: any agent; validate warns
	Files    map[string]Hex `json:"files,omitempty"`
	AllowAny bool           `json:"allowAnyMeasurement,omitempty"`
}
