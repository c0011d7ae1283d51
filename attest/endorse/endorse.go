// Package endorse holds what a relying party knows about endorsements before
// any verdict: what a document is and until when it counts (Describe), which
// ones a piece of evidence needs (Need), which are older than what was seen
// before (Marks), and how many sets travel in one file (Bundle).
//
// It reads documents and believes none of them: signatures are the verifiers'
// matter, and what it says of a document is worth as much as the verdict on it.
// It refuses to fetch, to read a clock and to touch a disk; package
// endorse/fetch does. It never panics on hostile bytes.
package endorse

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// DocumentVerifier is a verifier that can judge documents without evidence:
// whether their vendor signed them, no windows. A step's Source is the kind of
// the document that it is about.
type DocumentVerifier interface {
	VerifyDocuments(en attest.Endorsements) []attest.Step
}

// Identifier is a verifier that can say of which platform evidence claims to be
// at less cost than verifying it.
type Identifier interface {
	Identify(e attest.Evidence) attest.Claims
}

// MaxDocument bounds a document and its chain, in bytes each. Real ones are
// below 100 KB.
const MaxDocument = 1 << 20

// intelNames is the prefix of the common names in Intel's PKI; documents of any
// other PKI have identities that begin with "sim/".
const intelNames = "Intel SGX"

// Document is what one endorsement says of itself.
type Document struct {
	Kind string `json:"kind"` // attest.KindTCBInfo, …
	// Identity names what the document is about, the same for each of its
	// issues: "tcbInfo/sgx/00606a000000", "qeIdentity/tdx", "crl/pck/platform",
	// "crl/intel/root", "crl/amd/Milan", "vcek/CHIPID/TCB" with 128 and 10
	// digits, "vlek/Milan", "chain/amd/Milan". It is empty where the document
	// cannot be read.
	Identity string `json:"identity,omitempty"`
	// Issued and NextUpdate are its window: issueDate and nextUpdate, a CRL's
	// thisUpdate and nextUpdate, a certificate's validity.
	Issued     time.Time `json:"issued,omitzero"`
	NextUpdate time.Time `json:"nextUpdate,omitzero"`
	// Number is the tcbEvaluationDataNumber, or a CRL's number; 0 if it has none
	// that fits.
	Number uint64     `json:"number,omitempty"`
	Digest attest.Hex `json:"digest"` // SHA-256 of the body
	// Error says why the document cannot be read.
	Error string `json:"error,omitempty"`
}

// Older reports whether d was issued before o, both of one identity: by number,
// and among equal numbers by date. The vendors make documents of several
// numbers at a time, each dated when it was asked for, so the date alone says
// nothing across numbers.
func (d Document) Older(o Document) bool { return d.mark().older(o.mark()) }

// Describe says what each document of a set is, in the set's order. Kinds that
// it does not know are left out.
func Describe(en attest.Endorsements) []Document {
	var all []Document
	for _, it := range en.Items() {
		read, ok := readers[it.Kind]
		if !ok {
			continue
		}
		sum := sha256.Sum256(it.Body)
		d := Document{Kind: it.Kind, Digest: sum[:]}
		err := fmt.Errorf("larger than %d bytes", MaxDocument)
		if len(it.Body) <= MaxDocument && len(it.Chain) <= MaxDocument {
			err = read(&d, it)
		}
		if err != nil {
			d = Document{Kind: it.Kind, Digest: sum[:], Error: err.Error()}
		}
		all = append(all, d)
	}
	return all
}

var readers = map[string]func(*Document, attest.Endorsement) error{
	attest.KindTCBInfo:    readTCBInfo,
	attest.KindQEIdentity: readQEIdentity,
	attest.KindPCKCRL:     readCRL,
	attest.KindRootCRL:    readCRL,
	attest.KindAMDCRL:     readCRL,
	attest.KindVCEK:       readVCEK,
	attest.KindVLEK:       readVLEK,
	attest.KindAMDChain:   readAMDChain,
}

// header is common to TCB info and QE identity (Intel PCS API version 4).
type header struct {
	ID         string     `json:"id"`
	FMSPC      attest.Hex `json:"fmspc"`
	IssueDate  time.Time  `json:"issueDate"`
	NextUpdate time.Time  `json:"nextUpdate"`
	Evaluation uint64     `json:"tcbEvaluationDataNumber"`
}

// readHeader reads the signed member of a document. Of two members of one name
// the last counts, as for the verifiers.
func readHeader(d *Document, it attest.Endorsement, member string) (header, string, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(it.Body, &doc); err != nil {
		return header{}, "", err
	}
	var h header
	if err := json.Unmarshal(doc[member], &h); err != nil {
		return header{}, "", fmt.Errorf("%s: %w", member, err)
	}
	if h.IssueDate.IsZero() || h.NextUpdate.IsZero() {
		return header{}, "", errors.New("issueDate or nextUpdate is missing")
	}
	d.Issued, d.NextUpdate, d.Number = h.IssueDate.UTC(), h.NextUpdate.UTC(), h.Evaluation
	certs, err := pki.ParseCertificates([]byte(strings.TrimRight(string(it.Chain), "\x00 \t\r\n")))
	if err != nil {
		return header{}, "", fmt.Errorf("issuer chain: %w", err)
	}
	return h, vendor(certs[0].Subject.CommonName), nil
}

// vendor is what identities of a PKI begin with. A verifier accepts only chains
// whose names all are of its own PKI, so one certificate tells.
func vendor(commonName string) string {
	if strings.HasPrefix(commonName, intelNames+" ") {
		return ""
	}
	return "sim/"
}

