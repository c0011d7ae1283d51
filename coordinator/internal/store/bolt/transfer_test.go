package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestTransfer writes entries out and reads them back, and a state that is open is
// not read.
func TestTransfer(t *testing.T) {
	want := map[string][]byte{"f": []byte("format"), "h": []byte("head"), "l1": []byte("log"), "b1": bytes.Repeat([]byte("blob"), 1<<20)}
	for i := range 3000 {
		want["r"+string(rune('a'+i))] = bytes.Repeat([]byte{byte(i)}, i)
	}
	path := filepath.Join(t.TempDir(), bolt.StateFile)
	put := func(put func(store.Entry) error) error {
		for k, v := range want {
			if err := put(store.Entry{Key: k, Value: v}); err != nil {
				return err
			}
		}
		return nil
	}
	for range 2 { // also over a file that is there
		if err := bolt.Export(t.Context(), path, put); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]byte{}
	take := func(in store.Entry) error { got[in.Key] = bytes.Clone(in.Value); return nil }
	if err := bolt.Entries(t.Context(), path, take); err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("got %d entries, %v, want %d", len(got), err, len(want))
	}
	stop := errors.New("stop")
	if err := bolt.Export(t.Context(), path, func(func(store.Entry) error) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the caller's error", err)
	}
	if err := bolt.Entries(t.Context(), path+".absent", take); problem.CodeOf(err) != "STO-002" {
		t.Errorf("of no file: got %v, want STO-002", err)
	}
	dir := t.TempDir()
	create(t, dir)
	if err := bolt.Entries(t.Context(), filepath.Join(dir, bolt.StateFile), take); problem.CodeOf(err) != "STO-008" {
		t.Errorf("of a state that is open: got %v, want STO-008", err)
	}
}

// TestSnapshotEndsWithItsContext: who takes a backup slowly holds the state's pages
// no longer than the request lasts.
func TestSnapshotEndsWithItsContext(t *testing.T) {
	s := create(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Snapshot(ctx, func(_ int64, write func(io.Writer) error) error {
		cancel()
		return write(io.Discard)
	})
	if err == nil {
		t.Error("got a whole snapshot, want an error")
	}
}
