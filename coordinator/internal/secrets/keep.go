package secrets

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// record is a secret as it is kept: in these sealed tables and nowhere else.
type record struct {
	Shape        string    `json:"shape"`
	Profile      string    `json:"profile,omitempty"`
	Made         time.Time `json:"made"`
	NotAfter     time.Time `json:"notAfter,omitzero"` // of the certificate
	Bytes        []byte    `json:"bytes,omitempty"`
	PrivateKey   []byte    `json:"privateKey,omitempty"`
	Certificates [][]byte  `json:"certificates,omitempty"`
}

// Format hides the record from every verb.
func (record) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

func (r record) value() Value {
	return Value{Bytes: r.Bytes, PrivateKey: r.PrivateKey, Certificates: r.Certificates}
}

var (
	shared    = store.NewTable[record]("secrets")          // by name
	instances = store.NewTable[record]("secrets-instance") // by marble/instance/name
)

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
}

// Missing is a secret that has to be made before it can be released.
type Missing struct {
	Name string
	spec manifest.Secret
	key  string // of its record
	keep []byte // private key that stays when only the certificate is renewed
}

// permitted is the one place that decides whether a marble may have a secret.
func permitted(m *manifest.Manifest, marble, name string) (manifest.Secret, error) {
	s, ok := m.Secrets[name]
	if !ok {
		return s, fmt.Errorf("no secret %q", name)
	}
	if marble == "" || !slices.Contains(s.Readers, marble) {
		return manifest.Secret{}, fmt.Errorf("marble %q is no reader of secret %q", marble, name)
	}
	return s, nil
}

// Format prints the secret's name alone.
func (m Missing) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.Name) }

// Find returns the requested secrets that exist for the asker, and those that
// have to be made. One that the asker may not read fails the whole.
func Find(tx *store.Tx, req Request) (map[string]Value, []Missing, error) {
	have := make(map[string]Value, len(req.Names))
	var missing []Missing
	for _, name := range req.Names {
		s, err := permitted(req.Manifest, req.Asker.Marble, name)
		if err != nil {
			return nil, nil, err
		}
		table, key := place(s, req.Asker, name)
		r, ok := table.Get(tx, key)
		switch {
		case ok && usable(r, s, req.At):
			have[name] = r.value()
		case ok && r.Shape == shape(s):
			missing = append(missing, Missing{Name: name, spec: s, key: key, keep: r.PrivateKey})
		default:
			missing = append(missing, Missing{Name: name, spec: s, key: key})
		}
	}
	return have, missing, nil
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
		mine, ok := made[miss.Name]
		if !ok || !usable(mine.r, miss.spec, req.At) {
			return nil, false, nil
		}
		table, key := place(miss.spec, req.Asker, miss.Name)
		if err := table.Put(tx, key, mine.r); err != nil {
			return nil, false, fmt.Errorf("keeping secret %s: %w", miss.Name, err)
		}
		have[miss.Name] = mine.r.value()
	}
	return have, true, nil
}

// usable reports whether a record serves its definition: the same shape, and
// for certificates the same profile and more than a quarter of its life left.
func usable(r record, s manifest.Secret, at time.Time) bool {
	if r.Shape != shape(s) || r.Profile != certProfile(s) {
		return false
	}
	return r.NotAfter.IsZero() || r.NotAfter.Sub(at) > r.NotAfter.Sub(r.Made)/4
}

func place(s manifest.Secret, who Asker, name string) (store.Table[record], string) {
	if s.Scope == manifest.Instance {
		return instances, who.Marble + "/" + who.Instance + "/" + name
	}
	return shared, name
}

// Drop removes the secrets of one instance.
func Drop(tx *store.Tx, who Asker) {
	for key := range instances.Prefix(tx, who.Marble+"/"+who.Instance+"/") {
		instances.Delete(tx, key)
	}
}

// Update makes the secrets follow a new manifest and returns the names of those
// that lost their value, in order. A value stays if its secret says keep and
// its type, size and scope did not change. Rederive and discard end it with
// each revision; a new one is made when the next reader asks, which for a
// running reader is its next renewal.
func Update(tx *store.Tx, next *manifest.Manifest) []string {
	gone := map[string]bool{}
	for name, r := range shared.All(tx) {
		if !stays(next, name, manifest.Shared, r) {
			shared.Delete(tx, name)
			gone[name] = true
		}
	}
	for key, r := range instances.All(tx) {
		name := key[lastSlash(key)+1:]
		if !stays(next, name, manifest.Instance, r) {
			instances.Delete(tx, key)
			gone[name] = true
		}
	}
	names := make([]string, 0, len(gone))
	for n := range gone {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func stays(next *manifest.Manifest, name string, scope manifest.Scope, r record) bool {
	s, ok := next.Secrets[name]
	if s.Scope == "" {
		s.Scope = manifest.Shared
	}
	return ok && s.Scope == scope && r.Shape == shape(s) && (s.OnUpdate == "" || s.OnUpdate == "keep")
}

func lastSlash(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}
