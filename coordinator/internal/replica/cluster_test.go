package replica

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// holderOf is where a process of its own holds the election, for a test that kills
// it.
const holderOf = "ASHLAR_TEST_HOLDER_OF"

func TestMain(m *testing.M) {
	if where := os.Getenv(holderOf); where != "" {
		if err := hold(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // it is to be killed
	}
	os.Exit(m.Run())
}

func hold(where string) error {
	ctx := context.Background()
	l, err := etcd.ParseLocation(where)
	if err != nil {
		return err
	}
	c, err := etcd.Dial(ctx, l)
	if err != nil {
		return err
	}
	m, err := Open(ctx, c, self(1))
	if err != nil {
		return err
	}
	term, err := m.Campaign(ctx, Leader)
	if err != nil {
		return err
	}
	fmt.Println("elected")
	<-term.Lost()
	return nil
}

// throne is the invariant that whoever is elected finds the terms of all others
// lost.
type throne struct {
	t  *testing.T
	mu sync.Mutex
	// all that were elected in this process
	terms []*Term
}

// run campaigns for a member until ctx ends, again when its term is lost.
func (h *throne) run(ctx context.Context, m *Member) {
	for ctx.Err() == nil {
		term, err := m.Campaign(ctx, Leader)
		if err != nil {
			if ctx.Err() == nil {
				h.t.Errorf("%s: got %v", m.self.Name, err)
			}
			return
		}
		h.mu.Lock()
		for _, other := range h.terms {
			select {
			case <-other.Lost():
			default:
				h.t.Errorf("%s is elected while %s is", m.self.Name, other.member.self.Name)
			}
		}
		h.terms = append(h.terms, term)
		h.mu.Unlock()
		select {
		case <-term.Lost():
		case <-ctx.Done():
			_ = term.Resign(context.WithoutCancel(ctx)) // the test may have ended what it needs
		}
	}
}

// reign lets members campaign until the test ends.
func reign(t *testing.T, members ...*Member) *throne {
	h := &throne{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for _, m := range members {
		work.Go(func() { h.run(ctx, m) })
	}
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
	return h
}

// oneIs waits until all agree on who is elected, and returns it.
func oneIs(t *testing.T, members ...*Member) *Member {
	t.Helper()
	var name string
	eventually(t, members[0], "somebody is elected", func() bool {
		name = holder(members[0], Leader)
		return name != "" && !slices.ContainsFunc(members, func(m *Member) bool { return holder(m, Leader) != name })
	})
	for _, m := range members {
		if m.self.Name == name {
			return m
		}
	}
	t.Fatalf("got %q elected, who is none of the members", name)
	return nil
}

func without(members []*Member, gone *Member) []*Member {
	var rest []*Member
	for _, m := range members {
		if m != gone {
			rest = append(rest, m)
		}
	}
	return rest
}

func three(t *testing.T, where string) []*Member {
	t.Helper()
	return []*Member{join(t, where, 1), join(t, where, 2), join(t, where, 3)}
}

// A member that falls silent without a word is replaced, and its name is free
// again.
func TestClusterSilentHolder(t *testing.T) {
	t.Parallel()
	where := etcdtest.Start(t, 1).Location("ashlar/test")
	members := three(t, where)
	reign(t, members...)
	first := oneIs(t, members...)
	if err := first.cluster.Close(); err != nil {
		t.Fatal(err)
	}
	rest := without(members, first)
	for _, m := range rest {
		eventually(t, m, "another one is elected", func() bool { now := holder(m, Leader); return now != "" && now != first.self.Name })
	}
	if code := problem.CodeOf(first.Problem()); code != "REP-002" {
		t.Errorf("got %v of the silent member, want REP-002", first.Problem())
	}
	if _, ok := first.Current(Leader); ok {
		t.Error("the silent member says who is elected")
	}
	again, err := Open(t.Context(), dial(t, where), first.self)
	if err != nil {
		t.Fatalf("the name is not free again: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// The time of a takeover after SIGKILL is logged.
func TestClusterKilledHolder(t *testing.T) {
	t.Parallel()
	where := etcdtest.Start(t, 1).Location("ashlar/test")
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), holderOf+"="+where)
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "elected" {
		t.Fatalf("got %q, %v", line, err)
	}
	m := join(t, where, 2)
	eventually(t, m, "the process is elected", func() bool { return holder(m, Leader) == "r1" })
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait() // it was killed, and says so
	killed := time.Now()
	term := campaign(t, m, Leader)
	t.Logf("elected %s after SIGKILL of the holder", time.Since(killed).Round(time.Millisecond))
	next := join(t, where, 3)
	won := make(chan *Term, 1)
	go func() { won <- campaign(t, next, Leader) }()
	eventually(t, m, "two are candidates", func() bool { return candidates(m) == 2 })
	resigned := time.Now()
	if err := term.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-won
	t.Logf("elected %s after the holder resigned", time.Since(resigned).Round(time.Millisecond))
}

func candidates(m *Member) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.copy.seats[Leader].keys)
}

// A holder that is cut off from etcd knows that it lost before another is elected,
// and comes back by itself.
func TestClusterHolderIsCutOff(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1)
	wire := newWire(t, c.Endpoints()[0])
	cutOff := join(t, "etcd://"+wire.addr()+"/ashlar/test?tls=off", 1)
	reign(t, cutOff)
	eventually(t, cutOff, "it is elected", func() bool { return holder(cutOff, Leader) == "r1" })
	other := join(t, c.Location("ashlar/test"), 2)
	reigned := &throne{t: t, terms: nil}
	cutOff.mu.Lock()
	old := cutOff.lease
	cutOff.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	wire.stall(true)
	term := campaign(t, other, Leader)
	select {
	case <-old.lost:
	default:
		t.Error("another one is elected before the holder knows that it lost")
	}
	if err := term.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	work.Go(func() { reigned.run(ctx, other) })
	wire.stall(false)
	eventually(t, cutOff, "it is back", func() bool { return cutOff.Problem() == nil && len(cutOff.List()) == 2 && holder(cutOff, Leader) != "" })
}

