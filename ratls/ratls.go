// Package ratls carries evidence in X.509 certificates and makes TLS sessions
// that are judged by it.
//
// It owns the certificate extensions: it emits the CCC interoperable RA-TLS
// form for SGX and TDX and an RFC 9999 CMW for the rest, and accepts besides
// these the forms of Open Enclave and EGo, Gramine, and the Intel SGX SDK. It
// owns the TLS settings of Ashlar: TLS 1.3, no resumption, and verification in
// VerifyConnection, which no session skips.
//
// It checks that evidence vouches for the certificate's key; whether evidence
// is genuine and what software may run is decided by attest.Judge. Names in a
// self-signed certificate prove nothing and are not looked at.
package ratls

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Form is the way in which a certificate carries evidence.
type Form string

// The forms, in the order in which Extract prefers them.
const (
	// FormCCC is the CCC interoperable RA-TLS form: TCG DICE's evidence
	// extension with CBOR tag 60000 around [quote, claims buffer].
	FormCCC Form = "ccc"
	// FormCMW is an RFC 9999 conceptual message wrapper in id-pe-cmw.
	FormCMW Form = "cmw"
	// FormOpenEnclave is the form of Open Enclave and EGo.
	FormOpenEnclave Form = "open-enclave"
	// FormGramine is Gramine's own form; its identifier is read in both ways in
	// which it has been encoded.
	FormGramine Form = "gramine"
	// FormIntelSDK is the raw quote of the Intel SGX SDK's attested TLS.
	FormIntelSDK Form = "intel-sdk"
)

// Identifiers of the extensions.
var (
	oidCCC         = asn1.ObjectIdentifier{2, 23, 133, 5, 4, 9}
	oidCMW         = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}
	oidOpenEnclave = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 105, 1}
	oidGramine     = asn1.ObjectIdentifier{1, 2, 840, 113741, 1337, 6}
	// oidGramineTwice is what the former reads as where its encoding was
	// encoded once more.
	oidGramineTwice = asn1.ObjectIdentifier{0, 6, 9, 42, 840, 113741, 1337, 6}
	oidIntelSDK     = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
)

// kinds lists the forms in order of preference with their identifiers.
var kinds = []struct {
	form Form
	oids []asn1.ObjectIdentifier
	read func(value []byte) (Found, error)
}{
	{FormCCC, []asn1.ObjectIdentifier{oidCCC}, readCCC},
	{FormCMW, []asn1.ObjectIdentifier{oidCMW}, readCMW},
	{FormOpenEnclave, []asn1.ObjectIdentifier{oidOpenEnclave}, readRaw},
	{FormGramine, []asn1.ObjectIdentifier{oidGramine, oidGramineTwice}, readRaw},
	{FormIntelSDK, []asn1.ObjectIdentifier{oidIntelSDK}, readRaw},
}

// maxExtension bounds the value of an evidence extension, in bytes: evidence,
// claims buffer, and what wraps them, in base64 at worst.
const maxExtension = (attest.MaxEvidence + binding.MaxSize) * 4 / 3

// Found is the evidence in a certificate.
type Found struct {
	Form     Form
	Evidence attest.Evidence
	// ClaimsBuffer is what the report data is the hash of; nil in the forms that
	// hash the key itself.
	ClaimsBuffer []byte
}

// Extract returns the evidence that a certificate carries; of several forms,
// the first in the order above. Errors: ATT-080 no evidence, ATT-081 two of one
// form, ATT-082 damaged, ATT-083 the wrapper names another TEE than the quote.
func Extract(cert *x509.Certificate) (Found, error) {
	var found *Found
	for _, k := range kinds {
		var values [][]byte
		for _, ext := range cert.Extensions {
			for _, oid := range k.oids {
				if ext.Id.Equal(oid) {
					values = append(values, ext.Value)
				}
			}
		}
		if len(values) > 1 {
			return Found{}, problem.New("ATT-081", "wanted one piece of evidence of form %s, got %d", k.form, len(values))
		}
		if len(values) == 0 || found != nil {
			continue
		}
		if n := len(values[0]); n > maxExtension {
			return Found{}, problem.New("ATT-082", "evidence extension of form %s has %d bytes, limit %d", k.form, n, maxExtension)
		}
		f, err := k.read(values[0])
		if err != nil {
			if problem.CodeOf(err) == "" {
				err = problem.Because(err, "ATT-082", "reading the evidence extension of form %s", k.form)
			}
			return Found{}, err
		}
		f.Form, found = k.form, &f
	}
	if found == nil {
		return Found{}, problem.New("ATT-080", "the certificate has no evidence extension")
	}
	return *found, nil
}

// oeHeader is the size of Open Enclave's header: version 1 and type 2 (remote
// SGX ECDSA), 4 bytes each, and the quote's length, 8 bytes, little endian.
const oeHeader = 16

// stripHeader removes an Open Enclave header, if there is one, and what comes
// after the length that it gives.
func stripHeader(b []byte) []byte {
	if len(b) < oeHeader || binary.LittleEndian.Uint32(b) != 1 || binary.LittleEndian.Uint32(b[4:]) != 2 {
		return b
	}
	if n := binary.LittleEndian.Uint64(b[8:]); n <= uint64(len(b)-oeHeader) {
		return b[oeHeader : oeHeader+n]
	}
	return b
}
