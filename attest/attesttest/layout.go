package attesttest

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// region is a part of raw evidence: how a change of it is refused, and which
// claim it is.
type region struct {
	name         string
	offset, size int
	// want are the steps of which one must be the first to fail.
	want []string
	// claim begins the paths of the claims that may change; "" for none.
	claim string
	// length says that it is a length, which is set to the highest number.
	length bool
}

var (
	refusedFormat    = []string{"ATT-003 quote.format"}
	refusedVersion   = []string{"ATT-004 quote.version"}
	refusedQuote     = []string{"ATT-010 quote.signature"}
	refusedQE        = []string{"ATT-008 qe.signature"}
	refusedQEBinding = []string{"ATT-009 qe.reportData"}
	refusedCertType  = []string{"ATT-005 quote.certificationData"}
	refusedChain     = []string{"ATT-006 pck.chain"}
	refusedReport    = []string{"ATT-010 report.signature"}
	refusedReserved  = []string{"ATT-003 report.format"}
	refusedEither    = []string{"ATT-010 report.signature", "ATT-003 report.format", "ATT-004 report.version"}
)

// layout lists the regions of raw evidence, every byte of it in one. A document
// of several parts has none: the package that reads it breaks each part.
func layout(e attest.Evidence) []region {
	switch e.TEE.Shape() {
	case attest.SNP:
		return snpLayout(e.Raw)
	case attest.SGX, attest.TDX:
	default:
		return nil
	}
	l := &layouter{raw: e.Raw}
	if bytes.HasPrefix(e.Raw, []byte{1, 0, 0, 0, 2, 0, 0, 0}) {
		l.at = 16 // Open Enclave's header, which means nothing but its length
	}
	l.quote(e.TEE.Shape())
	return l.regions
}

// layouter walks a quote.
type layouter struct {
	raw     []byte
	at      int
	regions []region
}

func (l *layouter) add(name string, size int, want []string, claim string) {
	l.regions = append(l.regions, region{name: name, offset: l.at, size: size, want: want, claim: claim})
	l.at += size
}

// number adds a length and returns it.
func (l *layouter) number(name string, size int) int {
	n := 0
	for i := range size {
		n |= int(l.raw[l.at+i]) << (8 * i)
	}
	l.add(name, size, refusedFormat, "")
	l.regions[len(l.regions)-1].length = true
	return n
}

func (l *layouter) quote(shape attest.TEE) {
	version := binary.LittleEndian.Uint16(l.raw[l.at:])
	l.add("header.version", 2, append(slices.Clone(refusedVersion), refusedFormat...), "")
	l.add("header.attestationKeyType", 2, refusedVersion, "")
	l.add("header.teeType", 4, refusedVersion, "")
	for _, f := range []struct {
		name string
		size int
	}{{"qeSVN", 2}, {"pceSVN", 2}, {"qeVendorID", 16}, {"userData", 20}} {
		l.add("header."+f.name, f.size, refusedQuote, "")
	}
	kind := byte(0)
	if version >= 5 {
		kind = l.raw[l.at]
		l.add("body.type", 2, refusedVersion, "")
		l.add("body.size", 4, refusedVersion, "")
	}
	if shape == attest.SGX {
		l.sgxBody("body.", "sgx.", refusedQuote)
	} else {
		l.tdxBody(kind == 3)
	}
	l.number("signature.size", 4)
	l.add("signature", 64, refusedQuote, "")
	l.add("attestationKey", 64, refusedQEBinding, "")
	if version >= 4 {
		l.add("certification.type", 2, refusedCertType, "")
		l.number("certification.size", 4)
	}
	l.sgxBody("qeReport.", "", refusedQE)
	l.add("qeSignature", 64, refusedQE, "")
	l.add("qeData", l.number("qeData.size", 2), refusedQEBinding, "")
	l.add("pck.type", 2, refusedCertType, "")
	l.add("pck", l.number("pck.size", 4), refusedChain, "")
}