// While etcd is away nobody is elected; when it is back, one is.
func TestClusterAway(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3)
	members := three(t, c.Location("ashlar/test"))
	reign(t, members...)
	oneIs(t, members...)
	for i := range 3 {
		c.Kill(i)
	}
	for _, m := range members {
		eventually(t, m, "nobody is elected", func() bool { return holder(m, Leader) == "" && problem.CodeOf(m.Problem()) == "REP-002" })
	}
	if away, err := time.ParseDuration(os.Getenv("ASHLAR_TEST_AWAY")); err == nil {
		time.Sleep(away) // to measure: longer outages take the same way
	}
	c.RestartAll()
	back := time.Now()
	oneIs(t, members...)
	t.Logf("elected %s after etcd was back", time.Since(back).Round(time.Millisecond))
	for _, m := range members {
		eventually(t, m, "all are there", func() bool { return len(m.List()) == 3 && m.Problem() == nil })
	}
}

// When members of etcd die in turn, its leader among them, somebody is elected all
// the while; how often another one was is logged.
func TestClusterEtcdMemberDies(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3)
	members := three(t, c.Location("ashlar/test"))
	h := reign(t, members...)
	oneIs(t, members...)
	for i := range 3 { // one of them is etcd's leader
		c.Kill(i)
		oneIs(t, members...)
		c.Restart(i)
	}
	for _, m := range members {
		eventually(t, m, "all are there", func() bool { return len(m.List()) == 3 && m.Problem() == nil })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d terms", len(h.terms))
}

func TestClusterNameIsTaken(t *testing.T) {
	t.Parallel()
	where := etcdtest.Start(t, 1).Location("ashlar/test")
	first := join(t, where, 1)
	second := self(1)
	second.Client = "127.0.0.1:4999"
	_, err := Open(t.Context(), dial(t, where), second)
	if problem.CodeOf(err) != "REP-001" || !strings.Contains(err.Error(), first.self.Client) || !strings.Contains(err.Error(), second.Client) {
		t.Errorf("got %v, want REP-001 with both addresses", err)
	}
}

