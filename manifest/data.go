package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxRendered is the size limit of one rendered template, in bytes.
const MaxRendered = 4 << 20

// redacted is what secret values print as.
const redacted = "[redacted]"

// Private is a secret byte string: a symmetric key, or a private key as PKCS #8
// DER. It prints and marshals as "[redacted]"; Reveal reads it.
type Private struct{ b []byte }

// NewPrivate wraps a secret value. It keeps b, which must not change.
func NewPrivate(b []byte) Private { return Private{b} }

// Reveal returns the secret bytes, which must not be changed.
func (p Private) Reveal() []byte { return p.b }

// String returns "[redacted]".
func (p Private) String() string { return redacted }

// GoString returns "[redacted]".
func (p Private) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (p Private) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (p Private) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler; it returns "[redacted]".
func (p Private) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// TemplateData is what templates are rendered with.
type TemplateData struct {
	Marble  MarbleData
	Root    [][]byte // certificates, DER: the root
	Bundle  [][]byte // certificates, DER: all trust anchors
	Secrets map[string]SecretData
}

// MarbleData is the identity of the marble that renders.
type MarbleData struct {
	Name        string
	SPIFFEID    string
	Instance    string
	Certificate [][]byte // the leaf, DER
	Chain       [][]byte // leaf and intermediates, DER
	PrivateKey  Private  // PKCS #8 DER
}

// SecretData is one secret's value.
type SecretData struct {
	Value       Private     // symmetric, opaque
	PrivateKey  Private     // PKCS #8 DER
	PublicKey   []byte      // PKIX DER: of key pairs
	Certificate [][]byte    // the certificate, DER
	Chain       [][]byte    // with intermediates, DER
	Version     uint64      // from 1
	Previous    *SecretData // the version before, while the two overlap; nil renders as the empty string
}

// Render renders a template of a marble's parameters: text with {{ actions }},
// each of which is one value and functions over it. The output may hold any
// bytes where the template says raw. An error names the template's fault or the
// value that is missing, and no value.
func Render(text string, data TemplateData) (string, error) {
	t, terr := compile(text, nil)
	if terr != nil {
		return "", fmt.Errorf("rendering a template: %w", terr)
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.field == nil {
			b.WriteString(p.literal)
		} else {
			s, err := p.render(data)
			if err != nil {
				return "", fmt.Errorf("rendering .%s: %w", strings.Join(p.field, "."), err)
			}
			b.WriteString(s)
		}
		if b.Len() > MaxRendered {
			return "", fmt.Errorf("rendering a template: the result is larger than %d bytes", MaxRendered)
		}
	}
	return b.String(), nil
}

// TemplateSecrets returns the names of the secrets that a template uses, sorted
// and each once. It fails for a text that Render would refuse whatever the data.
func TemplateSecrets(text string) ([]string, error) {
	t, err := compile(text, nil)
	if err != nil {
		return nil, fmt.Errorf("reading a template: %w", err)
	}
	return t.secrets, nil
}

// value is what a field holds while it is rendered.
type value struct {
	text  string
	label string   // PEM label; "" if it is no object
	blobs [][]byte // bytes, or the object's parts
}

// render evaluates one action.
func (p part) render(data TemplateData) (string, error) {
	v, err := data.lookup(p.field)
	if err != nil {
		return "", err
	}
	if len(p.calls) == 0 && len(v.blobs) > 0 {
		return "", fmt.Errorf("it is not text and needs a function")
	}
	for _, call := range p.calls {
		if v.text, err = v.apply(call); err != nil {
			return "", err
		}
		v = value{text: v.text}
	}
	return v.text, nil
}

func (v value) apply(call string) (string, error) {
	if call == "json" {
		return quoteJSON(v.text)
	}
	all := bytes.Join(v.blobs, nil)
	switch call {
	case "hex":
		return hex.EncodeToString(all), nil
	case "base64":
		return base64.StdEncoding.EncodeToString(all), nil
	case "base64url":
		return base64.RawURLEncoding.EncodeToString(all), nil
	case "raw":
		return string(all), nil
	case "text":
		if !utf8.Valid(all) || bytes.IndexByte(all, 0) >= 0 {
			return "", fmt.Errorf("it is not text: it holds a zero byte, or is not UTF-8")
		}
		return string(all), nil
	}
	if v.label == "" {
		return "", fmt.Errorf("%s does not fit it", call)
	}
	var b strings.Builder
	for _, blob := range v.blobs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: v.label, Bytes: blob}))
	}
	return b.String(), nil
}

// quoteJSON quotes without escaping <, > and &, which JSON does not ask for.
func quoteJSON(s string) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return "", fmt.Errorf("quoting for JSON: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func (d TemplateData) lookup(field []string) (value, error) {
	switch strings.Join(field, ".") {
	case "Marble.Name":
		return value{text: d.Marble.Name}, nil
	case "Marble.SPIFFEID":
		return value{text: d.Marble.SPIFFEID}, nil
	case "Marble.Instance":
		return value{text: d.Marble.Instance}, nil
	case "Marble.Certificate":
		return certificates(d.Marble.Certificate)
	case "Marble.Chain":
		return certificates(d.Marble.Chain)
	case "Marble.PrivateKey":
		return privateKey(d.Marble.PrivateKey)
	case "Root":
		return certificates(d.Root)
	case "Bundle":
		return certificates(d.Bundle)
	}
	s, ok := d.Secrets[field[1]]
	if !ok {
		return value{}, fmt.Errorf("the marble did not get this secret")
	}
	part, previous := secretPart(field)
	if previous && s.Previous == nil {
		return value{label: "NONE", blobs: [][]byte{}}, nil
	}
	if previous {
		s = *s.Previous
	}
	return s.part(part)
}

// part returns a part of a secret; "" is its bytes.
func (s SecretData) part(name string) (value, error) {
	switch name {
	case "PrivateKey":
		return privateKey(s.PrivateKey)
	case "PublicKey":
		if len(s.PublicKey) == 0 {
			return value{}, fmt.Errorf("there is no public key")
		}
		return value{label: "PUBLIC KEY", blobs: [][]byte{s.PublicKey}}, nil
	case "Chain":
		return certificates(s.Chain)
	case "Certificate":
		return certificates(s.Certificate)
	case "Version":
		return value{text: strconv.FormatUint(s.Version, 10)}, nil
	}
	if len(s.Value.b) == 0 {
		return value{}, fmt.Errorf("the secret is neither symmetric nor opaque")
	}
	return value{blobs: [][]byte{s.Value.b}}, nil
}

func certificates(ders [][]byte) (value, error) {
	if len(ders) == 0 {
		return value{}, fmt.Errorf("there is no certificate")
	}
	return value{label: "CERTIFICATE", blobs: ders}, nil
}

func privateKey(p Private) (value, error) {
	if len(p.b) == 0 {
		return value{}, fmt.Errorf("there is no private key")
	}
	return value{label: "PRIVATE KEY", blobs: [][]byte{p.b}}, nil
}

// SecretsOf returns the names of the secrets that a marble's parameters name,
// sorted and each once: what it gets, and all that has to be made for it. Parse
// has checked that it may read each of them.
func (m *Manifest) SecretsOf(marble string) []string { return m.secretsOf[marble] }
