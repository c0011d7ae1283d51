package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestClusterFull fills etcd to its quota: commits say so and what to do, reading
// goes on, and commits succeed again when there is space.
func TestClusterFull(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync", "--quota-backend-bytes=20000000"))
	s := storetest.Create(t, c.Engine())
	put := func(i int) error {
		return s.Update(t.Context(), func(tx *store.Tx) error {
			_, err := storetest.Large.Put(tx, "k", sized(i, 3<<20))
			if err == nil {
				err = storetest.Values.Put(tx, "k", storetest.Value{Text: fmt.Sprint(i)})
			}
			return err
		})
	}
	stored := -1
	var err error
	for i := 0; i < 50; i++ {
		if err = put(i); err != nil {
			break
		}
		stored = i
	}
	full := problem.From(err)
	if full.Code != "STO-007" || !strings.Contains(full.Detail, "STO-032") || full.Next != problem.Lookup("STO-032").Next || stored < 0 {
		t.Fatalf("after %d: got %v, next %q, want STO-007 because of STO-032", stored, full, full.Next)
	}
	model := &storetest.Model{Values: map[string]string{"k": fmt.Sprint(stored)}}
	model.Check(t, s)
	model.Check(t, storetest.Open(t, c.Engine()))
	v, err := c.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Compact(t.Context(), v.at, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Defragment(t.Context(), c.client.Endpoints()[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	if err := put(100); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	model.Values["k"] = "100"
	model.Check(t, s)
	model.Check(t, storetest.Open(t, c.Engine()))
}

func TestClusterSmallRequests(t *testing.T) {
	c := dial(t, etcdtest.Start(t, 1, "--unsafe-no-fsync", "--max-txn-ops=6", "--max-request-bytes=20000"))
	for name, puts := range map[string][]store.Entry{
		"operations": {{Key: "r1"}, {Key: "r2"}, {Key: "r3"}, {Key: "r4"}},
		"bytes":      {{Key: "r1", Value: make([]byte, 1<<20)}},
	} {
		if _, err := c.Engine().Commit(t.Context(), 0, puts, nil); problem.CodeOf(err) != "STO-034" {
			t.Errorf("%s: got %v, want STO-034", name, err)
		}
	}
}

// TestClusterAway wants an answer within the caller's time, whatever etcd does.
func TestClusterAway(t *testing.T) {
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	c := dial(t, server)
	e := c.Engine()
	rev, err := e.Commit(t.Context(), 0, []store.Entry{{Key: "h", Value: []byte("1")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Range(ended, "h", "i", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: got %v", err)
	}
	server.Kill(0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := e.Range(ctx, "h", "i", 1); problem.CodeOf(err) != "STO-031" {
		t.Errorf("reading: got %v, want STO-031", err)
	}
	if _, err := e.Load(ctx, nil); problem.CodeOf(err) != "STO-031" {
		t.Errorf("loading: got %v, want STO-031", err)
	}
	if _, err := e.Commit(ctx, rev, []store.Entry{{Key: "h", Value: []byte("2")}}, nil); problem.CodeOf(err) != "STO-031" {
		t.Errorf("committing: got %v, want STO-031", err)
	}
	if _, err := Dial(ctx, c.location); problem.CodeOf(err) != "STO-031" {
		t.Errorf("connecting: got %v, want STO-031", err)
	}
	server.Restart(0)
	if rev, err = e.Commit(t.Context(), rev, []store.Entry{{Key: "h", Value: []byte("3")}}, nil); err != nil {
		t.Fatalf("when it is back: %v", err)
	}
	if got, at := all(t, c.Engine()); string(got["h"]) != "3" || at != rev {
		t.Errorf("got %q at %d, want 3 at %d", got["h"], at, rev)
	}
}

func TestCoded(t *testing.T) {
	c := &Cluster{location: Location{Endpoints: []string{"a:1"}, Prefix: "/x/"}}
	for _, e := range []struct {
		err     error
		want    problem.Code
		unknown bool
	}{
		{rpctypes.ErrNoSpace, "STO-032", false}, {rpctypes.ErrPermissionDenied, "STO-033", false}, {rpctypes.ErrInvalidAuthToken, "STO-033", false},
		{rpctypes.ErrUserEmpty, "STO-033", false}, {rpctypes.ErrRequestTooLarge, "STO-034", false}, {rpctypes.ErrTooManyOps, "STO-034", false},
		{rpctypes.ErrTimeout, "STO-031", true}, {rpctypes.ErrNoLeader, "STO-031", true}, {rpctypes.ErrStopped, "STO-031", true},
		{context.DeadlineExceeded, "STO-031", true}, {context.Canceled, "", true}, {rpctypes.ErrGRPCTimeoutDueToConnectionLost, "STO-031", true},
		{rpctypes.ErrTooManyRequests, "STO-031", false}, {errMoved, "STO-036", true}, {errors.New("transport is closing"), "STO-031", true},
	} {
		if got := problem.CodeOf(c.coded(e.err, "trying")); got != e.want {
			t.Errorf("%v: got %q, want %q", e.err, got, e.want)
		}
		if got := uncertain(e.err); got != e.unknown {
			t.Errorf("%v: that its outcome is unknown is %v", e.err, got)
		}
	}
	if err := c.coded(fmt.Errorf("x: %w", store.ErrConflict), "trying"); problem.CodeOf(err) != "" || !errors.Is(err, store.ErrConflict) {
		t.Errorf("a conflict: got %v", err)
	}
}
