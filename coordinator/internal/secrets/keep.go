package secrets

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxTombstones bounds the records, in all, beyond which the number of a secret
// that left the manifest is forgotten with it.
const maxTombstones = 20_000

// Asker is the marble instance that secrets are released to. Its marble is
// known from accepted evidence or from its leaf.
type Asker struct{ Marble, Instance string }

// Request asks for the secrets of some names, at a time. Manifest is the one
// that rules who may read them.
type Request struct {
	Manifest *manifest.Manifest
	Asker    Asker
	Names    []string
	At       time.Time
	// Fetched says that use-only keys are refused, and not released by their
	// public part and version alone.
	Fetched bool
}

// Missing is a secret that has to be made before it can be released.
type Missing struct {
	Name  string
	Asker Asker // of an instance secret
	spec  manifest.Secret
	key   string   // of its record
	base  uint64   // the newest version when it was found missing
	keep  *version // whose private key stays when only the certificate is renewed
}

// Format prints the secret's name alone.
func (m Missing) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.Name) }

// role is what a marble wants of a secret.
type role int

const (
	reader role = iota
	depositor
)

// permitted is the one place that decides whether a marble may have, use or
// supply a secret: SEC-001 and SEC-002.
func permitted(m *manifest.Manifest, marble, name string, as role) (manifest.Secret, error) {
	s, ok := m.Secrets[name]
	if !ok {
		return s, problem.New("SEC-001", "no secret %.80q", name)
	}
	list, word := s.Readers, "reader"
	if as == depositor {
		list, word = s.Depositors, "depositor"
	}
	if marble == "" || !slices.Contains(list, marble) {
		return manifest.Secret{}, problem.New("SEC-002", "marble %.80q is no %s of secret %q", marble, word, name)
	}
	return s, nil
}

// Find returns the requested secrets that exist for the asker, and those that
// have to be made. One that the asker may not read fails the whole, and so does
// one that nobody supplied yet (SEC-003), a counter (SEC-005), and, if it is
// fetched, a use-only key (SEC-004).
func Find(tx *store.Tx, req Request) (map[string]Value, []Missing, error) {
	have := make(map[string]Value, len(req.Names))
	var missing []Missing
	size := 0
	for _, name := range req.Names {
		s, err := permitted(req.Manifest, req.Asker.Marble, name, reader)
		if err != nil {
			return nil, nil, err
		}
		if err := releasable(s, name, req.Fetched); err != nil {
			return nil, nil, err
		}
		r, miss, err := find(tx, s, req, name)
		switch {
		case err != nil:
			return nil, nil, err
		case miss != nil:
			missing = append(missing, *miss)
		default:
			have[name] = r.value(s, req.At)
			size += have[name].Size()
		}
	}
	if size > manifest.MaxReply {
		return nil, nil, problem.New("SEC-008", "the secrets of %s have %d bytes together, at most %d fit a lease", req.Asker.Marble, size, manifest.MaxReply)
	}
	return have, missing, nil
}

// releasable refuses what has no value to hand out.
func releasable(s manifest.Secret, name string, fetched bool) error {
	switch {
	case s.Type == manifest.Counter:
		return problem.New("SEC-005", "secret %s is a counter: it is read and incremented, not released", name)
	case len(s.Operations) > 0 && fetched:
		return problem.New("SEC-004", "secret %s is for %s alone", name, strings.Trim(fmt.Sprint(s.Operations), "[]"))
	}
	return nil
}

// find returns the record that serves an asker, or what has to be made.
func find(tx *store.Tx, s manifest.Secret, req Request, name string) (record, *Missing, error) {
	table, key := place(s, req.Asker, name)
	r, _ := table.Get(tx, key)
	if r.usable(s, req.At) {
		return r, nil, nil
	}
	if supplied(s.Type) {
		return r, nil, problem.New("SEC-003", "secret %s was not supplied yet", name)
	}
	return r, missing(s, r, key, name), nil
}

// missing says how the next version of a record is made: with the same key, if
// only its certificate has to be another.
func missing(s manifest.Secret, r record, key, name string) *Missing {
	m := &Missing{Name: name, spec: s, key: key, base: r.Latest}
	if s.Scope == manifest.Instance {
		m.Asker, _ = split(key)
	}
	if r.Now != nil && !r.Stale && r.Shape == shape(s) && s.Type.Certified() {
		m.keep = r.Now
	}
	return m
}

