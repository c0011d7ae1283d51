// Package storetest tests stores: a conformance suite that every engine must
// pass, an engine in memory that fails on demand, and one check of everything
// that must hold after each step.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// Fault is what becomes of one commit.
type Fault int

// The faults.
const (
	None    Fault = iota
	Lost          // an error, and nothing is persisted
	Unknown       // an error, but everything is persisted
)

// ErrFault is the error that a Disk makes up.
var ErrFault = errors.New("no space left on device (made up)")

// Disk is a medium in memory that outlives the engines on it.
type Disk struct {
	mu      sync.Mutex // guards all fields
	entries map[string][]byte
	sorted  []string // keys of entries; nil after a commit
	rev     store.Rev
	commits int

	// OnCommit decides what becomes of commit n (from 1); nil is None.
	OnCommit func(n int, puts []store.Entry, deletes []string) Fault
	// OnRead fails reads; nil fails none.
	OnRead func() error
}

// NewDisk returns an empty medium.
func NewDisk() *Disk { return &Disk{entries: map[string][]byte{}} }

// Clone returns a copy of the medium as it is now, without its faults.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{entries: map[string][]byte{}, rev: d.rev}
	for k, v := range d.entries {
		c.entries[k] = slices.Clone(v)
	}
	return c
}

// Engine opens an engine on the medium.
func (d *Disk) Engine() store.Engine { return &memory{disk: d} }

// SetFaults exchanges both callbacks.
func (d *Disk) SetFaults(onCommit func(int, []store.Entry, []string) Fault, onRead func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.OnCommit, d.OnRead = onCommit, onRead
}

// Commits returns the number of commits that were tried.
func (d *Disk) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commits
}

type memory struct{ disk *Disk }

func (m *memory) Load(ctx context.Context, each func(store.Entry) error) (store.Rev, error) {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.read(ctx); err != nil {
		return 0, err
	}
	for k, v := range d.entries {
		if strings.HasPrefix(k, store.LogPrefix) || strings.HasPrefix(k, store.BlobPrefix) {
			continue
		}
		// The copy is overwritten after the call, as an engine may do.
		c := slices.Clone(v)
		err := each(store.Entry{Key: k, Value: c})
		clear(c)
		if err != nil {
			return 0, err
		}
	}
	return d.rev, nil
}

func (m *memory) Commit(_ context.Context, expected store.Rev, puts []store.Entry, deletes []string) (store.Rev, error) {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits++
	if d.rev != expected {
		return 0, fmt.Errorf("%w: wanted revision %d, got %d", store.ErrConflict, expected, d.rev)
	}
	fault := None
	if d.OnCommit != nil {
		fault = d.OnCommit(d.commits, puts, deletes)
	}
	if fault == Lost {
		return 0, ErrFault
	}
	d.sorted = nil
	for _, k := range deletes {
		delete(d.entries, k)
	}
	for _, p := range puts {
		d.entries[p.Key] = slices.Clone(p.Value)
	}
	d.rev++
	if fault == Unknown {
		return 0, ErrFault
	}
	return d.rev, nil
}

func (m *memory) Range(ctx context.Context, from, to string, limit int) ([]store.Entry, error) {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.read(ctx); err != nil {
		return nil, err
	}
	if d.sorted == nil {
		d.sorted = slices.Sorted(maps.Keys(d.entries))
	}
	var found []store.Entry
	for i, _ := slices.BinarySearch(d.sorted, from); i < len(d.sorted) && d.sorted[i] < to && len(found) < limit; i++ {
		k := d.sorted[i]
		found = append(found, store.Entry{Key: k, Value: slices.Clone(d.entries[k])})
	}
	return found, nil
}

func (m *memory) Close() error { return nil }

// read fails as OnRead and ctx say; the caller holds the lock.
func (d *Disk) read(ctx context.Context) error {
	if d.OnRead != nil {
		if err := d.OnRead(); err != nil {
			return err
		}
	}
	return ctx.Err()
}
