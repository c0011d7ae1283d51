package replica

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

const patience = 2 * time.Minute // for what must happen

// dial connects to a cluster as one replica does.
func dial(t *testing.T, location string) *etcd.Cluster {
	t.Helper()
	l, err := etcd.ParseLocation(location)
	if err != nil {
		t.Fatal(err)
	}
	c, err := etcd.Dial(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	return c
}

func self(i int) Self {
	return Self{Name: fmt.Sprint("r", i), Client: fmt.Sprintf("127.0.0.1:%d", 4000+i), Mesh: fmt.Sprintf("127.0.0.1:%d", 5000+i), Version: "1", TEE: "sim", Now: time.Now}
}

// join opens a member with a connection of its own.
func join(t *testing.T, location string, i int) *Member {
	t.Helper()
	m, err := Open(t.Context(), dial(t, location), self(i))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() }) // a test may have closed what it needs
	return m
}

// eventually waits until ok holds, looking at each change.
func eventually(t *testing.T, m *Member, what string, ok func() bool) {
	t.Helper()
	end := time.After(patience)
	again := time.NewTicker(50 * time.Millisecond) // for what is not a member's alone
	defer again.Stop()
	for {
		changed := m.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-end:
			t.Fatalf("%s did not become so within %s; got %+v, %v", what, patience, m.List(), m.Problem())
		}
	}
}

func campaign(t *testing.T, m *Member, e Election) *Term {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	term, err := m.Campaign(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

func holder(m *Member, e Election) string {
	r, _ := m.Current(e)
	return r.Name
}

func TestClusterOneIsElected(t *testing.T) {
	c := etcdtest.Start(t, 1)
	where := c.Location("ashlar/test")
	a, b := join(t, where, 1), join(t, where, 2)
	term := campaign(t, a, Leader)
	a.Say(apiv1.ReplicaActive, "")
	eventually(t, b, "a is active", func() bool {
		l := b.List()
		return holder(b, Leader) == "r1" && len(l) == 2 && l[0].Role == apiv1.ReplicaActive && l[1].Role == apiv1.ReplicaJoining
	})
	if addr, _ := b.Mesh(); addr != "127.0.0.1:5001" {
		t.Errorf("got mesh target %q, want 127.0.0.1:5001", addr)
	}
	if addr, _ := a.Mesh(); addr != "" {
		t.Errorf("got own mesh target %q, want none", addr)
	}
	won := make(chan *Term, 1)
	go func() { won <- campaign(t, b, Leader) }()
	if err := term.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-term.Lost()
	next := <-won
	eventually(t, a, "b is active", func() bool { return holder(a, Leader) == "r2" })
	select {
	case <-next.Lost():
		t.Error("the new term is lost at once")
	default:
	}
}
