package enclave

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseSigStruct(t *testing.T) {
	raw := sign(unsigned())
	s, err := ParseSigStruct(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(raw[128:512]); s.SignerID != want {
		t.Errorf("signer: got %x, want %x", s.SignerID, want)
	}
	if s.UniqueID[31] != 31 || s.ProductID != 16 || s.SecurityVersion != 3 || !s.KSS() || s.Provision() || s.Debug() != NoDebug ||
		string(s.FamilyID[:]) != "family identifie" || string(s.ExtendedProdID[:]) != "product identifi" {
		t.Errorf("got %+v", s)
	}
	if want := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC); !s.Date.Equal(want) {
		t.Errorf("date: got %v, want %v", s.Date, want)
	}
}

// TestSigStructOfAnotherTool reads an enclave's signature that was made elsewhere,
// and whose MRENCLAVE is known from its pages: testdata/README.md.
func TestSigStructOfAnotherTool(t *testing.T) {
	raw, err := os.ReadFile("testdata/test_enclave.sig")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigStruct(raw)
	if err != nil {
		t.Fatal(err)
	}
	const want = "784acfd7d5096a8f0fbd3265760bff21b120f62407a9a9e5ba31aa3c8ed198fc"
	if got := hex.EncodeToString(s.UniqueID[:]); got != want || s.ProductID != 65535 || s.SecurityVersion != 0 || s.Debug() != MayDebug || s.KSS() {
		t.Errorf("got %s, %+v", got, s)
	}
}

func TestDebugMode(t *testing.T) {
	for _, c := range []struct {
		attributes, mask byte
		want             Debug
	}{{0x04, 0x06, NoDebug}, {0x06, 0x06, OnlyDebug}, {0x04, 0x04, MayDebug}, {0x06, 0x04, MayDebug}} {
		raw := unsigned()
		raw[928], raw[944] = c.attributes, c.mask
		s, err := ParseSigStruct(sign(raw))
		if err != nil || s.Debug() != c.want {
			t.Errorf("%#x under %#x: got %s, %v, want %s", c.attributes, c.mask, s.Debug(), err, c.want)
		}
	}
}

