package importer

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// secrets reads all secrets: certificates first, since private keys belong to
// them.
func (im *sconeImport) secrets(list value) {
	uses := map[string]int{}
	for _, s := range list.items() {
		name := s.get("name").text()
		if _, dup := im.byName[name]; dup || name == "" {
			im.fail(problem.New("MAN-070", "%s has no name of its own", where(s.path)))
			return
		}
		im.byName[name] = s
	}
	for _, s := range list.items() {
		im.owner(s, uses)
	}
	for key, n := range uses {
		if n > 1 {
			delete(im.keys, key)
			im.book.why[key] = "several certificates share it there; here each has a key of its own"
		}
	}
	for _, s := range list.items() {
		im.secret(s)
	}
}

// owner records whose private key a secret is: of a certificate, or of the CA.
func (im *sconeImport) owner(s value, uses map[string]int) {
	key := s.get("private_key")
	if key.empty() || s.get("value").present() || s.get("import").present() {
		return
	}
	if _, ok := im.byName[key.text()]; !ok {
		im.fail(problem.New("MAN-074", "%s names no secret", key.path))
		return
	}
	switch s.get("kind").text() {
	case "x509":
		uses[key.text()]++
		im.keys[key.text()] = s.get("name").text()
	case "x509-ca":
		im.book.why[key.text()] = "the key of the CA never leaves the coordinator"
	}
}

func (im *sconeImport) secret(s value) {
	name, kind := s.get("name"), s.get("kind")
	path := join("secrets", im.book.names.name(name.text()))
	for _, f := range []struct{ name, why string }{
		{"export", "a secret stays in its deployment"}, {"export_public", "only readers have it; outsiders verify the coordinator"},
		{"migrate", "secrets are made anew"},
	} {
		s.get(f.name).note(NoCounterpart, "", f.why)
	}
	if v := s.get("value"); v.present() && kind.text() != "x509-ca" {
		v.note(Dropped, "", redacted)
		im.brought(s, path)
		return
	}
	if v := s.get("import"); v.present() {
		v.note(NoCounterpart, "", "a secret stays in its deployment")
		im.lack(s, "it comes from another session: a manifest names only secrets that the coordinator makes")
		return
	}
	if im.keys[name.text()] == "" {
		name.note(Maps, path, renamed(name.text(), im.book.names.name(name.text())))
	}
	switch kind.text() {
	case "ascii", "binary":
		im.random(s, path)
	case "private-key":
		im.privateKey(s, path)
	case "x509":
		im.x509(s, path)
	case "x509-ca":
		im.ca(s)
	default:
		kind.note(NoCounterpart, "", "secrets have no such kind")
		im.lack(s, "secrets have no such kind")
	}
}

// brought turns a value that is written in the session into one that is given.
func (im *sconeImport) brought(s value, path string) {
	kind := s.get("kind")
	if k := kind.text(); k != "ascii" && k != "binary" {
		kind.note(NoCounterpart, "", broughtCertificate)
		im.lack(s, broughtCertificate)
		return
	}
	kind.note(Maps, path+".type", "opaque: what is given")
	s.get("name").note(Maps, path, renamed(s.get("name").text(), im.book.names.name(s.get("name").text())))
	im.book.keep(s.get("name").text(), s, manifest.Secret{Type: manifest.Opaque})
}

func (im *sconeImport) lack(s value, why string) {
	name := s.get("name").text()
	delete(im.keys, name)
	im.book.lack(name, s, why)
}

