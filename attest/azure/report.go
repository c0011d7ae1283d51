package azure

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha256" // hashes of the runtime data
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// Layout of the paravisor's report, little endian: a header of 32 bytes
// (signature, version, size, request, status, 12 reserved), the hardware's report
// in 1184 bytes (an SEV-SNP report, or a TDREPORT and zeros), a header of the
// runtime data of 20 bytes (size, version, kind of report, hash, size of what is
// hashed), and JSON. Source: openhcl_attestation_protocol of OpenHCL.
const (
	headerSize   = 32
	hardwareSize = 1184
	tdReportSize = 1024
	runtimeAt    = headerSize + hardwareSize
	runtimeSize  = 20
	kindSNP      = 2
	kindTDX      = 4
)

var signature = []byte("HCLA")

// hashes of the runtime data by number.
var hashes = map[uint32]crypto.Hash{1: crypto.SHA256, 2: crypto.SHA384, 3: crypto.SHA512}

// report is a parsed report. Slices point into the evidence.
type report struct {
	hardware []byte
	kind     uint32
	hash     crypto.Hash
	runtime  []byte // JSON, which the hardware's report data are the hash of
}

func parse(raw []byte) (*report, error) {
	le := binary.LittleEndian
	if len(raw) < runtimeAt+runtimeSize {
		return nil, fmt.Errorf("%d bytes, a report has at least %d", len(raw), runtimeAt+runtimeSize)
	}
	if !bytes.HasPrefix(raw, signature) {
		return nil, errors.New(`does not start with "HCLA"`)
	}
	if v := le.Uint32(raw[4:]); v != 1 && v != 2 {
		return nil, fmt.Errorf("version %d is %w", v, errVersion)
	}
	head := raw[runtimeAt:]
	if v := le.Uint32(head[4:]); v != 1 {
		return nil, fmt.Errorf("version %d of runtime data is %w", v, errVersion)
	}
	r := &report{hardware: raw[headerSize:runtimeAt], kind: le.Uint32(head[8:]), hash: hashes[le.Uint32(head[12:])]}
	if r.hash == 0 {
		return nil, fmt.Errorf("hash %d of runtime data is %w", le.Uint32(head[12:]), errVersion)
	}
	size, rest := le.Uint32(head[16:]), head[runtimeSize:]
	if size == 0 || uint64(size) > uint64(len(rest)) {
		return nil, fmt.Errorf("runtime data of %d bytes in %d", size, len(rest))
	}
	r.runtime = rest[:size]
	return r, nil
}

// reportData is what the hardware must have signed: the hash of the runtime data
// and zeros.
func (r *report) reportData() attest.Hex {
	h := r.hash.New()
	h.Write(r.runtime)
	out := make(attest.Hex, len(attest.Binding{}))
	copy(out, h.Sum(nil))
	return out
}

// keyName is what the paravisor calls the vTPM's attestation key.
const keyName = "HCLAkPub"

// key returns the vTPM's attestation key, an RSA key in JWK form (RFC 7517), of
// which there must be exactly one.
func (r *report) key() (*rsa.PublicKey, error) {
	var data struct {
		Keys []struct {
			ID       string `json:"kid"`
			Type     string `json:"kty"`
			Exponent string `json:"e"`
			Modulus  string `json:"n"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(r.runtime, &data); err != nil {
		return nil, err
	}
	var found *rsa.PublicKey
	for _, k := range data.Keys {
		if k.ID != keyName {
			continue
		}
		if found != nil {
			return nil, errors.New(keyName + " is there twice")
		}
		if k.Type != "RSA" {
			return nil, fmt.Errorf("%s is of type %q, not RSA", keyName, k.Type)
		}
		n, errN := base64.RawURLEncoding.Strict().DecodeString(k.Modulus)
		e, errE := base64.RawURLEncoding.Strict().DecodeString(k.Exponent)
		if err := errors.Join(errN, errE); err != nil {
			return nil, err
		}
		modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
		if !exponent.IsUint64() {
			return nil, errors.New("the exponent is too large")
		}
		var err error
		if found, err = tpm.RSAKey(modulus, modulus.BitLen(), exponent.Uint64()); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, errors.New("there is no key " + keyName)
	}
	return found, nil
}

// tdFields compares a TDREPORT (Intel TDX Module ABI specification,
// TDREPORT_STRUCT) with the body of a quote and names the first field that
// differs.
func tdFields(td []byte, quoted attest.Claims) string {
	q := quoted.TDX
	for _, f := range []struct {
		name string
		at   int
		want attest.Hex
	}{
		{"report data", 128, quoted.ReportData},
		{"teeTCBSVN", 264, q.TEETCBSVN}, {"mrSEAM", 280, q.MRSEAM}, {"mrSignerSEAM", 328, q.MRSignerSEAM}, {"seamAttributes", 376, q.SEAMAttrs},
		{"tdAttributes", 512, q.TDAttributes}, {"xfam", 520, q.XFAM}, {"mrtd", 528, q.MRTD}, {"mrConfigID", 576, q.MRConfigID},
		{"mrOwner", 624, q.MROwner}, {"mrOwnerConfig", 672, q.MROwnerConfig},
		{"rtmr0", 720, q.RTMR0}, {"rtmr1", 768, q.RTMR1}, {"rtmr2", 816, q.RTMR2}, {"rtmr3", 864, q.RTMR3},
		{"mrServiceTD", 912, q.MRServiceTD},
	} {
		if !bytes.Equal(td[f.at:f.at+len(f.want)], f.want) {
			return f.name
		}
	}
	return ""
}
