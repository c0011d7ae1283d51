package manifest

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func templateData() TemplateData {
	return TemplateData{
		Marble: MarbleData{
			Name: "web", SPIFFEID: "spiffe://shop.example/web", Instance: "7f2c",
			Certificate: [][]byte{[]byte("leaf")}, Chain: [][]byte{[]byte("leaf"), []byte("ca")}, PrivateKey: NewPrivate([]byte("marble key")),
		},
		Root: [][]byte{[]byte("root")}, Bundle: [][]byte{[]byte("root"), []byte("root2")},
		Secrets: map[string]SecretData{
			"key":  {Value: NewPrivate([]byte{0xfb, 0xff, 0x00})},
			"pair": {PrivateKey: NewPrivate([]byte("new key")), PublicKey: []byte("new public"), Version: 2, Previous: &SecretData{PrivateKey: NewPrivate([]byte("old key")), PublicKey: []byte("old public"), Version: 1}},
			"word": {Value: NewPrivate([]byte("pass word")), Version: 1},
			"tls":  {PrivateKey: NewPrivate([]byte("tls key")), Certificate: [][]byte{[]byte("tls cert")}, Chain: [][]byte{[]byte("tls cert"), []byte("ca")}},
		},
	}
}

func block(label string, blobs ...string) string {
	var b strings.Builder
	for _, blob := range blobs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: []byte(blob)}))
	}
	return b.String()
}

