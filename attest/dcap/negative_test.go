package dcap_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"reflect"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

func failed(steps []attest.Step) []string {
	var out []string
	for _, s := range steps {
		if !s.OK {
			out = append(out, s.Code+" "+s.Field)
		}
	}
	return out
}

func revoke(list *x509.RevocationList, serial int64) {
	list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: forgeTime.Add(-day)}}
}

// negative is a change to good evidence and the steps that must fail for it.
type negative struct {
	name   string
	tee    attest.TEE // "" means both
	change func(*forge)
	want   []string
}

var criticalExtension = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}

// negatives has at least one entry for every check that the verifier makes.
var negatives = []negative{
	{"good", "", func(*forge) {}, nil},

	{"foreign root", "", func(f *forge) { f.trusted = newForge(f.t, f.tee).root }, []string{"ATT-006 pck.chain", "ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature", "ATT-020 rootCRL.signature"}},
	{"CA signed by another key", "", func(f *forge) { f.after = func(o *forged) { o.certs[1] = reissue(f, f.ca, f.root, f.caKey) } }, []string{"ATT-006 pck.chain"}},
	{"leaf signed by another key", "", func(f *forge) {
		f.after = func(o *forged) { o.certs[0] = reissue(f, f.leaf, f.parse(o.certs[1]), f.leafKey) }
	}, []string{"ATT-006 pck.chain"}},
	{"leaf issued under another name", "", func(f *forge) {
		f.after = func(o *forged) {
			ca := f.parse(o.certs[1])
			ca.Subject.CommonName, ca.RawSubject = "Test PCK Platform CA", nil
			o.certs[0] = f.certificate(f.leaf, ca, &f.leafKey.PublicKey, f.caKey)
		}
	}, []string{"ATT-006 pck.chain"}},
	{"root in the chain signed by the root, with another key", "", func(f *forge) {
		f.after = func(o *forged) {
			o.certs[2] = f.certificate(template(9, "Test Root CA"), f.root, &f.leafKey.PublicKey, f.rootKey)
		}
	}, []string{"ATT-006 pck.chain"}},
	{"bytes after the certification data", "", func(f *forge) { f.after = func(o *forged) { o.tail = []byte{0} } }, []string{"ATT-003 quote.format"}},
	{"TD 1.0 body in version 5", attest.TDX, func(f *forge) { f.body = f.body[:584] }, nil},
	{"leaf missing", "", func(f *forge) { f.after = func(o *forged) { o.certs = o.certs[1:] } }, []string{"ATT-006 pck.chain"}},
	{"CA missing", "", func(f *forge) { f.after = func(o *forged) { o.certs = [][]byte{o.certs[0], o.certs[2]} } }, []string{"ATT-006 pck.chain"}},
	{"leaf twice", "", func(f *forge) { f.after = func(o *forged) { o.certs = append(o.certs, o.certs[0]) } }, []string{"ATT-006 pck.chain"}},
	{"leaf without a role", "", func(f *forge) { f.leaf.Subject.CommonName = "Test Something" }, []string{"ATT-006 pck.chain"}},
	{"leaf of another vendor", "", func(f *forge) { f.leaf.Subject.CommonName = "Intel SGX PCK Certificate" }, []string{"ATT-006 pck.chain"}},
	{"leaf is a CA", "", func(f *forge) { f.leaf.IsCA = true }, []string{"ATT-006 pck.chain"}},
	{"CA is no CA", "", func(f *forge) { f.ca.IsCA, f.ca.KeyUsage = false, x509.KeyUsageCRLSign }, []string{"ATT-006 pck.chain"}},
	{"CA may not sign", "", func(f *forge) { f.ca.KeyUsage = x509.KeyUsageCRLSign }, []string{"ATT-006 pck.chain"}},
	{"critical extension in leaf", "", func(f *forge) { f.leaf.ExtraExtensions = criticalExtension }, []string{"ATT-006 pck.chain"}},
	{"P-384 leaf", "", func(f *forge) {
		f.leafKey, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		f.after = func(o *forged) { o.qeSig = make([]byte, 64) }
	}, []string{"ATT-006 pck.chain"}},
	{"root in the chain with another key", "", func(f *forge) { f.after = func(o *forged) { o.certs[2] = newForge(f.t, f.tee).root.Raw } }, []string{"ATT-006 pck.chain"}},
	{"root left out", "", func(f *forge) { f.after = func(o *forged) { o.certs = o.certs[:2] } }, nil},
	{"other order of certificates", "", func(f *forge) {
		f.after = func(o *forged) { o.certs = [][]byte{o.certs[2], o.certs[1], o.certs[0]} }
	}, nil},
	{"extension damaged", "", func(f *forge) { f.extension = f.extension[:20] }, []string{"ATT-007 pck.extension"}},
	{"extension with a short FMSPC", "", func(f *forge) { f.extension = extension(f.t, 5, "0102030405", "0000") }, []string{"ATT-007 pck.extension"}},
	{"extension with SVN 256", "", func(f *forge) { f.extension = extension(f.t, 256, "010203040506", "0000") }, []string{"ATT-007 pck.extension"}},
	{"leaf expired", "", func(f *forge) { f.leaf.NotAfter = forgeTime.Add(-day) }, []string{"ATT-030 pck.validity"}},
	{"leaf not yet valid", "", func(f *forge) { f.leaf.NotBefore = forgeTime.Add(day) }, []string{"ATT-030 pck.validity"}},
	{"CA expired", "", func(f *forge) { f.ca.NotAfter = forgeTime.Add(-day) }, []string{"ATT-030 pck.validity"}},

	{"QE report changed", "", func(f *forge) { f.after = func(o *forged) { o.qeReport[300] ^= 1 } }, []string{"ATT-008 qe.signature"}},
	{"QE signature of another key", "", func(f *forge) { f.after = func(o *forged) { o.qeSig = f.sign(f.attKey, o.qeReport) } }, []string{"ATT-008 qe.signature"}},
	{"QE signature zero", "", func(f *forge) { f.after = func(o *forged) { o.qeSig = make([]byte, 64) } }, []string{"ATT-008 qe.signature"}},
	{"QE data changed", "", func(f *forge) { f.after = func(o *forged) { o.auth = []byte("other data") } }, []string{"ATT-009 qe.reportData"}},
	{"QE report data with a tail", "", func(f *forge) { f.qeReport[352] = 1 }, []string{"ATT-009 qe.reportData"}},
	{"attestation key not vouched for", "", func(f *forge) {
		f.after = func(o *forged) {
			f.attKey = key(f.t)
			point, _ := f.attKey.PublicKey.Bytes()
			o.key, o.sig = point[1:], f.sign(f.attKey, o.signed)
		}
	}, []string{"ATT-009 qe.reportData"}},
	{"quote header changed", "", func(f *forge) { f.after = func(o *forged) { o.signed[40] ^= 1 } }, []string{"ATT-010 quote.signature"}},
	{"quote body changed", "", func(f *forge) { f.after = func(o *forged) { o.signed[len(o.signed)-1] ^= 1 } }, []string{"ATT-010 quote.signature"}},
	{"quote signature zero", "", func(f *forge) { f.after = func(o *forged) { o.sig = make([]byte, 64) } }, []string{"ATT-010 quote.signature"}},

	{"certification data type 1", "", func(f *forge) { f.after = func(o *forged) { o.certType = 1 } }, []string{"ATT-005 quote.certificationData"}},
	{"version 2", "", func(f *forge) { f.after = func(o *forged) { o.signed[0] = 2 } }, []string{"ATT-004 quote.version"}},
	{"key type 3", "", func(f *forge) { f.after = func(o *forged) { o.signed[2] = 3 } }, []string{"ATT-004 quote.version"}},
	{"TEE type 1", "", func(f *forge) { f.after = func(o *forged) { o.signed[4] = 1 } }, []string{"ATT-004 quote.version"}},
	{"body type 1", attest.TDX, func(f *forge) { f.after = func(o *forged) { o.signed[48] = 1 } }, []string{"ATT-004 quote.version"}},
	{"body size", attest.TDX, func(f *forge) { f.after = func(o *forged) { o.signed[50]++ } }, []string{"ATT-004 quote.version"}},

	{"leaf revoked", "", func(f *forge) { revoke(f.pckCRL, 3) }, []string{"ATT-019 pck.revocation"}},
	{"CA revoked", "", func(f *forge) { revoke(f.rootCRL, 2) }, []string{"ATT-019 ca.revocation"}},
	{"signer revoked", "", func(f *forge) { revoke(f.rootCRL, 4) }, []string{"ATT-019 tcbInfo.revocation", "ATT-019 qeIdentity.revocation"}},
	{"PCK CRL ended", "", func(f *forge) { f.pckCRL.NextUpdate = forgeTime.Add(-1) }, []string{"ATT-021 pckCRL.validity"}},
	{"PCK CRL of the future", "", func(f *forge) { f.pckCRL.ThisUpdate = forgeTime.Add(day) }, []string{"ATT-021 pckCRL.validity"}},
	{"root CRL ended", "", func(f *forge) { f.rootCRL.NextUpdate = forgeTime.Add(-1) }, []string{"ATT-021 rootCRL.validity"}},
	{"root CRL of the future", "", func(f *forge) { f.rootCRL.ThisUpdate = forgeTime.Add(day) }, []string{"ATT-021 rootCRL.validity"}},
	{"PCK CRL changed", "", func(f *forge) { f.after = func(o *forged) { o.pckCRL[len(o.pckCRL)-1] ^= 1 } }, []string{"ATT-020 pckCRL.signature"}},
	{"root CRL changed", "", func(f *forge) { f.after = func(o *forged) { o.rootCRL[len(o.rootCRL)-1] ^= 1 } }, []string{"ATT-020 rootCRL.signature"}},
	{"PCK CRL by the root", "", func(f *forge) { f.after = func(o *forged) { o.pckCRL = o.rootCRL } }, []string{"ATT-020 pckCRL.signature"}},
	{"root CRL by the CA", "", func(f *forge) { f.after = func(o *forged) { o.rootCRL = o.pckCRL } }, []string{"ATT-020 rootCRL.signature"}},
	{"PCK CRL is no CRL", "", func(f *forge) { f.after = func(o *forged) { o.pckCRL = []byte("no CRL") } }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL is a delta", "", func(f *forge) { f.pckCRL.ExtraExtensions = criticalExtension }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL with a byte behind it", "", func(f *forge) { f.after = func(o *forged) { o.pckCRL = append(o.pckCRL, 0) } }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL too large", "", func(f *forge) { f.after = func(o *forged) { o.pckCRL = make([]byte, 2<<20) } }, []string{"ATT-020 pckCRL.signature"}},

	{"TCB info changed", "", func(f *forge) {
		f.after = func(o *forged) { o.tcb = bytes.Replace(o.tcb, []byte("UpToDate"), []byte("UpToDatf"), 1) }
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without signature", "", func(f *forge) {
		f.after = func(o *forged) { o.tcb = bytes.Replace(o.tcb, []byte("signature"), []byte("sigXature"), 1) }
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info is no JSON", "", func(f *forge) { f.after = func(o *forged) { o.tcb = []byte("{") } }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info too large", "", func(f *forge) { f.after = func(o *forged) { o.tcb = make([]byte, 2<<20) } }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info missing", "", func(f *forge) { f.after = func(o *forged) { o.tcb = nil } }, []string{"ATT-022 tcbInfo.signature"}},
	{"TCB info version 2", "", func(f *forge) { f.tcb["version"] = 2 }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info of another TEE", "", func(f *forge) { f.tcb["id"] = "SNP" }, []string{"ATT-025 tcbInfo.signature"}},
	{"TCB info of another type", "", func(f *forge) { f.tcb["tcbType"] = 1 }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without issueDate", "", func(f *forge) { delete(f.tcb, "issueDate") }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without nextUpdate", "", func(f *forge) { delete(f.tcb, "nextUpdate") }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info with 15 components", "", func(f *forge) {
		tcb := f.tcb["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any)
		tcb["sgxtcbcomponents"] = tcb["sgxtcbcomponents"].([]any)[1:]
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without PCESVN", "", func(f *forge) {
		delete(f.tcb["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any), "pcesvn")
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info from the future", "", func(f *forge) { f.tcb["issueDate"] = "2026-06-02T00:00:00Z" }, []string{"ATT-024 tcbInfo.validity"}},
	{"TCB info ended", "", func(f *forge) { f.tcb["nextUpdate"] = "2026-05-31T23:59:59Z" }, []string{"ATT-024 tcbInfo.validity"}},
	{"TCB info of another FMSPC", "", func(f *forge) { f.tcb["fmspc"] = "010203040507" }, []string{"ATT-025 tcbInfo.fmspc"}},
	{"TCB info of another PCEID", "", func(f *forge) { f.tcb["pceId"] = "0001" }, []string{"ATT-025 tcbInfo.pceID"}},
	{"QE identity changed", "", func(f *forge) {
		f.after = func(o *forged) { o.qe = bytes.Replace(o.qe, []byte("UpToDate"), []byte("UpToDatf"), 1) }
	}, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity missing", "", func(f *forge) { f.after = func(o *forged) { o.qe = nil } }, []string{"ATT-022 qeIdentity.signature"}},
	{"QE identity version 1", "", func(f *forge) { f.qe["version"] = 1 }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity of another enclave", "", func(f *forge) { f.qe["id"] = "QVE" }, []string{"ATT-025 qeIdentity.signature"}},
	{"QE identity with a short mask", "", func(f *forge) { f.qe["attributesMask"] = "FF" }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity level without ISVSVN", "", func(f *forge) { f.qe["tcbLevels"] = []any{map[string]any{"tcbStatus": "UpToDate"}} }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity from the future", "", func(f *forge) { f.qe["issueDate"] = "2026-06-02T00:00:00Z" }, []string{"ATT-024 qeIdentity.validity"}},
	{"QE identity ended", "", func(f *forge) { f.qe["nextUpdate"] = "2026-05-31T23:59:59Z" }, []string{"ATT-024 qeIdentity.validity"}},
	{"signer expired", "", func(f *forge) { f.signer.NotAfter = forgeTime.Add(-day) }, []string{"ATT-030 tcbInfo.signerValidity", "ATT-030 qeIdentity.signerValidity"}},
	{"signer by another role", "", func(f *forge) { f.signer.Subject.CommonName = "Test PCK Certificate" }, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},
	{"signer under the CA", "", func(f *forge) {
		f.after = func(o *forged) {
			o.chain = pems(f.certificate(f.signer, f.parse(o.certs[1]), &f.signerKey.PublicKey, f.caKey), o.certs[1], f.root.Raw)
		}
	}, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},
	{"issuer chains missing", "", func(f *forge) { f.after = func(o *forged) { o.chain = nil } }, []string{"ATT-022 tcbInfo.signature", "ATT-022 qeIdentity.signature"}},
	{"issuer chains with text", "", func(f *forge) { f.after = func(o *forged) { o.chain = append([]byte("hello\n"), o.chain...) } }, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},

	{"QE of another signer", "", func(f *forge) { f.qeReport[128] ^= 1 }, []string{"ATT-026 qe.signerID"}},
	{"QE of another product", "", func(f *forge) { f.qeReport[256]++ }, []string{"ATT-026 qe.productID"}},
	{"QE in debug mode", "", func(f *forge) { f.qeReport[48] |= 2 }, []string{"ATT-026 qe.attributes"}},
	{"QE identity that demands more than its mask", "", func(f *forge) { f.qe["attributes"], f.qe["attributesMask"] = ones(16), zeros(16) }, []string{"ATT-026 qe.attributes"}},
	{"QE with MISCSELECT", "", func(f *forge) { f.qeReport[16] |= 1 }, []string{"ATT-026 qe.miscSelect"}},
	{"QE below every level", "", func(f *forge) { f.qeReport[258] = 6 }, []string{"ATT-027 tcb.qeLevel"}},
	{"platform below every level", "", func(f *forge) { f.extension = extension(f.t, 4, "010203040506", "0000") }, []string{"ATT-027 tcb.level"}},
	{"TDX component below every level", attest.TDX, func(f *forge) { f.body[15] = 2 }, []string{"ATT-027 tcb.level"}},
	{"module below every level", attest.TDX, func(f *forge) { f.body[0] = 2 }, []string{"ATT-027 tcb.moduleLevel"}},
	{"module that is not listed", attest.TDX, func(f *forge) { f.body[1] = 7 }, []string{"ATT-028 tdx.module"}},
	{"module of another signer", attest.TDX, func(f *forge) { f.body[64] = 1 }, []string{"ATT-028 tdx.mrSignerSEAM"}},
	{"module with attributes", attest.TDX, func(f *forge) { f.body[112] = 1 }, []string{"ATT-028 tdx.seamAttributes"}},
	{"module listed without levels", attest.TDX, func(f *forge) { f.tcb["tdxModuleIdentities"] = []any{module("TDX_01", nil)} }, []string{"ATT-027 tcb.moduleLevel"}},
	{"TCB info without a module", attest.TDX, func(f *forge) { delete(f.tcb, "tdxModule") }, []string{"ATT-023 tcbInfo.signature"}},
}

// reissue signs a certificate with a key that is not its parent's.
func reissue(f *forge, child, parent *x509.Certificate, subject *ecdsa.PrivateKey) []byte {
	wrong := key(f.t)
	parent = &x509.Certificate{Subject: parent.Subject, RawSubject: parent.RawSubject, SubjectKeyId: parent.SubjectKeyId, PublicKey: &wrong.PublicKey}
	return f.certificate(child, parent, &subject.PublicKey, wrong)
}

func TestNegatives(t *testing.T) {
	for _, tee := range []attest.TEE{attest.SGX, attest.TDX} {
		for _, n := range negatives {
			if n.tee != "" && n.tee != tee {
				continue
			}
			t.Run(string(tee)+"/"+n.name, func(t *testing.T) {
				f := newForge(t, tee)
				n.change(f)
				e, en := f.make()
				c, steps := f.verifier().Verify(e, en, forgeTime)
				if got := failed(steps); !reflect.DeepEqual(got, n.want) {
					t.Errorf("got %v, want %v", got, n.want)
				}
				if len(n.want) > 0 && !slices.Contains([]string{attest.CodeRevoked, attest.CodeCRLWindow, attest.CodeWindow, attest.CodeCertWindow}, n.want[0][:7]) && c.TCB.Status != "" {
					t.Errorf("got status %q from evidence that does not hold", c.TCB.Status)
				}
				if len(n.want) > 0 && n.want[0][:7] == attest.CodeCRLWindow && c.TCB.RevocationChecked {
					t.Error("a CRL that is not valid now counts as revocation check")
				}
				if n.want == nil && (c.TCB.Status != attest.UpToDate || !c.TCB.RevocationChecked) {
					t.Errorf("got status %q, revocation checked %t, want UpToDate, true", c.TCB.Status, c.TCB.RevocationChecked)
				}
			})
		}
	}
}
