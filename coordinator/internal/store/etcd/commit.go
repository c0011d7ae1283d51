package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	commitTime = 12 * time.Second // how long the outcome of a commit is asked for
	// tryTime is how long the first answer is waited for, and twice as long each
	// next one: what is sent while the cluster has no leader may stay unanswered.
	tryTime    = time.Second
	retryAfter = 50 * time.Millisecond
	retryMost  = time.Second
)

// decision is the transaction that makes a commit, or does not: it compares the
// revision, that nothing is pending, and the fence.
type decision struct {
	id       []byte
	expected store.Rev
	ops      []clientv3.Op
}

// Commit implements store.Engine.
//
// A commit that fits in one request is one transaction. A larger one is first
// staged in pieces that nobody reads; one transaction points to the stage, which
// makes the commit; then its changes are applied, in any number of steps that can
// be done again by anybody, and the pointer goes. Until then readers lay the
// stage over the entries.
//
// A transaction without an answer is sent again: it compares the revision, so it
// is made at most once, and the random value at the revision's key tells whether
// it was. When the time is over the outcome is unknown. Then the next call of any
// method moves the fence, which each commit compares: what is still on its way to
// etcd is refused from then on, and whoever looks sees what stays.
func (e *engine) Commit(ctx context.Context, expected store.Rev, puts []store.Entry, deletes []string) (store.Rev, error) {
	all, err := changesOf(puts, deletes)
	if err != nil {
		return 0, err
	}
	e.release()
	if err := e.settle(ctx); err != nil {
		return 0, err
	}
	d := decision{id: newID(), expected: expected}
	d.ops = []clientv3.Op{clientv3.OpPut(e.Key(revName), string(d.id))}
	if parts := e.batches(all); len(parts) == 1 && len(parts[0].ops) <= maxOps-len(d.ops)-1 {
		// Nobody's stage can be committed after this.
		d.ops = append(append(d.ops, clientv3.OpDelete(e.Key(stageStart), clientv3.WithPrefix())), parts[0].ops...)
		return e.decide(ctx, d)
	}
	pending, err := e.stage(ctx, d.id, all)
	if err != nil {
		return 0, err
	}
	own := e.stageKey(d.id, 0)
	d.ops = append(d.ops, clientv3.OpPut(e.Key(pendingName), string(pending.encode())),
		clientv3.OpDelete(e.Key(stageStart), clientv3.WithRange(own)),
		clientv3.OpDelete(e.stageKey(d.id, 1<<16), clientv3.WithRange(clientv3.GetPrefixRangeEnd(e.Key(stageStart)))))
	rev, err := e.decide(ctx, d)
	if err != nil {
		return 0, err
	}
	// It is made. What is left to do the next commit does, if this fails.
	_ = e.finish(ctx, rev, d.id, all)
	return rev, nil
}

func newID() []byte {
	id := make([]byte, idSize)
	rand.Read(id) // never fails (crypto/rand)
	return id
}

// stage writes the changes where nobody reads them yet.
func (e *engine) stage(ctx context.Context, id []byte, all []change) (pendingCommit, error) {
	b := encodeStage(all)
	if len(b) > maxStage {
		return pendingCommit{}, problem.New("STO-009", "a commit in etcd has at most %d bytes, got %d", maxStage, len(b))
	}
	place := 0
	for piece := range slices.Chunk(b, pieceSize) {
		put := []clientv3.Op{clientv3.OpPut(e.stageKey(id, place), string(piece))}
		if _, err := e.insist(ctx, nil, put, nil); err != nil {
			return pendingCommit{}, e.coded(err, "writing piece %d of a commit", place)
		}
		place++
	}
	return pendingCommit{id, len(b)}, nil
}

// insist makes a transaction that may be made more than once, and sends it again
// until it is answered or the time is over.
func (c *Cluster) insist(ctx context.Context, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	for wait, patience := retryAfter, tryTime; ; wait, patience = min(2*wait, retryMost), 2*patience {
		resp, err := c.txn(ctx, patience, when, then, otherwise)
		if err == nil || !uncertain(err) || !pause.For(ctx, wait) {
			return resp, err
		}
	}
}

// outcome is what is known of a decision after one try.
type outcome int

