// Package evidence reads archived evidence from a folder and judges it offline.
//
// It owns the layout of such folders: quote.bin, report.bin, evidence.json or
// cert.pem, beside it the event log, the endorsements of the vendor, and
// meta.json, which may say when to verify. What is binary may also be one PEM
// block or hexadecimal digits. It refuses to trust a root certificate that lies in the folder (the caller names
// a root, or the vendor's own counts), and to fetch anything. It never writes.
package evidence

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/nvidia"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Names of files in a folder, besides the kinds of endorsements.
const (
	QuoteFile       = "quote.bin"     // SGX or TDX quote, with or without Open Enclave's header
	CertificateFile = "cert.pem"      // RA-TLS certificate with the quote inside
	ReportFile      = "report.bin"    // SEV-SNP report
	DeviceFile      = "evidence.json" // a GPU's report and chain, as NVIDIA's attestation SDK writes them
	DeviceReport    = "report.hex"    // a GPU's report in hexadecimal, its chain beside it in cert_chain.pem
	DocumentFile    = "evidence.json" // or evidence of an Azure vTPM or of a TPM
	EventLogFile    = "event_log.bin" // TCG event log of the same boot, beside any of these
	VCEKFile        = "vcek.pem"      // AMD's certificate of a chip's key, then its chain, which may be left out; vcek.der counts first
	VLEKFile        = "vlek.pem"      // likewise, of a provider's key
	RootFile        = "root_ca.pem"   // root of a throw-away PKI
	MetaFile        = "meta.json"
)

// maxFile bounds every file, in bytes; evidence itself is bounded by
// attest.MaxEvidence when it is judged.
const maxFile = 1 << 20

// Set is a folder of evidence.
type Set struct {
	// Evidence is empty if the folder holds only a certificate: take the quote
	// out of Certificate and call SetQuote.
	Evidence     attest.Evidence
	Certificate  []byte // cert.pem, nil if absent
	Endorsements attest.Endorsements
	// HasCRL says that at least one CRL is there.
	HasCRL bool
	// VerifyAt is when meta.json says to verify; zero if it does not.
	VerifyAt time.Time
	// Root is root_ca.pem, nil if absent. It is not trusted by being here.
	Root *x509.Certificate

	meta meta
}

type meta struct {
	TEE      string `json:"tee"`
	VerifyAt string `json:"verify_at"`
}

// chainFile names the PEM chain beside an endorsement.
var chainFile = map[string]string{
	attest.KindTCBInfo:    "tcb_info_issuer_chain.pem",
	attest.KindQEIdentity: "qe_identity_issuer_chain.pem",
	attest.KindPCKCRL:     "pck_crl_issuer_chain.pem",
	attest.KindRootCRL:    "",
	attest.KindVCEK:       "",
	attest.KindVLEK:       "",
	attest.KindAMDChain:   "",
	attest.KindAMDCRL:     "",
}

// Load reads a folder. Endorsements may be missing: the verdict says what that
// means. A folder without evidence, a file above 1 MiB and a damaged meta.json
// or root_ca.pem are errors with code ATT-040, evidence that is neither quote,
// report nor certificate with ATT-041.
func Load(fsys fs.FS) (Set, error) {
	var s Set
	f := folder{fsys: fsys}
	if b := f.read(MetaFile); b != nil {
		f.note(MetaFile, s.readMeta(b))
	}
	if b := f.read(RootFile); b != nil {
		root, err := ParseRoot(b)
		f.note(RootFile, err)
		s.Root = root
	}
	s.Certificate = f.read(CertificateFile)
	if b := f.read(QuoteFile); b != nil {
		s.SetQuote(binary(b))
	} else if b := f.read(ReportFile); b != nil {
		s.Evidence = attest.Evidence{TEE: attest.SNP, Raw: binary(b)}
	} else {
		s.Evidence = f.device()
	}
	items := append(f.key(VCEKFile, attest.KindVCEK), f.key(VLEKFile, attest.KindVLEK)...)
	if s.Evidence.Raw == nil {
		s.Evidence, items = f.document(items)
	}
	s.Evidence.EventLog = f.read(EventLogFile)
	for kind, chain := range chainFile {
		body := f.read(kind)
		if body == nil {
			continue
		}
		if strings.HasSuffix(kind, ".der") {
			body = binary(body)
		}
		it := attest.Endorsement{Kind: kind, Body: body}
		if chain != "" {
			it.Chain = f.read(chain)
		}
		s.HasCRL = s.HasCRL || kind == attest.KindPCKCRL || kind == attest.KindRootCRL || kind == attest.KindAMDCRL
		items = append(items, it)
	}
	s.Endorsements = attest.NewEndorsements(items...)
	if f.err != nil {
		return Set{}, f.err
	}
	if s.Evidence.Raw == nil && s.Certificate == nil {
		return Set{}, f.nothing()
	}
	return s, nil
}