// errRaced says that a record has changed since something was made for it.
var errRaced = errors.New("somebody was faster")

// put makes what was made the newest version of its record.
func put(tx *store.Tx, m Missing, made map[string]Made, at time.Time) (record, []uint64, error) {
	mine, ok := made[m.key]
	if !ok || mine.base != m.base || mine.shape != shape(m.spec) || mine.v.Profile != certProfile(m.spec) || mine.v.ending(at) {
		return record{}, nil, errRaced
	}
	table := shared
	if m.spec.Scope == manifest.Instance {
		table = instances
	}
	old, _ := table.Get(tx, m.key)
	if old.Latest != m.base {
		return record{}, nil, errRaced
	}
	r, gone := old.advance(m.spec, mine.v, at)
	if err := table.Put(tx, m.key, r); err != nil {
		return record{}, nil, fmt.Errorf("keeping secret %s: %w", m.Name, err)
	}
	return r, gone, nil
}

// Settle puts what was made into its tables, unless it exists by now, and
// returns all requested secrets. It is false if one is neither there nor
// made: the caller makes it and tries again.
func Settle(tx *store.Tx, req Request, made map[string]Made) (map[string]Value, bool, error) {
	have, missing, err := Find(tx, req)
	if err != nil {
		return nil, false, err
	}
	for _, miss := range missing {
		r, _, err := put(tx, miss, made, req.At)
		if errors.Is(err, errRaced) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		have[miss.Name] = r.value(miss.spec, req.At)
	}
	return have, true, nil
}

// Drop removes the secrets of one instance.
func Drop(tx *store.Tx, who Asker) {
	for key := range instances.Prefix(tx, who.Marble+"/"+who.Instance+"/") {
		instances.Delete(tx, key)
	}
}

// Updated is what a new manifest did to secrets, by name and in order.
type Updated struct {
	Dropped []string // lost their value, and the one before it
	Stale   []string // have it until the next version is made, which overlaps
}

// Update makes the secrets follow a new manifest. A value whose secret is gone,
// or whose type, size or scope is another, is destroyed with the one before it,
// and so is every value with onUpdate discard. With rederive a value becomes
// stale: the next version is made by Tick or for the next reader, and the stale
// one goes on as its previous. What a user or marble supplied cannot be
// rederived and stays; counters stay in any case.
func Update(tx *store.Tx, next *manifest.Manifest) Updated {
	dropped, stale := map[string]bool{}, map[string]bool{}
	for name, r := range shared.All(tx) {
		s, ok := next.Secrets[name]
		follow(tx, shared, name, followed{r: r, s: s, known: ok && s.Scope != manifest.Instance, name: name}, dropped, stale)
	}
	for key, r := range instances.All(tx) {
		_, name := split(key)
		s, ok := next.Secrets[name]
		follow(tx, instances, key, followed{r: r, s: s, known: ok && s.Scope == manifest.Instance, name: name}, dropped, stale)
	}
	for _, name := range updateCounters(tx, next) {
		dropped[name] = true
	}
	return Updated{Dropped: slices.Sorted(maps.Keys(dropped)), Stale: slices.Sorted(maps.Keys(stale))}
}

// followed is a record that follows its secret in a new manifest.
type followed struct {
	r     record
	s     manifest.Secret
	known bool
	name  string
}

func follow(tx *store.Tx, table store.Table[record], key string, f followed, dropped, stale map[string]bool) {
	switch {
	case !f.known || f.r.Shape != shape(f.s) || f.s.OnUpdate == "discard":
		if f.r.Now != nil {
			dropped[f.name] = true
		}
		if !f.known && (table == instances || table.Len(tx) > maxTombstones) {
			table.Delete(tx, key)
			return
		}
		// The number stays, so that no version ever has it again.
		_ = table.Put(tx, key, record{Shape: f.r.Shape, Latest: f.r.Latest}) // a failure is the transaction's
	case f.s.OnUpdate == "rederive" && f.r.Now != nil && !supplied(f.s.Type):
		f.r.Stale = true
		stale[f.name] = true
		_ = table.Put(tx, key, f.r) // a failure is the transaction's
	}
}
