package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// lints are the rules that every certificate is held against before it is
// signed. Each has a name that its error begins with.
var lints = []struct {
	name  string
	check func(p profile, c, issuer *x509.Certificate) error
}{
	{"version", lintVersion},
	{"algorithm", lintAlgorithm},
	{"serial", lintSerial},
	{"issuer", lintIssuer},
	{"key", lintKey},
	{"subject", lintSubject},
	{"uri", lintURI},
	{"names", lintNames},
	{"usage", lintUsage},
	{"constraints", lintConstraints},
	{"window", lintWindow},
	{"extensions", lintExtensions},
}

// lint holds c against the profile and returns everything that is wrong.
func lint(p profile, c, issuer *x509.Certificate) error {
	var errs []error
	for _, l := range lints {
		if err := l.check(p, c, issuer); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}

func lintVersion(_ profile, c, _ *x509.Certificate) error {
	if c.Version != 3 {
		return fmt.Errorf("got %d, want 3", c.Version)
	}
	return nil
}

func lintAlgorithm(_ profile, c, _ *x509.Certificate) error {
	if c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("got %s, want ECDSA-SHA256", c.SignatureAlgorithm)
	}
	return nil
}

func lintSerial(_ profile, c, _ *x509.Certificate) error {
	if n := c.SerialNumber.BitLen(); c.SerialNumber.Sign() <= 0 || n != serialSize*8-1 {
		return fmt.Errorf("got %d bits, want 127 random ones", n)
	}
	return nil
}

func lintIssuer(_ profile, c, issuer *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, issuer.RawSubject) || !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId) || len(c.AuthorityKeyId) == 0 {
		return errors.New("it does not name the mesh CA and its key")
	}
	return nil
}

func lintKey(p profile, c, _ *x509.Certificate) error {
	if !bytes.Equal(c.RawSubjectPublicKeyInfo, p.spki) {
		return errors.New("not the requested key, or not in canonical form")
	}
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); p.onlyP256 && (!ok || k.Curve != elliptic.P256()) {
		return errNotP256
	}
	return nil
}

func lintSubject(p profile, c, _ *x509.Certificate) error {
	names := len(p.organization) + min(len(p.subject), 1) + min(len(p.instance), 1)
	if len(c.Subject.Names) != names || c.Subject.CommonName != p.subject || c.Subject.SerialNumber != p.instance ||
		!alike(c.Subject.Organization, p.organization) {
		return fmt.Errorf("got %q, want the common name %q, the organization %q and the serial number %q alone", c.Subject, p.subject, p.organization, p.instance)
	}
	return nil
}

// alike compares lists whatever their order: DER sorts the names of one kind.
func alike(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func lintURI(p profile, c, _ *x509.Certificate) error {
	want := 0
	if p.uri != "" {
		want = 1
	}
	if len(c.URIs) != want {
		return fmt.Errorf("got %d URI names, want %d", len(c.URIs), want)
	}
	if want == 1 && c.URIs[0].String() != p.uri {
		return fmt.Errorf("got %q, want %q", c.URIs[0], p.uri)
	}
	return nil
}

func lintNames(p profile, c, _ *x509.Certificate) error {
	if !slices.Equal(c.DNSNames, p.dns) {
		return fmt.Errorf("got DNS names %q, want %q", c.DNSNames, p.dns)
	}
	if len(c.EmailAddresses) != 0 {
		return fmt.Errorf("got mail addresses %q, want none", c.EmailAddresses)
	}
	if len(c.IPAddresses) != len(p.ips) {
		return fmt.Errorf("got IPs %v, want %v", c.IPAddresses, p.ips)
	}
	for i, ip := range c.IPAddresses {
		if !ip.Equal(p.ips[i]) {
			return fmt.Errorf("got IPs %v, want %v", c.IPAddresses, p.ips)
		}
	}
	return nil
}

func lintUsage(p profile, c, _ *x509.Certificate) error {
	if c.KeyUsage != x509.KeyUsageDigitalSignature {
		return fmt.Errorf("got key usage %#x, want digitalSignature alone", int(c.KeyUsage))
	}
	if !slices.Equal(c.ExtKeyUsage, p.eku) || len(c.UnknownExtKeyUsage) != 0 {
		return fmt.Errorf("got extended key usage %v, want %v", c.ExtKeyUsage, p.eku)
	}
	return nil
}

func lintConstraints(_ profile, c, _ *x509.Certificate) error {
	if !c.BasicConstraintsValid || c.IsCA {
		return errors.New("it must say that it is no CA")
	}
	return nil
}

func lintWindow(p profile, c, issuer *x509.Certificate) error {
	switch {
	case c.NotBefore.After(p.at) || c.NotBefore.Before(p.at.Add(-Backdate-time.Second)):
		return fmt.Errorf("it begins at %s, want %s before %s", c.NotBefore, Backdate, p.at)
	case c.NotBefore.Before(issuer.NotBefore) || c.NotAfter.After(issuer.NotAfter):
		return fmt.Errorf("%s to %s is not within the mesh CA's %s to %s", c.NotBefore, c.NotAfter, issuer.NotBefore, issuer.NotAfter)
	case !c.NotAfter.Equal(p.notAfter) || !c.NotAfter.After(p.at):
		return fmt.Errorf("it ends at %s, want %s", c.NotAfter, p.notAfter)
	case c.NotAfter.Sub(p.at) > p.maxLife:
		return fmt.Errorf("it lives %s, at most %s", c.NotAfter.Sub(p.at), p.maxLife)
	}
	return nil
}

// allowedExtensions are those of RFC 5280 that a template leads to: key usage,
// alternative names, basic constraints, authority key id, extended key usage,
// and subject key id.
var allowedExtensions = []asn1.ObjectIdentifier{
	{2, 5, 29, 15}, {2, 5, 29, 17}, {2, 5, 29, 19}, {2, 5, 29, 35}, {2, 5, 29, 37}, {2, 5, 29, 14},
}

func lintExtensions(p profile, c, _ *x509.Certificate) error {
	facts := 0
	for _, e := range c.Extensions {
		if e.Id.Equal(apiv1.LeafOID) {
			facts++
			if e.Critical || p.extension == nil || !bytes.Equal(e.Value, p.extension) {
				return errors.New("the facts of the leaf are critical or not those wanted")
			}
			continue
		}
		if !slices.ContainsFunc(allowedExtensions, e.Id.Equal) {
			return fmt.Errorf("unwanted extension %s", e.Id)
		}
	}
	if want := min(len(p.extension), 1); facts != want {
		return fmt.Errorf("%d extensions with facts, want %d", facts, want)
	}
	return nil
}
