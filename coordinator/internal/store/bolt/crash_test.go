package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	crashDirEnv = "ASHLAR_STORE_CRASH_DIR" // set in the child
	killsEnv    = "ASHLAR_KILLS"           // how often to kill, default 25
	writers     = 4
)

var counters = store.NewTable[int]("counters")

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := commitForEver(dir); err != nil {
			fmt.Println("fail", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// commitForEver is the child: it opens or creates the state, says what is in
// it, then counts in several writers, each acknowledged on stdout.
func commitForEver(dir string) error {
	config := bolt.Config{Dir: dir, Source: source("a")}
	start := bolt.Open
	if presence, err := bolt.Look(dir); err != nil {
		return err
	} else if presence == bolt.Absent || presence == bolt.Unfinished {
		start = bolt.Create
	}
	s, err := start(context.Background(), config)
	if err != nil {
		return err
	}
	if err := audit(s); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for {
				var n int
				err := s.Update(context.Background(), func(tx *store.Tx) error {
					n, _ = counters.Get(tx, strconv.Itoa(w))
					n++
					if _, err := storetest.Events.Append(tx, fmt.Append(nil, w, " ", n)); err != nil {
						return err
					}
					if _, err := storetest.Large.Put(tx, strconv.Itoa(w), blob(strconv.Itoa(w), n)); err != nil {
						return err
					}
					return counters.Put(tx, strconv.Itoa(w), n)
				})
				if err != nil {
					fmt.Println("fail", err)
					os.Exit(1)
				}
				fmt.Println("ack", w, n)
			}
		})
	}
	wg.Wait() // until the kill
	return nil
}

// blob is what a writer has in its blob at a count, some pages.
func blob(writer string, n int) []byte {
	return bytes.Repeat(fmt.Append(nil, writer, " ", n, ";"), 1000)
}

// audit prints the counters and checks that the log holds as many records as
// they say, to its end, and that the blobs are those of the same commits.
func audit(s *store.Store) error {
	var total, logged uint64
	at := map[string]int{}
	err := s.View(context.Background(), func(tx *store.Tx) error {
		for w, n := range counters.All(tx) {
			fmt.Println("has", w, n)
			at[w] = n
			total += uint64(n)
		}
		logged = storetest.Events.Len(tx)
		return nil
	})
	if err != nil {
		return err
	}
	if logged != total {
		return fmt.Errorf("the log has %d records, the counters %d", logged, total)
	}
	for w, n := range at {
		if _, err := storetest.Large.Read(context.Background(), s, w, sha256.Sum256(blob(w, n))); err != nil {
			return fmt.Errorf("the blob of writer %s at %d: %w", w, n, err)
		}
	}
	from := logged - min(logged, 500)
	records, err := storetest.Events.Read(context.Background(), s, from, 500)
	if err != nil || uint64(len(records)) != logged-from {
		return fmt.Errorf("read %d records from %d on: %w", len(records), from, err)
	}
	fmt.Println("open")
	return nil
}

// TestKilledWhileCommitting kills a child at random moments, also while it
// creates or opens the state. Each next child must open by itself and have all
// that was acknowledged.
func TestKilledWhileCommitting(t *testing.T) {
	kills := 25
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	dir := filepath.Join(t.TempDir(), "state")
	acked := map[string]int{}
	total := 0
	// One in three is killed before it has opened, on average.
	for round, delay := range storetest.Delays(kills, 60*time.Millisecond, func() bool { return total > 0 }) {
		has, acks, opened, failure := killAfter(t, dir, delay)
		if failure != "" {
			t.Fatalf("round %d: the child could not go on: %s", round, failure)
		}
		for w, n := range acked {
			if opened && has[w] < n {
				t.Fatalf("round %d: writer %s was acknowledged %d, the state has %d", round, w, n, has[w])
			}
		}
		for w, n := range acks {
			acked[w] = n
			total++
		}
	}
	s := open(t, dir)
	var sum int
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		for w, n := range acked {
			if got, _ := counters.Get(tx, w); got < n {
				t.Errorf("at the end: writer %s was acknowledged %d, the state has %d", w, n, got)
			}
			sum += n
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills, %d acknowledged commits, none lost", kills, sum)
	if total == 0 {
		t.Error("no child ever acknowledged anything")
	}
}

// killAfter runs a child for a while and returns what it said.
func killAfter(t *testing.T, dir string, delay time.Duration) (has, acks map[string]int, opened bool, failure string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(delay, func() { child.Process.Kill() })
	defer timer.Stop()
	has, acks = map[string]int{}, map[string]int{}
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	child.Wait()
	for line := range lines(text) {
		var w string
		var n int
		switch {
		case line == "open":
			opened = true
		case scan(line, "has %s %d", &w, &n):
			has[w] = n
		case scan(line, "ack %s %d", &w, &n):
			acks[w] = n
		default:
			failure = line
		}
	}
	return has, acks, opened, failure
}

// lines yields complete lines; the last one may have been cut by the kill.
func lines(text []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for {
			n, line, err := bufio.ScanLines(text, false)
			if err != nil || n == 0 || !yield(string(line)) {
				return
			}
			text = text[n:]
		}
	}
}

func scan(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line, format, to...)
	return err == nil && n == len(to)
}

// TestFullDisk fills a small file system: commits fail with a code, reads go
// on, and commits succeed again by themselves when there is space.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("mounting a file system of our own: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := create(t, filepath.Join(dir, "state"))
	if err := update(s, "k", 0); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	var err error
	written := 0
	for i := 0; err == nil && i < 1000; i++ {
		if err = update(s, "k", i); err == nil {
			written = i
		}
	}
	if problem.CodeOf(err) != "STO-007" {
		t.Fatalf("on the full disk: got %v, want STO-007", err)
	}
	for range 20 {
		if got, want := get(t, s, "k")[:8], fmt.Sprintf("%08d", written); got != want {
			t.Fatalf("while the disk is full: got %s, want %s", got, want)
		}
		if err := update(s, "k", 5000); problem.CodeOf(err) != "STO-007" {
			t.Fatalf("still full: got %v, want STO-007", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := update(s, "k", i); err != nil {
			t.Fatalf("with space again: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, filepath.Join(dir, "state")), "k")[:8]; got != "00000019" {
		t.Errorf("after reopening: got %s, want 00000019", got)
	}
}

// TestCreateOnFullDisk leaves nothing that stands in the way.
func TestCreateOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a file system of our own: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	fill(t, filepath.Join(dir, "ballast"))
	if _, err := bolt.Create(t.Context(), bolt.Config{Dir: filepath.Join(dir, "state"), Source: source("a")}); problem.CodeOf(err) != "STO-007" {
		t.Fatalf("got %v, want STO-007", err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	put(t, create(t, filepath.Join(dir, "state")), "k", "v")
}

func update(s *store.Store, key string, i int) error {
	return s.Update(context.Background(), func(tx *store.Tx) error {
		return records.Put(tx, key, record{fmt.Sprintf("%08d%20000s", i, "")})
	})
}

// fill writes until the file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
}
