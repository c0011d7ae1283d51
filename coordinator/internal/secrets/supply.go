package secrets

import (
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxSupplied bounds how many secrets have a supplied value at once: with two
// versions each they take at most 128 MiB.
const maxSupplied = 1000

// Supply is a value that somebody gives an opaque secret.
type Supply struct {
	Name  string
	Value []byte // 1 byte to MaxValue
	By    string // "user alice", "marble web/INSTANCE"
	// Expect is the version that the value follows, 0 for none; nil for any.
	Expect *uint64
	At     time.Time
}

// Format prints the secret's name alone.
func (s Supply) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "a value of %s", s.Name) } //nolint:errcheck // as fmt itself does

// MayDeposit judges whether a marble may supply a secret: SEC-001, SEC-002.
func MayDeposit(m *manifest.Manifest, marble, name string) error {
	_, err := permitted(m, marble, name, depositor)
	return err
}

// Put gives an opaque secret its next version. The one before goes on for the
// overlap. Who asks was judged by the caller. SEC-001: no such secret; SEC-008:
// too large, or too many; SEC-011: another version is the newest; SEC-014: it is
// not of a type that is supplied.
func Put(tx *store.Tx, m *manifest.Manifest, in Supply) (Rotated, error) {
	s, ok := m.Secrets[in.Name]
	switch {
	case !ok:
		return Rotated{}, problem.New("SEC-001", "no secret %.80q", in.Name)
	case s.Type != manifest.Opaque:
		return Rotated{}, problem.New("SEC-014", "secret %s is of type %s: the coordinator makes its values", in.Name, s.Type)
	case len(in.Value) == 0 || len(in.Value) > MaxValue:
		return Rotated{}, problem.New("SEC-008", "a value of %d bytes, wanted 1 to %d", len(in.Value), MaxValue)
	}
	table, key := place(s, Asker{}, in.Name)
	old, _ := table.Get(tx, key)
	if in.Expect != nil && *in.Expect != old.Latest {
		return Rotated{}, problem.New("SEC-011", "the value follows version %d, and version %d is the newest of secret %s", *in.Expect, old.Latest, in.Name)
	}
	if old.Now == nil {
		supplied := 0
		for _, r := range shared.All(tx) {
			if r.Now != nil && r.Shape == shape(s) {
				supplied++
			}
		}
		if supplied >= maxSupplied {
			return Rotated{}, problem.New("SEC-008", "%d secrets have a value that was supplied", supplied)
		}
	}
	// The caller's bytes are kept as they are; nobody may change them.
	r, gone := old.advance(s, version{Made: in.At.UTC(), By: in.By, Bytes: in.Value}, in.At)
	if err := table.Put(tx, key, r); err != nil {
		return Rotated{}, fmt.Errorf("keeping secret %s: %w", in.Name, err)
	}
	return Rotated{Name: in.Name, Version: r.Latest, Destroyed: gone, Until: r.Until}, nil
}

// Read returns a value as a user who may read it gets it, whose right the caller
// has judged. SEC-001: no such secret; SEC-004: it is for use only; SEC-005: it
// is a counter; SEC-017: there is no value yet.
func Read(tx *store.Tx, m *manifest.Manifest, t Target, at time.Time) (Value, error) {
	s, ok := m.Secrets[t.Name]
	if !ok {
		return Value{}, problem.New("SEC-001", "no secret %.80q", t.Name)
	}
	if err := releasable(s, t.Name, true); err != nil {
		return Value{}, err
	}
	table, key := place(s, t.Asker, t.Name)
	r, _ := table.Get(tx, key)
	if r.Now == nil {
		return Value{}, problem.New("SEC-017", "secret %s has no value yet", t.Name)
	}
	v := r.value(s, at)
	v.Previous = nil
	return v, nil
}

// Info says about a secret what is not secret.
type Info struct {
	Latest  uint64    // newest version; 0 before the first
	Present bool      // there is a value, or for an instance secret at least one
	Values  int       // of an instance secret, or counters
	Made    time.Time // of the newest version
	Keyed   time.Time // when its key was made
	By      string    // who supplied it
	Ends    time.Time // of its certificate
	Before  uint64    // version before, while the two overlap
	Until   time.Time // end of the overlap
	Next    time.Time // when the schedule rotates it
}

// Describe returns what is known of the secrets of a manifest, by name.
func Describe(tx *store.Tx, m *manifest.Manifest, at time.Time) map[string]Info {
	all := make(map[string]Info, len(m.Secrets))
	for name := range m.Secrets {
		all[name] = Info{}
	}
	for l, r := range each(tx, m) {
		i := all[l.name]
		i.Latest = max(i.Latest, r.Latest)
		if r.Now != nil {
			i.Present = true
			i.Values++
			if r.Now.Made.After(i.Made) {
				i.Made, i.Keyed, i.By, i.Ends = r.Now.Made, r.Now.keyed(), r.Now.By, r.Now.NotAfter
			}
			if next := r.rotationDue(l.s); !next.IsZero() && (i.Next.IsZero() || next.Before(i.Next)) {
				i.Next = next
			}
		}
		if r.overlaps(at) {
			i.Before, i.Until = r.Before.Number, r.Until
		}
		all[l.name] = i
	}
	describeCounters(tx, m, all)
	return all
}

// Unsupplied lists the opaque secrets without a value, by name.
func Unsupplied(tx *store.Tx, m *manifest.Manifest) []string {
	var names []string
	for name, s := range m.Secrets {
		if s.Type != manifest.Opaque {
			continue
		}
		if r, _ := shared.Get(tx, name); r.Now == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Versions returns the newest version of each of the asker's secrets of some
// names; those without a value are left out.
func Versions(tx *store.Tx, req Request) map[string]uint64 {
	newest := make(map[string]uint64, len(req.Names))
	for _, name := range req.Names {
		s := req.Manifest.Secrets[name]
		table, key := place(s, req.Asker, name)
		if r, _ := table.Get(tx, key); r.Now != nil {
			newest[name] = r.Latest
		}
	}
	return newest
}
