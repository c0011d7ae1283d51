package endorse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of a bundle.
const (
	MaxBundle   = 8 << 20 // bytes of the file
	MaxSets     = 2048
	maxExpanded = 4 * MaxBundle // bytes of the documents of all sets, a shared one counted for each
)

// Format and version of bundles. Version 1: November 2026.
const (
	bundleFormat  = "ashlar-endorsements"
	bundleVersion = 1
)

// Bundle is many sets of endorsements in one file, for machines that no vendor's
// service can be reached from. A document that several sets have is in it once.
// Nothing in it is trusted for being there. The zero Bundle is empty and ready.
type Bundle struct {
	sets map[string]Set // by Need.Key
}

// Set is a need and what fills it.
type Set struct {
	Need         Need
	Endorsements attest.Endorsements
}

// bundleFile is the file: JSON, its members in this order, sets ordered by key.
type bundleFile struct {
	Format    string                        `json:"format"`
	Version   int                           `json:"version"`
	Documents map[string]attest.Endorsement `json:"documents"` // by digest, hexadecimal
	Sets      []bundleSet                   `json:"sets"`
}

type bundleSet struct {
	Need      Need     `json:"need"`
	Documents []string `json:"documents"` // keys of Documents, ordered by kind
}

// Put adds a set; one of the same need is replaced. A need that is not
// well-formed is an error, and so are more than MaxSets.
func (b *Bundle) Put(s Set) error {
	if err := s.Need.Check(); err != nil {
		return err
	}
	key := s.Need.Key()
	if _, known := b.sets[key]; !known && len(b.sets) >= MaxSets {
		return fmt.Errorf("more than %d sets", MaxSets)
	}
	if b.sets == nil {
		b.sets = map[string]Set{}
	}
	b.sets[key] = s
	return nil
}

// Get returns the set of a need.
func (b *Bundle) Get(n Need) (attest.Endorsements, bool) {
	s, ok := b.sets[n.Key()]
	return s.Endorsements, ok
}

// Sets returns the sets, ordered by key.
func (b *Bundle) Sets() []Set {
	all := make([]Set, 0, len(b.sets))
	for _, key := range slices.Sorted(maps.Keys(b.sets)) {
		all = append(all, b.sets[key])
	}
	return all
}

// Export encodes the bundle; equal bundles give equal bytes, whose SHA-256
// identifies them. Above MaxBundle it fails.
func (b *Bundle) Export() ([]byte, error) {
	f := bundleFile{Format: bundleFormat, Version: bundleVersion, Documents: map[string]attest.Endorsement{}, Sets: []bundleSet{}}
	for _, s := range b.Sets() {
		line := bundleSet{Need: s.Need, Documents: []string{}}
		for _, it := range s.Endorsements.Items() {
			id := contentOf(it)
			f.Documents[id] = it
			line.Documents = append(line.Documents, id)
		}
		f.Sets = append(f.Sets, line)
	}
	raw, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return nil, err
	}
	if len(raw) >= MaxBundle {
		return nil, fmt.Errorf("a bundle of %d bytes, the limit is %d", len(raw)+1, MaxBundle)
	}
	return append(raw, '\n'), nil
}

// Import reads what Export wrote, byte for byte. Anything else is ATT-063.
func Import(raw []byte) (*Bundle, error) {
	b, err := parseBundle(raw)
	if err != nil {
		return nil, problem.Because(err, "ATT-063", "reading a bundle of endorsements")
	}
	return b, nil
}

func parseBundle(raw []byte) (*Bundle, error) {
	if len(raw) > MaxBundle {
		return nil, fmt.Errorf("larger than %d bytes", MaxBundle)
	}
	var f bundleFile
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, err
	}
	if f.Format != bundleFormat || f.Version != bundleVersion {
		return nil, fmt.Errorf("format %.40q version %d, wanted %q version %d", f.Format, f.Version, bundleFormat, bundleVersion)
	}
	if len(f.Sets) > MaxSets {
		return nil, fmt.Errorf("more than %d sets", MaxSets)
	}
	b, size := &Bundle{}, 0
	for i, line := range f.Sets {
		if len(line.Documents) > len(readers) {
			return nil, fmt.Errorf("set %d has %d documents", i, len(line.Documents))
		}
		var items []attest.Endorsement
		for _, id := range line.Documents {
			it, ok := f.Documents[id]
			if !ok || readers[it.Kind] == nil {
				return nil, fmt.Errorf("set %d names document %.64q, which is missing or of no kind that is known here", i, id)
			}
			if size += len(it.Body) + len(it.Chain); size > maxExpanded {
				return nil, fmt.Errorf("sets of more than %d bytes", maxExpanded)
			}
			items = append(items, it)
		}
		if err := b.Put(Set{line.Need, attest.NewEndorsements(items...)}); err != nil {
			return nil, fmt.Errorf("set %d: %w", i, err)
		}
	}
	again, err := b.Export()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(raw, again) {
		return nil, errors.New("the file is not in the form that it was written in, or a document is not the one of its digest")
	}
	return b, nil
}

// contentOf is SHA-256 over the kind, and SHA-256 of body and chain.
func contentOf(it attest.Endorsement) string {
	body, chain := sha256.Sum256(it.Body), sha256.Sum256(it.Chain)
	h := sha256.New()
	h.Write([]byte(it.Kind))
	h.Write(body[:])
	h.Write(chain[:])
	return hex.EncodeToString(h.Sum(nil))
}
