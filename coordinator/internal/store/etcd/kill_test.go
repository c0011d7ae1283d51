package etcd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	writerEnv = "ASHLAR_STORE_WRITER" // set in the child: where it writes
	killsEnv  = "ASHLAR_KILLS"        // how often to kill, default 6
	blobSize  = 600 << 10             // two of them are more than one request
)

var counters = store.NewTable[int]("counters")

func TestMain(m *testing.M) {
	if location := os.Getenv(writerEnv); location != "" {
		if err := writeForEver(location); err != nil {
			fmt.Println("fail", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func testKey() seal.Key {
	key, err := seal.NewKey(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		panic(err) // a constant size
	}
	return key
}

// writeForEver is the child: it opens or creates the state and counts, each count
// acknowledged on stdout. Each third commit goes through a stage.
func writeForEver(location string) error {
	ctx := context.Background()
	l, err := ParseLocation(location)
	if err != nil {
		return err
	}
	c, err := Dial(ctx, l)
	if err != nil {
		return err
	}
	config := store.Config{Engine: c.Engine(), Key: testKey()}
	s, err := store.Open(ctx, config)
	if problem.CodeOf(err) == "STO-012" {
		s, err = store.Create(ctx, config)
	}
	if err != nil {
		return err
	}
	n, err := audit(s)
	if err != nil {
		return err
	}
	fmt.Println("has", n)
	for {
		if n, err = count(s); err != nil {
			return err
		}
		fmt.Println("ack", n)
	}
}

// count makes one commit.
func count(s *store.Store) (n int, err error) {
	return n, s.Update(context.Background(), func(tx *store.Tx) error {
		n, _ = counters.Get(tx, "n")
		n++
		if _, err := storetest.Events.Append(tx, fmt.Append(nil, n)); err != nil {
			return err
		}
		if n%3 == 0 {
			for i := range 2 {
				if _, err := storetest.Large.Put(tx, fmt.Sprint(i), sized(n+i, blobSize)); err != nil {
					return err
				}
			}
			for i := range 130 {
				if err := storetest.Values.Put(tx, fmt.Sprint(i), storetest.Value{Text: fmt.Sprint(n)}); err != nil {
					return err
				}
			}
		}
		return counters.Put(tx, "n", n)
	})
}

// audit checks that all of a state is of one commit, and returns its count.
func audit(s *store.Store) (n int, err error) {
	ctx := context.Background()
	var logged uint64
	if err := s.View(ctx, func(tx *store.Tx) error {
		n, _ = counters.Get(tx, "n")
		logged = storetest.Events.Len(tx)
		for k, v := range storetest.Values.All(tx) {
			if want := fmt.Sprint(n - n%3); v.Text != want {
				return fmt.Errorf("record %s is of commit %s, want %s", k, v.Text, want)
			}
		}
		return nil
	}); err != nil {
		return 0, err
	}
	if logged != uint64(n) {
		return 0, fmt.Errorf("the log has %d records, the counter is at %d", logged, n)
	}
	from := logged - min(logged, 400)
	records, err := storetest.Events.Read(ctx, s, from, 400)
	if err != nil || uint64(len(records)) != logged-from {
		return 0, fmt.Errorf("got %d records from %d on: %w", len(records), from, err)
	}
	for i := range 2 {
		if of := n - n%3; of > 0 {
			if _, err := storetest.Large.Read(ctx, s, fmt.Sprint(i), sha256.Sum256(sized(of+i, blobSize))); err != nil {
				return 0, fmt.Errorf("blob %d of commit %d: %w", i, of, err)
			}
		}
	}
	return n, nil
}

// TestClusterKilledWriter kills a writer's process at random moments, also while
// it creates or opens the state. A reader looks all the time, and sees one commit
// each time; the next writer opens by itself and has all that was acknowledged.
func TestClusterKilledWriter(t *testing.T) {
	kills := 6
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	server := etcdtest.Start(t, 1, "--unsafe-no-fsync")
	location := server.Location("killed")
	reading, stop := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() { readAll(t, reading, dialAt(t, location)) })
	defer reader.Wait()
	defer stop()
	acked, total := 0, 0
	for round, delay := range storetest.Delays(kills, 500*time.Millisecond, func() bool { return total > 0 }) {
		has, last, failure := killAfter(t, location, delay)
		if failure != "" {
			t.Fatalf("round %d: the writer could not go on: %s", round, failure)
		}
		if has >= 0 && has < acked {
			t.Fatalf("round %d: %d was acknowledged, the state has %d", round, acked, has)
		}
		if last > acked {
			total += last - acked
			acked = last
		}
	}
	s := storetest.Open(t, dialAt(t, location).Engine())
	n, err := audit(s)
	if err != nil || n < acked {
		t.Errorf("at the end: got %d, %v, want %d at least", n, err, acked)
	}
	if t.Logf("%d kills, %d acknowledged commits, none lost", kills, total); total == 0 {
		t.Error("no writer ever acknowledged anything")
	}
}

// readAll opens the state again and again.
func readAll(t *testing.T, ctx context.Context, c *Cluster) {
	last := 0
	for ctx.Err() == nil {
		s, err := store.Open(ctx, store.Config{Engine: c.Engine(), Key: testKey()})
		if problem.CodeOf(err) == "STO-012" || ctx.Err() != nil {
			continue
		}
		if err != nil {
			t.Errorf("a reader: %v", err)
			return
		}
		n, err := audit(s)
		if cerr := s.Close(); err == nil {
			err = cerr
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil || n < last {
			t.Errorf("a reader at %d after %d: %v", n, last, err)
			return
		}
		last = n
	}
}

// killAfter runs a writer for a while. has is what it opened, -1 if it did not
// come to that, last what it acknowledged last.
func killAfter(t *testing.T, location string, delay time.Duration) (has, last int, failure string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), writerEnv+"="+location)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(delay, func() { _ = child.Process.Kill() })
	defer timer.Stop()
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed, and says so
	has = -1
	lines := bufio.NewScanner(bytes.NewReader(text[:bytes.LastIndexByte(text, '\n')+1])) // the kill may have cut the last
	for lines.Scan() {
		var n int
		switch {
		case scan(lines.Text(), "has %d", &n):
			has = n
		case scan(lines.Text(), "ack %d", &n):
			last = n
		default:
			failure = lines.Text()
		}
	}
	return has, last, failure
}

func scan(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line, format, to...)
	return err == nil && n == len(to)
}

// TestClusterKilledServer kills etcd while commits are made: its only member, and
// the leader of three. The writer goes on by itself, and nothing that was
// acknowledged is lost.
func TestClusterKilledServer(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			server := etcdtest.Start(t, members)
			c := dial(t, server)
			s := storetest.Create(t, c.Engine())
			acked, failed := make(chan int), 0
			quit := make(chan struct{})
			var writer sync.WaitGroup
			writer.Go(func() {
				defer close(acked)
				for {
					n, err := count(s)
					switch code := problem.CodeOf(err); {
					case err == nil:
					case code == "STO-007" || code == "STO-018":
						failed++
						continue
					default:
						t.Errorf("got %v, want STO-007", err)
						return
					}
					select {
					case acked <- n:
					case <-quit:
						return
					}
				}
			})
			last := 0
			for range 2 {
				for range 4 {
					last = <-acked
				}
				which := server.Leader()
				server.Kill(which)
				if members > 1 {
					since := time.Now()
					last = <-acked // the others go on
					t.Logf("after the leader was killed the next commit took %s", time.Since(since).Round(time.Millisecond))
				}
				server.Restart(which)
			}
			last = max(last, <-acked)
			close(quit)
			for n := range acked {
				last = n
			}
			writer.Wait()
			other := storetest.Open(t, dialAt(t, c.location.String()+"?tls=off").Engine())
			n, err := audit(other)
			if err != nil || n < last {
				t.Errorf("got %d, %v, want %d at least", n, err, last)
			}
			t.Logf("%d commits, %d updates failed", n, failed)
		})
	}
}
