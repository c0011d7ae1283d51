package endorse

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
)

// The CAs that issue PCK certificates, as Intel's service calls them.
const (
	CAPlatform  = "platform"
	CAProcessor = "processor"
)

// Keys that sign SEV-SNP reports, as SNPClaims.Signer has them.
const (
	vcek = "VCEK"
	vlek = "VLEK"
)

// Need says which endorsements a piece of evidence has to be judged with.
type Need struct {
	// TEE is whose formats the documents have: "sgx", "tdx", "snp", also for
	// evidence of a paravisor, or a simulated one.
	TEE attest.TEE `json:"tee"`

	// Of Intel's TEEs.
	FMSPC attest.Hex `json:"fmspc,omitempty"` // 6 bytes
	CA    string     `json:"ca,omitempty"`    // CAPlatform or CAProcessor

	// Of SEV-SNP. Product is empty where neither report nor certificate says it
	// (version 2).
	Product string         `json:"product,omitempty"`
	Signer  string         `json:"signer,omitempty"` // "VCEK" or "VLEK"
	ChipID  attest.Hex     `json:"chipID,omitempty"` // 64 bytes; VCEK only, absent where the host masks it
	TCB     *attest.SNPTCB `json:"tcb,omitempty"`    // the reported one; VCEK only
}

// NeedOf tells by the claims of evidence what it needs, and whether it needs
// anything that is known here. A verifier gives the claims without endorsements
// too: nothing that they say is certain then, but those of Intel's TEEs name a
// platform only if the chain of the PCK certificate holds.
func NeedOf(c attest.Claims) (Need, bool) {
	switch {
	case c.SNP != nil:
		n := Need{TEE: attest.SNP, Product: c.SNP.Product, Signer: c.SNP.Signer}
		if n.Signer == vcek && len(c.SNP.ChipID) == chipIDSize && !bytes.Equal(c.SNP.ChipID, make([]byte, chipIDSize)) {
			tcb := c.SNP.ReportedTCB
			n.ChipID, n.TCB = bytes.Clone(c.SNP.ChipID), &tcb
		}
		return n, n.Signer == vcek || n.Signer == vlek
	case len(c.TCB.FMSPC) == 6 && (c.SGX != nil || c.TDX != nil):
		n := Need{TEE: attest.SGX, FMSPC: bytes.Clone(c.TCB.FMSPC), CA: CAPlatform}
		if c.TDX != nil {
			n.TEE = attest.TDX
		}
		if c.TEE.Simulated() {
			n.TEE = c.TEE
		}
		if strings.HasSuffix(c.TCB.PCKIssuer, " PCK Processor CA") {
			n.CA = CAProcessor
		}
		return n, true
	}
	return Need{}, false
}

// Key identifies the need: "sgx/00606a000000/platform",
// "snp/CHIPID/TCB" (128 and 10 digits), "snp/vlek/Milan", "snp/masked/Genoa".
func (n Need) Key() string {
	switch {
	case n.TEE != attest.SNP:
		return string(n.TEE) + "/" + n.FMSPC.String() + "/" + n.CA
	case n.TCB != nil:
		return "snp/" + strings.TrimPrefix(vcekIdentity(n.ChipID, *n.TCB), "vcek/")
	case n.Signer == vlek:
		return "snp/vlek/" + n.Product
	}
	return "snp/masked/" + n.Product
}

// Folder is where a tree of folders keeps the documents, with slashes:
// "sgx/00606a000000", "snp/CHIPID" with 128 digits, "snp/vlek", "snp/masked".
func (n Need) Folder() string {
	switch {
	case n.TEE != attest.SNP:
		return path.Join(string(n.TEE), n.FMSPC.String())
	case n.Signer == vlek:
		return "snp/vlek"
	case n.ChipID == nil:
		return "snp/masked"
	}
	return "snp/" + hex.EncodeToString(n.ChipID)
}

