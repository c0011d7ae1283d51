package etcd

import (
	"context"
	"errors"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	pageSize   = 256 // entries of one answer, which has at most 16 MiB then
	pieceCalls = 16  // pieces of one answer
	maxEntries = 1 << 22
	readTries  = 3
)

// view is one state of the cluster to read from.
type view struct {
	at        int64     // etcd's revision
	rev       store.Rev // the engine's
	value     string    // at revName: which commit that was
	fence     int64     // ModRevision
	restoring int64     // ModRevision; not 0 while a restore is not finished
	stage     *pendingCommit
	pending   []change // what the stage holds, once read: of the commit at rev, and not yet applied
}

// look returns the newest view. It is the newest when it was asked for, on
// whichever member.
func (c *Cluster) look(ctx context.Context) (*view, error) {
	for try := 1; ; try++ {
		resp, err := c.txn(ctx, requestTime, nil, c.lookOps(), nil)
		if err != nil {
			return nil, c.coded(err, "looking for the revision of the state")
		}
		v, err := c.viewOf(resp)
		if err == nil {
			err = c.readStage(ctx, v)
		}
		if !errors.Is(err, rpctypes.ErrCompacted) || try == readTries {
			return v, err
		}
	}
}

func (c *Cluster) lookOps() []clientv3.Op {
	var ops []clientv3.Op
	for _, name := range []string{revName, pendingName, fenceName, restoringName} {
		ops = append(ops, clientv3.OpGet(c.Key(name)))
	}
	return ops
}

// viewOf makes a view of the answers to lookOps, without what is pending.
func (c *Cluster) viewOf(resp *clientv3.TxnResponse) (*view, error) {
	rev, pending, fence := only(resp, 0), only(resp, 1), only(resp, 2)
	v := &view{at: resp.Header.GetRevision(), rev: store.Rev(rev.GetModRevision()), value: string(rev.GetValue()), fence: fence.GetModRevision(),
		restoring: only(resp, 3).GetModRevision()}
	if v.at <= 0 || rev.GetModRevision() < 0 {
		return nil, problem.New("STO-005", "etcd's revisions are %d and %d", v.at, rev.GetModRevision())
	}
	if pending == nil {
		return v, nil
	}
	stage, err := decodePending(pending.GetValue())
	if err != nil || pending.GetModRevision() != rev.GetModRevision() {
		return nil, problem.New("STO-005", "what commit %d left to be applied is malformed", v.rev)
	}
	v.stage = &stage
	return v, nil
}