// sgxBody adds the 384 bytes of a report body (Intel SGX DCAP ECDSA Quote
// Library API, A.4 Report Body).
func (l *layouter) sgxBody(prefix, claims string, want []string) {
	for _, f := range []struct {
		name string
		size int
	}{{"cpusvn", 16}, {"miscSelect", 4}, {"reserved1", 12}, {"extendedProductID", 16}, {"attributes", 16}, {"uniqueID", 32}, {"reserved2", 32},
		{"signerID", 32}, {"reserved3", 32}, {"configID", 64}, {"productID", 2}, {"securityVersion", 2}, {"configSVN", 2}, {"reserved4", 42},
		{"familyID", 16}, {"reportData", 64}} {
		claim := ""
		switch {
		case claims == "" || strings.HasPrefix(f.name, "reserved"):
		case f.name == "reportData":
			claim = "reportData"
		default:
			claim = claims + f.name
		}
		l.add(prefix+f.name, f.size, want, claim)
	}
}

// tdxBody adds a TD report body of 584 bytes, or of 648 (Intel TDX DCAP Quoting
// Library API, A.3.2 and A.3.3).
func (l *layouter) tdxBody(td15 bool) {
	fields := []struct {
		name string
		size int
	}{{"teeTCBSVN", 16}, {"mrSEAM", 48}, {"mrSignerSEAM", 48}, {"seamAttributes", 8}, {"tdAttributes", 8}, {"xfam", 8}, {"mrtd", 48}, {"mrConfigID", 48},
		{"mrOwner", 48}, {"mrOwnerConfig", 48}, {"rtmr0", 48}, {"rtmr1", 48}, {"rtmr2", 48}, {"rtmr3", 48}, {"reportData", 64}, {"teeTCBSVN2", 16}, {"mrServiceTD", 48}}
	if !td15 {
		fields = fields[:len(fields)-2]
	}
	for _, f := range fields {
		want, claim := refusedQuote, "tdx."+f.name
		if f.name == "reportData" {
			claim = f.name
		}
		l.add("body."+f.name, f.size, want, claim)
	}
}

// snpLayout lists the regions of a report (AMD 56860, ATTESTATION_REPORT).
func snpLayout(raw []byte) []region {
	version := binary.LittleEndian.Uint32(raw)
	cpuWant, cpu := refusedReport, "snp." // the product says how a TCB is laid out
	if version < 3 {
		cpuWant, cpu = refusedReserved, ""
	}
	mitigations := refusedReport
	if version < 5 {
		mitigations = refusedEither
	}
	var out []region
	at := 0
	for _, f := range []region{
		{name: "version", size: 4, want: []string{"ATT-004 report.version", "ATT-003 report.format", "ATT-010 report.signature"}, claim: "snp."},
		{name: "guestSVN", size: 4, want: refusedReport, claim: "snp.guestSVN"},
		{name: "policy", size: 8, want: refusedEither, claim: "snp.policy"},
		{name: "familyID", size: 16, want: refusedReport, claim: "snp.familyID"},
		{name: "imageID", size: 16, want: refusedReport, claim: "snp.imageID"},
		{name: "vmpl", size: 4, want: refusedReport, claim: "snp.vmpl"},
		{name: "signatureAlgorithm", size: 4, want: []string{"ATT-004 report.version"}},
		{name: "currentTCB", size: 8, want: refusedReport, claim: "snp."},
		{name: "platformInfo", size: 8, want: refusedReport, claim: "snp.platformInfo"},
		{name: "signerInfo", size: 4, want: append([]string{"ATT-022 vcek.chain", "ATT-022 vlek.chain"}, refusedEither...), claim: "snp.signer"},
		{name: "reserved1", size: 4, want: refusedReserved},
		{name: "reportData", size: 64, want: refusedReport, claim: "reportData"},
		{name: "measurement", size: 48, want: refusedReport, claim: "snp.measurement"},
		{name: "hostData", size: 32, want: refusedReport, claim: "snp.hostData"},
		{name: "idKeyDigest", size: 48, want: refusedReport, claim: "snp.idKeyDigest"},
		{name: "authorKeyDigest", size: 48, want: refusedReport, claim: "snp.authorKeyDigest"},
		{name: "reportID", size: 32, want: refusedReport, claim: "snp.reportID"},
		{name: "reportIDMA", size: 32, want: refusedReport, claim: "snp.reportIDMA"},
		{name: "reportedTCB", size: 8, want: refusedReport, claim: "snp.reportedTCB"},
		{name: "cpu", size: 3, want: cpuWant, claim: cpu},
		{name: "reserved2", size: 21, want: refusedReserved},
		{name: "chipID", size: 64, want: refusedReport, claim: "snp.chipID"},
		{name: "committedTCB", size: 8, want: refusedReport, claim: "snp."},
		{name: "currentFirmware", size: 3, want: refusedReport, claim: "snp."},
		{name: "reserved3", size: 1, want: refusedReserved},
		{name: "committedFirmware", size: 3, want: refusedReport, claim: "snp."},
		{name: "reserved4", size: 1, want: refusedReserved},
		{name: "launchTCB", size: 8, want: refusedReport, claim: "snp.launchTCB"},
		{name: "launchMitigations", size: 8, want: mitigations, claim: "snp.launchMitigations"},
		{name: "currentMitigations", size: 8, want: mitigations, claim: "snp.currentMitigations"},
		{name: "reserved5", size: 152, want: refusedReserved},
		{name: "signature.r", size: 72, want: refusedReport},
		{name: "signature.s", size: 72, want: refusedReport},
		{name: "reserved6", size: 368, want: refusedReserved},
	} {
		f.offset = at
		at += f.size
		out = append(out, f)
	}
	return out
}

