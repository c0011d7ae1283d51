package inspect

import (
	"fmt"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/gcp"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// endorsement inspects a launch endorsement of Google Cloud's firmware, and
// reports whether b is one. It vouches for its numbers under the root of the
// options alone; one that does not hold under it is ATT-049.
func endorsement(path string, b []byte, o Options) (Finding, bool, error) {
	e, err := gcp.Parse(b)
	if err != nil {
		return Finding{}, false, nil
	}
	out := Finding{What: "launch endorsement of Google Cloud's firmware", Basis: Unverified, Notes: []string{}}
	if o.Root == nil {
		out.note("not verified: give Google's root, " + gcp.RootURL + ", with --root")
	} else {
		at := o.At
		if at.IsZero() {
			at = o.Now
		}
		if e, err = gcp.Verify(b, o.Root, at); err != nil {
			return Finding{}, true, problem.Because(err, "ATT-049", "%s under %q", path, o.Root.Subject.CommonName)
		}
		out.Basis = Verified
		out.add("signer", e.Signer, false)
	}
	if e.SNP != nil && (o.TEE == "" || o.TEE == attest.SNP) {
		out.endorsedSNP(e.SNP)
	}
	if e.TDX != nil && (o.TEE == "" || o.TEE == attest.TDX) {
		out.endorsedTDX(e.TDX)
	}
	if len(out.Fields) == 0 || out.Package.SNP == nil && out.Package.TDX == nil {
		return Finding{}, true, problem.New("CLI-044", "%s endorses nothing of SEV-SNP or TDX that was asked for", path)
	}
	out.add("firmware", e.Firmware.String(), false)
	out.note("these are Google's firmware: whatever it boots is accepted, unless further registers say more")
	return out, true, nil
}

func (out *Finding) endorsedSNP(s *gcp.SNP) {
	var values [][]byte
	for _, m := range s.Measurements {
		values = append(values, m.Value)
		out.add("snp.measurement", m.Value.String(), true)
		out.add("snp.vcpus", strconv.FormatUint(m.VCPUs, 10), false)
	}
	if s.SVSM != nil {
		values = append(values, s.SVSM)
		out.add("snp.measurement", s.SVSM.String(), true)
		out.add("snp.serviceModule", "true", false)
	}
	if len(values) == 0 {
		return
	}
	out.add("snp.familyID", s.FamilyID.String(), false)
	out.add("snp.imageID", s.ImageID.String(), false)
	out.add("snp.policy", fmt.Sprintf("%#x", s.Policy), false)
	out.Package.SNP = &attest.SNPReference{Measurement: hexList(values...)}
}

func (out *Finding) endorsedTDX(t *gcp.TDX) {
	var values [][]byte
	for _, m := range t.Measurements {
		values = append(values, m.Value)
		out.add("tdx.mrtd", m.Value.String(), true)
		if m.MemoryGiB != 0 {
			out.add("tdx.memoryGiB", strconv.FormatUint(m.MemoryGiB, 10), false)
		}
	}
	if len(values) > 0 {
		out.Package.TDX = &attest.TDXReference{MRTD: hexList(values...)}
	}
}
