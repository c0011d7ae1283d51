package fetch

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// suffix of the files of a store; each is a bundle with one set.
const suffix = ".endorsements.json"

// file is where the set of a need is kept.
func (s *Store) file(n endorse.Need) string {
	return filepath.Join(s.c.Dir, strings.NewReplacer("/", "_", ":", "-").Replace(n.Key())+suffix)
}

// save writes a set to the disk. What cannot be written is fetched again after
// a restart.
func (s *Store) save(m merger) {
	if s.c.Dir == "" {
		return
	}
	if err := s.write(m); err != nil {
		s.c.Log.Error("endorsements could not be saved", "of", m.need.Key(), "error", err)
	}
}

// discard removes the file of a set, if it has one.
func (s *Store) discard(n endorse.Need) {
	if s.c.Dir != "" {
		_ = os.Remove(s.file(n)) // one that stays is read again after a restart
	}
}

func (s *Store) write(m merger) error {
	var b endorse.Bundle
	if err := b.Put(endorse.Set{Need: m.need, Endorsements: m.set}); err != nil {
		return err
	}
	raw, err := b.Export()
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file(m.need), raw, 0o644)
}

// load reads what an earlier run kept. Every document is verified again, and the
// sources are asked for newer ones at the first use.
func (s *Store) load() error {
	if s.c.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.c.Dir, 0o755); err != nil {
		s.c.Log.Warn("endorsements are kept in memory only", "error", err)
		s.c.Dir = ""
		return nil
	}
	entries, err := os.ReadDir(s.c.Dir)
	if err != nil {
		return fmt.Errorf("reading the folder of endorsements: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() || len(s.sets) >= maxSets {
			continue
		}
		b, err := readBundle(filepath.Join(s.c.Dir, e.Name()))
		if err != nil {
			s.c.Log.Warn("a file of endorsements is not used", "file", e.Name(), "error", err)
			continue
		}
		for _, set := range b.Sets() {
			if _, err := s.adopt(set, "disk", time.Time{}); err != nil {
				s.c.Log.Warn("endorsements on the disk are not used", "file", e.Name(), "error", err)
			}
		}
	}
	return nil
}

func readBundle(path string) (*endorse.Bundle, error) {
	raw, err := readFile(path, endorse.MaxBundle)
	if err != nil {
		return nil, err
	}
	return endorse.Import(raw)
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// adopt takes a set that came otherwise than from a source, as far as it holds.
// It says whether anything changed, and what was left out.
func (s *Store) adopt(in endorse.Set, from string, fetched time.Time) (bool, error) {
	m := merger{store: s, need: in.Need, now: s.c.Now()}
	s.mu.Lock()
	if k := s.sets[in.Need.Key()]; k != nil {
		m.set, m.docs = k.set, k.docs
	}
	s.mu.Unlock()
	err := m.take(in.Endorsements, from)
	if !m.changed {
		return false, err
	}
	s.mu.Lock()
	k := s.keep(m, fetched)
	k.due, k.proven = s.c.Now(), true // ask the sources at the next use
	s.mu.Unlock()
	return true, err
}

// Learn takes the set that a piece of evidence was judged with elsewhere, as far as
// it holds and is not older than the one at hand. The sources are asked for newer
// documents at its next use.
func (s *Store) Learn(e attest.Evidence, en attest.Endorsements) error {
	verifier := s.c.Verifiers[e.TEE]
	if verifier == nil {
		return nil
	}
	n, ok := s.identify(verifier, e)
	if !ok {
		return nil
	}
	_, err := s.adopt(endorse.Set{Need: n, Endorsements: en}, "the state", time.Time{})
	return err
}

// Imported is what became of one set of a bundle.
type Imported struct {
	Need    endorse.Need
	Changed bool  // at least one of its documents is new
	Err     error // why documents of it were refused; nil if none was
}

// Import takes the sets of a bundle, document by document: what the vendor did
// not sign, what is of another platform than the set's, and what is older than
// the one at hand is refused.
func (s *Store) Import(b *endorse.Bundle) []Imported {
	var all []Imported
	for _, set := range b.Sets() {
		one := Imported{Need: set.Need}
		one.Changed, one.Err = s.adopt(set, "import", s.c.Now())
		if one.Changed {
			if en, ok := s.set(set.Need); ok {
				s.save(merger{need: set.Need, set: en})
			}
		}
		if one.Err != nil {
			one.Err = problem.Because(one.Err, "ATT-069", "importing endorsements of %s", set.Need.Key())
		}
		all = append(all, one)
	}
	return all
}

func (s *Store) set(n endorse.Need) (attest.Endorsements, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sets[n.Key()]
	if k == nil {
		return attest.Endorsements{}, false
	}
	return k.set, true
}

// Export returns all sets as a bundle.
func (s *Store) Export() *endorse.Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &endorse.Bundle{}
	for _, k := range s.sets {
		_ = b.Put(endorse.Set{Need: k.need, Endorsements: k.set}) // there are fewer than endorse.MaxSets, each of a need that was checked
	}
	return b
}

// State is a set as the store has it.
type State struct {
	Need      endorse.Need
	Key       string
	Digest    [32]byte
	Documents []endorse.Document
	Fetched   time.Time    // when a source last had all of it; zero: not since the start
	Source    string       // of the newest document
	Error     string       // why the last fetch gave less than all
	Code      problem.Code // of the error of a source that is the reason; "" if none is
	Missing   []string     // kinds
}

// States returns all sets, ordered by key.
func (s *Store) States() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]State, 0, len(s.sets))
	for _, key := range slices.Sorted(maps.Keys(s.sets)) {
		k := s.sets[key]
		all = append(all, State{Need: k.need, Key: key, Digest: k.set.Digest(), Documents: k.docs, Fetched: k.fetched, Source: k.source,
			Error: k.err, Code: k.code, Missing: k.need.Missing(k.set)})
	}
	return all
}

// Ending is a document that ends soon and has not been renewed.
type Ending struct {
	Key      string // of the set
	Document endorse.Document
}

// warnBefore is the longest time before its end that a document is warned of;
// one that is issued for less is warned of in the last quarter.
const warnBefore = 30 * 24 * time.Hour

// Endings lists the documents that end soon, or have ended, the first to end
// first; of a document that several sets have, the first set is named.
func (s *Store) Endings() []Ending {
	now := s.c.Now()
	var all []Ending
	seen := map[string]bool{}
	for _, st := range s.States() {
		for _, d := range st.Documents {
			early := min(warnBefore, d.NextUpdate.Sub(d.Issued)/4)
			if d.Error != "" || seen[d.Digest.String()] || now.Before(d.NextUpdate.Add(-early)) {
				continue
			}
			seen[d.Digest.String()] = true
			all = append(all, Ending{st.Key, d})
		}
	}
	slices.SortStableFunc(all, func(a, b Ending) int { return a.Document.NextUpdate.Compare(b.Document.NextUpdate) })
	return all
}