// SetQuote makes raw the evidence of the set: a quote as it came, or as it was
// taken out of the certificate. The TEE is told by the quote's header, and by
// meta.json where the header is damaged.
func (s *Set) SetQuote(raw []byte) {
	tee := dcap.Detect(raw)
	if hint := attest.TEE(s.meta.TEE); tee == "" && (hint == attest.SGX || hint == attest.TDX) {
		tee = hint
	}
	s.Evidence = attest.Evidence{TEE: tee, Raw: raw}
}

// ParseRoot reads one PEM certificate that shall be a trust anchor.
func ParseRoot(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("more than one certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func (s *Set) readMeta(data []byte) error {
	if err := json.Unmarshal(data, &s.meta); err != nil {
		return err
	}
	if s.meta.VerifyAt == "" {
		return nil
	}
	at, err := ParseTime(s.meta.VerifyAt)
	s.VerifyAt = at
	return err
}

// ParseTime reads an instant, RFC 3339, or a date, which means its first
// instant in UTC.
func ParseTime(text string) (time.Time, error) {
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		return at, nil
	}
	return time.Parse(time.RFC3339, text)
}

// folder reads files and remembers the first error.
type folder struct {
	fsys fs.FS
	err  error
}

func (f *folder) note(name string, err error) {
	if err != nil && f.err == nil {
		f.err = problem.Because(err, "ATT-040", "reading %s", name)
	}
}

// read returns a file, or nil if there is none. An empty file is not nil.
func (f *folder) read(name string) []byte {
	b, err := readFile(f.fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f.note(name, err)
	return b
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	if info, err := fs.Stat(fsys, name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if len(b) > maxFile {
		return nil, errors.New("larger than 1 MiB")
	}
	return b, err
}

// device reads a GPU's evidence; empty if there is none.
func (f *folder) device() attest.Evidence {
	if b := f.read(DeviceFile); nvidia.Detect(b) {
		return attest.Evidence{TEE: attest.NVIDIA, Raw: b}
	}
	text := f.read(DeviceReport)
	if text == nil {
		return attest.Evidence{}
	}
	report, err := hex.DecodeString(strings.TrimSpace(string(text)))
	f.note(DeviceReport, err)
	return attest.Evidence{TEE: attest.NVIDIA, Raw: nvidia.Encode(report, f.read(attest.KindAMDChain))}
}

// nothing says why a folder cannot be judged.
func (f *folder) nothing() error {
	if _, err := fs.Stat(f.fsys, DeviceFile); err == nil {
		return problem.New("ATT-041", "%s is no evidence of a kind that is known here", DeviceFile)
	}
	if _, err := fs.Stat(f.fsys, "."); err != nil {
		return problem.Because(err, "ATT-040", "reading the folder")
	}
	return problem.New("ATT-040", "neither %s, %s nor %s is in the folder", QuoteFile, ReportFile, CertificateFile)
}