// regions changes bytes of each region of good evidence, at most as many as
// given: it is refused at the region's own step, and changes that region's claim
// and no other.
func regions(t *testing.T, v attest.Verifier, good Sample, most int) {
	want, _ := v.Verify(good.Evidence, good.Endorsements, good.At)
	before := flat(t, want)
	for _, r := range layout(good.Evidence) {
		for i := 0; i < r.size; i += 1 + r.size/most {
			raw := bytes.Clone(good.Evidence.Raw)
			at := r.offset + i
			if raw[at] ^= 1 << (i % 8); r.length {
				copy(raw[r.offset:], bytes.Repeat([]byte{0xff}, r.size))
			}
			if r.name == "pck" && bytes.IndexByte([]byte("\n\r\x00"), good.Evidence.Raw[at]) >= 0 {
				continue // white space in PEM, and the zero after it, carry nothing
			}
			if r.name == "pck" && bytes.Equal(decoded(raw[r.offset:]), decoded(good.Evidence.Raw[r.offset:])) {
				continue // and neither do the bits that base64 has before its padding
			}
			c, steps := v.Verify(attest.Evidence{TEE: good.Evidence.TEE, Raw: raw}, good.Endorsements, good.At)
			failed := failures(steps)
			if len(failed) == 0 || !slices.Contains(r.want, failed[0]) {
				t.Errorf("%s, byte %d: got %v, want the first to be one of %v", r.name, i, failed, r.want)
				break
			}
			if bad := otherClaims(before, flat(t, c), r); len(c.ReportData) > 0 && bad != "" {
				t.Errorf("%s, byte %d: claim %s changed", r.name, i, bad)
				break
			}
		}
	}
}

// decoded returns what a PEM chain holds, as far as it can be read.
func decoded(chain []byte) []byte {
	var der []byte
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		der = append(der, block.Bytes...)
	}
	return der
}

// otherClaims names a claim that differs though it is not the region's; what is
// said of the TCB and of debug mode follows from others.
func otherClaims(before, after map[string]any, r region) string {
	for path, v := range after {
		follows := path == "debug" || strings.HasPrefix(path, "tcb.") || path == "snp.product" || path == "snp.provider"
		own := r.claim != "" && strings.HasPrefix(path, r.claim)
		if !own && !follows && !reflect.DeepEqual(v, before[path]) {
			return path
		}
	}
	if r.claim == "" || strings.HasSuffix(r.claim, ".") {
		return ""
	}
	for path, v := range after {
		if strings.HasPrefix(path, r.claim) && !reflect.DeepEqual(v, before[path]) {
			return ""
		}
	}
	if r.name == "signerInfo" || strings.HasSuffix(r.name, "Mitigations") || strings.HasSuffix(r.name, "TCB") {
		return "" // not each of their bytes is a claim
	}
	return fmt.Sprintf("%s, which is this region's, did not change, or another", r.claim)
}
