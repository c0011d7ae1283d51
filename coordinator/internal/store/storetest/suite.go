package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Medium opens an engine on one medium, again and again; the engine before is
// closed by then.
type Medium func() store.Engine

// Run tests an engine and a store on it. Each call of fresh gives an empty
// medium.
func Run(t *testing.T, fresh func(t *testing.T) Medium) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Medium)
	}{
		{"engine commits and loads", engineCommits},
		{"engine refuses a stale revision", engineConflict},
		{"engine ranges", engineRanges},
		{"update sees its own writes", ownWrites},
		{"failed closures leave no trace", failedClosures},
		{"views do not move", viewsStand},
		{"values are copies", valuesAreCopies},
		{"iteration stands while changing", iterationStands},
		{"limits", limits},
		{"state survives reopening", survives},
		{"head grows", headGrows},
		{"head is read alone", headAltered},
		{"create refuses what exists", createRefuses},
		{"closed store", closedStore},
		{"waiting honours the context", contextHonoured},
		{"alterations are found", alterations},
		{"blobs", blobs},
		{"blobs that are altered", alteredBlobs},
		{"random walk", randomWalk},
		{"many writers", manyWriters},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func ownWrites(t *testing.T, m Medium) {
	s, model := Create(t, m()), NewModel()
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		must(t, Values.Put(tx, "b", Value{Text: "1"}))
		must(t, Values.Put(tx, "a", Value{Text: "1"}))
		must(t, Values.Put(tx, "b", Value{Text: "2"}))
		must(t, Values.Put(tx, "c", Value{Text: "3"}))
		Values.Delete(tx, "c")
		Values.Delete(tx, "d")
		model.Values = map[string]string{"a": "1", "b": "2"}
		seq, err := Events.Append(tx, []byte("first"))
		if seq != 0 || err != nil {
			t.Errorf("got place %d, %v; want 0", seq, err)
		}
		model.Events = []string{"first"}
		return model.compare(tx)
	}))
	model.Check(t, s)
}

func failedClosures(t *testing.T, m Medium) {
	s, model := Create(t, m()), NewModel()
	must(t, Put(s, "kept", "1"))
	model.Values["kept"] = "1"
	change := func(tx *store.Tx) {
		must(t, Values.Put(tx, "kept", Value{Text: "changed"}))
		must(t, Values.Put(tx, "new", Value{Text: "new"}))
		_, err := Events.Append(tx, []byte("event"))
		must(t, err)
	}
	err := s.Update(t.Context(), func(tx *store.Tx) error { change(tx); return errWanted })
	if !errors.Is(err, errWanted) {
		t.Errorf("got %v, want the closure's error", err)
	}
	model.Check(t, s)
	wantCode(t, s.Update(t.Context(), func(tx *store.Tx) error { change(tx); panic("secret words") }), "STO-011")
	model.Check(t, s)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = s.Update(context.Background(), func(tx *store.Tx) error { change(tx); runtime.Goexit(); return nil })
	}()
	<-exited
	model.Check(t, s)
	wantCode(t, s.Update(t.Context(), func(tx *store.Tx) error {
		change(tx)
		_ = Values.Put(tx, "", Value{}) // the error counts even if the closure ignores it
		return nil
	}), "STO-009")
	model.Check(t, s)
	must(t, Put(s, "kept", "2"))
	model.Values["kept"] = "2"
	model.Check(t, s)
}

func viewsStand(t *testing.T, m Medium) {
	s := Create(t, m())
	must(t, Put(s, "k", "old"))
	must(t, s.View(t.Context(), func(tx *store.Tx) error {
		must(t, Put(s, "k", "new"))
		must(t, Put(s, "k2", "new"))
		if v, _ := Values.Get(tx, "k"); v.Text != "old" || Values.Len(tx) != 1 {
			t.Errorf("got %q and %d records, want the old state", v.Text, Values.Len(tx))
		}
		return nil
	}))
	defer func() {
		if recover() == nil {
			t.Error("a View let itself be used for a change")
		}
	}()
	_ = s.View(t.Context(), func(tx *store.Tx) error { return Values.Put(tx, "k", Value{}) })
}

func valuesAreCopies(t *testing.T, m Medium) {
	s := Create(t, m())
	list := []int{1, 2, 3}
	must(t, s.Update(t.Context(), func(tx *store.Tx) error { return Values.Put(tx, "k", Value{List: list}) }))
	list[0] = 99
	must(t, s.View(t.Context(), func(tx *store.Tx) error {
		if v, _ := Values.Get(tx, "k"); v.List[0] != 1 {
			t.Errorf("got %v: the store kept the caller's slice", v.List)
		}
		return nil
	}))
}

