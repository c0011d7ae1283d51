// Package gcp reads launch endorsements of Google Cloud's firmware: what a
// confidential VM of Google's measures, signed by Google, for each number of
// processors (SEV-SNP) or size of memory (TDX).
//
// It owns that document and its signature. It refuses to fetch it, and to know
// Google's root: whoever uses it brings that certificate, GCE-cc-tcb-root,
// published at https://pki.goog/cloud_integrity/GCE-cc-tcb-root_1.crt. An
// endorsement is a source of reference values, never part of a verdict: what it
// names becomes policy where a manifest's author takes it over.
//
// Source: github.com/google/gce-tcb-verifier, proto/endorsement.proto,
// VMLaunchEndorsement.
package gcp

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/pki"
)

// Sizes in bytes, and the largest number of measurements of one TEE.
const (
	MaxEndorsement  = 256 << 10
	digestSize      = 48
	maxMeasurements = 4096
	minKeyBits      = 2048
)

// Endorsement is what Google says of one firmware image.
type Endorsement struct {
	Made     time.Time  // when it was signed
	Firmware attest.Hex // SHA-384 of the image, 48 bytes
	SNP      *SNP
	TDX      *TDX
	// Signer is the common name of the key's certificate, and Valid what the
	// windows of its chain have in common; both zero before Verify.
	Signer string
	Valid  pki.Window

	golden, signature, certificate, bundle []byte
}

// SNP are values of SEV-SNP reports.
type SNP struct {
	// Measurements by number of processors, ordered by it.
	Measurements []Measurement
	// SVSM is the measurement with a service module beneath the guest; nil
	// where none is endorsed.
	SVSM              attest.Hex
	FamilyID, ImageID attest.Hex // 16 bytes each
	Policy            uint64     // guest policy at launch
	SVN               uint64     // Google's security version
}

// TDX are values of TDX quotes.
type TDX struct {
	Measurements []Measurement // by size of memory, as they stand in the document
	SVN          uint64
}

// Measurement is a launch measurement, 48 bytes.
type Measurement struct {
	VCPUs       uint64     // SEV-SNP only
	MemoryGiB   uint64     // TDX only; 0 where it does not matter
	EarlyAccept bool       // TDX only: the firmware accepts all memory
	Value       attest.Hex // MEASUREMENT, or MRTD
}

// Parse reads an endorsement. Nothing is verified.
func Parse(raw []byte) (Endorsement, error) {
	if len(raw) == 0 || len(raw) > MaxEndorsement {
		return Endorsement{}, fmt.Errorf("%d bytes, an endorsement has 1 to %d", len(raw), MaxEndorsement)
	}
	var e Endorsement
	if err := (message{byteses: map[uint64]*[]byte{1: &e.golden, 2: &e.signature}}).read(raw); err != nil {
		return Endorsement{}, err
	}
	var stamp, digest, snp, tdx []byte
	err := message{byteses: map[uint64]*[]byte{1: &stamp, 4: &e.certificate, 5: &digest, 6: &e.bundle, 7: &snp, 8: &tdx}}.read(e.golden)
	if err != nil {
		return Endorsement{}, fmt.Errorf("golden measurement: %w", err)
	}
	if len(e.signature) == 0 || len(e.certificate) == 0 || len(digest) != digestSize {
		return Endorsement{}, errors.New("lacks a signature, a certificate or the firmware's digest")
	}
	e.Firmware = bytes.Clone(digest)
	var seconds uint64
	if err := (message{numbers: map[uint64]*uint64{1: &seconds}}).read(stamp); err != nil {
		return Endorsement{}, fmt.Errorf("timestamp: %w", err)
	}
	e.Made = time.Unix(int64(seconds), 0).UTC()
	if snp != nil {
		if e.SNP, err = parseSNP(snp); err != nil {
			return Endorsement{}, fmt.Errorf("SEV-SNP: %w", err)
		}
	}
	if tdx != nil {
		if e.TDX, err = parseTDX(tdx); err != nil {
			return Endorsement{}, fmt.Errorf("TDX: %w", err)
		}
	}
	return e, nil
}

