package binding

import (
	"bytes"
	"crypto/ecdh"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func activation() Claims {
	return Claims{Purpose: Activate, PublicKey: KeyHash([]byte("key")), Nonce: fill(1), Exporter: fill(2)}
}

func replica() Claims {
	return Claims{Purpose: Replica, PublicKey: KeyHashX25519(fill(7)), Nonce: fill(1), Exporter: fill(2)}
}

// TestKeyHashX25519 checks that a raw key is hashed as its SubjectPublicKeyInfo.
func TestKeyHashX25519(t *testing.T) {
	key, err := ecdh.X25519().NewPublicKey(fill(7))
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := KeyHashX25519(fill(7)), KeyHash(spki); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func statement() Claims {
	return Claims{
		Purpose: Coordinator, PublicKey: KeyHash([]byte("key")), Nonce: fill(1), Root: fill(3),
		Manifest: fill(4), Checkpoint: fill(5), Log: fill(6),
	}
}

func TestRoundTrip(t *testing.T) {
	first := statement()
	first.Manifest = nil
	for name, c := range map[string]Claims{
		"activate": activation(), "statement": statement(), "first statement": first,
		"peer":    {Purpose: Peer, PublicKey: KeyHash([]byte("key"))},
		"replica": replica(),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(c.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c, got); d != "" {
				t.Errorf("parsed claims differ (-want +got):\n%s", d)
			}
			if got.Binding() != attest.Bind(c.Encode()) {
				t.Error("the binding is not that of the buffer")
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	hash, err := cbor.Marshal([]any{1, fill(9)})
	if err != nil {
		t.Fatal(err)
	}
	base := func() map[string]any {
		return map[string]any{"purpose": "activate", "pubkey-hash": hash, "nonce": fill(1), "exporter": fill(2)}
	}
	with := func(key string, v any) []byte {
		m := base()
		if v == nil {
			delete(m, key)
		} else {
			m[key] = v
		}
		return must(encMode.Marshal(m))
	}
	good := must(encMode.Marshal(base()))
	if _, err := Parse(good); err != nil {
		t.Fatalf("the base case must parse: %v", err)
	}
	twice := append([]byte{good[0] + 1}, good[1:]...)
	twice = append(twice, must(encMode.Marshal("nonce"))...)
	twice = append(twice, must(encMode.Marshal(fill(1)))...)
	indefinite := append(append([]byte{0xbf}, good[1:]...), 0xff)
	unsorted := must(must(cbor.EncOptions{}.EncMode()).Marshal(wire{Purpose: "activate", KeyHash: hash, Nonce: fill(1), Exporter: fill(2)}))

	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "EOF"},
		{"not a map", []byte{0x01}, "cannot unmarshal"},
		{"trailing byte", append(bytes.Clone(good), 0), "extraneous"},
		{"too large", make([]byte, MaxSize+1), "limit 4096"},
		{"unknown key", with("extra", 1), "unknown field"},
		{"key in other case", with("Nonce", fill(1)), "unknown field"},
		{"repeated key", twice, "duplicate"},
		{"indefinite length", indefinite, "indefinite"},
		{"keys in another order", unsorted, "deterministic"},
		{"no purpose", with("purpose", nil), "unknown purpose"},
		{"unknown purpose", with("purpose", "party"), "unknown purpose"},
		{"no key hash", with("pubkey-hash", nil), "pubkey-hash"},
		{"SHA-384 key hash", with("pubkey-hash", must(cbor.Marshal([]any{7, make([]byte, 48)}))), "algorithm 7"},
		{"short key hash", with("pubkey-hash", must(cbor.Marshal([]any{1, []byte{1}}))), "1 bytes"},
		{"short nonce", with("nonce", []byte{1}), "nonce has 1 bytes"},
		{"no nonce", with("nonce", nil), `"activate" without nonce`},
		{"no exporter", with("exporter", nil), `"activate" without exporter`},
		{"root where none belongs", with("root", fill(1)), `"activate" with root`},
		{"replica without exporter", Claims{Purpose: Replica, Nonce: fill(1)}.Encode(), `"replica" without exporter`},
		{"replica without nonce", Claims{Purpose: Replica, Exporter: fill(1)}.Encode(), `"replica" without nonce`},
		{"replica with a session", Claims{Purpose: Replica, Nonce: fill(1), Exporter: fill(1), Session: fill(1)}.Encode(), `"replica" with session`},
		{"nonce as text", with("nonce", strings.Repeat("x", 32)), "cannot unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.in)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestExpect(t *testing.T) {
	for _, c := range []struct {
		name   string
		want   Claims
		change func(*Claims)
		code   string
	}{
		{"same", activation(), func(*Claims) {}, ""},
		{"another purpose", activation(), func(c *Claims) { c.Purpose = Renew }, "ATT-071"},
		{"replayed", activation(), func(c *Claims) { c.Nonce = fill(9) }, "ATT-072"},
		{"relayed", activation(), func(c *Claims) { c.Exporter = fill(9) }, "ATT-073"},
		{"without exporter", activation(), func(c *Claims) { c.Exporter = nil }, "ATT-073"},
		{"another key", activation(), func(c *Claims) { c.PublicKey[0] ^= 1 }, "ATT-074"},
		{"an activation for a replica's", replica(), func(c *Claims) { c.Purpose = Activate }, "ATT-071"},
		{"another key to encrypt to", replica(), func(c *Claims) { c.PublicKey = KeyHashX25519(fill(8)) }, "ATT-074"},
		{"another root", statement(), func(c *Claims) { c.Root = fill(9) }, "ATT-075"},
		{"another manifest", statement(), func(c *Claims) { c.Manifest = fill(9) }, "ATT-076"},
		{"manifest left out", statement(), func(c *Claims) { c.Manifest = nil }, "ATT-076"},
		{"another checkpoint", statement(), func(c *Claims) { c.Checkpoint = fill(9) }, "ATT-077"},
		{"another log", statement(), func(c *Claims) { c.Log = fill(9) }, "LOG-013"},
		{"another key for secrets", statement(), func(c *Claims) { c.Upload = fill(9) }, "SEC-015"},
		{"other lifted rules, or none in the statement", statement(), func(c *Claims) { c.BreakGlass = fill(9) }, "INC-023"},
		{"other floors", statement(), func(c *Claims) { c.Floors = fill(9) }, "ATT-078"},
		{"exporter nobody asked for", statement(), func(c *Claims) { c.Exporter = fill(9) }, "ATT-073"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.want
			c.change(&got)
			var failed []string
			for _, s := range Expect(c.want, got) {
				if !problem.Known(problem.Code(s.Code)) {
					t.Errorf("code %s is not in the table", s.Code)
				}
				if s.OK {
					continue
				}
				failed = append(failed, s.Code)
				if s.Want == s.Got || s.Field == "" || s.Fix.Who == "" {
					t.Errorf("the step does not explain itself: %+v", s)
				}
			}
			if got := strings.Join(failed, " "); got != c.code {
				t.Errorf("got failed steps %q, want %q", got, c.code)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(activation().Encode())
	f.Add(statement().Encode())
	f.Add(replica().Encode())
	f.Add(Claims{Purpose: Peer}.Encode())
	ccc, err := hex.DecodeString("a16b7075626b65792d68617368582482015820" + strings.Repeat("5a", 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ccc)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), b) {
			t.Errorf("parsed a buffer that encodes differently: %x", b)
		}
		for _, s := range Expect(c, c) {
			if !s.OK {
				t.Errorf("claims differ from themselves in %s", s.Field)
			}
		}
	})
}
