package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func fixed(policy string, key []byte, err error) Source {
	return Platform("test", policy, func(_ context.Context, got string, _ []byte) ([]byte, []byte, error) {
		if got != policy {
			return nil, nil, fmt.Errorf("wanted policy %s, got %s", policy, got)
		}
		return key, nil, err
	})
}

var good = []byte("0123456789abcdef")

func TestCreateAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.json")
	made, err := Create(t.Context(), path, fixed("product", good, nil), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, made.Reveal()) || strings.Contains(string(text), hex.EncodeToString(made.Reveal())) {
		t.Error("the data key is in the file")
	}
	got, err := Open(t.Context(), path, fixed("product", good, nil))
	if err != nil || !bytes.Equal(got.Reveal(), made.Reveal()) {
		t.Errorf("opened another key, %v", err)
	}
	other, err := Create(t.Context(), path+"2", fixed("product", good, nil), rand.Reader)
	if err != nil || bytes.Equal(other.Reveal(), made.Reveal()) || other.ID() == made.ID() {
		t.Errorf("two states share a key, %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		source Source
		change func(*document)
		want   problem.Code
	}{
		{"unchanged", fixed("product", good, nil), func(*document) {}, ""},
		{"other policy", fixed("unique", good, nil), func(*document) {}, "STO-015"},
		{"other platform", fixed("product", []byte("0123456789abcdeF"), nil), func(*document) {}, "STO-015"},
		{"zero key", fixed("product", make([]byte, 16), nil), func(*document) {}, "STO-013"},
		{"short key", fixed("product", good[:15], nil), func(*document) {}, "STO-013"},
		{"no key", fixed("product", nil, errors.New("no TEE")), func(*document) {}, "STO-013"},
		{"other version", fixed("product", good, nil), func(d *document) { d.Version = 2 }, "STO-014"},
		{"wrapped changed", fixed("product", good, nil), func(d *document) { d.Wrapped[20] ^= 1 }, "STO-015"},
		{"wrapped cut", fixed("product", good, nil), func(d *document) { d.Wrapped = d.Wrapped[:10] }, "STO-014"},
		{"key id changed", fixed("product", good, nil), func(d *document) { d.KeyID = "0011223344556677" }, "STO-015"},
		{"info changed", fixed("product", good, nil), func(d *document) { d.Info = []byte("x") }, "STO-015"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.json")
			if _, err := Create(t.Context(), path, fixed("product", good, nil), rand.Reader); err != nil {
				t.Fatal(err)
			}
			d, err := read(path)
			if err != nil {
				t.Fatal(err)
			}
			c.change(&d)
			text, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), path, c.source)
			if got := problem.CodeOf(err); got != c.want || (err == nil) != (c.want == "") {
				t.Errorf("got %v, want code %q", err, c.want)
			}
		})
	}
	for name, source := range map[string]Source{
		"zero key": fixed("product", make([]byte, 32), nil), "no key": fixed("product", nil, errors.New("no TEE")),
	} {
		path := filepath.Join(t.TempDir(), "seal.json")
		if _, err := Create(t.Context(), path, source, rand.Reader); problem.CodeOf(err) != "STO-013" {
			t.Errorf("creating with %s: got %v, want STO-013", name, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("creating with %s left a file", name)
		}
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "seal.json"), fixed("product", good, nil)); problem.CodeOf(err) != "STO-002" {
		t.Errorf("missing: got %v, want STO-002", err)
	}
}

// versioned gives another key at each version of the platform, and those of
// older ones to who kept their version.
func versioned(now byte) Source {
	return Platform("test", "product", func(_ context.Context, _ string, info []byte) ([]byte, []byte, error) {
		if info == nil {
			info = []byte{now}
		}
		if len(info) != 1 || info[0] > now {
			return nil, nil, problem.New("ATT-096", "no key of version %d", info)
		}
		return append(bytes.Clone(good), info[0]), info, nil
	})
}

func TestPlatformUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.json")
	made, err := Create(t.Context(), path, versioned(2), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[byte]problem.Code{2: "", 9: "", 1: "STO-013"} {
		got, err := Open(t.Context(), path, versioned(version))
		if problem.CodeOf(err) != want || want == "" && !bytes.Equal(got.Reveal(), made.Reveal()) {
			t.Errorf("version %d: got %v, want %q", version, err, want)
		}
	}
	_, err = Create(t.Context(), path+"2", Platform("test", "product", func(context.Context, string, []byte) ([]byte, []byte, error) {
		return good, make([]byte, maxInfo+1), nil
	}), rand.Reader)
	if problem.CodeOf(err) != "STO-013" {
		t.Errorf("too much to keep: got %v, want STO-013", err)
	}
	_, err = Open(t.Context(), path, Platform("test", "product", func(context.Context, string, []byte) ([]byte, []byte, error) {
		return nil, nil, problem.New("ATT-098", "no such key").WithNext("do this")
	}))
	if problem.CodeOf(err) != "STO-013" || problem.From(err).Next != "do this" {
		t.Errorf("got %v with next %q, want the TEE's advice", err, problem.From(err).Next)
	}
}

func TestKeyPrintsNothing(t *testing.T) {
	secret := []byte("a secret that nobody may see....")
	k, err := NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := struct{ Key Key }{k}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "k", k, "w", wrapped)
	asJSON, err := json.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	outputs := []string{log.String(), string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		outputs = append(outputs, fmt.Sprintf(verb, k), fmt.Sprintf(verb, wrapped), fmt.Sprintf(verb, &wrapped),
			fmt.Sprintf(verb, struct{ hidden Key }{k}), fmt.Sprintf(verb, &struct{ hidden *Key }{&k}))
	}
	for _, out := range outputs {
		for _, leak := range []string{string(secret), hex.EncodeToString(secret), strings.Trim(fmt.Sprint(secret), "[]")} {
			if strings.Contains(out, leak) {
				t.Errorf("%q holds the secret", out)
			}
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 31), make([]byte, 33), make([]byte, 32)} {
		if k, err := NewKey(b); err == nil || k.Valid() {
			t.Errorf("%d bytes were taken for a key", len(b))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"source":"sim:product","keyID":"00","wrapped":"` + strings.Repeat("AAAA", 20) + `"}`))
	f.Add([]byte(`{"version":1} {}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parse(text)
		if err != nil {
			if problem.CodeOf(err) != "STO-014" {
				t.Errorf("got %v, want STO-014", err)
			}
			return
		}
		if d.Version != formatVersion || len(d.Wrapped) != nonceSize+KeySize+16 {
			t.Errorf("accepted version %d with %d wrapped bytes", d.Version, len(d.Wrapped))
		}
	})
}
