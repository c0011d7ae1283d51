package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Value is what the suite stores.
type Value struct {
	Text string `json:"text"`
	List []int  `json:"list,omitempty"`
}

var (
	// Values and Others are the suite's tables, Events is its log, Large are
	// its blobs.
	Values = store.NewTable[Value]("values")
	Others = store.NewTable[Value]("others")
	Events = store.NewLog("events")
	Large  = store.NewBlobs("large")
)

// Model is what a store must hold.
type Model struct {
	Values map[string]string
	Events []string
}

// NewModel returns the model of an empty store.
func NewModel() *Model { return &Model{Values: map[string]string{}} }

// Check compares everything that s holds with the model, by every way of
// reading, and is called after each step of a test.
func (m *Model) Check(t testing.TB, s *store.Store) {
	t.Helper()
	err := s.View(context.Background(), func(tx *store.Tx) error { return m.compare(tx) })
	if err != nil {
		t.Fatalf("the store differs from its model: %v", err)
	}
	records, err := Events.Read(context.Background(), s, 0, 1000)
	if err != nil {
		t.Fatalf("reading the log: %v", err)
	}
	if len(records) != len(m.Events) {
		t.Fatalf("got %d log records, want %d", len(records), len(m.Events))
	}
	for i, r := range records {
		if string(r.Data) != m.Events[i] || r.Seq != uint64(i) {
			t.Fatalf("log record %d: got %d %q, want %q", i, r.Seq, r.Data, m.Events[i])
		}
	}
}

func (m *Model) compare(tx *store.Tx) error {
	if got, want := Values.Len(tx), len(m.Values); got != want {
		return fmt.Errorf("got length %d, want %d", got, want)
	}
	seen, last := 0, ""
	for k, v := range Values.All(tx) {
		if want, ok := m.Values[k]; !ok || v.Text != want {
			return fmt.Errorf("%s: iterating got %q, want %q (present %v)", k, v.Text, want, ok)
		}
		if seen > 0 && k <= last {
			return fmt.Errorf("%s comes after %s", k, last)
		}
		seen, last = seen+1, k
	}
	if seen != len(m.Values) {
		return fmt.Errorf("iterating found %d records, want %d", seen, len(m.Values))
	}
	for k, want := range m.Values {
		if v, ok := Values.Get(tx, k); !ok || v.Text != want {
			return fmt.Errorf("%s: got %q (present %v), want %q", k, v.Text, ok, want)
		}
	}
	if got, want := Events.Len(tx), uint64(len(m.Events)); got != want {
		return fmt.Errorf("got log length %d, want %d", got, want)
	}
	return nil
}

// Key is the data key of every store here.
func Key(t testing.TB) seal.Key {
	t.Helper()
	key, err := seal.NewKey(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Create makes a store on an empty engine and closes it with the test.
func Create(t testing.TB, e store.Engine) *store.Store {
	t.Helper()
	s, err := store.Create(context.Background(), store.Config{Engine: e, Key: Key(t)})
	if err != nil {
		t.Fatalf("creating: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Open opens the store on an engine and closes it with the test.
func Open(t testing.TB, e store.Engine) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Config{Engine: e, Key: Key(t)})
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Put sets a value in an Update of its own.
func Put(s *store.Store, key, text string) error {
	return s.Update(context.Background(), func(tx *store.Tx) error { return Values.Put(tx, key, Value{Text: text}) })
}

func wantCode(t testing.TB, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); err == nil || got != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errWanted = errors.New("wanted")
