package apiv1

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestSealedSecretVector opens the vector of docs/wire.md, and nothing else.
func TestSealedSecretVector(t *testing.T) {
	doc, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```vector sealed-secret\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/wire.md has no vector sealed-secret")
	}
	fields := map[string]string{}
	last := ""
	for line := range strings.Lines(string(block[1])) {
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			last, fields[key] = key, strings.TrimSpace(value)
		} else {
			fields[last] += strings.TrimSpace(line)
		}
	}
	bytesOf := func(key string) []byte {
		t.Helper()
		b, err := hex.DecodeString(fields[key])
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %v", key, err)
		}
		return b
	}
	key, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(bytesOf("private-key"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.PublicKey().Bytes(), bytesOf("public-key")) {
		t.Error("the public key is not that of the private key")
	}
	good := SealBinding{Purpose: fields["purpose"], Root: bytesOf("root"), Name: fields["name"], Version: 3}
	if fields["purpose"] != SealUpload || !bytes.Equal(good.info(), bytesOf("info")) {
		t.Errorf("info is %x", good.info())
	}
	sealed := bytesOf("sealed")
	if got, err := OpenSecret(key, good, sealed); err != nil || !bytes.Equal(got, bytesOf("value")) {
		t.Errorf("got %q, %v", got, err)
	}
	other, err := NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key    hpke.PrivateKey
		change func(*SealBinding)
		sealed []byte
	}{
		"another key":        {other, func(*SealBinding) {}, sealed},
		"another purpose":    {key, func(b *SealBinding) { b.Purpose = SealReveal }, sealed},
		"another root":       {key, func(b *SealBinding) { b.Root = nil }, sealed},
		"another name":       {key, func(b *SealBinding) { b.Name = "apiToke" }, sealed},
		"another version":    {key, func(b *SealBinding) { b.Version = 4 }, sealed},
		"cut":                {key, func(*SealBinding) {}, sealed[:len(sealed)-1]},
		"without ciphertext": {key, func(*SealBinding) {}, sealed[:32]},
		"empty":              {key, func(*SealBinding) {}, nil},
		"longer":             {key, func(*SealBinding) {}, append(bytes.Clone(sealed), 0)},
	} {
		b := good
		c.change(&b)
		if got, err := OpenSecret(c.key, b, c.sealed); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := SealSecret(make([]byte, n), good, []byte("x")); err == nil {
			t.Errorf("sealed to a key of %d bytes", n)
		}
	}
	// X25519 of a point of small order is the same for everybody.
	if _, err := SealSecret(make([]byte, 32), good, []byte("x")); err == nil {
		t.Error("sealed to the zero point")
	}
}

func TestRevealedSecretsPrintNothing(t *testing.T) {
	v := RevealedSecret{Value: []byte("hunter2"), PrivateKey: []byte("hunter2")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, v); got != "[redacted]" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	b, err := json.Marshal(v)
	if err != nil || !strings.Contains(string(b), "aHVudGVyMg==") {
		t.Errorf("got %s, %v: the one way to read it", b, err)
	}
}

// FuzzOpenSecret opens what anybody may send.
func FuzzOpenSecret(f *testing.F) {
	key, err := NewUploadKey()
	if err != nil {
		f.Fatal(err)
	}
	good, err := SealSecret(key.PublicKey().Bytes(), SealBinding{Purpose: SealUpload, Name: "a"}, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "a", uint64(0))
	f.Add([]byte{}, "", uint64(1))
	f.Fuzz(func(t *testing.T, sealed []byte, name string, version uint64) {
		v, err := OpenSecret(key, SealBinding{Purpose: SealUpload, Name: name, Version: version}, sealed)
		if err == nil && (name != "a" || version != 0 || !bytes.Equal(sealed, good)) {
			t.Errorf("opened %q", v)
		}
	})
}
