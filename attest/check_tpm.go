package attest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// azure judges a confidential VM of Azure: the hardware's measurements by the
// reference of that hardware, and the guest by its vTPM.
func (k *check) azure(c Claims, r *AzureReference) {
	switch {
	case c.TEE == SNPAzure && r.SNP != nil:
		k.snp(c, r.SNP)
	case c.TEE == TDXAzure && r.TDX != nil:
		k.tdx(c, r.TDX)
	default:
		key := "azure." + string(beneath(c.TEE))
		k.add(Step{Code: CodeNoReference, Field: key, Want: "reference values for " + key, Got: "none",
			Fix: Fix{ManifestAuthor, "add them to the package's azure, if it may run there"}})
	}
	var got TPMClaims
	if c.TPM != nil {
		got = *c.TPM
	}
	hardware := string(beneath(c.TEE))
	k.vouched(got.Vouched == hardware, hardware, got.Vouched)
	k.pcrs(r.PCRs, got.PCRs, r.AllowAny)
	k.events(c, r.Events, r.EventsOnly)
}

// tpm judges a machine that has only a TPM.
func (k *check) tpm(c Claims, r *TPMReference) {
	var got TPMClaims
	if c.TPM != nil {
		got = *c.TPM
	}
	if r.AttestationKeys == nil {
		k.vouched(got.Vouched != "", "a root that is trusted here", got.Vouched)
	} else {
		s := Step{Code: CodeTPMTrust, Field: "tpm.attestationKey", Want: list(r.AttestationKeys), Got: shown(got.AttestationKey),
			Fix: Fix{ManifestAuthor, "name the TPM's key, if the service may run on that machine"}}
		for _, a := range r.AttestationKeys {
			s.OK = s.OK || len(got.AttestationKey) > 0 && string(a) == string(got.AttestationKey)
		}
		k.add(s)
	}
	k.pcrs(r.PCRs, got.PCRs, r.AllowAny)
	k.events(c, r.Events, r.EventsOnly)
}

func (k *check) vouched(ok bool, want, got string) {
	if got == "" {
		got = "nobody"
	}
	k.add(Step{Code: CodeTPMTrust, Field: "tpm.vouched", OK: ok, Want: want, Got: got,
		Fix: Fix{ServiceOwner, "attest with a key that has a certificate, or have the manifest's author list the key"}})
}

// pcrs compares PCRs, in their order. One that the quote does not cover is
// absent.
func (k *check) pcrs(want map[string][]Hex, got map[string]Hex, allowAny bool) {
	if want == nil {
		if allowAny {
			k.add(Step{Code: CodeMeasurement, Field: "tpm.pcrs", OK: true, Want: "any (allowAnyMeasurement)", Got: fmt.Sprintf("%d covered by the quote", len(got))})
		} else {
			k.incomplete("tpm.pcrs", "accepted values of at least one PCR")
		}
		return
	}
	if len(want) == 0 {
		k.add(Step{Code: CodeNoReference, Field: "tpm.pcrs", Want: "none: pcrs names no PCR", Got: fmt.Sprintf("%d covered by the quote", len(got)), Fix: fixReference})
		return
	}
	numbers := sortedKeys(want)
	slices.SortFunc(numbers, func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX != nil || errY != nil || x == y {
			return strings.Compare(a, b)
		}
		return x - y
	})
	for _, n := range numbers {
		k.oneOf("tpm.pcr"+n, notNil(want[n]), got[n])
	}
}

// tpmPlatform judges what stands behind a TPM, and how it is run.
func (k *check) tpmPlatform(c Claims, rules *TPMPlatform, unchecked bool) {
	if rules == nil {
		rules = &TPMPlatform{}
	}
	var got TPMClaims
	if c.TPM != nil {
		got = *c.TPM
	}
	if rules.RequireSafeClock {
		k.add(Step{Code: CodeMachine, Field: "tpm.safe", OK: got.Safe, Want: "true", Got: fmt.Sprint(got.Safe),
			Fix: Fix{HostOwner, "shut the machine down in order and start it again: the TPM's clock may have gone back"}})
	}
	if rules.VouchedBy != nil {
		k.word(Step{Code: CodeMachine, Field: "tpm.vouchedBy", Got: got.Vouched,
			Fix: Fix{ManifestAuthor, "name the root in the platform's vouchedBy, if its TPMs are trusted"}}, rules.VouchedBy)
	}
	if got.Vouched == "" && !c.TCB.RevocationChecked {
		k.add(Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", OK: true, Want: "nothing: the key has no certificate", Got: "nothing to check: the package itself decides on the key"})
		return
	}
	if rules.AllowUncheckedRevocation && !unchecked && !c.TCB.RevocationChecked {
		k.add(Step{Code: CodeNoRevocation, Field: "tcb.revocationChecked", OK: true, Want: "any (allowUncheckedRevocation)", Got: "false: revocation was NOT checked"})
		return
	}
	k.revocation(c.TCB, unchecked, "have the manifest's author set allowUncheckedRevocation in the platform's tpm: no CRL of a TPM's CA is read")
}
