// Package attesttest is for tests: evidence of real and of simulated hardware
// with what is known about it, and the conformance test that every
// attest.Verifier must pass.
//
// It owns the golden sets under testdata, which are compiled in, so that tests
// of any package can use them. It refuses to be of use outside of tests.
package attesttest

import (
	"embed"
	"io/fs"
	"path"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
)

//go:embed testdata/evidence
var files embed.FS

const base = "testdata/evidence"

// Set is one golden set and what must come out of it.
type Set struct {
	Name string // "tdx/phala-v4-b0c0"
	evidence.Set
	Expect
}

// Expect is what a set must give at its own instant (evidence.Set.VerifyAt),
// under its own root where it has one and else under the vendor's, by a policy
// that accepts any measurement, no debug and only UpToDate; of AMD any patch
// level, with SMT and provisional firmware.
type Expect struct {
	Genuine    bool
	Status     attest.TCBStatus
	Advisories []string // sorted
	Debug      bool
	Unchecked  bool     // no CRLs, or none that was valid
	Failed     []string // "ATT-014 tcb.status": every step that fails, in order, but for those of Behind; nil means accepted
	// Behind are the parts below the vendor's best level, "tcb.platform: " and
	// which component has what and needs what.
	Behind []string
}

// Accepted reports whether the default policy accepts the set.
func (e Expect) Accepted() bool { return len(e.Failed) == 0 }

// Dir returns a set's folder as a file system.
func Dir(t testing.TB, name string) fs.FS {
	t.Helper()
	dir, err := fs.Sub(files, path.Join(base, name))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Load returns a set by name. The sets of RA-TLS certificates ("ratls/…") have
// no expectations of their own: their binding is package ratls's matter.
func Load(t testing.TB, name string) Set {
	t.Helper()
	s, err := evidence.Load(Dir(t, name))
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	return Set{Name: name, Set: s, Expect: expected[name]}
}

// All returns every set that has expectations, ordered by name.
func All(t testing.TB) []Set {
	t.Helper()
	var sets []Set
	for _, name := range Names(t) {
		if _, ok := expected[name]; ok {
			sets = append(sets, Load(t, name))
		}
	}
	return sets
}

// Names lists every set, ordered.
func Names(t testing.TB) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(files, base, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == evidence.MetaFile {
			names = append(names, path.Dir(p)[len(base)+1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// At returns the instant to judge the set at; sets that name none are refused
// before any window counts, at whatever time.
func (s Set) At() time.Time {
	if s.VerifyAt.IsZero() {
		return time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)
	}
	return s.VerifyAt
}