// random reads a secret that is drawn: characters there become hexadecimal
// digits here.
func (im *sconeImport) random(s value, path string) {
	kind, size := s.get("kind"), s.get("size")
	bits := uint64(256)
	if n, ok := size.count(); ok {
		if bits = 8 * min(n, 1<<20); kind.text() == "ascii" {
			bits = 4 * (min(n, 1<<20) + n%2)
		}
		if bits < 128 {
			size.note(Stricter, path+".bits", "at least 128 bits")
			bits = 128
		} else {
			size.maps(path + ".bits")
		}
	}
	if bits > 4096 {
		im.lack(s, "symmetric secrets have 128 to 4096 bits, a multiple of 8")
		return
	}
	if kind.text() == "ascii" {
		kind.note(Maps, path+".type", "random bytes, written as hexadecimal digits")
	} else {
		kind.maps(path + ".type")
	}
	s.get("charset").note(NoCounterpart, "", "hexadecimal digits, or base64")
	im.book.keep(s.get("name").text(), s, manifest.Secret{Type: manifest.Symmetric, Bits: int(bits)})
}

// keyType reads the type of a private key.
func (im *sconeImport) keyType(key value, path string) (manifest.SecretType, int) {
	v := key.get("key_type")
	word := strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(v.text()))
	v.maps(path + ".type")
	switch word {
	case "", "p256":
		return manifest.CertECDSA, 256
	case "p384":
		return manifest.CertECDSA, 384
	case "ed25519":
		return manifest.CertEd25519, 0
	case "rsa2048", "rsa3072", "rsa4096":
		bits, _ := strconv.Atoi(word[3:])
		return manifest.CertRSA, bits
	case "rsa":
		return manifest.CertRSA, 3072
	}
	v.note(NoCounterpart, path+".type", "no such key is offered: ECDSA P-384")
	return manifest.CertECDSA, 384
}

func (im *sconeImport) privateKey(s value, path string) {
	name, kind := s.get("name").text(), s.get("kind")
	if cert, ok := im.keys[name]; ok {
		kind.maps(join("secrets", im.book.names.name(cert)) + ".type")
		s.get("name").note(Maps, join("secrets", im.book.names.name(cert)), "a key and its certificate are one secret")
		return
	}
	if why := im.book.why[name]; why != "" {
		s.leave(Stricter, why)
		return
	}
	kind.maps(path + ".type")
	out := manifest.Secret{}
	out.Type, out.Bits = im.keyType(s, path)
	out.Type = manifest.SecretType(strings.TrimPrefix(string(out.Type), "cert-"))
	im.book.keep(name, s, out)
}

func (im *sconeImport) x509(s value, path string) {
	key := s.get("private_key")
	out := manifest.Secret{Type: manifest.CertECDSA, Bits: 256}
	if k, ok := im.byName[key.text()]; ok {
		out.Type, out.Bits = im.keyType(k, path)
	}
	key.note(Maps, path, "a key and its certificate are one secret")
	s.get("kind").maps(path + ".type")
	s.get("issuer").note(Stricter, path, "signed by the mesh CA")
	s.get("endpoint").note(NoCounterpart, "", "for clients and servers")
	im.names(&out, path, s.get("common_name"), s.get("dns"))
	out.Validity = im.validity(s.get("valid_for"), path+".validity")
	im.book.keep(s.get("name").text(), s, out)
}

// ca reads a certificate authority: here it is the coordinator, and its key
// never leaves.
func (im *sconeImport) ca(s value) {
	if v := s.get("value"); v.present() {
		v.note(Dropped, "", redacted)
		im.lack(s, "a CA from outside is not an anchor here: put its certificate into the image")
		return
	}
	im.cas[s.get("name").text()] = true
	s.leave(Stricter, "the mesh CA is the only one, and its key never leaves the coordinator")
}

var spanForm = regexp.MustCompile(`^([0-9]{1,9})(s|m|h|d|w|y)$`)