func readTCBInfo(d *Document, it attest.Endorsement) error {
	h, of, err := readHeader(d, it, "tcbInfo")
	if err != nil {
		return err
	}
	if h.ID != "SGX" && h.ID != "TDX" || len(h.FMSPC) != 6 {
		return fmt.Errorf("of TEE %.16q with an FMSPC of %d bytes", h.ID, len(h.FMSPC))
	}
	d.Identity = of + "tcbInfo/" + strings.ToLower(h.ID) + "/" + h.FMSPC.String()
	return nil
}

func readQEIdentity(d *Document, it attest.Endorsement) error {
	h, of, err := readHeader(d, it, "enclaveIdentity")
	if err != nil {
		return err
	}
	tee, ok := map[string]string{"QE": "sgx", "TD_QE": "tdx"}[h.ID]
	if !ok {
		return fmt.Errorf("of enclave %.16q", h.ID)
	}
	d.Identity = of + "qeIdentity/" + tee
	return nil
}

func readCRL(d *Document, it attest.Endorsement) error {
	list, err := x509.ParseRevocationList(it.Body)
	if err != nil {
		return err
	}
	d.Issued, d.NextUpdate = list.ThisUpdate.UTC(), list.NextUpdate.UTC()
	if list.Number != nil && list.Number.IsUint64() {
		d.Number = list.Number.Uint64()
	}
	name := list.Issuer.CommonName
	switch {
	case strings.HasPrefix(name, "ARK-"):
		d.Identity = "crl/amd/" + name[len("ARK-"):]
	case strings.HasSuffix(name, " PCK Platform CA"):
		d.Identity = vendor(name) + "crl/pck/" + CAPlatform
	case strings.HasSuffix(name, " PCK Processor CA"):
		d.Identity = vendor(name) + "crl/pck/" + CAProcessor
	case strings.HasSuffix(name, " Root CA"):
		d.Identity = vendor(name) + "crl/intel/root"
	default:
		return fmt.Errorf("issued by %.80q, which has no role here", name)
	}
	return nil
}

func readCertificate(d *Document, body []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(body)
	if err != nil {
		return nil, err
	}
	d.Issued, d.NextUpdate = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	return cert, nil
}

// amdArc is the arc of AMD's certificate extensions (AMD 57230): 3.1 to 3.9
// patch levels, 4 hardware ID.
const amdArc = "1.3.6.1.4.1.3704.1."

func readVCEK(d *Document, it attest.Endorsement) error {
	cert, err := readCertificate(d, it.Body)
	if err != nil {
		return err
	}
	var chip []byte
	var tcb attest.SNPTCB
	levels := map[string]*uint8{"3.1": &tcb.Bootloader, "3.2": &tcb.TEE, "3.3": &tcb.SNP, "3.8": &tcb.Microcode, "3.9": &tcb.FMC}
	for _, x := range cert.Extensions {
		name, ok := strings.CutPrefix(x.Id.String(), amdArc)
		if !ok {
			continue
		}
		if name == "4" {
			chip = hardwareID(x.Value)
		}
		if level := levels[name]; level != nil {
			var n int
			if rest, err := asn1.Unmarshal(x.Value, &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
				return fmt.Errorf("patch level %s is no number from 0 to 255", name)
			}
			*level = uint8(n)
		}
	}
	if chip == nil {
		return errors.New("no hardware ID of 8 or 64 bytes")
	}
	d.Identity = vcekIdentity(chip, tcb)
	return nil
}

// hardwareID reads the extension: bare bytes, as AMD issues it, or an OCTET
// STRING; nil if it is neither.
func hardwareID(value []byte) []byte {
	if len(value) == 8 || len(value) == chipIDSize {
		return value
	}
	var id []byte
	if rest, err := asn1.Unmarshal(value, &id); err != nil || len(rest) > 0 || len(id) != 8 && len(id) != chipIDSize {
		return nil
	}
	return id
}

// chipIDSize is the size of a chip ID in a report, in bytes. On Turin the first
// 8 are the hardware ID, the rest zero.
const chipIDSize = 64

func vcekIdentity(chip []byte, tcb attest.SNPTCB) string {
	var id [chipIDSize]byte
	copy(id[:], chip)
	return "vcek/" + hex.EncodeToString(id[:]) + "/" + tcbText(tcb)
}

// tcbText is 10 digits: FMC, bootloader, TEE, SNP, microcode.
func tcbText(t attest.SNPTCB) string {
	return hex.EncodeToString([]byte{t.FMC, t.Bootloader, t.TEE, t.SNP, t.Microcode})
}

func readVLEK(d *Document, it attest.Endorsement) error {
	cert, err := readCertificate(d, it.Body)
	if err != nil {
		return err
	}
	product, ok := strings.CutPrefix(cert.Issuer.CommonName, "SEV-VLEK-")
	if !ok {
		return fmt.Errorf("issued by %.80q, which issues no VLEK", cert.Issuer.CommonName)
	}
	d.Identity = "vlek/" + product
	return nil
}

func readAMDChain(d *Document, it attest.Endorsement) error {
	certs, err := pki.ParseCertificates(it.Body)
	if err != nil {
		return err
	}
	w := pki.Validity(certs[0], certs[1:]...)
	d.Issued, d.NextUpdate = w.From.UTC(), w.Until.UTC()
	for _, c := range certs {
		if product, ok := strings.CutPrefix(c.Subject.CommonName, "ARK-"); ok {
			d.Identity = "chain/amd/" + product
			return nil
		}
	}
	return errors.New("no root of AMD in it")
}
