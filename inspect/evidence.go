package inspect

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// folder inspects a folder of evidence.
func folder(path string, o Options) (Finding, error) {
	set, err := evidence.Load(os.DirFS(path))
	if err != nil {
		return Finding{}, err
	}
	if set.Evidence.Raw == nil && set.Certificate != nil {
		cert, err := evidence.ParseRoot(set.Certificate)
		if err != nil {
			return Finding{}, problem.Because(err, "CLI-040", "%s: cert.pem", path)
		}
		return certificate(path, cert, set, o)
	}
	return judged(path, "", set, nil, o)
}

// snpReportSize is the size of an SEV-SNP report, and snpVersions are the
// versions of its layout that have been published.
const snpReportSize = 1184

// isSNPReport reports whether b looks like an SEV-SNP report: its size, its
// version and its signature algorithm (AMD 56860, ATTESTATION_REPORT).
func isSNPReport(b []byte) bool {
	if len(b) != snpReportSize {
		return false
	}
	version := binary.LittleEndian.Uint32(b)
	return version >= 2 && version <= 5 && binary.LittleEndian.Uint32(b[0x34:]) == 1
}

// evidence inspects a file that is a quote, a report, a certificate or a
// statement, and reports whether it is one. A quote or report that lies in a
// folder of evidence is judged with what lies beside it.
func (f *file) evidence(b []byte, o Options) (Finding, bool, error) {
	name := filepath.Base(f.path)
	if name == evidence.QuoteFile || name == evidence.ReportFile {
		found, err := folder(filepath.Dir(f.path), o)
		return found, true, err
	}
	if found, ok, err := f.statement(b, o); ok {
		return found, true, err
	}
	if isLaunchEndorsement(b) {
		found, err := f.launchEndorsement(b, o)
		return found, true, err
	}
	if name == evidence.DocumentFile {
		if set, err := evidence.Load(os.DirFS(filepath.Dir(f.path))); err == nil {
			found, err := judged(f.path, "", set, nil, o)
			return found, true, err
		}
	}
	var set evidence.Set
	switch {
	case isSNPReport(b):
		set.Evidence = attest.Evidence{TEE: attest.SNP, Raw: b}
	case len(b) <= attest.MaxEvidence && isQuote(&set, b):
	default:
		set = evidence.Set{}
		if cert := oneCertificate(b); cert != nil {
			if name == evidence.CertificateFile {
				if beside, err := evidence.Load(os.DirFS(filepath.Dir(f.path))); err == nil {
					set = beside
				}
			}
			found, err := certificate(f.path, cert, set, o)
			return found, true, err
		}
		return Finding{}, false, nil
	}
	found, err := judged(f.path, "", set, nil, o)
	return found, true, err
}

// isQuote takes a quote, with or without Open Enclave's header, into set.
func isQuote(set *evidence.Set, b []byte) bool {
	set.SetQuote(b)
	return dcap.Detect(set.Evidence.Raw) != ""
}

// oneCertificate reads the first certificate of a file, PEM or DER; nil if it
// holds none.
func oneCertificate(b []byte) *x509.Certificate {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			b = block.Bytes
			break
		}
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		return nil
	}
	return cert
}

// Certificate inspects an RA-TLS certificate that source presented or holds. A
// certificate without evidence is CLI-044.
func Certificate(source string, cert *x509.Certificate, o Options) (Finding, error) {
	return certificate(source, cert, evidence.Set{}, o)
}

// certificate judges the evidence of a certificate with the endorsements of set.
func certificate(source string, cert *x509.Certificate, set evidence.Set, o Options) (Finding, error) {
	found, err := ratls.Extract(cert)
	if problem.CodeOf(err) == "ATT-080" {
		return Finding{}, problem.New("CLI-044", "%s: the certificate of %q carries no evidence", source, cert.Subject)
	}
	if err != nil {
		return Finding{}, err
	}
	set.Evidence = found.Evidence
	out, err := judged(source, "RA-TLS certificate, ", set, nil, o)
	if err != nil {
		return Finding{}, err
	}
	out.add("certificate.form", string(found.Form), false)
	for _, s := range found.CheckBinding(cert) {
		out.Verdict.Steps = append(out.Verdict.Steps, s)
		if !s.OK {
			out.Unfit = "the evidence does not vouch for the certificate's key"
		}
	}
	return out, nil
}