// validity reads how long a certificate lives, such as 3560d.
func (im *sconeImport) validity(v value, became string) attest.Duration {
	if v.empty() {
		return 0
	}
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": year}
	parts := spanForm.FindStringSubmatch(v.scalar())
	if parts == nil {
		v.note(Dropped, became, "not a number of s, m, h, d, w or y: 8760h")
		return 0
	}
	n, _ := strconv.ParseInt(parts[1], 10, 64)
	unit := units[parts[2]]
	switch {
	case n > int64(year/unit):
		v.note(Stricter, became, "at most 8760h")
		return 0
	case time.Duration(n)*unit < time.Hour:
		v.note(NoCounterpart, became, "at least 1h")
		return attest.Duration(time.Hour)
	}
	v.maps(became)
	return attest.Duration(time.Duration(n) * unit)
}

var sconeRef = regexp.MustCompile(`\$\$SCONE::([A-Za-z0-9_-]+)((?:[.:][A-Za-z0-9]+)*)(\$\$)?`)

// text converts text with references of the form $$SCONE::NAME:FORMAT$$.
func (im *sconeImport) text(s string, inFile bool) converted {
	out := converted{}
	at := 0
	for _, m := range sconeRef.FindAllStringSubmatchIndex(s, -1) {
		out = out.append(literal(s[at:m[0]])).append(im.named(s[m[2]:m[3]], s[m[4]:m[5]], inFile))
		at = m[1]
	}
	if strings.Contains(s[at:], "$$SCONE::") {
		return converted{why: "a reference to a secret can't be read"}
	}
	return out.append(literal(s[at:]))
}

// form writes a secret in the form that a reference asks for, such as crt, pem.
func (im *sconeImport) form(k *kept, words []string, inFile bool) converted {
	name := ".Secrets." + k.name
	switch k.secret.Type {
	case manifest.Symmetric:
		return symmetricIn(name, words, k.from.get("kind").text(), inFile)
	case manifest.Opaque:
		return givenIn(name, words, k.from.get("kind").text(), inFile)
	}
	part := "Certificate"
	if k.from.get("kind").text() == "private-key" {
		part = "PrivateKey"
	}
	function := "pem"
	for _, w := range words {
		switch w {
		case "crt", "cert":
			part = "Certificate"
		case "key", "privatekey":
			part = "PrivateKey"
		case "chain":
			part = "Chain"
		case "pem", "pkcs8":
		case "der", "bin":
			function = "raw"
		case "hex", "base64":
			function = w
		default:
			return converted{why: "secrets have no such form"}
		}
	}
	if !k.secret.Type.Certified() && part != "PrivateKey" {
		return converted{why: "the key has no certificate"}
	}
	return render(function, name+"."+part, false, inFile)
}

// givenIn writes a value that was given: text as it is.
func givenIn(name string, words []string, kind string, inFile bool) converted {
	if kind == "ascii" && len(words) == 0 {
		return render("string", name, true, inFile)
	}
	return symmetricIn(name, words, kind, inFile)
}

func symmetricIn(name string, words []string, kind string, inFile bool) converted {
	function := "hex"
	if kind == "binary" && inFile {
		function = "raw"
	}
	for _, w := range words {
		switch w {
		case "hex", "base64":
			function = w
		case "bin", "raw":
			function = "raw"
		default:
			return converted{why: "secrets have no such form"}
		}
	}
	return render(function, name, true, inFile)
}

// named converts one reference; format is such as ".key" or ":crt:pem".
func (im *sconeImport) named(name, format string, inFile bool) converted {
	words := strings.FieldsFunc(strings.ToLower(format), func(c rune) bool { return c == '.' || c == ':' })
	if im.cas[name] {
		for _, w := range words {
			if w == "key" || w == "privatekey" {
				return converted{why: "the key of the CA never leaves the coordinator"}
			}
		}
		return converted{text: "{{ pem .Bundle }}"}
	}
	if cert, ok := im.keys[name]; ok {
		name, words = cert, append(words, "key")
	}
	k, ok := im.book.kept[name]
	if !ok {
		if why := im.book.why[name]; why != "" {
			return converted{why: why}
		}
		return converted{why: "the session has no such secret"}
	}
	c := im.form(k, words, inFile)
	c.uses = []string{name}
	return c
}