const (
	made       outcome = iota
	inTheWay           // not made, for a reason that is out of the way now
	refused            // not made
	unanswered         // it may be made, or be made later
)

// decide makes a commit or finds out that it cannot be made.
func (e *engine) decide(ctx context.Context, d decision) (store.Rev, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	asked := false // a transaction may still be on its way
	for wait, patience := retryAfter, tryTime; ; wait, patience = min(2*wait, retryMost), 2*patience {
		rev, got, err := e.try(ctx, patience, d)
		for got == inTheWay {
			rev, got, err = e.try(ctx, patience, d)
		}
		if got == made {
			return rev, nil
		}
		asked = asked || got == unanswered
		if got == unanswered && pause.For(ctx, wait) {
			continue
		}
		if asked && !errors.Is(err, store.ErrConflict) {
			e.unknown(d.expected)
			return 0, e.coded(err, "committing: whether it was made is not known yet")
		}
		return 0, e.coded(err, "committing")
	}
}

// try sends the transaction once.
func (e *engine) try(ctx context.Context, patience time.Duration, d decision) (store.Rev, outcome, error) {
	e.mu.Lock()
	fence := e.fence
	e.mu.Unlock()
	resp, err := e.txn(ctx, patience, []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(e.Key(revName)), "=", int64(d.expected)),
		clientv3.Compare(clientv3.ModRevision(e.Key(pendingName)), "=", 0),
		clientv3.Compare(clientv3.ModRevision(e.Key(fenceName)), "=", fence),
	}, d.ops, e.lookOps())
	switch {
	case err != nil && uncertain(err):
		return 0, unanswered, err
	case err != nil:
		return 0, refused, err
	case resp.Succeeded:
		return store.Rev(resp.Header.GetRevision()), made, nil
	}
	v, err := e.viewOf(resp)
	switch {
	case err != nil:
		return 0, refused, err
	case v.value == string(d.id):
		return v.rev, made, nil // its answer was lost
	case v.rev != d.expected:
		return 0, refused, fmt.Errorf("%w: wanted revision %d, got %d", store.ErrConflict, d.expected, v.rev)
	case v.stage != nil:
		if err = e.readStage(ctx, v); err == nil {
			err = e.finish(ctx, v.rev, v.stage.id, v.pending)
		}
	case v.fence != fence:
		e.mu.Lock()
		e.fence = v.fence
		e.mu.Unlock()
	default:
		err = problem.New("STO-005", "etcd refused a comparison that holds")
	}
	if err != nil {
		return 0, refused, err
	}
	return 0, inTheWay, nil
}

// finish applies a pending commit and removes what it left. Each step compares
// that the commit is still pending: by somebody slow it changes nothing.
func (e *engine) finish(ctx context.Context, rev store.Rev, id []byte, all []change) error {
	still := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(e.Key(pendingName)), "=", int64(rev))}
	parts := e.batches(all)
	end := batch{ops: []clientv3.Op{clientv3.OpDelete(e.Key(pendingName)),
		clientv3.OpDelete(e.stageKey(id, 0), clientv3.WithRange(e.stageKey(id, 1<<16)))}}
	for _, part := range append(parts, end) {
		resp, err := e.insist(ctx, still, part.ops, nil)
		if err != nil {
			return e.coded(err, "applying commit %d", rev)
		}
		if !resp.Succeeded {
			return nil // somebody else was faster
		}
	}
	return nil
}

// unknown remembers that the outcome of a commit on a revision is unknown.
func (e *engine) unknown(expected store.Rev) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubt = &expected
}

// settle, after a commit of unknown outcome, sees to it that it is made or can no
// longer be made. An engine that never commits writes nothing here.
func (e *engine) settle(ctx context.Context) error {
	e.mu.Lock()
	doubt := e.doubt
	e.mu.Unlock()
	if doubt == nil {
		return nil
	}
	same := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(e.Key(revName)), "=", int64(*doubt))}
	resp, err := e.txn(ctx, requestTime, same, []clientv3.Op{clientv3.OpPut(e.Key(fenceName), string(newID()))}, nil)
	if err != nil {
		return e.coded(err, "finding out what became of a commit")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.doubt = nil; resp.Succeeded {
		e.fence = resp.Header.GetRevision()
	}
	return nil
}
