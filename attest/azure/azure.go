// Package azure verifies evidence of Azure's confidential VMs, kinds "snp:azure"
// and "tdx:azure".
//
// There a paravisor stands between the guest and the hardware, so that no
// report carries the guest's data. The hardware vouches for the paravisor, which
// is Microsoft's firmware, and by its report data for what the paravisor says at
// run time; that names the key of the vTPM that the paravisor runs; and the
// vTPM's quote binds what was asked for and the registers that measured the
// guest. Each link is a step.
//
// It owns that chain and the form of the evidence. Reports, quotes and their
// endorsements are packages snp's, tdx's and tpm's. It refuses to fetch
// anything, and never takes the hardware's report data for the guest's.
package azure

import (
	"errors"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

var (
	fixReport = attest.Fix{Who: attest.Nobody, How: "the evidence is forged or damaged: ask the paravisor for a new report"}
	fixQuote  = attest.Fix{Who: attest.ServiceOwner, How: "have the quote made of the TD report in the same evidence"}
)

// Verifier verifies one of the two kinds. It is safe for concurrent use as far
// as the verifier of the hardware is.
type Verifier struct{ hardware attest.Verifier }

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier whose hardware is verified by another, of SEV-SNP
// reports or of TDX quotes. It fails for any other kind.
func New(hardware attest.Verifier) (*Verifier, error) {
	if tee := hardware.TEE(); tee != attest.SNP && tee != attest.TDX {
		return nil, fmt.Errorf("no confidential VM of Azure runs on %q", tee)
	}
	return &Verifier{hardware}, nil
}

// TEE implements attest.Verifier.
func (v *Verifier) TEE() attest.TEE {
	if v.hardware.TEE() == attest.TDX {
		return attest.TDXAzure
	}
	return attest.SNPAzure
}

// Verify implements attest.Verifier. Report data of the claims are the
// qualifying data of the vTPM's quote, zeros after them. Evidence whose quote
// cannot be read has claims of the hardware only, and no report data.
func (v *Verifier) Verify(e attest.Evidence, en attest.Endorsements, at time.Time) (attest.Claims, []attest.Step) {
	r := &run{none: attest.Claims{TEE: v.TEE()}}
	d, ok := r.document(e.Raw)
	if !ok || !r.report(d, v.TEE()) {
		return r.none, r.steps
	}
	raw := r.hcl.hardware
	if v.hardware.TEE() == attest.TDX {
		raw = d.TDQuote
	}
	c, steps := v.hardware.Verify(attest.Evidence{TEE: v.hardware.TEE(), Raw: raw}, en, at)
	r.steps = append(r.steps, steps...)
	c.TEE = v.TEE()
	if len(c.ReportData) == 0 {
		return r.none, r.steps
	}
	bound := r.bound(c)
	c.ReportData = nil
	key, err := r.hcl.key()
	if !r.named(err) {
		return c, r.steps
	}
	quoted, steps := tpm.Check(d.Quote, key)
	r.steps = append(r.steps, steps...)
	c.ReportData, c.TPM = quoted.ReportData, quoted.TPM
	if c.TPM != nil && bound {
		c.TPM.Vouched = string(v.hardware.TEE())
	}
	r.steps = append(r.steps, tpm.CheckLog(e.EventLog, &c)...)
	return c, r.steps
}

// run is one verification.
type run struct {
	none  attest.Claims
	steps []attest.Step
	hcl   *report
}

func (r *run) check(s attest.Step, ok bool) bool {
	r.steps = append(r.steps, s.Holding(ok))
	return ok
}

func (r *run) document(raw []byte) (Document, bool) {
	d, err := decode(raw)
	s := attest.Step{Code: attest.CodeFormat, Field: "azure.format", Want: "a document of an Azure confidential VM", Got: "version 1", Source: "evidence", Fix: fixReport}
	if errors.Is(err, errVersion) {
		s.Code = attest.CodeVersion
	}
	if err != nil {
		s.Got = err.Error()
	}
	return d, r.check(s, err == nil)
}

// report parses the paravisor's report, which must be of the kind's hardware.
func (r *run) report(d Document, tee attest.TEE) bool {
	p, err := parse(d.Report)
	s := attest.Step{Code: attest.CodeFormat, Field: "hcl.format", Want: "the paravisor's report, of " + string(tee), Source: "paravisor's report", Fix: fixReport}
	want := map[attest.TEE]uint32{attest.SNPAzure: kindSNP, attest.TDXAzure: kindTDX}[tee]
	switch {
	case errors.Is(err, errVersion):
		s.Code, s.Got = attest.CodeVersion, err.Error()
	case err != nil:
		s.Got = err.Error()
	case p.kind != want:
		s.Code, s.Got = attest.CodeVersion, fmt.Sprintf("a report of hardware %d, not %d", p.kind, want)
	case (tee == attest.TDXAzure) != (len(d.TDQuote) > 0):
		s.Got = fmt.Sprintf("a TDX quote of %d bytes beside it", len(d.TDQuote))
	default:
		s.Got = "such a report"
		r.hcl = p
	}
	return r.check(s, r.hcl != nil)
}

// bound checks that the hardware vouches for the runtime data. A report of
// SEV-SNP must have been asked for at the level where the paravisor runs, not by
// the guest beneath it; a TDX quote must be of the guest that the paravisor
// reports.
func (r *run) bound(hardware attest.Claims) bool {
	same := true
	if hardware.TDX != nil {
		field := tdFields(r.hcl.hardware[:tdReportSize], hardware)
		s := attest.Step{Code: attest.CodeTDReport, Field: "hcl.tdReport", Want: "the TD report that was quoted", Got: "the same", Source: "TDX quote", Fix: fixQuote}
		if field != "" {
			s.Got = field + " differs"
		}
		same = r.check(s, field == "")
	}
	if hardware.SNP != nil {
		same = r.check(attest.Step{Code: attest.CodeRuntimeBinding, Field: "hcl.vmpl", Want: "0, where the paravisor runs", Got: fmt.Sprint(hardware.SNP.VMPL),
			Source: "SEV-SNP report", Fix: fixReport}, hardware.SNP.VMPL == 0)
	}
	want := r.hcl.reportData()
	return r.check(attest.Step{Code: attest.CodeRuntimeBinding, Field: "hcl.runtimeData", Want: want.String(), Got: hardware.ReportData.String(),
		Source: "hardware's report data", Fix: fixReport}, want.String() == hardware.ReportData.String()) && same
}

// named records whether the runtime data name the vTPM's key.
func (r *run) named(err error) bool {
	s := attest.Step{Code: attest.CodeRuntimeData, Field: "hcl.key", Want: "one RSA key " + keyName, Got: "such a key", Source: "paravisor's runtime data", Fix: fixReport}
	if err != nil {
		s.Got = err.Error()
	}
	return r.check(s, err == nil)
}
