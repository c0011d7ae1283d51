package inspect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
)

// claims turns what evidence says into fields and reference values.
func (out *Finding) claims(v attest.Verdict) {
	c := v.Claims
	var snp *attest.SNPReference
	var tdx *attest.TDXReference
	if c.SGX != nil {
		out.Package.SGX = out.sgxClaims(c.SGX)
	}
	if c.TDX != nil {
		tdx = out.tdxClaims(c.TDX)
	}
	if c.SNP != nil {
		snp = out.snpClaims(c.SNP)
	}
	switch {
	case v.TEE == attest.SNPAzure || v.TEE == attest.TDXAzure:
		out.Package.Azure = &attest.AzureReference{SNP: snp, TDX: tdx, PCRs: out.pcrs(c.TPM)}
	case v.TEE == attest.TPM && c.TPM != nil:
		out.Package.TPM = &attest.TPMReference{PCRs: out.pcrs(c.TPM), AttestationKeys: hexList(c.TPM.AttestationKey)}
		out.add("tpm.attestationKey", c.TPM.AttestationKey.String(), true)
	default:
		out.Package.TDX, out.Package.SNP = tdx, snp
	}
	if len(c.Registers) > 0 {
		ref := &attest.RegisterReference{Registers: map[string][]attest.Hex{}}
		for _, name := range slices.Sorted(maps.Keys(c.Registers)) {
			ref.Registers[name] = hexList(c.Registers[name])
			out.add(string(v.TEE)+"."+name, c.Registers[name].String(), true)
		}
		out.Package.Plugins = map[attest.TEE]*attest.RegisterReference{v.TEE: ref}
	}
	if c.GPU != nil {
		out.gpuClaims(c.GPU)
	}
	out.events(c.Events)
}

// gpuClaims reports a GPU. Of what it measures only the vendor knows what it
// means, and a package is no package with a device alone.
func (out *Finding) gpuClaims(c *attest.GPUClaims) {
	out.add("nvidia.architecture", c.Architecture, true)
	out.add("nvidia.driver", c.Driver, true)
	out.add("nvidia.vbios", c.VBIOS, true)
	ref := &attest.GPUReference{Architectures: []string{c.Architecture}, Drivers: []string{c.Driver}, VBIOS: []string{c.VBIOS}}
	out.Package.Devices = map[string]attest.DeviceReference{"gpu": {NVIDIA: ref}}
	out.Unfit = "a GPU is no package of its own: name it under devices of the guest that uses it"
}

func (out *Finding) sgxClaims(c *attest.SGXClaims) *attest.SGXReference {
	out.add("sgx.uniqueID", c.UniqueID.String(), true)
	out.add("sgx.signerID", c.SignerID.String(), true)
	out.add("sgx.productID", strconv.Itoa(int(c.ProductID)), true)
	out.add("sgx.securityVersion", strconv.Itoa(int(c.SecurityVersion)), true)
	out.add("sgx.attributes", c.Attributes.String(), false)
	ref := &attest.SGXReference{UniqueID: hexList(c.UniqueID), SignerID: c.SignerID, ProductID: &c.ProductID, MinSecurityVersion: &c.SecurityVersion}
	const kss = 1 << 7 // of the first byte of ATTRIBUTES
	if len(c.Attributes) > 0 && c.Attributes[0]&kss != 0 {
		ref.FamilyID, ref.ExtendedProductID = hexList(c.FamilyID), hexList(c.ExtendedProdID)
		out.add("sgx.familyID", c.FamilyID.String(), true)
		out.add("sgx.extendedProductID", c.ExtendedProdID.String(), true)
		out.add("sgx.configID", c.ConfigID.String(), false)
		out.note("the host chose configID when it loaded the enclave: add it to a policy where the enclave relies on it")
	}
	return ref
}

func (out *Finding) tdxClaims(c *attest.TDXClaims) *attest.TDXReference {
	for _, r := range []struct {
		name   string
		value  attest.Hex
		policy bool
	}{{"mrtd", c.MRTD, true}, {"rtmr0", c.RTMR0, false}, {"rtmr1", c.RTMR1, true}, {"rtmr2", c.RTMR2, true}, {"rtmr3", c.RTMR3, false},
		{"mrConfigID", c.MRConfigID, false}, {"mrOwner", c.MROwner, false}, {"mrOwnerConfig", c.MROwnerConfig, false}, {"mrSEAM", c.MRSEAM, false},
		{"tdAttributes", c.TDAttributes, false}, {"xfam", c.XFAM, false}} {
		out.add("tdx."+r.name, r.value.String(), r.policy)
	}
	out.note("rtmr0 changes with the VMM's settings and rtmr3 belongs to the running guest: add them to a policy where they are stable")
	ref := &attest.TDXReference{MRTD: hexList(c.MRTD), RTMR1: hexList(c.RTMR1), RTMR2: hexList(c.RTMR2)}
	if len(bytes.Trim(c.MRServiceTD, "\x00")) > 0 {
		ref.MRServiceTD = hexList(c.MRServiceTD)
		out.add("tdx.mrServiceTD", c.MRServiceTD.String(), true)
		out.note("a service TD acts on the guest's behalf, for instance to migrate it: what that one is must be known too")
	}
	const septVEDisable = 1 << 4 // of the fourth byte: bit 28 of TD_ATTRIBUTES
	if len(c.TDAttributes) == 8 && c.TDAttributes[3]&septVEDisable == 0 {
		out.note("the guest runs without SEPT_VE_DISABLE: a manifest refuses that without allowSEPTVE")
	}
	return ref
}

func (out *Finding) snpClaims(c *attest.SNPClaims) *attest.SNPReference {
	ref := &attest.SNPReference{Measurement: hexList(c.Measurement)}
	out.add("snp.measurement", c.Measurement.String(), true)
	if c.VMPL != 0 {
		ref.VMPL = &c.VMPL
	}
	out.add("snp.vmpl", strconv.Itoa(int(c.VMPL)), c.VMPL != 0)
	out.add("snp.policy", c.Policy.Bits.String(), false)
	out.add("snp.hostData", c.HostData.String(), false)
	out.add("snp.idKeyDigest", c.IDKeyDigest.String(), false)
	out.add("snp.product", c.Product, false)
	out.add("snp.reportedTCB", c.ReportedTCB.String(), false)
	out.note("its platform needs snp rules, such as " + floor(c))
	return ref
}

// floor renders the patch level that a report shows as a minTCB.
func floor(c *attest.SNPClaims) string {
	raw, err := json.Marshal(map[string]map[string]attest.SNPTCB{"minTCB": {c.Product: c.ReportedTCB}})
	if err != nil {
		return "minTCB" // plain numbers always encode
	}
	return string(raw)
}

// pcrs are the registers of a TPM that mean something: those that were extended
// before the operating system runs. PCR 10 (IMA) and 16 and 23 (free for any use)
// change while it does.
func (out *Finding) pcrs(c *attest.TPMClaims) map[string][]attest.Hex {
	list := map[string][]attest.Hex{}
	if c == nil {
		return list
	}
	for n := range 24 {
		value, ok := c.PCRs[strconv.Itoa(n)]
		if !ok {
			continue
		}
		used := n != 10 && n != 16 && n != 23 && slices.ContainsFunc(value, func(b byte) bool { return b != 0 && b != 0xff })
		if used {
			list[strconv.Itoa(n)] = hexList(value)
		}
		out.add(fmt.Sprintf("tpm.pcr%d", n), value.String(), used)
	}
	return list
}
