package storetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// putBlob sets a blob and records its sum as a value, in one Update.
func putBlob(s *store.Store, key string, data []byte) error {
	return s.Update(context.Background(), func(tx *store.Tx) error {
		sum, err := Large.Put(tx, key, data)
		if err != nil {
			return err
		}
		return Values.Put(tx, key, Value{Text: hex.EncodeToString(sum[:])})
	})
}

// sizes of blobs: empty, plain and deflated.
var blobSizes = map[string][]byte{"empty": {}, "small": []byte("evidence"), "large": bytes.Repeat([]byte("large "), 20_000)}

func blobs(t *testing.T, m Medium) {
	s := Create(t, m())
	sums := map[string][32]byte{}
	for key, data := range blobSizes {
		must(t, s.Update(t.Context(), func(tx *store.Tx) (err error) {
			sums[key], err = Large.Put(tx, key, data)
			return err
		}))
	}
	check := func(s *store.Store) {
		t.Helper()
		for key, data := range blobSizes {
			if got, err := Large.Read(t.Context(), s, key, sums[key]); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: got %d bytes and %v, want %d bytes", key, len(got), err, len(data))
			}
		}
		if _, err := Large.Read(t.Context(), s, "absent", sums["small"]); err == nil {
			t.Error("a blob that nobody put was read")
		}
	}
	check(s)
	must(t, s.Close())
	s = Open(t, m())
	check(s)

	failed := s.Update(t.Context(), func(tx *store.Tx) error {
		_, err := Large.Put(tx, "small", []byte("other"))
		must(t, err)
		Large.Delete(tx, "large")
		return errWanted
	})
	if failed == nil {
		t.Fatal("the closure's error is lost")
	}
	check(s)

	var replaced [32]byte
	must(t, s.Update(t.Context(), func(tx *store.Tx) (err error) {
		Large.Delete(tx, "small")
		Large.Delete(tx, "large")
		Large.Delete(tx, "absent")
		replaced, err = Large.Put(tx, "small", []byte("newer"))
		return err
	}))
	_, err := Large.Read(t.Context(), s, "small", sums["small"])
	wantCode(t, err, "STO-006")
	if got, err := Large.Read(t.Context(), s, "small", replaced); err != nil || string(got) != "newer" {
		t.Errorf("got %q and %v, want newer", got, err)
	}
	_, err = Large.Read(t.Context(), s, "large", sums["large"])
	wantCode(t, err, "STO-006")
	for _, c := range []struct{ key, data string }{{"", "x"}, {strings.Repeat("k", 513), "x"}, {"k", strings.Repeat("x", 4<<20+1)}} {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			_, _ = Large.Put(tx, c.key, []byte(c.data)) // the error counts even if the closure ignores it
			return nil
		})
		wantCode(t, err, "STO-009")
	}
}

// alteredBlobs changes blobs as a host could: each is found when it is read,
// and none keeps the store from opening.
func alteredBlobs(t *testing.T, m Medium) {
	s := Create(t, m())
	must(t, putBlob(s, "a", []byte("first of a")))
	must(t, putBlob(s, "b", []byte("first of b")))
	must(t, s.Close())
	old := blobEntries(t, m)
	s = Open(t, m())
	must(t, putBlob(s, "a", []byte("second of a")))
	must(t, s.Close())
	now := blobEntries(t, m)
	if len(old) != 2 || len(now) != 2 {
		t.Fatalf("got %d and %d blobs on the medium, want 2", len(old), len(now))
	}
	a, b := now[0], now[1]
	if bytes.Equal(old[0].Value, now[0].Value) {
		a, b = now[1], now[0]
	}
	var before []byte
	for _, e := range old {
		if e.Key == a.Key {
			before = e.Value
		}
	}
	flipped := bytes.Clone(a.Value)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		put  []store.Entry
		drop []string
	}{
		{"flipped", []store.Entry{{Key: a.Key, Value: flipped}}, nil},
		{"short", []store.Entry{{Key: a.Key, Value: a.Value[:10]}}, nil},
		{"older", []store.Entry{{Key: a.Key, Value: before}}, nil},
		{"moved", []store.Entry{{Key: a.Key, Value: b.Value}}, nil},
		{"dropped", nil, []string{a.Key}},
	} {
		e := m()
		_, rev := loadAll(t, e)
		_, err := e.Commit(t.Context(), rev, c.put, c.drop)
		must(t, err)
		must(t, e.Close())
		s := Open(t, m())
		for key, damaged := range map[string]bool{"a": true, "b": false} {
			var sum [32]byte
			must(t, s.View(t.Context(), func(tx *store.Tx) error {
				v, _ := Values.Get(tx, key)
				_, err := hex.Decode(sum[:], []byte(v.Text))
				return err
			}))
			_, err := Large.Read(t.Context(), s, key, sum)
			if damaged {
				wantCode(t, err, "STO-006")
			} else {
				must(t, err)
			}
		}
		must(t, s.Close())
	}
}

func blobEntries(t *testing.T, m Medium) []store.Entry {
	t.Helper()
	e := m()
	found, err := e.Range(t.Context(), store.BlobPrefix, "c", 100)
	must(t, err)
	must(t, e.Close())
	return found
}