// Revision returns the revision of the newest commit; 0 if there is none. A standby
// learns by it that the state changed.
func (c *Cluster) Revision(ctx context.Context) (store.Rev, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := c.client.Get(ctx, c.Key(revName))
	if err != nil {
		return 0, c.coded(err, "looking for the revision of the state")
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return store.Rev(resp.Kvs[0].GetModRevision()), nil
}

// newest returns the newest view of a state that is whole; STO-035.
func (c *Cluster) newest(ctx context.Context) (*view, error) {
	v, err := c.look(ctx)
	if err == nil && v.restoring != 0 {
		return nil, problem.New("STO-035", "%s holds a part of a state", c.location)
	}
	return v, err
}

// readStage reads the changes of the pending commit, if there is one.
func (c *Cluster) readStage(ctx context.Context, v *view) error {
	if v.stage == nil {
		return nil
	}
	b, err := c.join(ctx, v.at, func(place int) string { return c.stageKey(v.stage.id, place) }, v.stage.size)
	if err != nil {
		return c.coded(err, "reading the stage of commit %d", v.rev)
	}
	if v.pending, err = decodeStage(b); err != nil {
		return problem.New("STO-005", "the stage of commit %d %v", v.rev, err)
	}
	return nil
}

// only returns the one key that answer i of a transaction has, or nil.
func only(resp *clientv3.TxnResponse, i int) *mvccpb.KeyValue {
	if i >= len(resp.Responses) {
		return nil
	}
	if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// txn makes one transaction, whose answer it waits for as long as patience says.
func (c *Cluster) txn(ctx context.Context, patience time.Duration, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.client.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
}

// get reads at most limit keys from <= key < to as they were at a revision, in
// order. What does not fit that is the host's doing.
func (c *Cluster) get(ctx context.Context, at int64, from, to string, limit int) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := c.client.Get(ctx, from, clientv3.WithRange(to), clientv3.WithRev(at), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, err
	}
	last := ""
	for _, kv := range resp.Kvs {
		key := string(kv.GetKey())
		if key < from || key >= to || key <= last {
			return nil, problem.New("STO-006", "etcd answered with a key that was not asked for, or out of order")
		}
		last = key
	}
	if len(resp.Kvs) > limit || resp.More && len(resp.Kvs) == 0 {
		return nil, problem.New("STO-006", "wanted at most %d keys, got %d and more: %v", limit, len(resp.Kvs), resp.More)
	}
	return (*etcdserverpb.RangeResponse)(resp), nil
}

// join reads pieces, of which there are as many as size has, at a revision.
func (c *Cluster) join(ctx context.Context, at int64, key func(place int) string, size int) ([]byte, error) {
	joined := make([]byte, 0, size)
	for place, n := 0, pieceCount(size); place < n; {
		resp, err := c.get(ctx, at, key(place), key(n-1)+"\x00", min(pieceCalls, n-place))
		if err != nil {
			return nil, err
		}
		for _, kv := range resp.Kvs {
			if string(kv.GetKey()) != key(place) || len(kv.GetValue()) != min(pieceSize, size-place*pieceSize) {
				return nil, problem.New("STO-006", "piece %d of %d is missing, or of another size", place, n)
			}
			joined = append(joined, kv.GetValue()...)
			place++
		}
		if len(resp.Kvs) == 0 {
			return nil, problem.New("STO-006", "piece %d of %d is missing", place, n)
		}
	}
	return joined, nil
}

// errStop ends a scan early.
var errStop = errors.New("stop")

// scan calls each for the entries from <= key < to of a view, in order, with as
// many in one answer as limit says. It takes another view when etcd has forgotten
// this one and no commit was made since; else it is errMoved.
func (c *Cluster) scan(ctx context.Context, v *view, from, to string, limit int, each func(store.Entry) error) error {
	for next := from; ; {
		resp, err := c.get(ctx, v.at, c.Key(entryStart+next), c.Key(entryStart+to), min(limit, pageSize))
		if errors.Is(err, rpctypes.ErrCompacted) {
			if err := c.renew(ctx, v); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		end := to
		if resp.More {
			end = c.entryKey(resp.Kvs[len(resp.Kvs)-1]) + "\x00"
		}
		err = c.page(ctx, v, resp.Kvs, next, end, each)
		if errors.Is(err, rpctypes.ErrCompacted) {
			return errMoved // among the pieces of a value: begin anew
		}
		if err != nil || !resp.More {
			return err
		}
		next = end
	}
}

// renew replaces a view by a newer one of the same state.
func (c *Cluster) renew(ctx context.Context, v *view) error {
	fresh, err := c.look(ctx)
	if err != nil {
		return err
	}
	if fresh.rev != v.rev {
		return errMoved
	}
	*v = *fresh
	return nil
}

func (c *Cluster) entryKey(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.GetKey()), c.Key(entryStart))
}

// page merges the entries of one answer, which are all from <= key < to, with what
// a pending commit makes of them.
func (c *Cluster) page(ctx context.Context, v *view, kvs []*mvccpb.KeyValue, from, to string, each func(store.Entry) error) error {
	i := sort.Search(len(v.pending), func(i int) bool { return v.pending[i].key >= from })
	overlay := func(to string) error {
		for ; i < len(v.pending) && v.pending[i].key < to; i++ {
			if p := v.pending[i]; p.value != nil {
				if err := each(store.Entry{Key: p.key, Value: p.value}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, kv := range kvs {
		key := c.entryKey(kv)
		if err := overlay(key); err != nil {
			return err
		}
		if i < len(v.pending) && v.pending[i].key == key {
			continue // overlay does it
		}
		value, err := c.value(ctx, v.at, key, kv.GetValue())
		if err != nil {
			return err
		}
		if err := each(store.Entry{Key: key, Value: value}); err != nil {
			return err
		}
	}
	return overlay(to)
}

// value decodes what stands at an entry's key, and reads its pieces.
func (c *Cluster) value(ctx context.Context, at int64, key string, b []byte) ([]byte, error) {
	if key == "" || len(key) > maxKey {
		return nil, problem.New("STO-006", "an entry's key has %d bytes", len(key))
	}
	value, size, err := decodeValue(b)
	if err != nil {
		return nil, problem.New("STO-005", "an entry %v", err)
	}
	if size == 0 {
		return value, nil
	}
	return c.join(ctx, at, func(place int) string { return c.pieceKey(key, place) }, size)
}
