package etcd

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// all returns what an engine holds, also of logs and blobs.
func all(t testing.TB, e store.Engine) (map[string][]byte, store.Rev) {
	t.Helper()
	held := map[string][]byte{}
	rev, err := e.Load(t.Context(), func(in store.Entry) error {
		held[in.Key] = slices.Clone(in.Value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{store.LogPrefix, store.BlobPrefix} {
		found, err := e.Range(t.Context(), prefix, after(prefix), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range found {
			if i > 0 && found[i-1].Key >= in.Key {
				t.Fatalf("key %q comes after %q", in.Key, found[i-1].Key)
			}
			held[in.Key] = in.Value
		}
	}
	return held, rev
}

// sized returns bytes that differ with i.
func sized(i, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b)
	return b
}

func same(t testing.TB, what string, got, want map[string][]byte) {
	t.Helper()
	if maps.EqualFunc(got, want, bytes.Equal) {
		return
	}
	for k := range want {
		if !bytes.Equal(got[k], want[k]) {
			t.Fatalf("%s: %x has %d bytes, want %d; %d entries, want %d", what, k, len(got[k]), len(want[k]), len(got), len(want))
		}
	}
	t.Fatalf("%s: got %d entries, want %d", what, len(got), len(want))
}

// TestClusterLargeCommits goes over every limit of etcd, up and down again.
func TestClusterLargeCommits(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync"))
	e := c.Engine()
	held, rev := all(t, e)
	for i, step := range []struct {
		what    string
		entries int
		size    int
		deletes int
	}{
		{"many", 1500, 20, 0}, {"many and large", 1000, 8 << 10, 200}, {"few and very large", 3, 5<<20 + 7, 0},
		{"many deletions", 1, 10, 900}, {"at the limit of a piece", 7, pieceSize, 0}, {"one more", 7, pieceSize + 1, 0},
		{"at the limit of an entry", 7, maxInline, 0}, {"one more than an entry", 7, maxInline + 1, 0}, {"small again", 7, 3, 0}, {"empty", 2, 0, 0}, {"all gone", 0, 0, 1 << 20},
	} {
		var puts []store.Entry
		var deletes []string
		for _, k := range slices.Sorted(maps.Keys(held)) {
			if len(deletes) < step.deletes {
				deletes = append(deletes, k)
				delete(held, k)
			}
		}
		for n := range step.entries {
			key := fmt.Sprintf("%c%d\x00\xff%d", "hrlb"[n%4], n, n)
			puts = append(puts, store.Entry{Key: key, Value: sized(i*31+n, step.size)})
			held[key] = puts[n].Value
		}
		var err error
		if rev, err = e.Commit(t.Context(), rev, puts, slices.DeleteFunc(deletes, func(k string) bool { return held[k] != nil })); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		got, at := all(t, c.Engine())
		same(t, step.what, got, held)
		if at != rev {
			t.Errorf("%s: got revision %d, want %d", step.what, at, rev)
		}
	}
	for _, name := range []string{entryStart, pieceStart, stageStart, pendingName} {
		if left := keys(t, c, name); len(left) > 0 {
			t.Errorf("left below %s: %q", name, left)
		}
	}
	if _, err := e.Commit(t.Context(), rev, []store.Entry{{Key: "r", Value: make([]byte, maxValue+1)}}, nil); problem.CodeOf(err) != "STO-009" {
		t.Errorf("a value over the limit: got %v, want STO-009", err)
	}
	five := slices.Repeat([]store.Entry{{Value: make([]byte, maxValue)}}, 5)
	for i := range five {
		five[i].Key = fmt.Sprint("r", i)
	}
	if _, err := e.Commit(t.Context(), rev, five, nil); problem.CodeOf(err) != "STO-009" {
		t.Errorf("a commit over the limit: got %v, want STO-009", err)
	}
}

// keys returns the keys in etcd that start with a name.
func keys(t testing.TB, c *Cluster, name string) []string {
	t.Helper()
	resp, err := c.get(t.Context(), 0, c.Key(name), c.Key(name)+"\xff", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, kv := range resp.Kvs {
		found = append(found, string(kv.Key))
	}
	return found
}
