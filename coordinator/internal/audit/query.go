package audit

import (
	"context"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	page       = 500     // records read at once
	maxIndexed = 10_000  // newest records that stand in the index
	maxScanned = 100_000 // records that a search by decision looks through
	maxFound   = 1000    // entries that one query returns
)

// Query narrows Recent. Empty fields allow everything.
type Query struct {
	Subject string
	Kinds   []Kind
	Limit   int // at most 1000, 0 is 100
}

// index finds the newest records by id and subject. It is filled by reading
// the log up to its end whenever a query comes, so an Update that fails leaves
// nothing in it.
type index struct {
	mu    sync.Mutex // guards all fields
	next  uint64     // first record that is not in the index
	items []item     // ascending, at most 2 × maxIndexed between two trims
	byID  map[string]uint64
}

type item struct {
	seq      uint64
	kind     Kind
	subject  string
	decision string
}

// Read returns up to limit (at most 1000) entries from place from on.
func (l *Log) Read(ctx context.Context, from uint64, limit int) ([]Entry, error) {
	stored, err := records.Read(ctx, l.store, from, min(limit, maxFound))
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(stored))
	for i, s := range stored {
		if entries[i], err = l.decode(ctx, s); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Recent returns the newest entries that match q, newest first. It looks at the
// last 10,000 records.
func (l *Log) Recent(ctx context.Context, q Query) ([]Entry, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, maxFound)
	places, err := l.index.match(ctx, l, q)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(places))
	for _, seq := range places {
		found, err := l.Read(ctx, seq, 1)
		if err != nil {
			return nil, err
		}
		entries = append(entries, found...)
	}
	return entries, nil
}

// ByDecision returns the newest entry with the decision id. It knows the last
// 10,000 records by id and looks through 100,000; STO-020 if there is none.
func (l *Log) ByDecision(ctx context.Context, id string) (Entry, error) {
	seq, found, oldest, err := l.index.lookup(ctx, l, id)
	if err != nil {
		return Entry{}, err
	}
	if found {
		entries, err := l.Read(ctx, seq, 1)
		if err != nil || len(entries) == 0 {
			return Entry{}, err
		}
		return entries[0], nil
	}
	select { // one at a time: each reads as much as all others
	case l.scanning <- struct{}{}:
		defer func() { <-l.scanning }()
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	}
	for scanned := uint64(0); oldest > 0 && id != "" && scanned < maxScanned; scanned += page {
		if err := ctx.Err(); err != nil {
			return Entry{}, err
		}
		from := oldest - min(oldest, page)
		entries, err := l.Read(ctx, from, int(oldest-from))
		if err != nil {
			return Entry{}, err
		}
		for _, e := range slices.Backward(entries) {
			if e.Decision == id {
				return e, nil
			}
		}
		oldest = from
	}
	return Entry{}, problem.New("STO-020", "no decision %.64q", id)
}

func (x *index) match(ctx context.Context, l *Log, q Query) ([]uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.catchUp(ctx, l); err != nil {
		return nil, err
	}
	var places []uint64
	for _, it := range slices.Backward(x.items) {
		if len(places) == q.Limit {
			break
		}
		if (q.Subject == "" || it.subject == q.Subject) && (len(q.Kinds) == 0 || slices.Contains(q.Kinds, it.kind)) {
			places = append(places, it.seq)
		}
	}
	return places, nil
}

// lookup finds id in the index; oldest is the first record that it knows.
func (x *index) lookup(ctx context.Context, l *Log, id string) (seq uint64, found bool, oldest uint64, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.catchUp(ctx, l); err != nil {
		return 0, false, 0, err
	}
	seq, found = x.byID[id]
	oldest = x.next - uint64(len(x.items))
	return seq, found, oldest, nil
}

// catchUp takes in what was appended since the last query.
func (x *index) catchUp(ctx context.Context, l *Log) error {
	end, err := l.Current(ctx)
	if err != nil {
		return err
	}
	if x.byID == nil || end.Size-x.next > maxIndexed {
		x.byID, x.items = map[string]uint64{}, nil
		x.next = end.Size - min(end.Size, maxIndexed)
	}
	for x.next < end.Size {
		entries, err := l.Read(ctx, x.next, int(min(page, end.Size-x.next)))
		if err != nil {
			return err
		}
		for _, e := range entries {
			x.items = append(x.items, item{seq: e.Seq, kind: e.Kind, subject: e.Subject, decision: e.Decision})
			if e.Decision != "" {
				x.byID[e.Decision] = e.Seq
			}
			x.next++
		}
		x.trim()
	}
	return nil
}

// trim drops the oldest items once there are twice as many as wanted.
func (x *index) trim() {
	if len(x.items) < 2*maxIndexed {
		return
	}
	old := x.items[:len(x.items)-maxIndexed]
	for _, it := range old {
		if x.byID[it.decision] == it.seq {
			delete(x.byID, it.decision)
		}
	}
	x.items = slices.Clone(x.items[len(old):])
}
