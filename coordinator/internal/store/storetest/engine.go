package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// loadAll returns what Load gives.
func loadAll(t testing.TB, e store.Engine) (map[string][]byte, store.Rev) {
	t.Helper()
	all := map[string][]byte{}
	rev, err := e.Load(t.Context(), func(in store.Entry) error {
		all[in.Key] = slices.Clone(in.Value)
		return nil
	})
	must(t, err)
	return all, rev
}

func engineCommits(t *testing.T, m Medium) {
	e := m()
	all, rev := loadAll(t, e)
	if len(all) != 0 {
		t.Fatalf("a fresh engine holds %d entries", len(all))
	}
	rev, err := e.Commit(t.Context(), rev, []store.Entry{{Key: "d", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "l1", Value: []byte("log")}, {Key: "b1", Value: []byte("blob")}}, nil)
	must(t, err)
	rev, err = e.Commit(t.Context(), rev, []store.Entry{{Key: "c", Value: []byte("3")}}, []string{"d", "absent"})
	must(t, err)
	must(t, e.Close())
	e = m()
	defer e.Close()
	all, got := loadAll(t, e)
	if got != rev {
		t.Errorf("got revision %d, want %d", got, rev)
	}
	if want := []string{"a", "c"}; !slices.Equal(slices.Sorted(maps.Keys(all)), want) {
		t.Errorf("got %v, want the keys %v", all, want)
	}
	_, err = e.Load(t.Context(), func(store.Entry) error { return errWanted })
	if !errors.Is(err, errWanted) {
		t.Errorf("got %v, want the callback's error", err)
	}
}

func engineConflict(t *testing.T, m Medium) {
	e := m()
	defer e.Close()
	_, rev := loadAll(t, e)
	_, err := e.Commit(t.Context(), rev, []store.Entry{{Key: "a", Value: []byte("1")}}, nil)
	must(t, err)
	_, err = e.Commit(t.Context(), rev, []store.Entry{{Key: "a", Value: []byte("2")}}, nil)
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
	if all, _ := loadAll(t, e); string(all["a"]) != "1" {
		t.Errorf("got %q, want 1: the refused commit changed it", all["a"])
	}
}

func engineRanges(t *testing.T, m Medium) {
	e := m()
	defer e.Close()
	_, rev := loadAll(t, e)
	var puts []store.Entry
	for i := range 10 {
		puts = append(puts, store.Entry{Key: fmt.Sprintf("l%d", i), Value: []byte{byte(i)}}, store.Entry{Key: fmt.Sprintf("r%d", i), Value: []byte{byte(i)}}, store.Entry{Key: fmt.Sprintf("b%d", i), Value: []byte{byte(i)}})
	}
	_, err := e.Commit(t.Context(), rev, puts, nil)
	must(t, err)
	for _, c := range []struct {
		from, to string
		limit    int
		want     string
	}{
		{"l3", "l6", 100, "l3 l4 l5"}, {"l3", "l6", 2, "l3 l4"}, {"l8", "lz", 100, "l8 l9"},
		{"r0", "r2", 100, "r0 r1"}, {"b4", "b4\x00", 1, "b4"}, {"l5", "l5", 100, ""}, {"l99", "lz", 100, ""},
	} {
		found, err := e.Range(t.Context(), c.from, c.to, c.limit)
		must(t, err)
		var keys []string
		for _, f := range found {
			keys = append(keys, f.Key)
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("%s to %s, %d: got %q, want %q", c.from, c.to, c.limit, got, c.want)
		}
	}
}

