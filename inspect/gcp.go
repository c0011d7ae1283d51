package inspect

import (
	"fmt"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/gcp"
)

// isLaunchEndorsement reports whether b is a launch endorsement of Google Cloud's
// firmware: a protocol buffer that begins with its first field and names
// measurements.
func isLaunchEndorsement(b []byte) bool {
	if len(b) == 0 || len(b) > gcp.MaxEndorsement || b[0] != 1<<3|2 {
		return false
	}
	e, err := gcp.Parse(b)
	return err == nil && (e.SNP != nil || e.TDX != nil)
}

// launchEndorsement reports what Google says its firmware measures. It is
// verified where the options name Google's root.
func (f *file) launchEndorsement(b []byte, o Options) (Finding, error) {
	out := Finding{What: "Google Cloud's launch endorsement", Basis: Unverified, Notes: []string{}}
	e, err := gcp.Parse(b)
	if err == nil && o.Root != nil {
		at := o.At
		if at.IsZero() {
			at = o.Now
		}
		e, err = gcp.Verify(b, o.Root, at)
		out.Basis = Verified
	}
	if err != nil {
		return Finding{}, fmt.Errorf("launch endorsement: %w", err)
	}
	out.add("firmware", e.Firmware.String(), false)
	out.add("made", e.Made.UTC().Format(time.RFC3339), false)
	if e.SNP != nil && (o.TEE == "" || o.TEE == attest.SNP) {
		out.endorsedSNP(e.SNP)
	}
	if e.TDX != nil && (o.TEE == "" || o.TEE == attest.TDX) {
		out.endorsedTDX(e.TDX)
	}
	if out.Basis == Unverified {
		out.note("not verified: pass --root with Google's root, GCE-cc-tcb-root")
	}
	out.note("these are numbers of Google's firmware: what the guest boots is in other registers")
	return out, nil
}

func (out *Finding) endorsedSNP(e *gcp.SNP) {
	var values [][]byte
	for _, m := range e.Measurements {
		values = append(values, m.Value)
		out.add("snp.measurement", m.Value.String(), true)
		out.add("snp.vcpus", strconv.FormatUint(m.VCPUs, 10), false)
	}
	if len(e.SVSM) > 0 {
		values = append(values, e.SVSM)
		out.add("snp.measurement", e.SVSM.String(), true)
		out.add("snp.svsm", "true", false)
	}
	out.add("snp.policy", fmt.Sprintf("%#x", e.Policy), false)
	out.add("snp.familyID", e.FamilyID.String(), false)
	out.add("snp.imageID", e.ImageID.String(), false)
	out.Package.SNP = &attest.SNPReference{Measurement: hexList(values...)}
}

func (out *Finding) endorsedTDX(e *gcp.TDX) {
	var values [][]byte
	for _, m := range e.Measurements {
		values = append(values, m.Value)
		out.add("tdx.mrtd", m.Value.String(), true)
		if m.MemoryGiB != 0 {
			out.add("tdx.memoryGiB", strconv.FormatUint(m.MemoryGiB, 10), false)
		}
		if m.EarlyAccept {
			out.add("tdx.earlyAccept", "true", false)
		}
	}
	out.Package.TDX = &attest.TDXReference{MRTD: hexList(values...)}
}
