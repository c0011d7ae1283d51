package secrets

import (
	"errors"
	"iter"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Target names values of one secret: of an instance secret those of one
// instance, or of all for the zero Asker.
type Target struct {
	Name  string
	Asker Asker
}

// each iterates over all values of the secrets of a manifest, by the key of
// their record.
func each(tx *store.Tx, m *manifest.Manifest) iter.Seq2[located, record] {
	return func(yield func(located, record) bool) {
		for name, r := range shared.All(tx) {
			if s, ok := m.Secrets[name]; ok && s.Scope != manifest.Instance && !yield(located{name: name, key: name, s: s}, r) {
				return
			}
		}
		for key, r := range instances.All(tx) {
			_, name := split(key)
			if s, ok := m.Secrets[name]; ok && s.Scope == manifest.Instance && !yield(located{name: name, key: key, s: s}, r) {
				return
			}
		}
	}
}

// located is a value's place.
type located struct {
	name, key string
	s         manifest.Secret
}

// effortRSA is how many other keys are made in the time of an RSA key, at least.
const effortRSA = 64

// effort is what it costs to make a value.
func effort(t manifest.SecretType) int {
	if t == manifest.RSA || t == manifest.CertRSA {
		return effortRSA
	}
	return 1
}

// Due returns values whose next version is to be made now: the schedule asks for
// it, a manifest has made them stale, or their certificate ends. Only values that
// exist are rotated. They are at most limit, and an RSA key counts as 64; all is
// false if there are more.
func Due(tx *store.Tx, m *manifest.Manifest, at time.Time, limit int) (due []Missing, all bool) {
	for l, r := range each(tx, m) {
		if limit <= 0 {
			return due, false
		}
		if r.Now == nil || supplied(l.s.Type) {
			continue
		}
		scheduled := r.rotationDue(l.s)
		switch {
		case !scheduled.IsZero() && !at.Before(scheduled):
			due = append(due, fresh(l, r))
		case !r.usable(l.s, at):
			due = append(due, *missing(l.s, r, l.key, l.name))
		default:
			continue
		}
		limit -= effort(l.s.Type)
	}
	return due, true
}

// fresh says that a value is to be followed by one with a new key.
func fresh(l located, r record) Missing {
	m := *missing(l.s, r, l.key, l.name)
	m.keep = nil
	return m
}

// Select returns what has to be made to rotate the target's values on demand, at
// most limit of them as Due counts, after the key of the last that was returned
// before ("" for the first). SEC-001: no such secret; SEC-014: it has the values that it
// was given; SEC-017: there is no value yet.
func Select(tx *store.Tx, m *manifest.Manifest, t Target, limit int, after string) ([]Missing, error) {
	s, ok := m.Secrets[t.Name]
	switch {
	case !ok:
		return nil, problem.New("SEC-001", "no secret %.80q", t.Name)
	case supplied(s.Type):
		return nil, problem.New("SEC-014", "secret %s is of type %s: nothing can be made in its place", t.Name, s.Type)
	}
	var found []Missing
	for l, r := range each(tx, m) {
		if l.name != t.Name || l.key <= after || r.Now == nil {
			continue
		}
		if who, _ := split(l.key); s.Scope == manifest.Instance && t.Asker != (Asker{}) && who != t.Asker {
			continue
		}
		found = append(found, fresh(l, r))
		if limit -= effort(s.Type); limit <= 0 {
			break
		}
	}
	if len(found) == 0 && after == "" {
		return nil, problem.New("SEC-017", "no value of secret %s was made yet", t.Name)
	}
	return found, nil
}

// Key is the place of what is missing among all values, for Select.
func (m Missing) Key() string { return m.key }

// Rotated is one value that got its next version.
type Rotated struct {
	Name      string
	Asker     Asker // of an instance secret
	Version   uint64
	Destroyed []uint64  // versions that are gone by it
	Until     time.Time // when the version before is destroyed; zero if it is already
}

// Rotate puts what was made into its tables. A value that somebody else has
// changed meanwhile is left alone.
func Rotate(tx *store.Tx, due []Missing, made map[string]Made, at time.Time) ([]Rotated, error) {
	var done []Rotated
	for _, m := range due {
		r, gone, err := put(tx, m, made, at)
		if errors.Is(err, errRaced) {
			continue
		}
		if err != nil {
			return nil, err
		}
		done = append(done, Rotated{Name: m.Name, Asker: m.Asker, Version: r.Latest, Destroyed: gone, Until: r.Until})
	}
	return done, nil
}

// Ended lists up to limit values whose overlap has ended, so that the version
// before has to be destroyed. Nobody gets it any more, destroyed or not.
func Ended(tx *store.Tx, at time.Time, limit int) []string {
	var keys []string
	for key, r := range shared.All(tx) {
		if len(keys) < limit && r.Before != nil && !r.overlaps(at) {
			keys = append(keys, key)
		}
	}
	for key, r := range instances.All(tx) {
		if len(keys) < limit && r.Before != nil && !r.overlaps(at) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Destroy removes the versions before of what Ended listed, and returns which.
func Destroy(tx *store.Tx, keys []string, at time.Time) ([]Rotated, error) {
	var done []Rotated
	for _, key := range keys {
		who, name := split(key)
		table := shared
		if who != (Asker{}) {
			table = instances
		}
		r, ok := table.Get(tx, key)
		if !ok || r.Before == nil || r.overlaps(at) {
			continue
		}
		done = append(done, Rotated{Name: name, Asker: who, Version: r.Latest, Destroyed: []uint64{r.Before.Number}})
		r.Before, r.Until = nil, time.Time{}
		if err := table.Put(tx, key, r); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// DestroyBefore destroys the versions before of a target at once, without
// waiting for the end of the overlap: what was rotated because somebody may know
// it must not be honoured any longer.
func DestroyBefore(tx *store.Tx, m *manifest.Manifest, t Target) ([]Rotated, error) {
	var done []Rotated
	for l, r := range each(tx, m) {
		who, _ := split(l.key)
		if l.name != t.Name || r.Before == nil || t.Asker != (Asker{}) && l.s.Scope == manifest.Instance && who != t.Asker {
			continue
		}
		table, _ := place(l.s, who, l.name)
		done = append(done, Rotated{Name: l.name, Asker: who, Version: r.Latest, Destroyed: []uint64{r.Before.Number}})
		r.Before, r.Until = nil, time.Time{}
		if err := table.Put(tx, l.key, r); err != nil {
			return nil, err
		}
	}
	return done, nil
}