func TestRenderTemplate(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"plain } text", "plain } text"},
		{"{{ .Marble.Name }}/{{.Marble.Instance}} {{ .Marble.SPIFFEID }}", "web/7f2c spiffe://shop.example/web"},
		{"a {{- /* note */ -}} b", "ab"},
		{"{{ hex .Secrets.key }}", "fbff00"},
		{"{{ .Secrets.key | hex | json }}", `"fbff00"`},
		{"{{ base64 .Secrets.key }}", "+/8A"},
		{"{{ base64url .Secrets.key }}", "-_8A"},
		{"{{ raw .Secrets.key }}", "\xfb\xff\x00"},
		{"{{ pem .Marble.Certificate }}", block("CERTIFICATE", "leaf")},
		{"{{ pem .Marble.Chain }}{{ pem .Marble.PrivateKey }}", block("CERTIFICATE", "leaf", "ca") + block("PRIVATE KEY", "marble key")},
		{"{{ pem .Bundle }}", block("CERTIFICATE", "root", "root2")},
		{"{{ raw .Root }}", "root"},
		{"{{ base64 .Secrets.tls.Certificate }}", base64.StdEncoding.EncodeToString([]byte("tls cert"))},
		{"{{ pem .Secrets.tls.Chain }}", block("CERTIFICATE", "tls cert", "ca")},
		{"{{ text .Secrets.word }}", "pass word"},
		{"{{ .Secrets.word | text | json }}", `"pass word"`},
		{"{{ pem .Secrets.pair.PublicKey }}", block("PUBLIC KEY", "new public")},
		{"{{ .Secrets.pair.Version }} {{ .Secrets.pair.Previous.Version }}", "2 1"},
		{"{{ pem .Secrets.pair.PrivateKey }}{{ pem .Secrets.pair.Previous.PrivateKey }}", block("PRIVATE KEY", "new key") + block("PRIVATE KEY", "old key")},
		{"{{ hex .Secrets.key.Previous }}.{{ text .Secrets.word.Previous }}.{{ .Secrets.word.Previous.Version }}.{{ pem .Secrets.tls.Previous.Chain }}.{{ pem .Secrets.tls.Previous.PrivateKey | json }}", `....""`},
		{`{"key": {{ pem .Secrets.tls.PrivateKey | json }}}`, `{"key": "-----BEGIN PRIVATE KEY-----\ndGxzIGtleQ==\n-----END PRIVATE KEY-----\n"}`},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := Render(c.text, templateData())
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestRenderTemplateRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{{ .Marble.Name", "does not parse"},
		{"{{ .Secrets.key }}", "is not text"},
		{"{{ .Marble.PrivateKey }}", "is not text"},
		{"{{ . }}", "no value"},
		{"{{ .Secrets }}", "no value"},
		{"{{ index .Secrets \"key\" }}", `no function "index"`},
		{"{{ printf \"%s\" .Marble.Name }}", `no function "printf"`},
		{"{{ json \"x\" }}", "no value"},
		{"{{ hex }}", "exactly one value"},
		{"{{ hex .Secrets.key .Secrets.key }}", "exactly one value"},
		{"{{ .Secrets.key | .Marble.Name }}", "function alone"},
		{"{{ (hex .Secrets.key) }}", "no value"},
		{"{{ range .Secrets }}x{{ end }}", `no "range`},
		{"{{ if .Marble.Name }}x{{ end }}", `no "if`},
		{"{{ with .Marble }}{{ .Name }}{{ end }}", `no "with`},
		{"{{ define \"x\" }}{{ end }}", "define others"},
		{"{{ block \"x\" . }}{{ end }}", "define others"},
		{"{{ template \"x\" }}", `no "template`},
		{"{{ $x := .Marble.Name }}", "no variables"},
		{"{{ hex .Secrets.none }}", "did not get"},
		{"{{ hex .Secrets.tls }}", "neither symmetric nor opaque"},
		{"{{ text .Secrets.key }}", "is not text"},
		{"{{ text .Secrets.tls.PrivateKey }}", "does not fit"},
		{"{{ .Secrets.pair.Previous }}", "is not text"},
		{"{{ pem .Secrets.tls.PublicKey }}", "no public key"},
		{"{{ hex .Secrets.key.Previous.Previous }}", `no "Previous"`},
		{"{{ pem .Secrets.key.Certificate }}", "no certificate"},
		{"{{ pem .Secrets.key.PrivateKey }}", "no private key"},
		{"{{ pem .Secrets.tls.Keys }}", `no "Keys"`},
		{"{{ json .Secrets.key }}", "does not fit"},
		{"{{ raw .Secrets.key | json }}", "does not fit"},
		{"{{ .Marble.Name | json | json | json | json }}", "in a row"},
		{strings.Repeat("{{ .Marble.Name }}", 2*MaxActions+1), "more than 1000 actions"},
	} {
		t.Run(c.text[:min(60, len(c.text))], func(t *testing.T) {
			got, err := Render(c.text, templateData())
			if err == nil || !strings.Contains(err.Error(), c.want) || got != "" {
				t.Errorf("got %q, %v; want an error with %q", got, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "tls key") || strings.Contains(err.Error(), "fbff00")) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func TestTemplateSecrets(t *testing.T) {
	got, err := TemplateSecrets("{{ hex .Secrets.b }}{{ pem .Secrets.a.PrivateKey }}{{ hex .Secrets.b }}{{ .Marble.Name }}")
	if err != nil || fmt.Sprint(got) != "[a b]" {
		t.Errorf("got %v, %v; want [a b]", got, err)
	}
	if _, err := TemplateSecrets("{{ .Secrets.a.b.c.d }}"); err == nil {
		t.Error("got no error for a value that there isn't")
	}
}

func TestPrivateIsRedacted(t *testing.T) {
	data := templateData()
	encoded, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "data", data, "key", data.Marble.PrivateKey)
	for _, s := range []string{string(encoded), log.String(), fmt.Sprint(data), fmt.Sprintf("%+v %#v %x %s %d", data, data, any(data), data.Marble.PrivateKey, data.Marble.PrivateKey)} {
		for _, secret := range []string{"marble key", "tls key", "old key", "pass word", "251 255", fmt.Sprintf("%x", "marble key"), base64.StdEncoding.EncodeToString([]byte("marble key"))} {
			if strings.Contains(s, secret) {
				t.Errorf("%q is shown in %s", secret, s)
			}
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{ hex .Secrets.key }}", "{{ pem .Secrets.tls.Chain | json }}", "{{ range . }}{{ end }}", "{{((((", "{{/*", "{{ `a` | hex }}", "{{- .Root | raw -}}"} {
		f.Add(s)
	}
	data := templateData()
	f.Fuzz(func(t *testing.T, text string) {
		names, err := TemplateSecrets(text)
		out, rerr := Render(text, data)
		if err != nil && rerr == nil {
			t.Fatalf("Render takes what TemplateSecrets refuses: %v", err)
		}
		if rerr != nil && out != "" {
			t.Fatalf("output %q with error %v", out, rerr)
		}
		if strings.Contains(out, "fbff00") && len(names) == 0 && !strings.Contains(text, "fbff00") {
			t.Fatalf("a secret came out of %q that names none", text)
		}
	})
}
