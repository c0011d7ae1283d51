package attest

// Codes of steps. Each names one check, on steps that hold as well as on those
// that do not; package internal/problem describes them to people.
const (
	CodeSize            = "ATT-001" // evidence empty or above MaxEvidence
	CodeNoVerifier      = "ATT-002" // no verifier for this TEE
	CodeFormat          = "ATT-003" // evidence does not parse
	CodeVersion         = "ATT-004" // version, key type or TEE type not supported
	CodeCertData        = "ATT-005" // certification data without a certificate chain
	CodeChain           = "ATT-006" // certificate chain does not lead to the pinned root
	CodeCertExtension   = "ATT-007" // certificate lacks the vendor's extension
	CodeQESignature     = "ATT-008" // quoting enclave report not signed by the platform key
	CodeQEBinding       = "ATT-009" // quoting enclave did not vouch for the attestation key
	CodeQuoteSignature  = "ATT-010" // quote not signed by the attestation key
	CodeBinding         = "ATT-011" // report data is not what was asked for
	CodeMeasurement     = "ATT-012" // software is not what the package names
	CodeDebug           = "ATT-013" // debug enclave or guest
	CodeTCBStatus       = "ATT-014" // TCB status not accepted
	CodeAdvisory        = "ATT-015" // advisory not accepted
	CodeTCBEvaluation   = "ATT-016" // tcbEvaluationDataNumber below the floor
	CodeEndorsementAge  = "ATT-017" // endorsements older than the platform allows
	CodeNoRevocation    = "ATT-018" // no CRLs, so revocation was not checked
	CodeRevoked         = "ATT-019" // a certificate is revoked
	CodeCRL             = "ATT-020" // CRL unusable: format, issuer or signature
	CodeCRLWindow       = "ATT-021" // CRL outside its validity window
	CodeNoEndorsement   = "ATT-022" // a required endorsement is missing
	CodeEndorsement     = "ATT-023" // endorsement unusable: format, version or signature
	CodeWindow          = "ATT-024" // endorsement outside its validity window
	CodeOtherPlatform   = "ATT-025" // endorsement is of another platform or TEE
	CodeQEIdentity      = "ATT-026" // quoting enclave is not the vendor's
	CodeTCBLevel        = "ATT-027" // platform matches no TCB level
	CodeModule          = "ATT-028" // TDX module is not the vendor's
	CodeNoReference     = "ATT-029" // package names no reference values for this TEE
	CodeCertWindow      = "ATT-030" // certificate outside its validity window
	CodeSecurityVersion = "ATT-031" // security version below the minimum
	CodeTCBFloor        = "ATT-032" // firmware or microcode below the platform's floor
	CodeGuestPolicy     = "ATT-033" // guest's privilege level or policy not accepted
	CodeMachine         = "ATT-034" // machine, or how it is configured, not accepted
	CodeEventLog        = "ATT-035" // event log does not replay to the registers
	CodeEvent           = "ATT-036" // event log lacks an event, or holds another
	CodeAttributes      = "ATT-037" // attributes of the enclave or guest not accepted
	CodeTPMTrust        = "ATT-038" // nobody accepted stands for the key of the TPM
	CodeTCBDate         = "ATT-039" // TCB level of before the platform's floor
	CodeTPMQuote        = "ATT-043" // not a TPM's quote of the SHA-256 bank
	CodeTPMKeyKind      = "ATT-044" // attestation key is no restricted signing key of a TPM
	CodeTPMRegisters    = "ATT-045" // PCR values are not those that were quoted
	CodeRuntimeBinding  = "ATT-046" // hardware does not vouch for the paravisor's runtime data
	CodeRuntimeData     = "ATT-047" // runtime data names no key of a vTPM
	CodeTDReport        = "ATT-048" // TDX quote is of another guest than the paravisor's report
	CodeDevice          = "ATT-052" // device missing, repeated, not named or refused
	CodeDeviceFirmware  = "ATT-053" // device runs other firmware than it was certified for
)
