package attest

import "fmt"

// Bits of an enclave's attributes (Intel SDM volume 3D, table 35-3): those of
// the first byte.
const (
	sgxProvisionKey  = 0x10
	sgxEINITTokenKey = 0x20
	sgxKSS           = 0x80
)

var fixEnclave = Fix{ServiceOwner, "build and sign the enclave with the attributes that the package demands"}

// sgx judges the software of an enclave.
func (k *check) sgx(c Claims, r *SGXReference) {
	var got SGXClaims
	present := c.SGX != nil
	if present {
		got = *c.SGX
	}
	bySigner := r.SignerID != nil && r.ProductID != nil && r.MinSecurityVersion != nil
	switch {
	case r.AllowAny && r.UniqueID == nil:
		k.any("sgx.uniqueID", got.UniqueID)
	case !r.AllowAny && r.UniqueID == nil && !bySigner:
		k.incomplete("sgx", "uniqueID, or signerID with productID and minSecurityVersion")
	}
	k.oneOf("sgx.uniqueID", r.UniqueID, got.UniqueID)
	if r.SignerID != nil {
		k.oneOf("sgx.signerID", []Hex{r.SignerID}, got.SignerID)
	}
	if r.ProductID != nil {
		k.add(Step{Code: CodeMeasurement, Field: "sgx.productID", OK: present && got.ProductID == *r.ProductID,
			Want: fmt.Sprint(*r.ProductID), Got: number(present, got.ProductID), Fix: fixSoftware})
	}
	k.atLeast("sgx.securityVersion", r.MinSecurityVersion, got.SecurityVersion, present, "deploy a release with a higher security version")
	k.oneOf("sgx.configID", r.ConfigID, got.ConfigID)
	k.atLeast("sgx.configSVN", r.MinConfigSVN, got.ConfigSVN, present, "load the enclave with a newer configuration")
	k.oneOf("sgx.familyID", r.FamilyID, got.FamilyID)
	k.oneOf("sgx.extendedProductID", r.ExtendedProductID, got.ExtendedProdID)
	k.sgxAttributes(got, r, present)
}

func (k *check) sgxAttributes(got SGXClaims, r *SGXReference, present bool) {
	first := byte(0)
	if len(got.Attributes) > 0 {
		first = got.Attributes[0]
	}
	if !r.Attributes.covers(0, sgxProvisionKey|sgxEINITTokenKey) {
		s := Step{Code: CodeAttributes, Field: "sgx.keyAttributes", OK: present && first&(sgxProvisionKey|sgxEINITTokenKey) == 0, Want: "none", Got: "none",
			Fix: Fix{ServiceOwner, "sign the enclave without PROVISIONKEY and EINITTOKENKEY, or have the manifest's author allow them"}}
		switch {
		case !present:
			s.Got = "absent"
		case first&sgxProvisionKey != 0 && first&sgxEINITTokenKey != 0:
			s.Got = "PROVISIONKEY, EINITTOKENKEY"
		case first&sgxProvisionKey != 0:
			s.Got = "PROVISIONKEY"
		case first&sgxEINITTokenKey != 0:
			s.Got = "EINITTOKENKEY"
		}
		if r.AllowKeyAttributes {
			s.OK, s.Want = true, "any (allowKeyAttributes)"
		}
		k.add(s)
	}
	if r.RequireKSS {
		k.switched(Step{Code: CodeAttributes, Field: "sgx.kss", Fix: fixEnclave}, true, first&sgxKSS != 0, present)
	}
	k.bits(CodeAttributes, "sgx.attributes", r.Attributes, got.Attributes, fixEnclave)
	k.bits(CodeAttributes, "sgx.miscSelect", r.MiscSelect, got.MiscSelect, fixEnclave)
}
