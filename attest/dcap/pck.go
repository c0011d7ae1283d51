package dcap

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Intel's extension of PCK certificates and the fields in it ("SGX PCK
// Certificate and CRL Profile Specification", section 1.3.5).
var (
	oidSGX      = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidPPID     = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 1}
	oidTCB      = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 2}
	oidPCEID    = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 3}
	oidFMSPC    = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 4}
	oidInstance = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 6}
)

const (
	components  = 16
	tcbPCESVN   = 17 // last arc of the PCESVN in the TCB sequence; 1 to 16 are the components
	maxSGXField = 64 // fields in a sequence: real certificates have at most 18
)

// platform is what a PCK certificate says about its machine.
type platform struct {
	ppid, pceID, fmspc, instance attest.Hex
	svn                          [components]uint8
	pcesvn                       uint16
}

type sgxField struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// parsePlatform reads Intel's extension of a PCK certificate.
func parsePlatform(cert *x509.Certificate) (platform, error) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSGX) {
			return parseSGXExtension(e.Value)
		}
	}
	return platform{}, errors.New("no extension 1.2.840.113741.1.13.1")
}

// parseSGXExtension reads the value of Intel's extension. Unknown fields are
// skipped; one that comes twice is refused.
func parseSGXExtension(der []byte) (platform, error) {
	var p platform
	fields, err := sgxFields(der)
	if err != nil {
		return p, err
	}
	var tcb []sgxField
	for _, f := range fields {
		switch {
		case f.ID.Equal(oidPPID):
			p.ppid, err = octets(f.Value, 16)
		case f.ID.Equal(oidPCEID):
			p.pceID, err = octets(f.Value, 2)
		case f.ID.Equal(oidFMSPC):
			p.fmspc, err = octets(f.Value, 6)
		case f.ID.Equal(oidInstance):
			p.instance, err = octets(f.Value, 16)
		case f.ID.Equal(oidTCB):
			tcb, err = sgxFields(f.Value.FullBytes)
		}
		if err != nil {
			return p, fmt.Errorf("field %v: %w", f.ID, err)
		}
	}
	if p.pceID == nil || p.fmspc == nil || tcb == nil {
		return p, errors.New("FMSPC, PCEID or TCB is missing")
	}
	return p, p.readTCB(tcb)
}

func sgxFields(der []byte) ([]sgxField, error) {
	var fields []sgxField
	rest, err := asn1.Unmarshal(der, &fields)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, errors.New("trailing bytes")
	case len(fields) > maxSGXField:
		return nil, fmt.Errorf("%d fields", len(fields))
	}
	for i, f := range fields {
		for _, g := range fields[:i] {
			if f.ID.Equal(g.ID) {
				return nil, fmt.Errorf("field %v comes twice", f.ID)
			}
		}
	}
	return fields, nil
}

func octets(v asn1.RawValue, size int) (attest.Hex, error) {
	var b []byte
	if _, err := asn1.Unmarshal(v.FullBytes, &b); err != nil {
		return nil, err
	}
	if len(b) != size {
		return nil, fmt.Errorf("%d bytes instead of %d", len(b), size)
	}
	return b, nil
}

// readTCB reads the sixteen component SVNs and the PCESVN, all of which must
// be there. The CPUSVN beside them repeats the components in another form.
func (p *platform) readTCB(fields []sgxField) error {
	seen := 0
	for _, f := range fields {
		if len(f.ID) != len(oidTCB)+1 || !f.ID[:len(oidTCB)].Equal(oidTCB) {
			return fmt.Errorf("field %v in the TCB", f.ID)
		}
		arc := f.ID[len(oidTCB)]
		if arc < 1 || arc > tcbPCESVN {
			continue
		}
		limit := math.MaxUint8
		if arc == tcbPCESVN {
			limit = math.MaxUint16
		}
		var n int
		if _, err := asn1.Unmarshal(f.Value.FullBytes, &n); err != nil || n < 0 || n > limit {
			return fmt.Errorf("SVN %d is no number from 0 to %d", arc, limit)
		}
		if arc == tcbPCESVN {
			p.pcesvn = uint16(n)
		} else {
			p.svn[arc-1] = uint8(n)
		}
		seen++
	}
	if seen != tcbPCESVN {
		return fmt.Errorf("%d SVNs instead of %d", seen, tcbPCESVN)
	}
	return nil
}