func parseSNP(b []byte) (*SNP, error) {
	var s SNP
	var family, image, svsm []byte
	err := message{
		numbers: map[uint64]*uint64{1: &s.SVN, 5: &s.Policy},
		byteses: map[uint64]*[]byte{3: &family, 4: &image, 7: &svsm},
		repeats: map[uint64]func([]byte) error{2: func(b []byte) error {
			var m Measurement
			var value []byte
			if err := (message{numbers: map[uint64]*uint64{1: &m.VCPUs}, byteses: map[uint64]*[]byte{2: &value}}).read(b); err != nil {
				return err
			}
			if slices.ContainsFunc(s.Measurements, func(o Measurement) bool { return o.VCPUs == m.VCPUs }) {
				return fmt.Errorf("%d processors come twice", m.VCPUs)
			}
			return add(&s.Measurements, m, value)
		}},
	}.read(b)
	if err == nil && len(svsm) != 0 && len(svsm) != digestSize {
		err = fmt.Errorf("a measurement of %d bytes", len(svsm))
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(s.Measurements, func(a, b Measurement) int { return cmp.Compare(a.VCPUs, b.VCPUs) })
	s.FamilyID, s.ImageID = bytes.Clone(family), bytes.Clone(image)
	if len(svsm) > 0 {
		s.SVSM = bytes.Clone(svsm)
	}
	return &s, nil
}

func parseTDX(b []byte) (*TDX, error) {
	var t TDX
	err := message{
		numbers: map[uint64]*uint64{1: &t.SVN},
		repeats: map[uint64]func([]byte) error{2: func(b []byte) error {
			var m Measurement
			var early uint64
			var value []byte
			err := message{numbers: map[uint64]*uint64{1: &m.MemoryGiB, 2: &early}, byteses: map[uint64]*[]byte{3: &value}}.read(b)
			if err != nil {
				return err
			}
			m.EarlyAccept = early != 0
			return add(&t.Measurements, m, value)
		}},
	}.read(b)
	if err != nil {
		return nil, err
	}
	return &t, nil
}

func add(list *[]Measurement, m Measurement, value []byte) error {
	if len(value) != digestSize {
		return fmt.Errorf("a measurement of %d bytes", len(value))
	}
	if len(*list) == maxMeasurements {
		return fmt.Errorf("more than %d measurements", maxMeasurements)
	}
	m.Value = bytes.Clone(value)
	*list = append(*list, m)
	return nil
}

// Verify reads an endorsement and checks that a key certified by the root signed
// it (RSA-PSS, SHA-256), and that the chain is valid at a time.
func Verify(raw []byte, root *x509.Certificate, at time.Time) (Endorsement, error) {
	e, err := Parse(raw)
	if err != nil {
		return Endorsement{}, err
	}
	leaf, err := x509.ParseCertificate(e.certificate)
	if err != nil {
		return Endorsement{}, fmt.Errorf("certificate: %w", err)
	}
	path, err := e.path(leaf, root)
	if err != nil {
		return Endorsement{}, err
	}
	if e.Valid = pki.Validity(path[0], path[1:]...); !e.Valid.Contains(at) {
		return Endorsement{}, fmt.Errorf("its chain is valid %s, not at %s", e.Valid, pki.Stamp(at))
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() < minKeyBits {
		return Endorsement{}, errors.New("its key is not RSA with 2048 bits and up")
	}
	if err := leaf.CheckSignature(x509.SHA256WithRSAPSS, e.golden, e.signature); err != nil {
		return Endorsement{}, fmt.Errorf("its signature does not hold: %w", err)
	}
	e.Signer = leaf.Subject.CommonName
	return e, nil
}

// path returns the chain from the signer to the root. The bundle in the
// endorsement goes from the root to the signer's issuer; a root in it counts
// only if it has the key of the given one.
func (e Endorsement) path(leaf, root *x509.Certificate) ([]*x509.Certificate, error) {
	var bundle []*x509.Certificate
	if len(e.bundle) > 0 {
		var err error
		if bundle, err = pki.ParseCertificates(e.bundle); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
	}
	path := []*x509.Certificate{leaf}
	for _, ca := range slices.Backward(bundle) {
		if !bytes.Equal(ca.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) {
			path = append(path, ca)
		}
	}
	path = append(path, root)
	for i, child := range path[:len(path)-1] {
		if err := pki.Issued(child, path[i+1], i > 0); err != nil {
			return nil, fmt.Errorf("its chain does not lead to %q: %w", root.Subject.CommonName, err)
		}
	}
	return path, nil
}
