// Package store keeps the coordinator's state: sealed, transactional, and in
// memory for reading.
//
// It owns what a record looks like outside the TEE, and the promise that an
// Update that returned nil survives a crash. It refuses to start on anything
// but the state that it wrote: a missing, foreign, damaged or partly rolled
// back state is a coded error, and only Create makes a new one.
//
// All live records stand in memory as immutable trees. A View takes the newest
// durable state and never waits. Updates run one after another on a pending
// state, those that wait together are made durable by one commit, and each
// returns when its commit is durable. Records of a Log and Blobs are not held in
// memory.
//
//	var marbles = store.NewTable[Marble]("marbles")
//	err := s.Update(ctx, func(tx *store.Tx) error {
//		m, _ := marbles.Get(tx, "web")
//		m.Instances++
//		return marbles.Put(tx, "web", m)
//	})
//
// What is detected: a record that is altered, moved, exchanged, dropped,
// inserted or put back to an older version, against the sealed head. What is
// not: the whole state put back to an older commit. Head is for that: whoever
// remembers an older head can tell.
package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	defaultMaxValue   = 4 << 20
	defaultMaxRecords = 1 << 20
)

// Config is what Create and Open need. Package store/bolt makes it for the
// embedded engine.
type Config struct {
	Engine     Engine    // the store closes it, also when Create or Open fails
	Key        seal.Key  // the data key
	MaxValue   int       // largest value or log record in bytes as JSON; 0: 4 MiB
	MaxRecords int       // largest number of live records; 0: 1,048,576
	Random     io.Reader // nil: crypto/rand
	// Observe, if not nil, is told how long each commit took and whether it
	// failed, or could not be begun. It must not block.
	Observe func(took time.Duration, err error)
}

// Store is an open state. All methods may be called from any goroutine.
type Store struct {
	engine     Engine
	observe    func(time.Duration, error)
	codec      *codec
	maxValue   int
	maxRecords int

	state atomic.Pointer[state] // newest durable state

	queue   chan *request
	closing chan struct{}
	stopped chan struct{}
	close   sync.Once
	engines sync.RWMutex // read-held while the engine is in use outside the writer

	// Of the writer alone:
	doubt      bool  // the last commit failed and may have been made or not
	outrun     error // STO-018: another writer was faster, and this one writes no more
	sealedHead []byte
}

// Head identifies a durable state. Sequence grows by one with each commit;
// Hash is the SHA-256 of the head record, which covers the previous head's
// hash, all live records and the logs' checkpoints.
type Head struct {
	Sequence uint64
	Hash     [32]byte
}

// String returns sequence and the hash's first 8 bytes.
func (h Head) String() string {
	return fmt.Sprintf("%d/%s", h.Sequence, hex.EncodeToString(h.Hash[:8]))
}

// HeadOf returns the head of the state that tx started from. In an Update that
// is a durable state, without the changes of this commit.
func HeadOf(tx *Tx) Head {
	tx.check()
	return Head{Sequence: tx.base.head.Sequence, Hash: tx.base.hash}
}

// Create writes the first head of a new state. An engine that holds anything
// is STO-001.
func Create(ctx context.Context, c Config) (*Store, error) {
	s, err := newStore(c)
	if err != nil {
		return nil, closeAfter(c, err)
	}
	rev, err := s.engine.Load(ctx, func(Entry) error { return errNotEmpty })
	if errors.Is(err, errNotEmpty) {
		return nil, closeAfter(c, problem.New("STO-001", "the engine holds records already"))
	}
	if err != nil {
		return nil, closeAfter(c, unusable(err, "looking for an older state"))
	}
	empty := &state{tables: map[string]*tree{}, logs: map[string]logState{}, rev: rev}
	first, puts, err := s.sealHead(empty.next(), [32]byte{})
	if err != nil {
		return nil, closeAfter(c, err)
	}
	puts = append(puts, Entry{Key: FormatKey, Value: s.codec.formatValue()})
	first.rev, err = s.engine.Commit(ctx, rev, puts, nil)
	if errors.Is(err, ErrConflict) {
		return nil, closeAfter(c, problem.Because(err, "STO-001", "creating it at the same time"))
	}
	if err != nil {
		return nil, closeAfter(c, unusable(err, "writing the first record"))
	}
	s.start(first, puts[0].Value)
	return s, nil
}

// Open loads a state and verifies every live record against the head. The
// errors are STO-003 (foreign), STO-004 (another key), STO-005 (damaged),
// STO-006 (altered), STO-007 (I/O) and STO-012 (never finished).
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := newStore(c)
	if err != nil {
		return nil, closeAfter(c, err)
	}
	loaded, sealedHead, err := s.load(ctx)
	if err != nil {
		return nil, closeAfter(c, err)
	}
	s.start(loaded, sealedHead)
	return s, nil
}

// View runs fn on the newest durable state. It never waits for an Update and
// stays on that state however long it takes. Changing anything in it panics.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx := &Tx{store: s, base: s.state.Load()}
	defer func() { tx.done = true }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.err
}

// Close waits for the commit that is being made, refuses what is still queued
// with STO-010, and closes the engine. It may be called more than once.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		close(s.closing)
		<-s.stopped
		s.engines.Lock()
		defer s.engines.Unlock()
		err = s.engine.Close()
	})
	return err
}

// Snapshot writes one durable state out, sealed as it is, while the store goes on.
// An engine that cannot is STO-024.
func (s *Store) Snapshot(ctx context.Context, each func(size int64, write func(io.Writer) error) error) error {
	engine, ok := s.engine.(Snapshotter)
	if !ok {
		return problem.New("STO-024", "an engine of type %T", s.engine)
	}
	release, err := s.use()
	if err != nil {
		return err
	}
	defer release()
	return engine.Snapshot(ctx, each)
}

var errNotEmpty = errors.New("not empty")

func newStore(c Config) (*Store, error) {
	if c.Engine == nil {
		return nil, errors.New("store: Config.Engine is missing")
	}
	if !c.Key.Valid() {
		return nil, errors.New("store: Config.Key is missing")
	}
	s := &Store{
		engine: c.Engine, observe: c.Observe, maxValue: c.MaxValue, maxRecords: c.MaxRecords,
		queue: make(chan *request), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if s.maxValue == 0 {
		s.maxValue = defaultMaxValue
	}
	if s.maxRecords == 0 {
		s.maxRecords = defaultMaxRecords
	}
	random := c.Random
	if random == nil {
		random = rand.Reader
	}
	var err error
	s.codec, err = newCodec(c.Key, random)
	return s, err
}

func closeAfter(c Config, err error) error {
	if c.Engine == nil {
		return err
	}
	if cerr := c.Engine.Close(); cerr != nil {
		return fmt.Errorf("%w (and closing the engine: %v)", err, cerr)
	}
	return err
}

// start publishes the first state and starts the writer; Close ends it.
func (s *Store) start(first *state, sealedHead []byte) {
	s.state.Store(first)
	s.sealedHead = sealedHead
	go s.write()
}

// use keeps the engine open until release is called.
func (s *Store) use() (release func(), err error) {
	s.engines.RLock()
	select {
	case <-s.closing:
		s.engines.RUnlock()
		return nil, errClosed()
	default:
		return s.engines.RUnlock, nil
	}
}

func errClosed() error { return problem.New("STO-010", "the store is closed") }