// alterations changes single entries as a host could, and wants each change
// found: when the store is opened, or when the log is read.
func alterations(t *testing.T, m Medium) {
	s := Create(t, m())
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		for _, k := range []string{"a", "b", "c"} {
			must(t, Values.Put(tx, k, Value{Text: "old"}))
		}
		for i := range 4 {
			_, err := Events.Append(tx, fmt.Append(nil, i))
			must(t, err)
		}
		return nil
	}))
	must(t, s.Close())
	old := snapshot(t, m)
	s = Open(t, m())
	must(t, s.Update(t.Context(), func(tx *store.Tx) error {
		Values.Delete(tx, "a")
		_, err := Events.Append(tx, []byte("4"))
		must(t, err)
		return Values.Put(tx, "b", Value{Text: "new"})
	}))
	must(t, s.Close())
	now := snapshot(t, m)
	var kept, changed, dropped string
	for k := range old {
		switch {
		case k[0] != 'r':
		case now[k] == nil:
			dropped = k
		case string(now[k]) == string(old[k]):
			kept = k
		default:
			changed = k
		}
	}
	for _, c := range alterationsOf(old, now, kept, changed, dropped) {
		set(t, m, c.key, c.value)
		s, err := store.Open(t.Context(), store.Config{Engine: m(), Key: Key(t)})
		if c.onUse && err == nil {
			_, err = Events.Read(t.Context(), s, 0, 100)
		}
		if got := problem.CodeOf(err); err == nil || got != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
		if s != nil {
			must(t, s.Close())
		}
		set(t, m, c.key, now[c.key])
	}
	model := &Model{Values: map[string]string{"b": "new", "c": "old"}, Events: []string{"0", "1", "2", "3", "4"}}
	model.Check(t, Open(t, m()))
}

// alteration is one changed entry and the code that it must be found with.
type alteration struct {
	name  string
	code  problem.Code
	key   string
	value []byte // nil removes
	onUse bool   // found when the log is read
}

// alterationsOf lists what a host could do to the state now, knowing the state
// old: kept did not change between them, changed did, dropped is gone.
func alterationsOf(old, now map[string][]byte, kept, changed, dropped string) []alteration {
	logs := logKeys(now)
	return []alteration{
		{"record rolled back", "STO-006", changed, old[changed], false},
		{"record inserted", "STO-006", dropped, old[dropped], false},
		{"record dropped", "STO-006", kept, nil, false},
		{"record moved", "STO-005", kept, now[changed], false},
		{"record bit flipped", "STO-005", kept, flip(now[kept], 40), false},
		{"record sequence changed", "STO-005", kept, flip(now[kept], 7), false},
		{"record cut", "STO-005", kept, now[kept][:30], false},
		{"record of nothing", "STO-005", "rx", []byte("x"), false},
		{"head rolled back", "STO-006", "h", old["h"], false},
		{"head bit flipped", "STO-005", "h", flip(now["h"], 50), false},
		{"head dropped", "STO-006", "h", nil, false},
		{"format dropped", "STO-003", "f", nil, false},
		{"format of the future", "STO-003", "f", []byte("ashlar-state 2 0011223344556677"), false},
		{"other key", "STO-004", "f", []byte("ashlar-state 1 0011223344556677"), false},
		{"log end dropped", "STO-006", logs[4], nil, false},
		{"log end moved", "STO-006", logs[4], now[logs[3]], false},
		{"log record dropped", "STO-006", logs[2], nil, true},
		{"log record moved", "STO-006", logs[2], now[logs[1]], true},
		{"log record bit flipped", "STO-006", logs[2], flip(now[logs[2]], 40), true},
	}
}

// snapshot returns all entries, those of logs too.
func snapshot(t *testing.T, m Medium) map[string][]byte {
	t.Helper()
	e := m()
	defer e.Close()
	all, _ := loadAll(t, e)
	logs, err := e.Range(t.Context(), "l", "m", 1000)
	must(t, err)
	for _, l := range logs {
		all[l.Key] = l.Value
	}
	return all
}

func logKeys(all map[string][]byte) []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(k, store.LogPrefix) {
			keys = append(keys, k)
		}
	}
	return keys
}

// set changes one entry behind the store's back; nil removes it.
func set(t *testing.T, m Medium, key string, value []byte) {
	t.Helper()
	e := m()
	defer e.Close()
	_, rev := loadAll(t, e)
	var err error
	if value == nil {
		_, err = e.Commit(t.Context(), rev, nil, []string{key})
	} else {
		_, err = e.Commit(t.Context(), rev, []store.Entry{{Key: key, Value: value}}, nil)
	}
	must(t, err)
}

func flip(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}
