package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestClusterTwoWriters has two writers commit on the same revision at the same
// time, small commits and staged ones: each round exactly one wins, whole.
func TestClusterTwoWriters(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	c := dial(t, server)
	writers := []*Cluster{c, dialAt(t, c.location.String()+"?tls=off")}
	engines := []store.Engine{writers[0].Engine(), writers[1].Engine()}
	var rev store.Rev
	won := [2]int{}
	for round := 1; round <= 24; round++ {
		var revs [2]store.Rev
		var errs [2]error
		var wg sync.WaitGroup
		for i, e := range engines {
			wg.Go(func() {
				var puts []store.Entry
				for n := range []int{3, 130}[(round+i*(round/4))%2] {
					puts = append(puts, store.Entry{Key: fmt.Sprint("r", n), Value: fmt.Append(nil, round, i)})
				}
				revs[i], errs[i] = e.Commit(t.Context(), rev, puts, nil)
			})
		}
		wg.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || !errors.Is(errs[1-winner], store.ErrConflict) {
			t.Fatalf("round %d: got %v and %v, want one ErrConflict", round, errs[0], errs[1])
		}
		rev = revs[winner]
		won[winner]++
		got, at := all(t, c.Engine())
		if seen, err := writers[1-winner].Revision(t.Context()); err != nil || seen != rev {
			t.Fatalf("round %d: the other sees revision %d, %v, want %d", round, seen, err, rev)
		}
		if want := fmt.Sprint(round, winner); string(got["r0"]) != want || string(got["r2"]) != want || at != rev {
			t.Fatalf("round %d: got %q at %d, want %q at %d", round, got["r0"], at, want, rev)
		}
	}
	t.Logf("the writers won %v of the rounds", won)
}

// TestClusterReaderSeesOneCommit reads all the time while each commit replaces
// everything in many steps, and etcd forgets old revisions as often as it can.
func TestClusterReaderSeesOneCommit(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	c := dial(t, server)
	const n, size, commits = 300, 1300 << 10, 15
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	others.Go(func() {
		for compacted := int64(0); ctx.Err() == nil; {
			v, err := c.look(ctx)
			if err == nil && v.at > compacted {
				compacted = v.at
				_, _ = c.client.Compact(ctx, v.at) // of the same revision twice it is an error
			}
		}
	})
	var mu sync.Mutex // guards seen
	seen := map[string]int{}
	saw := func(commit int) bool {
		mu.Lock()
		defer mu.Unlock()
		return seen[fmt.Sprint(commit)] > 0
	}
	others.Go(func() {
		for reader := dialAt(t, c.location.String()+"?tls=off"); ctx.Err() == nil; {
			g, err := oneGeneration(ctx, reader.Engine())
			if err != nil && ctx.Err() == nil {
				t.Errorf("a reader: %v", err)
				return
			}
			mu.Lock()
			seen[g]++
			mu.Unlock()
		}
	})
	e := c.Engine()
	var rev store.Rev
	var err error
	made := 0
	commit := func() {
		made++
		puts, deletes := generation(made, n, size)
		if rev, err = e.Commit(t.Context(), rev, puts, deletes); err != nil {
			t.Fatal(err)
		}
	}
	for range commits {
		commit()
	}
	for range 3 { // a reader that was too slow for these sees each of the next
		for end := time.Now().Add(time.Minute); !saw(made); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the reader does not see commit %d", made)
			}
		}
		commit()
	}
	stop()
	others.Wait()
	got, _ := all(t, c.Engine())
	same(t, "at the end", got, heldAfter(made, n, size))
	t.Logf("read %v", seen)
}

// unread says that etcd has forgotten what was being read, or took too long.
func unread(err error) bool {
	return problem.CodeOf(err) == "STO-036" || problem.CodeOf(err) == "STO-031"
}

// oneGeneration reads a state and checks that all of it is of one commit. That it
// could not be read to its end is no error here.
func oneGeneration(ctx context.Context, e store.Engine) (string, error) {
	g, n := "", 0
	one := func(in store.Entry) error {
		value := string(in.Value)
		if in.Key == "b" {
			_, _ = fmt.Sscan(value, &value)
		}
		if g == "" {
			g = value
		}
		if n++; value != g || in.Key[0] == 'r' && in.Key[1] == 'g' && in.Key[2:] != g {
			return fmt.Errorf("%q is of commit %.10q, others are of %q", in.Key, value, g)
		}
		return nil
	}
	_, err := e.Load(ctx, one)
	if unread(err) {
		return "moved", nil
	}
	if err != nil || n == 0 {
		return g, err
	}
	found, err := e.Range(ctx, "b", "c", 10)
	if unread(err) {
		return "moved", nil
	}
	if err != nil || len(found) != 1 {
		return g, fmt.Errorf("got %d blobs: %w", len(found), err)
	}
	if err := one(found[0]); err != nil {
		return g, err
	}
	if n != 303 {
		return g, fmt.Errorf("got %d entries", n)
	}
	return g, nil
}
