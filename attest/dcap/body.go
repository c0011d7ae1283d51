package dcap

import (
	"bytes"
	"encoding/binary"

	"github.com/ashlar-mesh/ashlar/attest"
)

// sgxReport are the parts of a 384-byte SGX report body, of an enclave or of
// the quoting enclave.
type sgxReport []byte

func (r sgxReport) cpusvn() []byte          { return r[0:16] }
func (r sgxReport) miscSelect() []byte      { return r[16:20] }
func (r sgxReport) extProdID() []byte       { return r[32:48] }
func (r sgxReport) attributes() []byte      { return r[48:64] }
func (r sgxReport) uniqueID() []byte        { return r[64:96] }
func (r sgxReport) signerID() []byte        { return r[128:160] }
func (r sgxReport) configID() []byte        { return r[192:256] }
func (r sgxReport) productID() uint16       { return binary.LittleEndian.Uint16(r[256:]) }
func (r sgxReport) securityVersion() uint16 { return binary.LittleEndian.Uint16(r[258:]) }
func (r sgxReport) configSVN() uint16       { return binary.LittleEndian.Uint16(r[260:]) }
func (r sgxReport) familyID() []byte        { return r[304:320] }
func (r sgxReport) reportData() []byte      { return r[320:384] }

// sgxDebug is the DEBUG bit of the first byte of an enclave's attributes.
const sgxDebug = 0x02

// claims returns what the body says. Any bit of the TUD group (the lowest byte
// of TD_ATTRIBUTES: debug and profiling) makes a guest's memory or behaviour
// visible to the host and counts as debug.
func (q *quote) claims(tee attest.TEE) attest.Claims {
	c := attest.Claims{TEE: tee}
	if q.tee == attest.SGX {
		r := sgxReport(bytes.Clone(q.body))
		c.ReportData, c.Debug = r.reportData(), r.attributes()[0]&sgxDebug != 0
		c.SGX = &attest.SGXClaims{
			UniqueID: r.uniqueID(), SignerID: r.signerID(), ProductID: r.productID(), SecurityVersion: r.securityVersion(),
			CPUSVN: r.cpusvn(), MiscSelect: r.miscSelect(), Attributes: r.attributes(), ConfigID: r.configID(),
			ConfigSVN: r.configSVN(), FamilyID: r.familyID(), ExtendedProdID: r.extProdID(),
		}
		return c
	}
	r := &reader{b: bytes.Clone(q.body)}
	t := &attest.TDXClaims{Version: q.version}
	t.TEETCBSVN = r.take(16)
	for _, h := range []*attest.Hex{&t.MRSEAM, &t.MRSignerSEAM} {
		*h = r.take(48)
	}
	for _, h := range []*attest.Hex{&t.SEAMAttrs, &t.TDAttributes, &t.XFAM} {
		*h = r.take(8)
	}
	for _, h := range []*attest.Hex{&t.MRTD, &t.MRConfigID, &t.MROwner, &t.MROwnerConfig, &t.RTMR0, &t.RTMR1, &t.RTMR2, &t.RTMR3} {
		*h = r.take(48)
	}
	c.ReportData = r.take(64)
	if len(r.b) > 0 {
		t.TEETCBSVN2, t.MRServiceTD = r.take(16), r.take(48)
	}
	c.TDX, c.Debug = t, t.TDAttributes[0] != 0
	return c
}
