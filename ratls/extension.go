package ratls

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// tagECDSAQuote is the CBOR tag of [SGX or TDX ECDSA quote, claims buffer] (CCC
// interoperable RA-TLS; IANA CBOR tags registry).
const tagECDSAQuote = 60000

// A CMW record of ours has the media type
// application/vnd.ashlar.evidence.<tee>+cbor and holds the CBOR array [evidence,
// claims buffer]. ":" in a TEE's name is written "-".
const (
	mediaTypePrefix = "application/vnd.ashlar.evidence."
	mediaTypeSuffix = "+cbor"
	// indicatorEvidence marks a record as evidence (RFC 9999, CM-type bit 2).
	indicatorEvidence = 1 << 2
)

var mediaTypes = map[attest.TEE]string{
	attest.SGX: mediaType("sgx"), attest.TDX: mediaType("tdx"),
	attest.SimSGX: mediaType("sim-sgx"), attest.SimTDX: mediaType("sim-tdx"),
}

func mediaType(tee string) string { return mediaTypePrefix + tee + mediaTypeSuffix }

// wrapped is the content of tag 60000 and of our CMW records.
type wrapped struct {
	_      struct{} `cbor:",toarray"`
	Quote  []byte
	Claims []byte
}

// record is a CMW record in its CBOR form.
type record struct {
	_         struct{} `cbor:",toarray"`
	Type      string
	Value     []byte
	Indicator uint64
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:       cbor.DupMapKeyEnforcedAPF,
		IndefLength:     cbor.IndefLengthForbidden,
		MaxNestedLevels: 8, MaxArrayElements: 64, MaxMapPairs: 64,
	}.DecMode())
)

// must panics on an error in the constant options above.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Extension wraps evidence and the claims buffer that it binds: tag 60000 for
// SGX quotes and TDX quotes version 4, which other implementations read too, and
// a CMW for TDX version 5 and the simulation. It is never critical.
func Extension(e attest.Evidence, claims []byte) (pkix.Extension, error) {
	h, err := readHeader(e.Raw)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("wrapping evidence: %w", err)
	}
	media, ok := mediaTypes[e.TEE]
	if !ok || h.shape != e.TEE.Shape() {
		return pkix.Extension{}, fmt.Errorf("wrapping evidence: TEE %.32q with a quote of %s", e.TEE, h.shape)
	}
	if len(e.Raw) > attest.MaxEvidence || len(claims) > binding.MaxSize {
		return pkix.Extension{}, fmt.Errorf("wrapping evidence: %d bytes and a claims buffer of %d, limits %d and %d",
			len(e.Raw), len(claims), attest.MaxEvidence, binding.MaxSize)
	}
	content := wrapped{Quote: e.Raw, Claims: claims}
	if !e.TEE.Simulated() && h.version < 5 {
		value, err := encMode.Marshal(cbor.Tag{Number: tagECDSAQuote, Content: content})
		return pkix.Extension{Id: oidCCC, Value: value}, err
	}
	inner, err := encMode.Marshal(content)
	if err != nil {
		return pkix.Extension{}, err
	}
	outer, err := encMode.Marshal(record{Type: media, Value: inner, Indicator: indicatorEvidence})
	if err != nil {
		return pkix.Extension{}, err
	}
	value, err := asn1.Marshal(outer) // CHOICE cbor OCTET STRING
	return pkix.Extension{Id: oidCMW, Value: value}, err
}

// readRaw reads a quote with or without Open Enclave's header.
func readRaw(value []byte) (Found, error) {
	return found("", stripHeader(value), nil)
}

