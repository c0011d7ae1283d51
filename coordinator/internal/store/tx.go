package store

import (
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/google/btree"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxName   = 64
	maxKey    = 512
	maxLogs   = 16
	maxTables = 256
	degree    = 16 // records per tree node: 15 to 31
)

// box is a value of a record: as JSON until somebody reads it, decoded after.
type box struct {
	raw     []byte // nil once decoded and sealed
	value   any
	decoded bool
}

// entry is one live record. Only box changes once the entry is in a tree that
// others see.
type entry struct {
	key    string
	box    atomic.Pointer[box]
	sum    [32]byte // its share of the state hash; set when it is sealed
	sealed bool     // set by the writer before the entry is published
}

type tree = btree.BTreeG[*entry]

func newTree() *tree {
	return btree.NewG(degree, func(a, b *entry) bool { return a.key < b.key })
}

// logState is what the head keeps about a log.
type logState struct {
	Len        uint64 `json:"len"`
	Checkpoint []byte `json:"checkpoint,omitempty"`
}

// state is everything that is live at one sequence. A published state never
// changes; the one that the writer prepares is its alone.
type state struct {
	tables map[string]*tree
	logs   map[string]logState
	count  int
	head   headRecord
	hash   [32]byte // of the head
	rev    Rev
}

// next returns a copy that may be changed, sharing all trees.
func (s *state) next() *state {
	c := *s
	c.tables = maps.Clone(s.tables)
	c.logs = maps.Clone(s.logs)
	return &c
}

type recordID struct{ table, key string }

type pendingAppend struct {
	log    string
	seq    uint64
	packed []byte
}

// Tx is one transaction: a view of the state that does not move and, in an
// Update, the changes made so far. It belongs to the goroutine that runs the
// closure and is dead when the closure returns.
type Tx struct {
	store    *Store
	base     *state
	writable bool
	done     bool
	err      error // first failure; the transaction cannot succeed any more

	tables  map[string]*tree    // tables changed here
	logs    map[string]logState // logs changed here
	dirty   map[recordID]*entry // records changed here; nil is deleted
	appends []pendingAppend
	blobs   map[string]pendingBlob // by the engine's key
	count   int                    // live records
	bytes   int                    // put and appended
}

func (tx *Tx) check() {
	if tx.done {
		panic("store: transaction used after its closure returned")
	}
}

func (tx *Tx) checkWritable() {
	tx.check()
	if !tx.writable {
		panic("store: change in a View")
	}
}

// fail makes the transaction fail with the first error that it met.
func (tx *Tx) fail(err error) error {
	if tx.err == nil {
		tx.err = err
	}
	return err
}

// tree returns the table as this transaction sees it, or nil.
func (tx *Tx) tree(table string) *tree {
	if t, ok := tx.tables[table]; ok {
		return t
	}
	return tx.base.tables[table]
}

// frozen is tree, safe to iterate over while the transaction changes it.
func (tx *Tx) frozen(table string) *tree {
	if t, ok := tx.tables[table]; ok {
		return t.Clone()
	}
	return tx.base.tables[table]
}

// own returns the table as a tree that this transaction may change.
func (tx *Tx) own(table string) (*tree, error) {
	if t, ok := tx.tables[table]; ok {
		return t, nil
	}
	t, ok := tx.base.tables[table]
	switch {
	case ok:
		t = t.Clone()
	case len(tx.base.tables)+len(tx.tables) >= maxTables:
		return nil, fmt.Errorf("table %s: more than %d tables", table, maxTables)
	default:
		t = newTree()
	}
	tx.tables[table] = t
	return t, nil
}

func (tx *Tx) put(table, key string, raw []byte) error {
	if len(raw) > tx.store.maxValue {
		return tx.fail(problem.New("STO-009", "%s/%s: a value has at most %d bytes, got %d", table, key, tx.store.maxValue, len(raw)))
	}
	t, err := tx.own(table)
	if err != nil {
		return tx.fail(err)
	}
	e := &entry{key: key}
	e.box.Store(&box{raw: raw})
	if _, replaced := t.ReplaceOrInsert(e); !replaced {
		if tx.count >= tx.store.maxRecords {
			return tx.fail(problem.New("STO-009", "%s/%s: the state has at most %d records", table, key, tx.store.maxRecords))
		}
		tx.count++
	}
	tx.dirty[recordID{table, key}] = e
	tx.bytes += len(raw)
	return nil
}

func (tx *Tx) delete(table, key string) {
	if t := tx.tree(table); t == nil || !t.Has(&entry{key: key}) {
		return
	}
	t, err := tx.own(table)
	if err != nil {
		tx.fail(err)
		return
	}
	t.Delete(&entry{key: key})
	tx.count--
	tx.dirty[recordID{table, key}] = nil
}

func (tx *Tx) log(name string) logState {
	if l, ok := tx.logs[name]; ok {
		return l
	}
	return tx.base.logs[name]
}

// ownLog returns the log's state for a change, within the limit of logs.
func (tx *Tx) ownLog(name string) (logState, error) {
	_, known := tx.base.logs[name]
	if _, own := tx.logs[name]; !known && !own && len(tx.base.logs)+len(tx.logs) >= maxLogs {
		return logState{}, fmt.Errorf("log %s: more than %d logs", name, maxLogs)
	}
	return tx.log(name), nil
}

func mustName(name string) {
	if name == "" || len(name) > maxName {
		panic(fmt.Sprintf("store: a name has 1 to %d bytes: %q", maxName, name))
	}
}