func iterationStands(t *testing.T, m Medium) {
	s := Create(t, m())
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 100 {
			must(t, Values.Put(tx, fmt.Sprintf("p%03d", i), Value{}))
		}
		n := 0
		for k := range Values.Prefix(tx, "p") {
			Values.Delete(tx, k)
			must(t, Values.Put(tx, "p9"+k, Value{}))
			n++
		}
		if n != 100 || Values.Len(tx) != 100 {
			t.Errorf("iterated over %d of 100, %d left", n, Values.Len(tx))
		}
		n = 0
		for k := range Values.From(tx, "p9p050") {
			if n++; k < "p9p050" {
				t.Errorf("got key %s", k)
			}
			if n == 10 {
				break
			}
		}
		if n != 10 {
			t.Errorf("got %d keys before the break, want 10", n)
		}
		return nil
	}))
}

func limits(t *testing.T, m Medium) {
	s, err := store.Create(t.Context(), store.Config{Engine: m(), Key: Key(t), MaxValue: 1000, MaxRecords: 3})
	must(t, err)
	defer s.Close()
	model := NewModel()
	for _, k := range []string{"a", "b", "c"} {
		must(t, Put(s, k, k))
		model.Values[k] = k
	}
	wantCode(t, Put(s, "d", "d"), "STO-009")
	model.Check(t, s)
	must(t, Put(s, "c", "again"))
	model.Values["c"] = "again"
	wantCode(t, Put(s, "a", string(make([]byte, 1000))), "STO-009")
	wantCode(t, Put(s, string(make([]byte, 600)), ""), "STO-009")
	wantCode(t, s.Update(t.Context(), func(tx *store.Tx) error {
		_, err := Events.Append(tx, make([]byte, 1001))
		return err
	}), "STO-009")
	model.Check(t, s)
	hidden := store.NewTable[any]("hidden")
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return hidden.Put(tx, "k", map[string]any{"key": Key(t)}) }); err == nil {
		t.Error("a value that hides itself from JSON was stored")
	}
	model.Check(t, s)
}

func survives(t *testing.T, m Medium) {
	s, model := Create(t, m()), NewModel()
	for i := range 20 {
		must(t, s.Update(t.Context(), func(tx *store.Tx) error {
			_, err := Events.Append(tx, fmt.Appendf(nil, "event %d", i))
			must(t, err)
			must(t, Events.SetCheckpoint(tx, fmt.Appendf(nil, "checkpoint %d", i)))
			return Values.Put(tx, fmt.Sprint(i%7), Value{Text: fmt.Sprint(i)})
		}))
		model.Values[fmt.Sprint(i%7)] = fmt.Sprint(i)
		model.Events = append(model.Events, fmt.Sprintf("event %d", i))
		model.Check(t, s)
		if i%5 == 4 {
			must(t, s.Close())
			s = Open(t, m())
			model.Check(t, s)
		}
	}
	must(t, s.View(t.Context(), func(tx *store.Tx) error {
		if got := string(Events.Checkpoint(tx)); got != "checkpoint 19" {
			t.Errorf("got checkpoint %q, want checkpoint 19", got)
		}
		return nil
	}))
}

func headGrows(t *testing.T, m Medium) {
	s := Create(t, m())
	read := func() (h store.Head) {
		must(t, s.View(t.Context(), func(tx *store.Tx) error { h = store.HeadOf(tx); return nil }))
		return h
	}
	first := read()
	must(t, s.Update(t.Context(), func(*store.Tx) error { return nil }))
	if got := read(); got != first {
		t.Errorf("an empty update moved the head from %s to %s", first, got)
	}
	must(t, Put(s, "k", "v"))
	second := read()
	if second.Sequence != first.Sequence+1 || second.Hash == first.Hash {
		t.Errorf("the head went from %s to %s", first, second)
	}
	must(t, s.Close())
	s = Open(t, m())
	if got := read(); got != second {
		t.Errorf("after reopening: got head %s, want %s", got, second)
	}
	must(t, s.Close())
	e := m()
	defer e.Close()
	if got, err := store.ReadHead(t.Context(), e, Key(t)); err != nil || got != second {
		t.Errorf("read alone: got head %s, %v, want %s", got, err, second)
	}
	other, err := seal.NewKey(bytes.Repeat([]byte{8}, seal.KeySize))
	must(t, err)
	_, err = store.ReadHead(t.Context(), e, other)
	wantCode(t, err, "STO-004")
}