// found builds the result. The quote tells the TEE, except that want, if it is
// not empty, must agree with it.
func found(want attest.TEE, quote, claims []byte) (Found, error) {
	if len(quote) > attest.MaxEvidence || len(claims) > binding.MaxSize {
		return Found{}, fmt.Errorf("evidence of %d bytes with a claims buffer of %d, limits %d and %d",
			len(quote), len(claims), attest.MaxEvidence, binding.MaxSize)
	}
	h, err := readHeader(quote)
	if err != nil {
		return Found{}, err
	}
	if want == "" {
		want = h.shape
	}
	if want.Shape() != h.shape {
		return Found{}, problem.New("ATT-083", "the wrapper says %s, the quote's header %s", want, h.shape)
	}
	return Found{Evidence: attest.Evidence{TEE: want, Raw: bytes.Clone(quote)}, ClaimsBuffer: bytes.Clone(claims)}, nil
}

// readCCC reads CBOR tag 60000 [quote, claims buffer].
func readCCC(value []byte) (Found, error) {
	var tag cbor.RawTag
	if err := decMode.Unmarshal(value, &tag); err != nil {
		return Found{}, err
	}
	if tag.Number != tagECDSAQuote {
		return Found{}, fmt.Errorf("CBOR tag %d, want %d (ECDSA quote)", tag.Number, tagECDSAQuote)
	}
	return readWrapped("", tag.Content)
}

func readWrapped(tee attest.TEE, b []byte) (Found, error) {
	var w wrapped
	if err := decMode.Unmarshal(b, &w); err != nil {
		return Found{}, err
	}
	if len(w.Claims) == 0 {
		return Found{}, errors.New("no claims buffer beside the quote")
	}
	return found(tee, stripHeader(w.Quote), w.Claims)
}

// readCMW reads a CMW record: DER CHOICE { json UTF8String, cbor OCTET STRING }.
func readCMW(value []byte) (Found, error) {
	var choice asn1.RawValue
	rest, err := asn1.Unmarshal(value, &choice)
	if err != nil {
		return Found{}, err
	}
	if len(rest) != 0 || choice.Class != asn1.ClassUniversal || choice.IsCompound {
		return Found{}, errors.New("not a UTF8String or OCTET STRING and nothing more")
	}
	var r record
	switch choice.Tag {
	case asn1.TagOctetString:
		r, err = readRecordCBOR(choice.Bytes)
	case asn1.TagUTF8String:
		r, err = readRecordJSON(choice.Bytes)
	default:
		err = fmt.Errorf("ASN.1 type %d, want UTF8String or OCTET STRING", choice.Tag)
	}
	if err != nil {
		return Found{}, err
	}
	if r.Indicator&indicatorEvidence == 0 {
		return Found{}, fmt.Errorf("the record is no evidence: indicator %d", r.Indicator)
	}
	for tee, media := range mediaTypes {
		if strings.EqualFold(r.Type, media) {
			return readWrapped(tee, r.Value)
		}
	}
	return Found{}, fmt.Errorf("media type %.80q is not known", r.Type)
}

// readRecordCBOR reads [type, value, ? indicator]; without an indicator any
// kind of message may be meant.
func readRecordCBOR(b []byte) (record, error) {
	var parts []cbor.RawMessage
	if err := decMode.Unmarshal(b, &parts); err != nil {
		return record{}, err
	}
	r := record{Indicator: indicatorEvidence}
	if len(parts) != 2 && len(parts) != 3 {
		return r, fmt.Errorf("record of %d parts, want 2 or 3", len(parts))
	}
	for i, to := range []any{&r.Type, &r.Value, &r.Indicator}[:len(parts)] {
		if err := decMode.Unmarshal(parts[i], to); err != nil {
			return r, err
		}
	}
	return r, nil
}

// readRecordJSON reads ["type", "base64url", ? indicator].
func readRecordJSON(b []byte) (record, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return record{}, err
	}
	r := record{Indicator: indicatorEvidence}
	if len(parts) != 2 && len(parts) != 3 {
		return r, fmt.Errorf("record of %d parts, want 2 or 3", len(parts))
	}
	var value string
	for i, to := range []any{&r.Type, &value, &r.Indicator}[:len(parts)] {
		if err := json.Unmarshal(parts[i], to); err != nil {
			return r, err
		}
	}
	var err error
	r.Value, err = base64.RawURLEncoding.Strict().DecodeString(value)
	return r, err
}
