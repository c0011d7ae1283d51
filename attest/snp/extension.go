package snp

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// amdArc is the arc of AMD's certificate extensions (AMD 57230, table "VCEK
// certificate"): 1 structure version, 2 product name, 3.1 to 3.9 security patch
// levels, 4 hardware ID, 5 provider.
var amdArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// Numbers below amdArc.3.
const (
	splBootloader = 1
	splTEE        = 2
	splSNP        = 3
	splMicrocode  = 8
	splFMC        = 9
	splMax        = 9
)

// Sizes of a hardware ID, in bytes.
const (
	hwidSize      = 64
	hwidSizeTurin = 8
)

var errExtension = errors.New("AMD's extension")

// extension is what AMD says of a key in its certificate.
type extension struct {
	product  string // "Milan-B0"
	spl      [splMax + 1]uint8
	has      [splMax + 1]bool
	hwid     []byte // VCEK: the chip
	provider string // VLEK: the cloud
}

// parseExtension reads and checks AMD's extensions of a certificate.
func parseExtension(cert *x509.Certificate, key signer, product string) (*extension, error) {
	e := &extension{}
	seen := map[string]bool{}
	for _, x := range cert.Extensions {
		if len(x.Id) <= len(amdArc) || !x.Id[:len(amdArc)].Equal(amdArc) {
			continue
		}
		name := x.Id.String()
		if seen[name] {
			return nil, fmt.Errorf("%w %s comes twice", errExtension, name)
		}
		seen[name] = true
		if err := e.read(x.Id[len(amdArc):], x.Value); err != nil {
			return nil, fmt.Errorf("%w %s: %w", errExtension, name, err)
		}
	}
	if err := e.complete(key, product); err != nil {
		return nil, fmt.Errorf("%w: %w", errExtension, err)
	}
	return e, nil
}

func (e *extension) read(id asn1.ObjectIdentifier, value []byte) error {
	switch {
	case len(id) == 1 && id[0] == 2:
		return ia5(value, &e.product)
	case len(id) == 1 && id[0] == 4:
		return octets(value, &e.hwid)
	case len(id) == 1 && id[0] == 5:
		return ia5(value, &e.provider)
	case len(id) == 2 && id[0] == 3:
		n := id[1]
		if n < 1 || n > splMax {
			return errors.New("a patch level of a component that is not known here")
		}
		var level int
		if rest, err := asn1.Unmarshal(value, &level); err != nil || len(rest) > 0 || level < 0 || level > 255 {
			return errors.New("no number from 0 to 255")
		}
		e.spl[n], e.has[n] = uint8(level), true
	}
	return nil
}

// ia5 reads an IA5String.
func ia5(value []byte, out *string) error {
	if rest, err := asn1.UnmarshalWithParams(value, out, "ia5"); err != nil || len(rest) > 0 || value[0] != asn1.TagIA5String {
		return errors.New("no IA5String")
	}
	return nil
}

// octets reads a hardware ID: bare bytes, as AMD issues it, or an OCTET STRING.
func octets(value []byte, out *[]byte) error {
	if len(value) == hwidSize || len(value) == hwidSizeTurin {
		*out = bytes.Clone(value)
		return nil
	}
	if rest, err := asn1.Unmarshal(value, out); err != nil || len(rest) > 0 {
		return errors.New("no hardware ID")
	}
	return nil
}

// complete checks that what the kind of key and the product need is there.
func (e *extension) complete(key signer, product string) error {
	need, size := []int{splBootloader, splTEE, splSNP, splMicrocode}, hwidSize
	if product == Turin {
		need, size = append(need, splFMC), hwidSizeTurin
	} else if e.has[splFMC] {
		return fmt.Errorf("%s has no FMC, but its certificate names one", product)
	}
	for _, n := range need {
		if !e.has[n] {
			return fmt.Errorf("patch level 3.%d is missing", n)
		}
	}
	if name, _, _ := strings.Cut(e.product, "-"); name != product {
		return fmt.Errorf("product %q under the root of %s", e.product, product)
	}
	switch {
	case key == vcek && len(e.hwid) != size:
		return fmt.Errorf("hardware ID has %d bytes, want %d", len(e.hwid), size)
	case key == vcek && e.provider != "":
		return errors.New("a chip's key names a provider")
	case key == vlek && (e.provider == "" || e.hwid != nil):
		return errors.New("a provider's key names no provider, or a chip")
	}
	return nil
}

// tcb returns the patch levels as the TCB_VERSION of a report.
func (e *extension) tcb(product string) uint64 {
	order := []int{splBootloader, splTEE, 4, 5, 6, 7, splSNP, splMicrocode}
	if product == Turin {
		order = []int{splFMC, splBootloader, splTEE, splSNP, 5, 6, 7, splMicrocode}
	}
	var b [8]byte
	for i, n := range order {
		b[i] = e.spl[n]
	}
	return binary.LittleEndian.Uint64(b[:])
}