// What stands in etcd is anybody's: what does not parse is dropped, and what a
// replica wrote it writes again.
func TestClusterHostileEntries(t *testing.T) {
	t.Parallel()
	where := etcdtest.Start(t, 1).Location("ashlar/test")
	m := join(t, where, 1)
	other := dial(t, where)
	put := func(key, value string) {
		t.Helper()
		if _, err := other.Client().Put(t.Context(), other.Key(key), value); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		put(fmt.Sprintf("replicas/s%03d", i), fmt.Sprintf(`{"name":"s%03d","role":"standby","client":"a:1","mesh":"a:2"}`, i))
	}
	put("replicas/bad", "{")
	put("replicas/big", `{"name":"big","role":"standby","client":"a:1","mesh":"a:2","reason":"`+strings.Repeat("x", maxRecord)+`"}`)
	put("replicas/ctl", `{"name":"ctl","role":"standby","client":"a:1","mesh":"a:2","reason":"\u001b[2J"}`)
	eventually(t, m, "the registry is full", func() bool { return len(m.List()) >= maxMembers-2 })
	for _, r := range m.List() {
		if r.Name == "bad" || r.Name == "big" || strings.ContainsRune(r.Reason, '\x1b') {
			t.Errorf("got %+v in the list", r)
		}
	}
	put("leader/0", `{"name":"liar","client":"0.0.0.0:1","mesh":"a:2"}`)
	put("desk/0", `{"name":"liar","client":"a:1","mesh":"a:2"}`)
	eventually(t, m, "the desk is taken", func() bool { return holder(m, Desk) == "liar" })
	if r, ok := m.Current(Leader); ok {
		t.Errorf("got %+v elected, want none: its address is not one", r)
	}
	if _, err := other.Client().Delete(t.Context(), other.Key("replicas/r1")); err != nil {
		t.Fatal(err)
	}
	m.Say(apiv1.ReplicaStandby, "")
	eventually(t, m, "the entry is there again", func() bool {
		return slices.ContainsFunc(m.List(), func(r apiv1.Replica) bool { return r.Name == "r1" && r.Role == apiv1.ReplicaStandby })
	})
}

// A campaign ends with its context, and leaves nothing behind.
func TestClusterCampaignEnds(t *testing.T) {
	t.Parallel()
	where := etcdtest.Start(t, 1).Location("ashlar/test")
	a, b := join(t, where, 1), join(t, where, 2)
	campaign(t, a, Leader)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := b.Campaign(ctx, Leader)
		failed <- err
	}()
	eventually(t, a, "two are candidates", func() bool { return candidates(a) == 2 })
	if _, err := b.Campaign(t.Context(), Leader); err == nil {
		t.Error("got a second campaign of one member, want an error")
	}
	desk := campaign(t, b, Desk)
	cancel()
	if err := <-failed; err == nil {
		t.Error("got elected, want an error")
	}
	eventually(t, a, "one is a candidate", func() bool { return candidates(a) == 1 })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-desk.Lost()
	eventually(t, a, "b has left", func() bool { return len(a.List()) == 1 && holder(a, Desk) == "" })
}

// A campaign that ends before etcd has answered is in nobody's way.
func TestClusterCampaignEndsUnanswered(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1)
	w := newWire(t, c.Endpoints()[0])
	a, b := join(t, "etcd://"+w.addr()+"/ashlar/test?tls=off", 1), join(t, c.Location("ashlar/test"), 2)
	w.mute(true)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := a.Campaign(ctx, Leader)
		failed <- err
	}()
	eventually(t, b, "it is a candidate", func() bool { return candidates(b) == 1 })
	cancel()
	if err := <-failed; err == nil {
		t.Error("got elected, want an error")
	}
	w.mute(false)
	campaign(t, b, Leader)
}

// wire is a TCP connection to etcd that can stall, or answers alone can:
// connections stay, and bytes wait.
type wire struct {
	l         net.Listener
	mu        sync.Mutex
	cond      *sync.Cond
	off, dumb bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l}
	w.cond = sync.NewCond(&w.mu)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close() // the test fails by what it waits for
				continue
			}
			t.Cleanup(func() { _, _ = c.Close(), up.Close() })
			work.Go(func() { w.copy(c, up, &w.dumb) })
			work.Go(func() { w.copy(up, c, &w.off) })
		}
	})
	t.Cleanup(func() {
		w.stall(false)
		w.mute(false)
		_ = l.Close() // ends accepting
		work.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.l.Addr().String() }

func (w *wire) stall(off bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = off
	w.cond.Broadcast()
}

// mute has what etcd answers wait.
func (w *wire) mute(dumb bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dumb = dumb
	w.cond.Broadcast()
}

func (w *wire) copy(dst, src net.Conn, held *bool) {
	defer dst.Close()
	b := make([]byte, 4096)
	for {
		n, err := src.Read(b)
		w.mu.Lock()
		for w.off || *held {
			w.cond.Wait()
		}
		w.mu.Unlock()
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
