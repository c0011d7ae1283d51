package transparency_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/transparency"
)

func FuzzOpen(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	s, err := transparency.NewSigner(key, transparency.Origin(key.Public().(ed25519.PublicKey)))
	if err != nil {
		f.Fatal(err)
	}
	good, err := transparency.Sign(transparency.Checkpoint{Origin: s.Name(), Size: 1}, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"))
	f.Add([]byte("— \n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := transparency.Open(b, s.VerifierKey()); err == nil && !bytes.HasPrefix(b, append(c.Marshal(), '\n')) {
			t.Errorf("got %+v from %q", c, b)
		}
		if c, err := transparency.ParseCheckpoint(b); err == nil && !bytes.Equal(c.Marshal(), b) {
			t.Errorf("%q is written %q", b, c.Marshal())
		}
		_, _ = transparency.Verifier(string(b))
	})
}

func FuzzParseTilePath(f *testing.F) {
	for _, p := range []string{"tile/0/000", "tile/entries/x001/x234/067.p/7", "tile/7/000.p/255", "tile/data/000", "tile/-1/000", "tile/0/x000/001"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		tile, err := transparency.ParseTilePath(p)
		if err != nil {
			return
		}
		if tile.Path() != p || tile.Level < -1 || tile.Level > 7 || tile.Width < 1 || tile.Width > 256 || tile.Index >= 1<<54 {
			t.Errorf("%q gives %+v, %q", p, tile, tile.Path())
		}
	})
}

func FuzzParseEntries(f *testing.F) {
	one, err := transparency.AppendEntry(nil, []byte("entry"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one, 1)
	f.Add([]byte{0, 0, 0, 0}, 2)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		entries, err := transparency.ParseEntries(b, width)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			if again, err = transparency.AppendEntry(again, e); err != nil {
				t.Fatal(err)
			}
		}
		if len(entries) != width || !bytes.Equal(again, b) {
			t.Errorf("%x of %d gives %d entries, %x", b, width, len(entries), again)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	good, err := json.Marshal(transparency.Entry{Version: 1, Time: time.Unix(0, 0).UTC(), Kind: "start", Details: map[string]string{"tee": "sgx"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte(`{"salt":"00112233445566778899aabbccddeeff"}`))
	f.Add([]byte(`{"version":1,"kind":"start","extra":1}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, b, private []byte) {
		e, err := transparency.ParseEntry(b)
		if err != nil {
			return
		}
		if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s is written %s, %v", b, again, err)
		}
		_, _ = transparency.ParsePrivate(e, private)
	})
}
