package bolt_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestDamagedFiles damages the database in many ways. Open must answer with a
// code of the store or with all records as they were, and never panic.
func TestDamagedFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := create(t, dir)
	load(t, s, 200)
	for i := range 20 {
		if err := activation(s, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, bolt.StateFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	outcomes := map[problem.Code]int{}
	for trial := range 120 {
		bad := damage(rng, good)
		write(t, path, bad)
		s, err := bolt.Open(t.Context(), bolt.Config{Dir: dir, Source: source("a")})
		if err != nil {
			code := problem.CodeOf(err)
			if outcomes[code]++; code == "" {
				t.Errorf("trial %d: an error without a code: %v", trial, err)
			}
			continue
		}
		outcomes["opened"]++
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			if got := records.Len(tx); got != 200 {
				return fmt.Errorf("got %d records, want 200", got)
			}
			return nil
		}); err != nil {
			t.Errorf("trial %d: %v", trial, err)
		}
		if got := get(t, s, "000019"); got != "value 19" {
			t.Errorf("trial %d: got %q, want value 19", trial, got)
		}
		s.Close()
	}
	t.Logf("outcomes: %v", outcomes)
	write(t, path, good)
	if got := get(t, open(t, dir), "000019"); got != "value 19" {
		t.Errorf("undamaged: got %q, want value 19", got)
	}
}

func damage(rng *rand.Rand, good []byte) []byte {
	bad := append([]byte(nil), good...)
	switch rng.IntN(4) {
	case 0: // some bytes anywhere
		for range 1 + rng.IntN(20) {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
	case 1: // cut, also inside of pages
		bad = bad[:1+rng.IntN(len(bad)-1)]
	case 2: // a page of zeros
		clear(bad[4096*rng.IntN(len(bad)/4096):][:4096])
	case 3: // one page over another
		from, to := 4096*rng.IntN(len(bad)/4096), 4096*rng.IntN(len(bad)/4096)
		copy(bad[to:to+4096], good[from:])
	}
	return bad
}

// TestTruncatedWhileOpen takes the file's pages away under a running store.
func TestTruncatedWhileOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := create(t, dir)
	load(t, s, 200)
	if err := os.Truncate(filepath.Join(dir, bolt.StateFile), 0); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if code := problem.CodeOf(activation(s, i)); code == "" {
			t.Errorf("update %d: succeeded without a file", i)
		}
	}
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		if got := records.Len(tx); got != 200 {
			return fmt.Errorf("got %d records, want 200", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