func headAltered(t *testing.T, m Medium) {
	e := m()
	_, err := store.ReadHead(t.Context(), e, Key(t))
	wantCode(t, err, "STO-012")
	must(t, e.Close())
	must(t, Create(t, m()).Close())
	good := snapshot(t, m)
	for _, c := range []struct {
		key   string
		value []byte
		want  problem.Code
	}{
		{"h", nil, "STO-006"}, {"h", flip(good["h"], 50), "STO-005"}, {"h", []byte("x"), "STO-005"},
		{"f", nil, "STO-003"}, {"f", []byte("ashlar-state 2 00"), "STO-003"}, {"f", []byte("ashlar-state 1 00"), "STO-004"},
	} {
		set(t, m, c.key, c.value)
		e := m()
		_, err := store.ReadHead(t.Context(), e, Key(t))
		wantCode(t, err, c.want)
		must(t, e.Close())
		set(t, m, c.key, good[c.key])
	}
}

func createRefuses(t *testing.T, m Medium) {
	must(t, Create(t, m()).Close())
	_, err := store.Create(t.Context(), store.Config{Engine: m(), Key: Key(t)})
	wantCode(t, err, "STO-001")
}

func closedStore(t *testing.T, m Medium) {
	s := Create(t, m())
	must(t, Put(s, "k", "v"))
	must(t, s.Close())
	must(t, s.Close())
	wantCode(t, Put(s, "k", "w"), "STO-010")
	_, err := Events.Read(t.Context(), s, 0, 1)
	must(t, err) // an empty log needs no engine
	must(t, s.View(t.Context(), func(tx *store.Tx) error {
		if v, _ := Values.Get(tx, "k"); v.Text != "v" {
			t.Errorf("got %q, want v", v.Text)
		}
		return nil
	}))
}

func contextHonoured(t *testing.T, m Medium) {
	s := Create(t, m())
	ctx, cancel := context.WithCancel(t.Context())
	inside, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- s.Update(context.Background(), func(*store.Tx) error { close(inside); <-release; return nil })
	}()
	<-inside
	cancel()
	err := s.Update(ctx, func(*store.Tx) error { t.Error("the closure ran"); return nil })
	wantCode(t, err, "STO-019")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled in its chain", err)
	}
	close(release)
	must(t, <-first)
}

func randomWalk(t *testing.T, m Medium) {
	rng := rand.New(rand.NewPCG(1, 2))
	s, model := Create(t, m()), NewModel()
	for step := range 150 {
		next := &Model{Values: maps.Clone(model.Values), Events: model.Events[:len(model.Events):len(model.Events)]}
		failing := rng.IntN(4) == 0
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for range rng.IntN(6) {
				key := fmt.Sprint(rng.IntN(60))
				if rng.IntN(3) == 0 {
					Values.Delete(tx, key)
					delete(next.Values, key)
					continue
				}
				must(t, Values.Put(tx, key, Value{Text: fmt.Sprint(step)}))
				next.Values[key] = fmt.Sprint(step)
			}
			if rng.IntN(2) == 0 {
				_, err := Events.Append(tx, fmt.Append(nil, step))
				must(t, err)
				next.Events = append(next.Events, fmt.Sprint(step))
			}
			must(t, next.compare(tx))
			if failing {
				return errWanted
			}
			return nil
		})
		if failing != (err != nil) {
			t.Fatalf("step %d: got %v", step, err)
		}
		if !failing {
			model = next
		}
		model.Check(t, s)
		if rng.IntN(30) == 0 {
			must(t, s.Close())
			s = Open(t, m())
			model.Check(t, s)
		}
	}
}

func manyWriters(t *testing.T, m Medium) {
	s := Create(t, m())
	counter := store.NewTable[int]("counter")
	const writers, each = 8, 15
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := s.Update(context.Background(), func(tx *store.Tx) error {
					n, _ := counter.Get(tx, "n")
					if _, err := Events.Append(tx, fmt.Append(nil, n)); err != nil {
						return err
					}
					return counter.Put(tx, "n", n+1)
				})
				if err != nil {
					t.Error(err)
				}
				_ = s.View(context.Background(), func(tx *store.Tx) error {
					if n, _ := counter.Get(tx, "n"); uint64(n) != Events.Len(tx) {
						t.Errorf("a view saw %d counted and %d logged", n, Events.Len(tx))
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
	must(t, s.Close())
	s = Open(t, m())
	must(t, s.View(t.Context(), func(tx *store.Tx) error {
		if n, _ := counter.Get(tx, "n"); n != writers*each {
			t.Errorf("got %d, want %d", n, writers*each)
		}
		return nil
	}))
}