func TestSigStructRefuses(t *testing.T) {
	for _, c := range []struct {
		name, text string
		at         int
		signed     bool // changed before it is signed
	}{
		{"header", "constants", 0, true},
		{"second header", "constants", 30, true},
		{"vendor", "vendor", 17, true},
		{"reserved 1", "reserved", 50, true},
		{"reserved 2", "reserved", 911, true},
		{"reserved 3", "reserved", 1000, true},
		{"reserved 4", "reserved", 1030, true},
		{"exponent", "exponent", 513, true},
		{"modulus", "does not hold", 200, false},
		{"modulus of 3071 bits", "bits", 511, false},
		{"date", "does not hold", 20, false},
		{"software defined", "does not hold", 40, false},
		{"hash", "does not hold", 970, false},
		{"attributes", "does not hold", 928, false},
		{"mask", "does not hold", 944, false},
		{"misc", "does not hold", 900, false},
		{"product", "does not hold", 1024, false},
		{"security version", "does not hold", 1026, false},
		{"signature", "does not hold", 600, false},
		{"Q1", "Q1 or Q2", 1100, false},
		{"Q2", "Q1 or Q2", 1500, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := unsigned()
			if c.signed {
				raw[c.at] ^= 0x80
			}
			raw = sign(raw)
			if !c.signed {
				raw[c.at] ^= 0x80
			}
			if _, err := ParseSigStruct(raw); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
	if _, err := ParseSigStruct(sign(unsigned())[1:]); err == nil {
		t.Error("1807 bytes: got no error")
	}
}

func TestReadBinary(t *testing.T) {
	sig, second := sign(unsigned()), unsigned()
	second[960] = 0xff
	second = sign(second)
	config := []byte(`{"exe":"web","productID":16}`)
	stub := len(elfFile(t, nil, section{".oeinfo", oeinfo(nil, 0, 0)}, section{".go.buildinfo", []byte("x")}))
	for _, c := range []struct {
		name   string
		file   []byte
		kind   Kind
		signed int
		config string
	}{
		{"EGo", elfFile(t, config, section{".oeinfo", oeinfo(sig, stub, len(config))}, section{".go.buildinfo", []byte("x")}), EGo, 1, string(config)},
		{"EGo, not signed", elfFile(t, nil, section{".oeinfo", oeinfo(nil, 0, 0)}, section{".go.buildinfo", []byte("x")}), EGo, 0, ""},
		{"Open Enclave", elfFile(t, nil, section{".oeinfo", oeinfo(sig, 0, 0)}), OpenEnclave, 1, ""},
		{"Open Enclave with .oesign", elfFile(t, nil, section{".oeinfo", oeinfo(nil, 0, 0)}, section{".oesign", oeinfo(sig, 0, 0)}), OpenEnclave, 1, ""},
		{"Intel SDK", elfFile(t, nil, section{".note.sgxmeta", append(make([]byte, 40), sig...)}), IntelSDK, 1, ""},
		{"Intel SDK for two loaders", elfFile(t, nil, section{".note.sgxmeta", append(append(append(sig, make([]byte, 99)...), second...), sig...)}), IntelSDK, 2, ""},
		{"Intel SDK, not signed", elfFile(t, nil, section{".note.sgxmeta", make([]byte, 4096)}), IntelSDK, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := ReadBinary(bytes.NewReader(c.file), int64(len(c.file)))
			if err != nil {
				t.Fatal(err)
			}
			if b.Kind != c.kind || len(b.Signed) != c.signed || string(b.Config) != c.config {
				t.Errorf("got %s with %d SIGSTRUCTs and %q", b.Kind, len(b.Signed), b.Config)
			}
		})
	}
}

func TestFixtures(t *testing.T) {
	for name, want := range fixtures(t) {
		if got, err := os.ReadFile("testdata/" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v, want the %d of the test", name, len(got), err, len(want))
		}
	}
}

func TestReadBinaryRefuses(t *testing.T) {
	sig, other := sign(unsigned()), unsigned()
	other[1026]++
	forged := bytes.Clone(sig)
	forged[970]++
	for _, c := range []struct {
		name, text string
		file       []byte
	}{
		{"no ELF file", "ELF", []byte("#!/bin/sh")},
		{"no enclave", ErrNoEnclave.Error(), elfFile(t, nil, section{".text", []byte{1}})},
		{"forged", "does not hold", elfFile(t, nil, section{".oeinfo", oeinfo(forged, 0, 0)})},
		{"two products", "different", elfFile(t, nil, section{".note.sgxmeta", append(bytes.Clone(sig), sign(other)...)})},
		{"section too large", "limit", elfFile(t, nil, section{".oeinfo", make([]byte, maxSection+1)})},
		{"configuration outside", "leaves the file", elfFile(t, nil, section{".oeinfo", oeinfo(sig, 1<<40, 10)})},
		{"configuration too large", "too large", elfFile(t, nil, section{".oeinfo", oeinfo(sig, 0, maxPayload+1)})},
		{"configuration is no JSON", "no JSON", elfFile(t, nil, section{".oeinfo", oeinfo(sig, 1, 10)})},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadBinary(bytes.NewReader(c.file), int64(len(c.file)))
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
	if _, err := ReadBinary(bytes.NewReader(nil), MaxFile+1); err == nil || errors.Is(err, ErrNoEnclave) {
		t.Errorf("5 GiB: got %v, want a limit", err)
	}
}

const dumped = `# made by a signer
libos.entrypoint = "redis-server"

[loader]
entrypoint = { uri = "file:/usr/lib/gramine/libsysdb.so", sha256 = "00" }
log_level = "error" # quiet

[sgx]
debug = false
enclave_size = "1024M"
isvprodid = 0x2a
isvsvn = 7
remote_attestation = 'dcap'

[[sgx.trusted_files]]
sha256 = "aa"
uri = "file:redis-server"

[["sgx"."trusted_files"]]
uri = """
file:odd]=["""
sha256 = "bb"

[fs]
mounts = [
  { path = "/lib", uri = "file:/lib" }, # ]
  { path = "/etc", uri = "file:/e#tc" },
]
`

func TestReadManifest(t *testing.T) {
	m, err := ReadManifest([]byte(dumped))
	if want := (Manifest{Entrypoint: "redis-server", ProductID: 42, SecurityVersion: 7, TrustedFiles: 2}); err != nil || m != want {
		t.Errorf("got %+v, %v, want %+v", m, err, want)
	}
	inline := "loader.entrypoint = \"file:a\"\nsgx.debug = true\nsgx.trusted_files = [ { uri = \"file:x\", sha256 = \"aa\" },\n]"
	m, err = ReadManifest([]byte(inline))
	if want := (Manifest{Entrypoint: "file:a", Debug: true, TrustedFiles: 1}); err != nil || m != want {
		t.Errorf("got %+v, %v, want %+v", m, err, want)
	}
	if !IsManifest([]byte(dumped)) || !IsManifest([]byte(inline)) || IsManifest([]byte("[package]\nname = \"x\"\n")) || IsManifest([]byte("\x7fELF")) || IsManifest(nil) {
		t.Error("a manifest is not told from other files")
	}
}

func TestReadManifestRefuses(t *testing.T) {
	for _, text := range []string{"", "a", "a =", "[sgx", "sgx.isvsvn = 65536", "sgx.isvsvn = -1", "sgx.debug = maybe", "sgx.isvsvn = 1\nsgx.isvsvn = 2",
		"sgx.x = [", "sgx.x = ]", "sgx.x = \"", "sgx.x = \"\"\"a\"\"", "sgx.x = 'a\n'", "sgx.x = [ # ]"} {
		if m, err := ReadManifest([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, m)
		}
	}
}

func FuzzSigStruct(f *testing.F) {
	f.Add(sign(unsigned()))
	f.Add(unsigned())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSigStruct(b); err == nil && s.SignerID != sha256.Sum256(b[128:512]) {
			t.Errorf("got signer %x", s.SignerID)
		}
	})
}

func FuzzBinary(f *testing.F) {
	f.Add(elfFile(f, []byte("{}"), section{".oeinfo", oeinfo(sign(unsigned()), 0, 2)}))
	f.Add(elfFile(f, nil, section{".note.sgxmeta", sign(unsigned())}))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ReadBinary(bytes.NewReader(b), int64(len(b))) })
}

func FuzzManifest(f *testing.F) {
	f.Add(dumped)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = ReadManifest([]byte(text)) })
}
