package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// One commit takes at most this many closures, and no more of them after this
// many bytes.
const (
	maxBatch      = 256
	maxBatchBytes = 8 << 20
)

var errNoReturn = errors.New("the closure did not return")

// request is one Update on its way through the writer.
type request struct {
	turn chan *Tx      // the writer gives the caller its turn
	ran  chan struct{} // the caller's closure has returned
	done chan error    // the commit's outcome, if the closure succeeded
}

// Update runs fn alone, on the newest pending state, and returns nil when its
// changes are durable. It runs in the caller's goroutine.
//
// If fn returns an error or panics, nothing of it remains; a panic comes back
// as STO-011. If ctx ends while Update waits for its turn, fn never runs
// (STO-019); after its turn Update waits for the outcome. STO-007 means that
// the commit failed: the state is the last durable one again and the next
// Update tries anew. Where the medium failed after writing, the change may
// still appear, whole, when the medium answers again.
//
// fn must not call Update, and should do no slow work: every writer waits.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	r := &request{turn: make(chan *Tx), ran: make(chan struct{}), done: make(chan error, 1)}
	if err := ctx.Err(); err != nil {
		return problem.Because(err, "STO-019", "before waiting to write")
	}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return problem.Because(ctx.Err(), "STO-019", "while waiting to write")
	case <-s.closing:
		return errClosed()
	}
	tx := <-r.turn
	if tx == nil {
		return <-r.done
	}
	if err := run(r, tx, fn); err != nil {
		return err
	}
	return <-r.done
}

// run calls fn and tells the writer when it is over, also after a panic and
// after runtime.Goexit.
func run(r *request, tx *Tx, fn func(*Tx) error) (err error) {
	returned := false
	defer func() {
		if !returned {
			tx.fail(errNoReturn)
			if p := recover(); p != nil {
				err = panicked(p)
			}
		}
		tx.done = true
		close(r.ran)
	}()
	err = fn(tx)
	returned = true
	if err != nil {
		tx.fail(err)
	} else {
		err = tx.err
	}
	return err
}

// panicked describes a panic without its value, which could be a secret; the
// Go runtime's own errors hold none.
func panicked(p any) error {
	what := fmt.Sprintf("a value of type %T", p)
	var runtimeError interface{ RuntimeError() }
	if err, ok := p.(error); ok && errors.As(err, &runtimeError) {
		what = err.Error()
	}
	return problem.New("STO-011", "panic: %s\n%s", what, debug.Stack())
}

// write is the writer: it alone prepares and commits states.
func (s *Store) write() {
	defer close(s.stopped)
	for {
		select {
		case <-s.closing:
			return
		case r := <-s.queue:
			s.batch(r)
		}
	}
}

// batch runs the first request and those that wait behind it, makes them
// durable together and answers them.
func (s *Store) batch(r *request) {
	started := time.Now()
	if err := s.settle(); err != nil {
		if s.observe != nil {
			s.observe(time.Since(started), err)
		}
		r.done <- err
		r.turn <- nil
		return
	}
	b := &batch{store: s, pending: s.state.Load().next(), dirty: map[recordID]*entry{}, blobs: map[string]pendingBlob{}}
	for more := true; more; {
		b.run(r)
		if b.ran >= maxBatch || b.bytes >= maxBatchBytes {
			break
		}
		select {
		case r = <-s.queue:
		default:
			more = false
		}
	}
	var err error
	if len(b.dirty)+len(b.appends)+len(b.blobs) > 0 || b.changed {
		err = s.commit(b)
	}
	for _, r := range b.accepted {
		r.done <- err
	}
}

// batch is the work of one commit.
type batch struct {
	store    *Store
	pending  *state
	dirty    map[recordID]*entry
	appends  []pendingAppend
	blobs    map[string]pendingBlob
	accepted []*request
	changed  bool
	ran      int
	bytes    int
}

