package attesttest

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

func revoke(list *x509.RevocationList, serial int64) {
	list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: ForgeTime.Add(-Day)}}
}

// refusal is a change to good evidence and the steps that must fail for it.
type refusal struct {
	name   string
	shape  attest.TEE // "" means both
	change func(*IntelForge)
	want   []string
}

var criticalExtension = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}

// refusals has at least one entry for every check that a verifier of Intel's
// formats makes. Everything is signed again: only the check that is named fails.
var refusals = []refusal{
	{"good", "", func(*IntelForge) {}, nil},

	{"foreign root", "", func(f *IntelForge) { f.Trusted = NewIntelForge(f.T, f.TEE, f.Names).Root }, []string{"ATT-006 pck.chain", "ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature", "ATT-020 rootCRL.signature"}},
	{"CA signed by another key", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Certificates[1] = reissue(f, f.CA, f.Root, f.CAKey) }
	}, []string{"ATT-006 pck.chain"}},
	{"leaf signed by another key", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Certificates[0] = reissue(f, f.Leaf, f.Parse(o.Certificates[1]), f.LeafKey) }
	}, []string{"ATT-006 pck.chain"}},
	{"leaf issued under another name", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) {
			ca := f.Parse(o.Certificates[1])
			ca.Subject.CommonName, ca.RawSubject = f.Names+" PCK Platform CA", nil
			o.Certificates[0] = f.Certificate(f.Leaf, ca, &f.LeafKey.PublicKey, f.CAKey)
		}
	}, []string{"ATT-006 pck.chain"}},
	{"root in the chain signed by the root, with another key", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) {
			o.Certificates[2] = f.Certificate(Template(9, f.Names+" Root CA"), f.Root, &f.LeafKey.PublicKey, f.RootKey)
		}
	}, []string{"ATT-006 pck.chain"}},
	{"bytes after the certification data", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Tail = []byte{0} } }, []string{"ATT-003 quote.format"}},
	{"TD 1.0 body in version 5", attest.TDX, func(f *IntelForge) { f.TD10(5) }, nil},
	{"TD 1.0 body in version 4", attest.TDX, func(f *IntelForge) { f.TD10(4) }, nil},
	{"enclave in version 4", attest.SGX, func(f *IntelForge) { f.Version = 4 }, nil},
	{"enclave in version 5", attest.SGX, func(f *IntelForge) { f.Version = 5 }, nil},
	{"version 6", "", func(f *IntelForge) { f.Version = 6 }, []string{"ATT-004 quote.version"}},
	{"leaf missing", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Certificates = o.Certificates[1:] } }, []string{"ATT-006 pck.chain"}},
	{"CA missing", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Certificates = [][]byte{o.Certificates[0], o.Certificates[2]} }
	}, []string{"ATT-006 pck.chain"}},
	{"leaf twice", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Certificates = append(o.Certificates, o.Certificates[0]) }
	}, []string{"ATT-006 pck.chain"}},
	{"leaf without a role", "", func(f *IntelForge) { f.Leaf.Subject.CommonName = f.Names + " Something" }, []string{"ATT-006 pck.chain"}},
	{"leaf of another vendor", "", func(f *IntelForge) { f.Leaf.Subject.CommonName = "Other " + f.Names + " PCK Certificate" }, []string{"ATT-006 pck.chain"}},
	{"leaf is a CA", "", func(f *IntelForge) { f.Leaf.IsCA = true }, []string{"ATT-006 pck.chain"}},
	{"CA is no CA", "", func(f *IntelForge) { f.CA.IsCA, f.CA.KeyUsage = false, x509.KeyUsageCRLSign }, []string{"ATT-006 pck.chain"}},
	{"CA may not sign", "", func(f *IntelForge) { f.CA.KeyUsage = x509.KeyUsageCRLSign }, []string{"ATT-006 pck.chain"}},
	{"critical extension in leaf", "", func(f *IntelForge) { f.Leaf.ExtraExtensions = criticalExtension }, []string{"ATT-006 pck.chain"}},
	{"P-384 leaf", "", func(f *IntelForge) {
		f.LeafKey, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		f.After = func(o *IntelForged) { o.QESignature = make([]byte, 64) }
	}, []string{"ATT-006 pck.chain"}},
	{"root in the chain with another key", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Certificates[2] = NewIntelForge(f.T, f.TEE, f.Names).Root.Raw }
	}, []string{"ATT-006 pck.chain"}},
	{"root left out", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Certificates = o.Certificates[:2] } }, nil},
	{"other order of certificates", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) {
			o.Certificates = [][]byte{o.Certificates[2], o.Certificates[1], o.Certificates[0]}
		}
	}, nil},
	{"extension damaged", "", func(f *IntelForge) { f.Extension = f.Extension[:20] }, []string{"ATT-007 pck.extension"}},
	{"extension with a short FMSPC", "", func(f *IntelForge) { f.Extension = PCKExtension(f.T, 5, "0102030405", "0000") }, []string{"ATT-007 pck.extension"}},
	{"extension with SVN 256", "", func(f *IntelForge) { f.Extension = PCKExtension(f.T, 256, "010203040506", "0000") }, []string{"ATT-007 pck.extension"}},
	{"leaf expired", "", func(f *IntelForge) { f.Leaf.NotAfter = ForgeTime.Add(-Day) }, []string{"ATT-030 pck.validity"}},
	{"leaf not yet valid", "", func(f *IntelForge) { f.Leaf.NotBefore = ForgeTime.Add(Day) }, []string{"ATT-030 pck.validity"}},
	{"CA expired", "", func(f *IntelForge) { f.CA.NotAfter = ForgeTime.Add(-Day) }, []string{"ATT-030 pck.validity"}},

	{"QE report changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.QEReport[300] ^= 1 } }, []string{"ATT-008 qe.signature"}},
	{"QE signature of another key", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.QESignature = f.Sign(f.AttestationKey, o.QEReport) }
	}, []string{"ATT-008 qe.signature"}},
	{"QE signature zero", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.QESignature = make([]byte, 64) } }, []string{"ATT-008 qe.signature"}},
	{"QE data changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Auth = []byte("other data") } }, []string{"ATT-009 qe.reportData"}},
	{"QE report data with a tail", "", func(f *IntelForge) { f.QEReport[352] = 1 }, []string{"ATT-009 qe.reportData"}},
	{"attestation key not vouched for", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) {
			f.AttestationKey = NewKey(f.T)
			point, _ := f.AttestationKey.PublicKey.Bytes()
			o.Key, o.Signature = point[1:], f.Sign(f.AttestationKey, o.Signed)
		}
	}, []string{"ATT-009 qe.reportData"}},
	{"quote header changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[40] ^= 1 } }, []string{"ATT-010 quote.signature"}},
	{"quote body changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[len(o.Signed)-1] ^= 1 } }, []string{"ATT-010 quote.signature"}},
	{"quote signature zero", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signature = make([]byte, 64) } }, []string{"ATT-010 quote.signature"}},

	{"certification data type 1", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.CertType = 1 } }, []string{"ATT-005 quote.certificationData"}},
	{"version 2", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[0] = 2 } }, []string{"ATT-004 quote.version"}},
	{"key type 3", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[2] = 3 } }, []string{"ATT-004 quote.version"}},
	{"TEE type 1", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[4] = 1 } }, []string{"ATT-004 quote.version"}},
	{"body type 1", attest.TDX, func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[48] = 1 } }, []string{"ATT-004 quote.version"}},
	{"body size", attest.TDX, func(f *IntelForge) { f.After = func(o *IntelForged) { o.Signed[50]++ } }, []string{"ATT-004 quote.version"}},

	{"leaf revoked", "", func(f *IntelForge) { revoke(f.PCKCRL, 3) }, []string{"ATT-019 pck.revocation"}},
	{"CA revoked", "", func(f *IntelForge) { revoke(f.RootCRL, 2) }, []string{"ATT-019 ca.revocation"}},
	{"signer revoked", "", func(f *IntelForge) { revoke(f.RootCRL, 4) }, []string{"ATT-019 tcbInfo.revocation", "ATT-019 qeIdentity.revocation"}},
	{"PCK CRL ended", "", func(f *IntelForge) { f.PCKCRL.NextUpdate = ForgeTime.Add(-1) }, []string{"ATT-021 pckCRL.validity"}},
	{"PCK CRL of the future", "", func(f *IntelForge) { f.PCKCRL.ThisUpdate = ForgeTime.Add(Day) }, []string{"ATT-021 pckCRL.validity"}},
	{"root CRL ended", "", func(f *IntelForge) { f.RootCRL.NextUpdate = ForgeTime.Add(-1) }, []string{"ATT-021 rootCRL.validity"}},
	{"root CRL of the future", "", func(f *IntelForge) { f.RootCRL.ThisUpdate = ForgeTime.Add(Day) }, []string{"ATT-021 rootCRL.validity"}},
	{"PCK CRL changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.PCKCRL[len(o.PCKCRL)-1] ^= 1 } }, []string{"ATT-020 pckCRL.signature"}},
	{"root CRL changed", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.RootCRL[len(o.RootCRL)-1] ^= 1 } }, []string{"ATT-020 rootCRL.signature"}},
	{"PCK CRL by the root", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.PCKCRL = o.RootCRL } }, []string{"ATT-020 pckCRL.signature"}},
	{"root CRL by the CA", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.RootCRL = o.PCKCRL } }, []string{"ATT-020 rootCRL.signature"}},
	{"PCK CRL is no CRL", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.PCKCRL = []byte("no CRL") } }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL is a delta", "", func(f *IntelForge) { f.PCKCRL.ExtraExtensions = criticalExtension }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL with a byte behind it", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.PCKCRL = append(o.PCKCRL, 0) } }, []string{"ATT-020 pckCRL.signature"}},
	{"PCK CRL too large", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.PCKCRL = make([]byte, 2<<20) } }, []string{"ATT-020 pckCRL.signature"}},

	{"TCB info changed", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.TCB = bytes.Replace(o.TCB, []byte("UpToDate"), []byte("UpToDatf"), 1) }
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without signature", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.TCB = bytes.Replace(o.TCB, []byte("signature"), []byte("sigXature"), 1) }
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info is no JSON", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.TCB = []byte("{") } }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info too large", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.TCB = make([]byte, 2<<20) } }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info missing", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.TCB = nil } }, []string{"ATT-022 tcbInfo.signature"}},
	{"TCB info version 2", "", func(f *IntelForge) { f.TCB["version"] = 2 }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info of another TEE", "", func(f *IntelForge) { f.TCB["id"] = "SNP" }, []string{"ATT-025 tcbInfo.signature"}},
	{"TCB info of another type", "", func(f *IntelForge) { f.TCB["tcbType"] = 1 }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without issueDate", "", func(f *IntelForge) { delete(f.TCB, "issueDate") }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without nextUpdate", "", func(f *IntelForge) { delete(f.TCB, "nextUpdate") }, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info with 15 components", "", func(f *IntelForge) {
		tcb := f.TCB["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any)
		tcb["sgxtcbcomponents"] = tcb["sgxtcbcomponents"].([]any)[1:]
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info without PCESVN", "", func(f *IntelForge) {
		delete(f.TCB["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any), "pcesvn")
	}, []string{"ATT-023 tcbInfo.signature"}},
	{"TCB info from the future", "", func(f *IntelForge) { f.TCB["issueDate"] = "2026-06-02T00:00:00Z" }, []string{"ATT-024 tcbInfo.validity"}},
	{"TCB info ended", "", func(f *IntelForge) { f.TCB["nextUpdate"] = "2026-05-31T23:59:59Z" }, []string{"ATT-024 tcbInfo.validity"}},
	{"TCB info of another FMSPC", "", func(f *IntelForge) { f.TCB["fmspc"] = "010203040507" }, []string{"ATT-025 tcbInfo.fmspc"}},
	{"TCB info of another PCEID", "", func(f *IntelForge) { f.TCB["pceId"] = "0001" }, []string{"ATT-025 tcbInfo.pceID"}},
	{"QE identity changed", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.QE = bytes.Replace(o.QE, []byte("UpToDate"), []byte("UpToDatf"), 1) }
	}, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity missing", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.QE = nil } }, []string{"ATT-022 qeIdentity.signature"}},
	{"QE identity version 1", "", func(f *IntelForge) { f.QE["version"] = 1 }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity of another enclave", "", func(f *IntelForge) { f.QE["id"] = "QVE" }, []string{"ATT-025 qeIdentity.signature"}},
	{"QE identity with a short mask", "", func(f *IntelForge) { f.QE["attributesMask"] = "FF" }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity level without ISVSVN", "", func(f *IntelForge) { f.QE["tcbLevels"] = []any{map[string]any{"tcbStatus": "UpToDate"}} }, []string{"ATT-023 qeIdentity.signature"}},
	{"QE identity from the future", "", func(f *IntelForge) { f.QE["issueDate"] = "2026-06-02T00:00:00Z" }, []string{"ATT-024 qeIdentity.validity"}},
	{"QE identity ended", "", func(f *IntelForge) { f.QE["nextUpdate"] = "2026-05-31T23:59:59Z" }, []string{"ATT-024 qeIdentity.validity"}},
	{"signer expired", "", func(f *IntelForge) { f.Signer.NotAfter = ForgeTime.Add(-Day) }, []string{"ATT-030 tcbInfo.signerValidity", "ATT-030 qeIdentity.signerValidity"}},
	{"signer by another role", "", func(f *IntelForge) { f.Signer.Subject.CommonName = f.Names + " PCK Certificate" }, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},
	{"signer under the CA", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) {
			o.Chain = PEMs(f.Certificate(f.Signer, f.Parse(o.Certificates[1]), &f.SignerKey.PublicKey, f.CAKey), o.Certificates[1], f.Root.Raw)
		}
	}, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},
	{"issuer chains missing", "", func(f *IntelForge) { f.After = func(o *IntelForged) { o.Chain = nil } }, []string{"ATT-022 tcbInfo.signature", "ATT-022 qeIdentity.signature"}},
	{"issuer chains with text", "", func(f *IntelForge) {
		f.After = func(o *IntelForged) { o.Chain = append([]byte("hello\n"), o.Chain...) }
	}, []string{"ATT-023 tcbInfo.signature", "ATT-023 qeIdentity.signature"}},

	{"QE of another signer", "", func(f *IntelForge) { f.QEReport[128] ^= 1 }, []string{"ATT-026 qe.signerID"}},
	{"QE of another product", "", func(f *IntelForge) { f.QEReport[256]++ }, []string{"ATT-026 qe.productID"}},
	{"QE in debug mode", "", func(f *IntelForge) { f.QEReport[48] |= 2 }, []string{"ATT-026 qe.attributes"}},
	{"QE identity that demands more than its mask", "", func(f *IntelForge) { f.QE["attributes"], f.QE["attributesMask"] = Ones(16), Zeros(16) }, []string{"ATT-026 qe.attributes"}},
	{"QE with MISCSELECT", "", func(f *IntelForge) { f.QEReport[16] |= 1 }, []string{"ATT-026 qe.miscSelect"}},
	{"QE below every level", "", func(f *IntelForge) { f.QEReport[258] = 6 }, []string{"ATT-027 tcb.qeLevel"}},
	{"platform below every level", "", func(f *IntelForge) { f.Extension = PCKExtension(f.T, 4, "010203040506", "0000") }, []string{"ATT-027 tcb.level"}},
	{"TDX component below every level", attest.TDX, func(f *IntelForge) { f.Body[15] = 2 }, []string{"ATT-027 tcb.level"}},
	{"module below every level", attest.TDX, func(f *IntelForge) { f.Body[0] = 2 }, []string{"ATT-027 tcb.moduleLevel"}},
	{"TDX component that runs now below every level", attest.TDX, func(f *IntelForge) { f.Body[584+15] = 2 }, []string{"ATT-027 tcb.currentLevel"}},
	{"module that runs now below every level", attest.TDX, func(f *IntelForge) { f.Body[584] = 2 }, []string{"ATT-027 tcb.currentLevel"}},
	{"module that runs now not listed", attest.TDX, func(f *IntelForge) { f.Body[585] = 7 }, []string{"ATT-027 tcb.currentLevel"}},
	{"TD 1.5 body with where the guest was first started", attest.TDX, func(f *IntelForge) { f.Body = append(f.Body, make([]byte, 885-648)...) }, nil},
	{"module that is not listed", attest.TDX, func(f *IntelForge) { f.Body[1] = 7 }, []string{"ATT-028 tdx.module"}},
	{"module of another signer", attest.TDX, func(f *IntelForge) { f.Body[64] = 1 }, []string{"ATT-028 tdx.mrSignerSEAM"}},
	{"module with attributes", attest.TDX, func(f *IntelForge) { f.Body[112] = 1 }, []string{"ATT-028 tdx.seamAttributes"}},
	{"module listed without levels", attest.TDX, func(f *IntelForge) { f.TCB["tdxModuleIdentities"] = []any{Module("TDX_01", nil)} }, []string{"ATT-027 tcb.moduleLevel"}},
	{"TCB info without a module", attest.TDX, func(f *IntelForge) { delete(f.TCB, "tdxModule") }, []string{"ATT-023 tcbInfo.signature"}},
}

// reissue signs a certificate with a key that is not its parent's.
func reissue(f *IntelForge, child, parent *x509.Certificate, subject *ecdsa.PrivateKey) []byte {
	wrong := NewKey(f.T)
	parent = &x509.Certificate{Subject: parent.Subject, RawSubject: parent.RawSubject, SubjectKeyId: parent.SubjectKeyId, PublicKey: &wrong.PublicKey}
	return f.Certificate(child, parent, &subject.PublicKey, wrong)
}

// Intel is the conformance test of a verifier of SGX or TDX quotes: evidence
// that is signed throughout and wrong in one field is refused at the step of
// that field and at no other. newVerifier must return a verifier of tee that
// trusts root, in whose PKI the common names begin with names.
func Intel(t *testing.T, tee attest.TEE, names string, newVerifier func(root *x509.Certificate) attest.Verifier) {
	t.Helper()
	for _, c := range refusals {
		if c.shape != "" && c.shape != tee.Shape() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			f := NewIntelForge(t, tee, names)
			c.change(f)
			e, en := f.Make()
			claims, steps := newVerifier(f.Trusted).Verify(e, en, ForgeTime)
			checkSteps(t, steps)
			if got := failures(steps); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			checkStatus(t, claims.TCB, c.want)
		})
	}
	documents(t, tee, names, newVerifier)
}

// failures names the steps that fail.
func failures(steps []attest.Step) []string {
	var out []string
	for _, s := range steps {
		if !s.OK {
			out = append(out, s.Code+" "+s.Field)
		}
	}
	return out
}

// checkStatus checks that no status is taken from what does not hold, and that
// good evidence has one.
func checkStatus(t *testing.T, c attest.TCBClaims, failed []string) {
	t.Helper()
	if failed == nil {
		if c.Status != attest.UpToDate || !c.RevocationChecked {
			t.Errorf("got status %q, revocation checked %t, want UpToDate, true", c.Status, c.RevocationChecked)
		}
		return
	}
	code := failed[0][:7]
	if !slices.Contains([]string{attest.CodeRevoked, attest.CodeCRLWindow, attest.CodeWindow, attest.CodeCertWindow}, code) && c.Status != "" {
		t.Errorf("got status %q from evidence that does not hold", c.Status)
	}
	if code == attest.CodeCRLWindow && c.RevocationChecked {
		t.Error("a CRL that is not valid now counts as revocation check")
	}
}
