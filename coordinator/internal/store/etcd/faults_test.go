package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

// wire is a client's way to etcd that goes wrong on demand.
type wire struct {
	clientv3.KV

	mu    sync.Mutex // guards all fields below
	fault func(n int) fault
	n     int // transactions so far
	held  []heldTxn
	after func() // called when a transaction went wrong; nil for nothing
}

type heldTxn struct {
	decides bool // whether a commit is made
	send    func() (*clientv3.TxnResponse, error)
}

// fault is what becomes of one transaction.
type fault int

const (
	passed fault = iota
	lost         // it does not come to etcd
	silent       // it is made, and the answer is lost
	late         // it stays on its way until deliver
)

// wired gives a cluster's client a wire.
func wired(c *Cluster, f func(n int) fault) *wire {
	w := &wire{KV: c.client.KV, fault: f}
	c.client.KV = w
	return w
}

func (w *wire) set(f func(n int) fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault, w.n = f, 0
}

// deliver brings what is late to etcd, and returns how many commits that made.
func (w *wire) deliver(t testing.TB) (made int) {
	t.Helper()
	w.mu.Lock()
	held := w.held
	w.held = nil
	w.mu.Unlock()
	for _, h := range held {
		resp, err := h.send()
		if err != nil {
			t.Fatal(err)
		}
		if resp.Succeeded && h.decides {
			made++
		}
	}
	return made
}

func (w *wire) Txn(ctx context.Context) clientv3.Txn { return &wiredTxn{w: w, ctx: ctx} }

type wiredTxn struct {
	w               *wire
	ctx             context.Context
	when            []clientv3.Cmp
	then, otherwise []clientv3.Op
}

func (t *wiredTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.when = cs; return t }
func (t *wiredTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.then = ops; return t }
func (t *wiredTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.otherwise = ops; return t }

func (t *wiredTxn) Commit() (*clientv3.TxnResponse, error) {
	send := func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.w.KV.Txn(ctx).If(t.when...).Then(t.then...).Else(t.otherwise...).Commit()
	}
	t.w.mu.Lock()
	f := passed
	if len(t.when) > 0 || t.then[0].IsPut() { // those that only look are no subject here
		t.w.n++
		f = t.w.fault(t.w.n)
	}
	if f == late {
		t.w.held = append(t.w.held, heldTxn{bytes.HasSuffix(t.then[0].KeyBytes(), []byte("/"+revName)),
			func() (*clientv3.TxnResponse, error) { return send(context.Background()) }})
	}
	after := t.w.after
	t.w.mu.Unlock()
	if f != passed && after != nil {
		defer after()
	}
	switch f {
	case passed:
		return send(t.ctx)
	case silent:
		if _, err := send(t.ctx); err != nil {
			return nil, err
		}
	}
	return nil, rpctypes.ErrTimeout
}

func always(f fault) func(int) fault { return func(int) fault { return f } }

// generation is a commit that replaces all entries: with large values, more
// entries than fit in one request, and deletions.
func generation(g, n, size int) (puts []store.Entry, deletes []string) {
	for i := range n {
		puts = append(puts, store.Entry{Key: fmt.Sprintf("r%04d", i), Value: fmt.Appendf(nil, "%d", g)})
	}
	puts = append(puts, store.Entry{Key: "h", Value: fmt.Appendf(nil, "%d", g)},
		store.Entry{Key: "b", Value: append(fmt.Appendf(nil, "%d ", g), sized(g, size)...)},
		store.Entry{Key: fmt.Sprint("rg", g), Value: fmt.Appendf(nil, "%d", g)})
	return puts, []string{fmt.Sprint("rg", g-1)}
}

func heldAfter(g, n, size int) map[string][]byte {
	held := map[string][]byte{}
	puts, _ := generation(g, n, size)
	for _, p := range puts {
		held[p.Key] = p.Value
	}
	return held
}

// TestClusterCrashAtEachStep has a writer's process end before or after each
// transaction of a commit. What another one then reads is the old state or the
// new one, it can commit on that, and nothing is left over.
func TestClusterCrashAtEachStep(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	for _, c := range []crash{{"small", 3, 10, lost, 0}, {"small", 3, 10, silent, 0}, {"large", 60, 1050 << 10, lost, 0}, {"large", 60, 1050 << 10, silent, 0}} {
		news, whole := 0, false
		for c.at = 1; !whole; c.at++ {
			var made bool
			if made, whole = c.run(t, dial(t, server)); made {
				news++
			}
		}
		if t.Logf("%+v: the new state after %d", c, news); news == 0 || c.end == lost && news == c.at-1 {
			t.Errorf("%+v: it was new after %d", c, news)
		}
	}
}

// crash is the end of a process in a commit of so many entries and bytes, at one of
// its transactions.
type crash struct {
	name    string
	n, size int
	end     fault
	at      int
}