// run gives r its turn and takes its changes over if it succeeded.
func (b *batch) run(r *request) {
	b.ran++
	tx := &Tx{
		store: b.store, base: b.pending, writable: true, count: b.pending.count,
		tables: map[string]*tree{}, logs: map[string]logState{}, dirty: map[recordID]*entry{},
		blobs: map[string]pendingBlob{},
	}
	r.turn <- tx
	<-r.ran
	if tx.err != nil {
		return
	}
	for name, t := range tx.tables {
		b.pending.tables[name] = t
	}
	for name, l := range tx.logs {
		b.pending.logs[name] = l
		b.changed = true
	}
	for id, e := range tx.dirty {
		b.dirty[id] = e
	}
	maps.Copy(b.blobs, tx.blobs)
	b.appends = append(b.appends, tx.appends...)
	b.pending.count = tx.count
	b.bytes += tx.bytes
	b.accepted = append(b.accepted, r)
}

// commit seals what the batch changed, makes it durable and publishes it.
func (s *Store) commit(b *batch) error {
	durable := s.state.Load()
	next, puts, deletes, err := s.prepare(durable, b)
	if err != nil {
		return err
	}
	started := time.Now()
	rev, err := s.engine.Commit(context.Background(), durable.rev, puts, deletes)
	if s.observe != nil {
		s.observe(time.Since(started), err)
	}
	if err != nil {
		s.doubt = true
		if errors.Is(err, ErrConflict) {
			s.outrun = problem.Because(err, "STO-018", "committing sequence %d", next.head.Sequence)
			return s.outrun
		}
		err = unusable(err, "committing sequence %d", next.head.Sequence)
		_ = s.settle() // so that readers see at once what became of it; if it fails, the next Update tries again
		return err
	}
	next.rev = rev
	s.sealedHead = puts[0].Value
	s.state.Store(next)
	return nil
}

// prepare seals the batch on top of the durable state. The head is first of
// the puts.
func (s *Store) prepare(durable *state, b *batch) (next *state, puts []Entry, deletes []string, err error) {
	var sum [32]byte
	copy(sum[:], durable.head.State)
	sequence := durable.head.Sequence + 1
	for id, e := range b.dirty {
		old, existed := (*entry)(nil), false
		if t := durable.tables[id.table]; t != nil {
			old, existed = t.Get(&entry{key: id.key})
		}
		if existed {
			xor(&sum, old.sum)
		}
		if e == nil {
			if existed {
				deletes = append(deletes, s.codec.recordKey(id.table, id.key))
			}
			continue
		}
		put, err := s.codec.sealRecord(id.table, e, sequence)
		if err != nil {
			return nil, nil, nil, err
		}
		xor(&sum, e.sum)
		puts = append(puts, put)
	}
	for _, a := range b.appends {
		key := s.codec.logKey(a.log, a.seq)
		sealed, err := s.codec.seal(key, sequence, a.packed)
		if err != nil {
			return nil, nil, nil, err
		}
		puts = append(puts, Entry{Key: key, Value: sealed})
	}
	for key, blob := range b.blobs {
		if blob.packed == nil {
			deletes = append(deletes, key)
			continue
		}
		sealed, err := s.codec.seal(key, sequence, blob.packed)
		if err != nil {
			return nil, nil, nil, err
		}
		puts = append(puts, Entry{Key: key, Value: sealed})
	}
	next, head, err := s.sealHead(b.pending, sum)
	if err != nil {
		return nil, nil, nil, err
	}
	return next, append(head, puts...), deletes, nil
}

// sealHead makes next, which still has the head of its predecessor, a state
// with its own head, and returns the head as the one entry to put.
func (s *Store) sealHead(next *state, sum [32]byte) (*state, []Entry, error) {
	sequence, previous := next.head.Sequence+1, next.hash
	next.head = headRecord{Sequence: sequence, Previous: previous[:], State: sum[:], Records: next.count, Logs: next.logs}
	plain, err := json.Marshal(next.head)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the head: %w", err)
	}
	next.hash = sha256.Sum256(plain)
	sealed, err := s.codec.seal(HeadKey, sequence, plain)
	if err != nil {
		return nil, nil, err
	}
	return next, []Entry{{Key: HeadKey, Value: sealed}}, nil
}