// Check reports whether the need is complete and well-formed, as it must be
// before it becomes part of an address or of a path.
func (n Need) Check() error {
	switch {
	case n.TEE == attest.SNP:
		if n.Signer != vcek && n.Signer != vlek {
			return fmt.Errorf("signer %.16q is neither %s nor %s", n.Signer, vcek, vlek)
		}
		if n.Product != "" && !slices.Contains(products, n.Product) {
			return fmt.Errorf("product %.16q is none of %v", n.Product, products)
		}
		if (n.ChipID == nil) != (n.TCB == nil) || n.ChipID != nil && len(n.ChipID) != chipIDSize || n.FMSPC != nil || n.CA != "" {
			return fmt.Errorf("chip ID of %d bytes, with its TCB: want 64 and a TCB, or neither", len(n.ChipID))
		}
	case n.TEE.Shape() == attest.SGX || n.TEE.Shape() == attest.TDX:
		if len(n.FMSPC) != 6 || n.CA != CAPlatform && n.CA != CAProcessor || n.Signer != "" || n.Product != "" || n.ChipID != nil || n.TCB != nil {
			return fmt.Errorf("FMSPC of %d bytes, CA %.16q: want 6, and %s or %s", len(n.FMSPC), n.CA, CAPlatform, CAProcessor)
		}
	default:
		return fmt.Errorf("no endorsements are known of TEE %.16q", n.TEE)
	}
	return nil
}

// products are AMD's product lines.
var products = []string{"Milan", "Genoa", "Turin"}

// Wanted lists the kinds of documents that the evidence is judged with, most
// telling first. The verifiers know AMD's CAs, so the chain is not among them.
func (n Need) Wanted() []string {
	switch {
	case n.TEE != attest.SNP:
		return []string{attest.KindTCBInfo, attest.KindQEIdentity, attest.KindPCKCRL, attest.KindRootCRL}
	case n.Signer == vlek:
		return []string{attest.KindVLEK, attest.KindAMDCRL}
	}
	return []string{attest.KindVCEK, attest.KindAMDCRL}
}

// Missing lists the wanted kinds that a set has not.
func (n Need) Missing(en attest.Endorsements) []string {
	var missing []string
	for _, kind := range n.Wanted() {
		if _, ok := en.Get(kind); !ok {
			missing = append(missing, kind)
		}
	}
	return missing
}

// Only returns what of a set the need has use for; verdicts on the evidence
// cover no other document.
func (n Need) Only(en attest.Endorsements) attest.Endorsements {
	wanted := n.Wanted()
	if n.TEE == attest.SNP {
		wanted = append(wanted, attest.KindAMDChain)
	}
	var items []attest.Endorsement
	for _, it := range en.Items() {
		if slices.Contains(wanted, it.Kind) {
			items = append(items, it)
		}
	}
	return attest.NewEndorsements(items...)
}

// Fits reports why a document is not one of those that the need is for.
func (n Need) Fits(d Document) error {
	if d.Error != "" {
		return fmt.Errorf("%s: %s", d.Kind, d.Error)
	}
	if want := n.identity(d.Kind); want != "" && d.Identity != want {
		return fmt.Errorf("%s is %s, not %s", d.Kind, d.Identity, want)
	}
	return nil
}

// identity is what a document of a kind must be; "" if the need does not say.
func (n Need) identity(kind string) string {
	of := ""
	if n.TEE.Simulated() {
		of = "sim/"
	}
	switch kind {
	case attest.KindTCBInfo:
		return of + "tcbInfo/" + string(n.TEE.Shape()) + "/" + n.FMSPC.String()
	case attest.KindQEIdentity:
		return of + "qeIdentity/" + string(n.TEE.Shape())
	case attest.KindPCKCRL:
		return of + "crl/pck/" + n.CA
	case attest.KindRootCRL:
		return of + "crl/intel/root"
	case attest.KindVCEK:
		if n.TCB != nil {
			return vcekIdentity(n.ChipID, *n.TCB)
		}
	case attest.KindAMDCRL:
		if n.Product != "" {
			return "crl/amd/" + n.Product
		}
	case attest.KindVLEK:
		if n.Product != "" {
			return "vlek/" + n.Product
		}
	}
	return ""
}

// ProductOf returns the product line that the CRL or the chain of AMD in a set
// is of; "" if neither is there.
func ProductOf(en attest.Endorsements) string {
	for _, d := range Describe(en) {
		for _, prefix := range []string{"crl/amd/", "chain/amd/", "vlek/"} {
			if product, ok := strings.CutPrefix(d.Identity, prefix); ok {
				return product
			}
		}
	}
	return ""
}
