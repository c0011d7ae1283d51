package store

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
)

func testCodec(t testing.TB) *codec {
	t.Helper()
	key, err := seal.NewKey(bytes.Repeat([]byte{9}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCodec(key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newEntry(key, raw string) *entry {
	e := &entry{key: key}
	e.box.Store(&box{raw: []byte(raw)})
	return e
}

func TestNothingShowsOutside(t *testing.T) {
	c := testCodec(t)
	sealed, err := c.sealRecord("secret-table", newEntry("secret-key", `"secret-value"`), 5)
	if err != nil {
		t.Fatal(err)
	}
	if out := sealed.Key + string(sealed.Value) + c.logKey("secret-log", 3); strings.Contains(out, "secret") {
		t.Errorf("a name or value shows in %q", out)
	}
	again, err := c.sealRecord("secret-table", newEntry("secret-key", `"secret-value"`), 5)
	if err != nil || bytes.Equal(sealed.Value[8:], again.Value[8:]) || sealed.Key != again.Key {
		t.Errorf("sealing twice: wanted the same key and other bytes, %v", err)
	}
	table, e, err := c.openRecord(sealed)
	if err != nil || table != "secret-table" || e.key != "secret-key" || string(e.box.Load().raw) != `"secret-value"` {
		t.Errorf("got %s/%+v, %v", table, e, err)
	}
}

// TestNamesAreFramed has tables and keys that join to the same bytes.
func TestNamesAreFramed(t *testing.T) {
	c := testCodec(t)
	seen := map[string]string{}
	for _, p := range [][2]string{{"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}} {
		k := c.recordKey(p[0], p[1])
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q share a key", p, other)
		}
		seen[k] = p[0] + "/" + p[1]
	}
}

func FuzzOpenRecord(f *testing.F) {
	c := testCodec(f)
	sealed, err := c.sealRecord("t", newEntry("k", "{}"), 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed.Key, sealed.Value)
	f.Add("", []byte{})
	f.Add("r", make([]byte, 48))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		_, e, err := c.openRecord(Entry{Key: key, Value: value})
		if err == nil && (key != sealed.Key || e.key != "k") {
			t.Errorf("%x opened as %s", key, e.key)
		}
	})
}

func FuzzCutString(f *testing.F) {
	f.Add([]byte{3, 'a', 'b', 'c', 'd'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, rest, ok := cutString(b)
		if ok && !bytes.HasSuffix(b, append([]byte(s), rest...)) {
			t.Errorf("%x was cut into %x and %x", b, s, rest)
		}
	})
}
