package storetest

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) Medium { return NewDisk().Engine })
}

// TestFaults makes each commit of a run fail in each way; the store must hold
// what the model says, keep serving, and go on when the medium is well again.
func TestFaults(t *testing.T) {
	for _, fault := range []Fault{Lost, Unknown} {
		for _, blind := range []bool{false, true} {
			t.Run(fmt.Sprintf("fault %d, unreadable after it: %v", fault, blind), func(t *testing.T) { faults(t, fault, blind) })
		}
	}
}

func faults(t *testing.T, fault Fault, blind bool) {
	disk := NewDisk()
	s, model := Create(t, disk.Engine()), NewModel()
	for i := range 30 {
		key, text := fmt.Sprint(i%4), fmt.Sprint(i)
		bad := i%3 == 1
		var onRead func() error
		if bad && blind {
			onRead = func() error { return ErrFault }
		}
		disk.SetFaults(func(int, []store.Entry, []string) Fault {
			if bad {
				return fault
			}
			return None
		}, onRead)
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			if _, err := Events.Append(tx, []byte(text)); err != nil {
				return err
			}
			return Values.Put(tx, key, Value{Text: text})
		})
		disk.SetFaults(nil, nil)
		if bad {
			wantCode(t, err, "STO-007")
		} else {
			must(t, err)
		}
		if bad && blind {
			// Not known yet what became of it: the last durable state stands.
			model.Check(t, s)
			must(t, s.Update(t.Context(), func(*store.Tx) error { return nil }))
		}
		if !bad || fault == Unknown {
			model.Values[key] = text
			model.Events = append(model.Events, text)
		}
		model.Check(t, s)
	}
	must(t, s.Close())
	model.Check(t, Open(t, disk.Engine()))
}

// TestGroupCommit has updates wait together: they share one commit, and one
// outcome.
func TestGroupCommit(t *testing.T) {
	for _, fault := range []Fault{None, Lost} {
		synctest.Test(t, func(t *testing.T) {
			disk := NewDisk()
			s := Create(t, disk.Engine())
			disk.SetFaults(func(int, []store.Entry, []string) Fault { return fault }, nil)
			before := disk.Commits()
			const n = 100
			outcomes := queued(s, n)
			model := NewModel()
			for range n {
				if err := <-outcomes; fault == None {
					must(t, err)
				} else {
					wantCode(t, err, "STO-007")
				}
			}
			for i := range n {
				if fault == None {
					model.Values[fmt.Sprint(i)] = "v"
				}
			}
			if got := disk.Commits() - before; got != 1 {
				t.Errorf("%d updates made %d commits, want 1", n, got)
			}
			model.Check(t, s)
			disk.SetFaults(nil, nil)
			must(t, Put(s, "after", "v"))
			model.Values["after"] = "v"
			model.Check(t, s)
			must(t, s.Close())
		})
	}
}

// queued starts an update that stays in its turn until n-1 more wait.
func queued(s *store.Store, n int) <-chan error {
	outcomes := make(chan error, n)
	release := make(chan struct{})
	for i := range n {
		go func() {
			outcomes <- s.Update(context.Background(), func(tx *store.Tx) error {
				<-release
				return Values.Put(tx, fmt.Sprint(i), Value{Text: "v"})
			})
		}()
	}
	synctest.Wait()
	close(release)
	return outcomes
}

// TestOtherWriter has the medium changed by somebody else.
func TestOtherWriter(t *testing.T) {
	disk := NewDisk()
	a := Create(t, disk.Engine())
	b := Open(t, disk.Engine())
	must(t, Put(a, "k", "a1"))
	wantCode(t, Put(b, "k", "b1"), "STO-018")
	model := NewModel()
	model.Check(t, b)
	wantCode(t, Put(b, "k", "b1"), "STO-018") // what a wrote does not become b's
	model.Check(t, b)
	must(t, Put(a, "k", "a2"))
	wantCode(t, Put(b, "k", "b2"), "STO-018")
	model.Values["k"] = "a2"
	model.Check(t, a)
}