// run returns whether the commit was made, and whether it came to its end.
func (c crash) run(t *testing.T, base *Cluster) (made, whole bool) {
	t.Helper()
	puts, _ := generation(1, c.n, c.size)
	rev, err := base.Engine().Commit(t.Context(), 0, puts, nil)
	if err != nil {
		t.Fatal(err)
	}
	dying := dialAt(t, base.location.String()+"?tls=off")
	whole = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := wired(dying, func(n int) fault {
		if n < c.at {
			return passed
		}
		whole = false
		if n == c.at {
			return c.end
		}
		return lost
	})
	w.after = cancel
	puts, deletes := generation(2, c.n, c.size)
	_, err = dying.Engine().Commit(ctx, rev, puts, deletes)
	next := base.Engine()
	got, rev := all(t, next)
	g := 1
	if made = string(got["h"]) == "2"; made {
		g = 2
	}
	if err == nil && !made {
		t.Errorf("%+v: it was acknowledged and is lost", c)
	}
	what := fmt.Sprintf("%+v", c)
	same(t, what, got, heldAfter(g, c.n, c.size))
	puts, deletes = generation(g+1, c.n, c.size)
	if rev, err = next.Commit(t.Context(), rev, puts, deletes); err != nil {
		t.Fatalf("%s: the next commit: %v", what, err)
	}
	got, now := all(t, base.Engine())
	same(t, what+", the next commit", got, heldAfter(g+1, c.n, c.size))
	for _, name := range []string{stageStart, pendingName} {
		if left := keys(t, base, name); len(left) > 0 || now != rev {
			t.Errorf("%s: left %q, revision %d of %d", what, left, now, rev)
		}
	}
	return made, whole
}

// TestClusterLateCommit has a commit come to etcd after its writer gave it up:
// once the writer has looked, it is refused.
func TestClusterLateCommit(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	for _, n := range []int{3, 130} {
		c := dial(t, server)
		e := c.Engine()
		puts, _ := generation(1, n, 10)
		rev, err := e.Commit(t.Context(), 0, puts, nil)
		if err != nil {
			t.Fatal(err)
		}
		giveUp := func(f fault, g int) {
			t.Helper()
			w := wired(c, func(int) fault { return f })
			if n > maxOps {
				w.set(func(i int) fault { // the pieces of the stage come through
					if i == 1 {
						return passed
					}
					return f
				})
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wrong := 0
			w.after = func() { // its time is over after the second try
				if wrong++; wrong == 2 {
					cancel()
				}
			}
			puts, deletes := generation(g, n, 10)
			if _, err := e.Commit(ctx, rev, puts, deletes); err == nil || errors.Is(err, store.ErrConflict) {
				t.Fatalf("got %v, want an unknown outcome", err)
			}
			if _, err := e.Range(ctx, "h", "h\x00", 1); err == nil {
				t.Fatal("it looked, although it could not know")
			}
			w.set(always(passed))
			found, err := e.Range(t.Context(), "h", "h\x00", 1)
			if err != nil || len(found) != 1 {
				t.Fatalf("got %v, %v", found, err)
			}
			sees := string(found[0].Value)
			if made := w.deliver(t); made != 0 {
				t.Errorf("after it looked %d of its transactions were made", made)
			}
			got, now := all(t, dialAt(t, c.location.String()+"?tls=off").Engine())
			if string(got["h"]) != sees {
				t.Errorf("it saw generation %s, then there was %s", sees, got["h"])
			}
			if want := fmt.Sprint(g); f == silent && sees != want || f != silent && sees == want {
				t.Errorf("fault %d: it saw generation %s", f, sees)
			}
			if f == silent && now != rev {
				// The outcome was that it was made: on the old revision nothing can be.
				if _, err := e.Commit(t.Context(), rev, puts, nil); !errors.Is(err, store.ErrConflict) {
					t.Errorf("got %v, want ErrConflict", err)
				}
			}
			rev = now
		}
		giveUp(late, 2)
		giveUp(lost, 3)
		puts, deletes := generation(2, n, 10)
		if rev, err = e.Commit(t.Context(), rev, puts, deletes); err != nil {
			t.Fatalf("a fence in its way: %v", err)
		}
		other := dialAt(t, c.location.String()+"?tls=off").Engine()
		puts, deletes = generation(3, n, 10)
		if rev, err = other.Commit(t.Context(), rev, puts, deletes); err != nil {
			t.Fatalf("the fence of another: %v", err)
		}
		giveUp(silent, 4)
		got, _ := all(t, c.Engine())
		same(t, "at the end", got, heldAfter(4, n, 10))
	}
}

// TestClusterLostAnswers loses the first answer to each transaction: commits
// succeed all the same, and once.
func TestClusterLostAnswers(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync"))
	w := wired(c, nil)
	e := c.Engine()
	var rev store.Rev
	for g := 1; g <= 6; g++ {
		w.set(func(n int) fault {
			if n%2 == 1 {
				return []fault{lost, silent}[n/2%2]
			}
			return passed
		})
		puts, deletes := generation(g, []int{3, 130}[g%2], 10)
		next, err := e.Commit(t.Context(), rev, puts, deletes)
		if err != nil || next <= rev {
			t.Fatalf("got %d, %v", next, err)
		}
		rev = next
	}
	got, at := all(t, c.Engine())
	want := heldAfter(5, 130, 10)
	maps.Copy(want, heldAfter(6, 3, 10))
	delete(want, "rg5")
	same(t, "at the end", got, want)
	if at != rev {
		t.Errorf("got revision %d, want %d", at, rev)
	}
}
