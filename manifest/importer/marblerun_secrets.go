package importer

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func isFold(s, want string) bool { return strings.EqualFold(s, want) }

const redacted = "the value stays out of manifests and reports"

// secret turns a secret into one that the coordinator makes, where there is one.
func (im *marbleRunImport) secret(s member) {
	for _, value := range []string{"Private", "Public"} {
		if v := s.get(value); !v.empty() {
			v.note(Dropped, "", redacted)
		}
	}
	kind := s.get("Type")
	if user := s.get("UserDefined"); user.flag() || kind.text() == "plain" {
		im.given(s, kind, user)
		return
	}
	out := manifest.Secret{Type: manifest.SecretType(kind.text()), Scope: manifest.Instance}
	if out.Type == "symmetric-key" {
		out.Type = manifest.Symmetric
	}
	path := join("secrets", im.book.names.name(s.name))
	var ok bool
	if out.Bits, ok = im.bits(s, out.Type, path); !ok {
		return
	}
	kind.maps(path + ".type")
	shared := s.get("Shared")
	if shared.flag() {
		out.Scope = manifest.Shared
	}
	shared.maps(path + ".scope")
	s.get("UserDefined").maps(path)
	if out.Type != manifest.Symmetric {
		im.certificate(s, &out, path)
	}
	im.book.keep(s.name, s.value, out)
}

// given turns a secret that people upload into an opaque one.
func (im *marbleRunImport) given(s member, kind, user value) {
	if k := kind.text(); k != "plain" && k != "symmetric-key" {
		user.note(NoCounterpart, "", broughtCertificate)
		im.book.lack(s.name, s.value, broughtCertificate)
		return
	}
	path := join("secrets", im.book.names.name(s.name))
	kind.note(Maps, path+".type", "opaque: what is given")
	user.maps(path + ".type")
	s.get("Size").note(Dropped, "", "nobody checks the size of what is given")
	s.get("Shared").note(Maps, path, "one value, as there")
	im.book.keep(s.name, s.value, manifest.Secret{Type: manifest.Opaque})
}

const broughtCertificate = "a certificate and its key are made here, not brought"

// bits reads the size of a key. It is false if there is no such secret here.
func (im *marbleRunImport) bits(s member, kind manifest.SecretType, path string) (int, bool) {
	v := s.get("Size")
	n, _ := v.count()
	became := path + ".bits"
	switch kind {
	case manifest.Symmetric:
		if n < 128 || n > 4096 || n%8 != 0 {
			im.book.lack(s.name, s.value, "symmetric secrets have 128 to 4096 bits, a multiple of 8")
			return 0, false
		}
	case manifest.CertRSA:
		if n != 2048 && n != 3072 && n != 4096 {
			v.note(Stricter, became, "RSA keys have 2048, 3072 or 4096 bits: 3072")
			return 3072, true
		}
	case manifest.CertECDSA:
		if n == 521 {
			v.note(NoCounterpart, became, "P-521 is not offered: P-384")
			return 384, true
		}
		if n != 256 && n != 384 {
			v.note(Stricter, became, "P-256 or P-384: P-256")
			return 256, true
		}
	case manifest.CertEd25519:
		v.note(Maps, path, "one size")
		return 0, true
	default:
		im.book.lack(s.name, s.value, "secrets have no such type")
		return 0, false
	}
	v.maps(became)
	return int(n), true
}

const year = 365 * 24 * time.Hour

// certificate reads how long a certificate lives, and its template.
func (im *marbleRunImport) certificate(s member, out *manifest.Secret, path string) {
	if v := s.get("ValidFor"); v.present() {
		n, ok := v.count()
		switch {
		case !ok:
		case n == 0 || n == 365:
			v.note(Maps, path+".validity", "8760h")
		case n > 365:
			v.note(Stricter, path+".validity", "at most 8760h")
		default:
			v.maps(path + ".validity")
			out.Validity = attest.Duration(time.Duration(n) * 24 * time.Hour)
		}
	}
	cert := s.get("Cert")
	switch {
	case cert.empty():
		return
	case len(cert.node.Members) == 0:
		cert.note(NoCounterpart, "", "a certificate is made here, not brought")
		return
	}
	cert.note(NoCounterpart, "", "of a certificate a manifest sets common name, organization, DNS names, addresses, usages and validity")
	im.job.names(out, path, cert.get("Subject").get("CommonName"), cert.get("DNSNames"))
	im.subject(out, path, cert)
}

// subject reads what else of a template has a counterpart: organization,
// addresses, and extended key usages by Go's numbers.
func (im *marbleRunImport) subject(out *manifest.Secret, path string, cert value) {
	for _, o := range cert.get("Subject").get("Organization").items() {
		if name := o.text(); name == "" || len(name) > 64 || len(out.Organization) == 4 || slices.Contains(out.Organization, name) {
			o.note(Dropped, "", "at most 4 organizations of at most 64 characters (RFC 5280)")
			continue
		}
		out.Organization = append(out.Organization, o.text())
		o.maps(path + ".organization")
	}
	for _, ip := range cert.get("IPAddresses").items() {
		if a, err := netip.ParseAddr(ip.text()); err != nil || a.Zone() != "" || len(out.IPAddresses) == 32 || slices.Contains(out.IPAddresses, ip.text()) {
			ip.note(Dropped, "", "no IP address, or there twice, or more than 32")
			continue
		}
		out.IPAddresses = append(out.IPAddresses, ip.text())
		ip.maps(path + ".ipAddresses")
	}
	for _, u := range cert.get("ExtKeyUsage").items() {
		usage := map[string]string{"1": "serverAuth", "2": "clientAuth"}[u.scalar()]
		if usage == "" || slices.Contains(out.ExtendedKeyUsages, usage) {
			u.note(NoCounterpart, "", "keys are for servers and clients")
			continue
		}
		out.ExtendedKeyUsages = append(out.ExtendedKeyUsages, usage)
		u.maps(path + ".extendedKeyUsages")
	}
}

// names sets the names of a certificate.
func (j *job) names(out *manifest.Secret, path string, common, dns value) {
	if !common.empty() {
		if cn := common.text(); len(cn) <= 64 && !strings.ContainsFunc(cn, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			out.CommonName = cn
			common.maps(path + ".commonName")
		} else {
			common.note(Dropped, "", "a common name has at most 64 characters (RFC 5280)")
		}
	}
	seen := map[string]bool{}
	for _, v := range dns.oneOrMore() {
		name := strings.ToLower(v.text())
		switch {
		case !dnsName.MatchString(name) || len(name) > 253:
			v.note(Dropped, "", "not a DNS name: addresses and wildcards are none")
		case seen[name]:
			v.note(Dropped, "", "there twice")
		case len(out.DNSNames) == 32:
			v.note(Dropped, "", "at most 32 names")
		default:
			seen[name] = true
			out.DNSNames = append(out.DNSNames, name)
			v.maps(path + ".dnsNames")
		}
	}
}
