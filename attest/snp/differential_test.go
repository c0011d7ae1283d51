//go:build !js

package snp_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"slices"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/snp"
)

// bundle parses a PEM bundle of the library: CA, then root.
func bundle(t *testing.T, data []byte) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	if len(certs) != 2 {
		t.Fatalf("got %d certificates, want 2", len(certs))
	}
	return certs
}

// TestRoots compares the embedded certificates with those that go-sev-guest
// embeds.
func TestRoots(t *testing.T) {
	for _, product := range []struct {
		file       string
		vcek, vlek []byte
	}{
		{"milan", trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes},
		{"genoa", trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
		{"turin", trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes},
	} {
		a, b := bundle(t, product.vcek), bundle(t, product.vlek)
		want := []*x509.Certificate{a[1], a[0], b[0]}
		if got := snp.Embedded(product.file); !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
			t.Errorf("%s: got other certificates than go-sev-guest", product.file)
		}
	}
}

// trusted are the library's roots with the ASVK, which its defaults lack.
func trusted(t *testing.T) map[string][]*trust.AMDRootCerts {
	roots := map[string][]*trust.AMDRootCerts{}
	for product, b := range map[string][2][]byte{snp.Milan: {trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes}, snp.Genoa: {trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes}} {
		r := trust.AMDRootCertsProduct(product)
		a, v := bundle(t, b[0]), bundle(t, b[1])
		r.ProductCerts = &trust.ProductCerts{Ask: a[0], Ark: a[1], Asvk: v[0]}
		roots[product] = []*trust.AMDRootCerts{r}
	}
	return roots
}

// library is what go-sev-guest says of evidence: signatures, chain, windows, and
// that certificate and report agree.
func library(t *testing.T, raw []byte, en attest.Endorsements, s attesttest.Set) error {
	report, err := abi.ReportToProto(raw)
	if err != nil {
		return err
	}
	a := &sevsnp.Attestation{Report: report, CertificateChain: &sevsnp.CertificateChain{}}
	if it, ok := en.Get(attest.KindVCEK); ok {
		a.CertificateChain.VcekCert = it.Body
	}
	if it, ok := en.Get(attest.KindVLEK); ok {
		a.CertificateChain.VlekCert = it.Body
	}
	if err := verify.SnpAttestation(a, &verify.Options{DisableCertFetching: true, Now: s.At(), TrustedRoots: trusted(t)}); err != nil {
		return err
	}
	any := abi.SnpPolicy{SMT: true, MigrateMA: true, Debug: true, CXLAllowed: true}
	return validate.SnpAttestation(a, &validate.Options{GuestPolicy: any, PermitProvisionalFirmware: true})
}

// TestAgainstTheLibrary compares verdicts with go-sev-guest's on every set and on
// mutations of it, but for Turin, whose certificates it cannot read.
func TestAgainstTheLibrary(t *testing.T) {
	logger.Init("go-sev-guest", false, false, io.Discard)
	for _, s := range attesttest.All(t) {
		if s.Evidence.TEE != attest.SNP || s.Name == "snp/msft-turin-v5-vcek" || s.Name == "snp/neg-tampered-turin" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			v := snp.NewVerifier()
			compare := func(what string, raw []byte, en attest.Endorsements) {
				t.Helper()
				_, steps := v.Verify(attest.Evidence{TEE: attest.SNP, Raw: raw}, en, s.At())
				theirs := library(t, raw, en, s)
				if ours := failed(steps); (ours == nil) != (theirs == nil) {
					t.Errorf("%s: got %v, go-sev-guest says %v", what, ours, theirs)
				}
			}
			compare("as it is", s.Evidence.Raw, s.Endorsements)
			for i := 0; i < len(s.Evidence.Raw); i += 41 {
				raw := bytes.Clone(s.Evidence.Raw)
				raw[i] ^= 1 << (i % 8)
				compare("report changed", raw, s.Endorsements)
			}
			for _, kind := range []string{attest.KindVCEK, attest.KindVLEK} {
				it, ok := s.Endorsements.Get(kind)
				for i := 0; ok && i < len(it.Body); i += 97 {
					changed := it
					changed.Body = bytes.Clone(it.Body)
					changed.Body[i] ^= 1 << (i % 8)
					compare("certificate changed", s.Evidence.Raw, attest.NewEndorsements(changed))
				}
			}
		})
	}
}
