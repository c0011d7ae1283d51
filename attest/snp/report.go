package snp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"

	"github.com/ashlar-mesh/ashlar/attest"
)

// reportSize is the size of a report, in bytes: 672 that are signed, 512 of
// signature.
const reportSize = abi.ReportSize

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

// report is a parsed report.
type report struct {
	raw    []byte
	fields *sevsnp.Report
	signer signer
	// product is what family and model of the CPU say, from version 3 on; cpu
	// holds both as words. Both are empty in version 2.
	product, cpu string
}

var errVersion = errors.New("not supported")

// parse reads a report of exactly reportSize bytes. Reserved fields must be
// zero; the signature is not checked.
func parse(raw []byte) (*report, error) {
	if len(raw) != reportSize {
		return nil, fmt.Errorf("%d bytes, a report has %d", len(raw), reportSize)
	}
	if v := binary.LittleEndian.Uint32(raw); v < abi.ReportVersion2 || v > abi.ReportVersion5 {
		return nil, fmt.Errorf("version %d is %w", v, errVersion)
	}
	if a := abi.SignatureAlgo(raw); a != abi.SignEcdsaP384Sha384 {
		return nil, fmt.Errorf("signature algorithm %d is %w", a, errVersion)
	}
	f, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, err
	}
	info, err := abi.ParseSignerInfo(f.SignerInfo)
	if err != nil {
		return nil, err
	}
	r := &report{raw: raw, fields: f}
	switch info.SigningKey {
	case abi.VcekReportSigner:
		r.signer = vcek
	case abi.VlekReportSigner:
		r.signer = vlek
	default:
		return nil, fmt.Errorf("a report that no key signed is %w", errVersion)
	}
	if f.Version >= abi.ReportVersion3 {
		family, model, _ := abi.FmsFromCpuid1Eax(f.Cpuid1EaxFms)
		r.product, r.cpu = productOf(family, model), fmt.Sprintf("CPU family %d, model %d", family, model)
	}
	return r, nil
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

// claims renders the report; product decides how patch levels are laid out.
func (r *report) claims(product string) attest.Claims {
	f := r.fields
	policy, _ := abi.ParseSnpPolicy(f.Policy) // parse has accepted it
	s := &attest.SNPClaims{Version: f.Version, Measurement: f.Measurement, HostData: f.HostData, IDKeyDigest: f.IdKeyDigest,
		AuthorKeyDigest: f.AuthorKeyDigest, FamilyID: f.FamilyId, ImageID: f.ImageId, ReportID: f.ReportId, ReportIDMA: f.ReportIdMa,
		VMPL: f.Vmpl, GuestSVN: f.GuestSvn, LaunchMitigations: f.LaunchMitVector, CurrentMitigations: f.CurrentMitVector,
		Signer: string(r.signer), Product: product, ChipID: f.ChipId,
		Policy: attest.SNPPolicy{ABI: fmt.Sprintf("%d.%d", policy.ABIMajor, policy.ABIMinor), SMT: policy.SMT, MigrateMA: policy.MigrateMA,
			Debug: policy.Debug, SingleSocket: policy.SingleSocket, CXL: policy.CXLAllowed, AES256XTS: policy.MemAES256XTS,
			RAPLDisabled: policy.RAPLDis, CiphertextHiding: policy.CipherTextHidingDRAM, PageSwapDisabled: policy.PageSwapDisable, Bits: bits(f.Policy)},
		Platform:        platformInfo(f.PlatformInfo),
		ReportedTCB:     level(product, f.ReportedTcb),
		CommittedTCB:    level(product, f.CommittedTcb),
		CurrentTCB:      level(product, f.CurrentTcb),
		LaunchTCB:       level(product, f.LaunchTcb),
		CurrentFirmware: attest.SNPFirmware{Major: uint8(f.CurrentMajor), Minor: uint8(f.CurrentMinor), Build: uint8(f.CurrentBuild)},
		CommittedFirmware: attest.SNPFirmware{Major: uint8(f.CommittedMajor), Minor: uint8(f.CommittedMinor),
			Build: uint8(f.CommittedBuild)}}
	s.ProvisionalFirmware = f.CommittedTcb != f.CurrentTcb || s.CommittedFirmware != s.CurrentFirmware
	return attest.Claims{TEE: attest.SNP, ReportData: f.ReportData, Debug: policy.Debug, SNP: s, TCB: attest.TCBClaims{Advisories: []string{}}}
}

func bits(v uint64) attest.Hex { return binary.BigEndian.AppendUint64(nil, v) }

// platformInfo names the bits of PLATFORM_INFO. Firmware gives new bits a
// meaning at any time, so unknown ones are no error.
func platformInfo(v uint64) attest.SNPPlatformInfo {
	bit := func(n uint) bool { return v>>n&1 == 1 }
	return attest.SNPPlatformInfo{SMT: bit(0), TSME: bit(1), ECC: bit(2), RAPLDisabled: bit(3), CiphertextHiding: bit(4),
		AliasCheck: bit(5), TIO: bit(7), Bits: bits(v)}
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