// statement inspects what a coordinator says of itself, such as the evidence.json
// of a trust folder.
func (f *file) statement(b []byte, o Options) (Finding, bool, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return Finding{}, false, nil
	}
	var doc struct { // a statement, or a bundle with one
		apiv1.Statement
		Inner apiv1.Statement `json:"statement"`
	}
	if json.Unmarshal(b, &doc) != nil {
		return Finding{}, false, nil
	}
	s := doc.Statement
	if len(s.Evidence.Raw) == 0 {
		s = doc.Inner
	}
	if len(s.Evidence.Raw) == 0 || len(s.ClaimsBuffer) == 0 {
		return Finding{}, false, nil
	}
	found, err := Statement(f.path, s, o)
	return found, true, err
}

// Statement inspects a coordinator's statement: its evidence must bind its claims
// buffer.
func Statement(source string, s apiv1.Statement, o Options) (Finding, error) {
	set := evidence.Set{Evidence: s.Evidence, Endorsements: s.Endorsements}
	for _, kind := range []string{attest.KindPCKCRL, attest.KindRootCRL, attest.KindAMDCRL} {
		if _, ok := s.Endorsements.Get(kind); ok {
			set.HasCRL = true
		}
	}
	b := attest.Bind(s.ClaimsBuffer)
	return judged(source, "coordinator's statement, ", set, &b, o)
}

// names of the TEEs in words.
var names = map[attest.TEE]string{attest.SGX: "an SGX enclave", attest.TDX: "a TDX guest", attest.SNP: "an SEV-SNP guest",
	attest.SNPAzure: "an SEV-SNP guest of Azure", attest.TDXAzure: "a TDX guest of Azure", attest.TPM: "a machine with a TPM", attest.CCA: "an Arm CCA realm", attest.NVIDIA: "a GPU of NVIDIA"}

// judged reports what evidence says, and whether it is genuine.
func judged(source, how string, set evidence.Set, binding *attest.Binding, o Options) (Finding, error) {
	at := o.At
	if at.IsZero() {
		at = set.VerifyAt
	}
	if at.IsZero() {
		at = o.Now
	}
	v, err := evidence.Explain(set, evidence.Options{At: at, Root: o.Root, Binding: binding})
	if err != nil {
		return Finding{}, err
	}
	name, known := names[set.Evidence.TEE]
	if !known {
		name = string(set.Evidence.TEE)
	}
	return Verdict(source, how+"evidence of "+name, v)
}

// Verdict reports what judged evidence says. Evidence that does not parse is
// CLI-040.
func Verdict(source, what string, v attest.Verdict) (Finding, error) {
	out := Finding{Source: source, What: what, Basis: Unverified, Notes: []string{}, Verdict: &v}
	c := v.Claims
	if v.TEE.Simulated() {
		return out, problem.New("CLI-044", "%s: simulated evidence; what it measures is the program's binary: inspect that", source)
	}
	if len(c.ReportData) == 0 {
		code, text := v.Reason()
		if code == attest.CodeNoVerifier {
			return out, problem.New("CLI-044", "%s: evidence of %q, which is not read here", source, v.TEE)
		}
		return out, problem.New("CLI-040", "%s: the evidence cannot be read: %s (%s)", source, text, code)
	}
	if v.Genuine {
		out.Basis = Verified
	}
	switch {
	case c.Debug:
		out.Unfit = "the enclave or guest is in debug mode: the host can read and change it"
	case forged(v) != nil:
		out.Unfit = fmt.Sprintf("the evidence is forged or damaged: %s (%s)", forged(v).Field, forged(v).Code)
	}
	out.claims(v)
	if len(out.Fields) == 0 {
		return out, problem.New("CLI-044", "%s: evidence of %s has no reference values here", source, v.TEE)
	}
	out.add("debug", strconv.FormatBool(c.Debug), false)
	if c.TCB.Status != "" {
		out.add("tcb.status", string(c.TCB.Status), false)
	}
	if v.Genuine && !c.TCB.RevocationChecked {
		out.note("whether a certificate is revoked was not checked: no CRL is there")
	}
	if s := ungenuine(v); s != nil {
		out.note(fmt.Sprintf("not verified: %s: wanted %s, got %s (%s)", s.Field, s.Want, s.Got, s.Code))
	}
	return out, nil
}

// forged returns the first step that only forged or damaged evidence fails: a
// signature, or what evidence binds. A chain to another root is no such step:
// somebody may vouch for that root.
func forged(v attest.Verdict) *attest.Step {
	for _, s := range v.Failed() {
		if s.Fix.Who == attest.Nobody && s.Code != attest.CodeChain {
			return &s
		}
	}
	return nil
}

// ungenuine returns the first step that keeps evidence from being genuine.
func ungenuine(v attest.Verdict) *attest.Step {
	if failed := v.Failed(); !v.Genuine && len(failed) > 0 {
		return &failed[0]
	}
	return nil
}
