package reference

import (
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Reference{
		"sealed:ashlar:v1:dbPassword":     {"dbPassword", Raw},
		"sealed:ashlar:v1:dbPassword:raw": {"dbPassword", Raw},
		"sealed:ashlar:v1:k_9:base64":     {"k_9", Base64},
		"sealed:ashlar:v1:tls:cert":       {"tls", Cert},
	} {
		r, err := Parse(text)
		if err != nil || r != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, r, err, want)
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("%s: written as %s, read as %+v, %v", text, r, again, err)
		}
	}
}

func TestParseRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"": "does not begin", "v1:a": "does not begin", "sealed:other:v1:a": "does not begin", "SEALED:ashlar:v1:a": "does not begin",
		"sealed:ashlar:": "version", "sealed:ashlar:v2:a": `version "v2" is not known here, v1 is`, "sealed:ashlar:V1:a": "version",
		"sealed:ashlar:v1": "want sealed", "sealed:ashlar:v1:": "want sealed", "sealed:ashlar:v1:9a": "want sealed", "sealed:ashlar:v1:a-b": "want sealed",
		"sealed:ashlar:v1:a b": "want sealed", "sealed:ashlar:v1:a\n": "want sealed", "sealed:ashlar:v1: a": "want sealed",
		"sealed:ashlar:v1:a:pem:x": "want sealed", "sealed:ashlar:v1:" + strings.Repeat("a", 64): "want sealed",
		"sealed:ashlar:v1:a:": "form", "sealed:ashlar:v1:a:PEM": "form", "sealed:ashlar:v1:a:base46": "did you mean base64?",
	} {
		if _, err := Parse(text); problem.CodeOf(err) != "MRB-063" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want MRB-063 with %q", text, err, want)
		}
	}
}

// What is read is written as it was, and names one secret of a template.
func FuzzParse(f *testing.F) {
	f.Add("sealed:ashlar:v1:dbPassword")
	f.Add("sealed:ashlar:v1:tls:cert")
	f.Add("sealed:ashlar:v2:a:b:c")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(r.String()); err != nil || again != r || text != r.String() && text != r.String()+":raw" {
			t.Errorf("%q: read as %+v, written as %s", text, r, r)
		}
		for _, s := range []manifest.SecretData{{Value: manifest.NewPrivate([]byte("v"))}, {PrivateKey: manifest.NewPrivate([]byte("k")), Chain: [][]byte{{1}}}} {
			for _, variable := range []bool{true, false} {
				template, err := r.Template(s, variable)
				if err != nil {
					continue
				}
				if names, err := manifest.TemplateSecrets(template); err != nil || len(names) != 1 || names[0] != r.Secret {
					t.Errorf("%q: template %q names %q, %v", text, template, names, err)
				}
			}
		}
	})
}

func TestTemplate(t *testing.T) {
	bytes := manifest.SecretData{Value: manifest.NewPrivate([]byte("pass\nword"))}
	binary := manifest.SecretData{Value: manifest.NewPrivate([]byte{0xff, 0, 1})}
	key := manifest.SecretData{PrivateKey: manifest.NewPrivate([]byte{1, 2, 3})}
	cert := manifest.SecretData{PrivateKey: manifest.NewPrivate([]byte{1, 2, 3}), Chain: [][]byte{{4}, {5}}}
	const (
		keyPEM  = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n"
		certPEM = "-----BEGIN CERTIFICATE-----\nBA==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBQ==\n-----END CERTIFICATE-----\n"
	)
	for _, c := range []struct {
		name           string
		secret         manifest.SecretData
		form           Form
		variable, file string // "!" is an error
	}{
		{"bytes", bytes, Raw, "pass\nword", "pass\nword"},
		{"bytes", bytes, Base64, "cGFzcwp3b3Jk", "cGFzcwp3b3Jk"},
		{"bytes", bytes, Hex, "706173730a776f7264", "706173730a776f7264"},
		{"bytes", bytes, PEM, "!", "!"},
		{"bytes", bytes, Key, "!", "!"},
		{"bytes", bytes, Cert, "!", "!"},
		{"binary", binary, Raw, "!", "\xff\x00\x01"},
		{"binary", binary, Hex, "ff0001", "ff0001"},
		{"key", key, Raw, "!", "\x01\x02\x03"},
		{"key", key, Base64, "AQID", "AQID"},
		{"key", key, Hex, "010203", "010203"},
		{"key", key, PEM, keyPEM, keyPEM},
		{"key", key, Key, keyPEM, keyPEM},
		{"key", key, Cert, "!", "!"},
		{"certificate", cert, Raw, "!", "\x01\x02\x03"},
		{"certificate", cert, PEM, certPEM + keyPEM, certPEM + keyPEM},
		{"certificate", cert, Key, keyPEM, keyPEM},
		{"certificate", cert, Cert, certPEM, certPEM},
		{"nothing", manifest.SecretData{}, Raw, "!", "!"},
		{"public key", manifest.SecretData{PublicKey: []byte{1}}, PEM, "!", "!"},
	} {
		for variable, want := range map[bool]string{true: c.variable, false: c.file} {
			got := "!"
			text, err := Reference{"s", c.form}.Template(c.secret, variable)
			if err == nil {
				var rendered string
				if rendered, err = manifest.Render(text, manifest.TemplateData{Secrets: map[string]manifest.SecretData{"s": c.secret}}); err == nil {
					got = rendered
				}
			}
			if got != want {
				t.Errorf("%s as %s, variable %v: got %q, %v, want %q", c.name, c.form, variable, got, err, want)
			}
			if err != nil && (strings.Contains(err.Error(), "pass") || strings.Contains(err.Error(), "AQID")) {
				t.Errorf("%s as %s: the error holds the secret: %v", c.name, c.form, err)
			}
		}
	}
}
