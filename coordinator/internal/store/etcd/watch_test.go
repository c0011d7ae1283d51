package etcd

import (
	"context"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

// TestClusterWatch wants to be told of each commit, also of those while the
// cluster was away, and of nothing when there is nothing.
func TestClusterWatch(t *testing.T) {
	server := etcdtest.Start(t, 1)
	c, other := dial(t, server), dialAt(t, server.Location("test1x"))
	ctx, cancel := context.WithCancel(t.Context())
	changed := c.Watch(ctx)
	await := func(want store.Rev) {
		t.Helper()
		for end := time.After(30 * time.Second); ; {
			select {
			case <-changed:
				if got, err := c.Revision(t.Context()); err == nil && got == want {
					return
				}
			case <-end:
				t.Fatalf("not told of revision %d", want)
			}
		}
	}
	await(0)
	e := c.Engine()
	var rev store.Rev
	commit := func() {
		t.Helper()
		var err error
		if rev, err = e.Commit(t.Context(), rev, []store.Entry{{Key: "h", Value: []byte("x")}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		commit()
		await(rev)
	}
	server.Kill(0)
	server.Restart(0)
	commit()
	await(rev)
	if _, err := other.Engine().Commit(t.Context(), 0, []store.Entry{{Key: "h", Value: []byte("x")}}, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	n := 0
	for range changed {
		n++
	}
	if n > 1 {
		t.Errorf("%d values wait, want them together", n)
	}
}
