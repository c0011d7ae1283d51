// Package reference finds references to secrets in what the host gives a
// program, its environment and the files of a folder, and says what stands in
// for each.
//
// It owns the form of a reference and where one may stand: only where the
// manifest names the place and the secret, since whoever fills the places, the
// host, is not trusted. It refuses every other one, and one of those places
// without a reference. It holds no secret and asks nobody for one.
package reference

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Prefix begins every reference, of this version and of others.
const Prefix = "sealed:ashlar:"

const (
	version = "v1"
	maxName = 63 // characters of a secret's name
)

// Form is how a secret is written in the place of its reference.
type Form string

// The forms.
const (
	Raw    Form = "raw"    // a secret's bytes; of a key, its PKCS #8 DER
	Base64 Form = "base64" // of raw
	Hex    Form = "hex"    // of raw
	PEM    Form = "pem"    // the certificates, if there are any, and the key
	Key    Form = "key"    // the key alone, PEM
	Cert   Form = "cert"   // the certificates alone, PEM
)

// Forms lists all, the default first.
var Forms = []Form{Raw, Base64, Hex, PEM, Key, Cert}

// Reference stands for a secret.
type Reference struct {
	Secret string
	Form   Form
}

// String returns the reference as it is written.
func (r Reference) String() string {
	if r.Form == Raw || r.Form == "" {
		return Prefix + version + ":" + r.Secret
	}
	return Prefix + version + ":" + r.Secret + ":" + string(r.Form)
}

// Parse reads a reference: sealed:ashlar:v1:NAME, or with a form after the name.
// The error is MRB-063.
func Parse(text string) (Reference, error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	if !ok {
		return Reference{}, problem.New("MRB-063", "%.60q does not begin with %s", text, Prefix)
	}
	parts := strings.Split(rest, ":")
	if parts[0] != version {
		return Reference{}, problem.New("MRB-063", "version %.20q is not known here, %s is: %.60q", parts[0], version, text)
	}
	if len(parts) < 2 || len(parts) > 3 || !isName(parts[1]) {
		return Reference{}, problem.New("MRB-063", "%.120q: want %s%s:NAME or %s%s:NAME:FORM", text, Prefix, version, Prefix, version)
	}
	r := Reference{Secret: parts[1], Form: Raw}
	if len(parts) == 3 {
		var err error
		if r.Form, err = ParseForm(parts[2]); err != nil {
			return Reference{}, err
		}
	}
	return r, nil
}

// ParseForm reads a form by its name. The error is MRB-063.
func ParseForm(text string) (Form, error) {
	if slices.Contains(Forms, Form(text)) {
		return Form(text), nil
	}
	var names []string
	for _, f := range Forms {
		names = append(names, string(f))
	}
	e := problem.New("MRB-063", "form %.20q is none of %s", text, strings.Join(names, ", "))
	if best := nearest.Word(text, names); best != "" {
		e.Detail += fmt.Sprintf(": did you mean %s?", best)
	}
	return "", e
}

// isName reports whether s can be the name of a secret.
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

// Fits reports why no secret of this kind can be written as r says. The error is
// MRB-066. Template knows more, by the value.
func (r Reference) Fits(s manifest.Secret) error {
	bytes := s.Type == manifest.Symmetric || s.Type == manifest.Opaque
	switch {
	case bytes && (r.Form == PEM || r.Form == Key || r.Form == Cert):
		return problem.New("MRB-066", "%s: a secret of type %s is bytes and neither key nor certificate: use raw, base64 or hex", r, s.Type)
	case r.Form == Cert && !s.Type.Certified():
		return problem.New("MRB-066", "%s: a secret of type %s has no certificate", r, s.Type)
	}
	return nil
}

// Template returns what renders as the secret that r stands for, given how that
// secret looks. What is to be in a variable is text. The
// error names the reference.
func (r Reference) Template(s manifest.SecretData, variable bool) (string, error) {
	field := ".Secrets." + r.Secret
	unfit := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("%s: %s", r, fmt.Sprintf(format, args...))
	}
	function := string(r.Form)
	switch value, key := len(s.Value.Reveal()) > 0, len(s.PrivateKey.Reveal()) > 0; {
	case value && (r.Form == PEM || r.Form == Key || r.Form == Cert):
		return unfit("%s is bytes and neither key nor certificate: use raw, base64 or hex", r.Secret)
	case value && variable && r.Form == Raw:
		function = "text"
	case value:
	case !key:
		return unfit("the coordinator sent no value and no key of %s", r.Secret)
	case r.Form == Raw && variable:
		return unfit("a variable cannot hold the bytes of a key: use pem, base64 or hex")
	case r.Form == Cert && len(s.Chain) == 0:
		return unfit("%s is a key without a certificate", r.Secret)
	case r.Form == Cert:
		function, field = "pem", field+".Chain"
	case r.Form == PEM && len(s.Chain) > 0:
		return "{{ pem " + field + ".Chain }}{{ pem " + field + ".PrivateKey }}", nil
	case r.Form == Key:
		function, field = "pem", field+".PrivateKey"
	default:
		field += ".PrivateKey"
	}
	return "{{ " + function + " " + field + " }}", nil
}
