package bolt_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
)

// load fills a store with n records of about 1 KiB.
func load(t testing.TB, s *store.Store, n int) {
	t.Helper()
	text := string(bytes.Repeat([]byte{'x'}, 1000))
	for from := 0; from < n; from += 1000 {
		err := s.Update(context.Background(), func(tx *store.Tx) error {
			for i := from; i < min(n, from+1000); i++ {
				if err := records.Put(tx, fmt.Sprintf("%06d", i), record{text}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// written returns the bytes that this process has passed to write calls.
func written(t testing.TB) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skipf("no accounting of writes here: %v", err)
	}
	for _, line := range bytes.Split(text, []byte("\n")) {
		if _, err := fmt.Sscanf(string(line), "wchar: %d", &n); err == nil {
			return n
		}
	}
	t.Skip("no wchar in /proc/self/io")
	return 0
}

// activation is an update as the coordinator makes them: one record, one log
// record.
func activation(s *store.Store, i int) error {
	return s.Update(context.Background(), func(tx *store.Tx) error {
		if _, err := storetest.Events.Append(tx, bytes.Repeat([]byte{'e'}, 1000)); err != nil {
			return err
		}
		return records.Put(tx, fmt.Sprintf("%06d", i%100), record{fmt.Sprint("value ", i)})
	})
}

func TestCommitWritesKilobytes(t *testing.T) {
	s := create(t, filepath.Join(t.TempDir(), "state"))
	load(t, s, 10_000)
	const n = 100
	before := written(t)
	for i := range n {
		if err := activation(s, i); err != nil {
			t.Fatal(err)
		}
	}
	perCommit := (written(t) - before) / n
	t.Logf("%d bytes written per commit over 10,000 records", perCommit)
	if limit := int64(64 << 10); perCommit > limit {
		t.Errorf("a commit writes %d bytes, want at most %d", perCommit, limit)
	}
}

func TestMemoryIsFlat(t *testing.T) {
	s := create(t, filepath.Join(t.TempDir(), "state"))
	live := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	run := func(n int) {
		var wg sync.WaitGroup
		for w := range 32 {
			wg.Go(func() {
				for i := range n / 32 {
					if err := activation(s, i*32+w); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	run(1600)
	before := live()
	run(9600)
	after := live()
	t.Logf("live heap: %d KB, after 9,600 further updates %d KB", before>>10, after>>10)
	if grown := after - before; grown > 1<<20 {
		t.Errorf("the live heap grew by %d bytes over 9,600 updates of the same keys", grown)
	}
}

// TestCommitNeedsNoDescriptor uses all descriptors up, then commits.
func TestCommitNeedsNoDescriptor(t *testing.T) {
	s := create(t, filepath.Join(t.TempDir(), "state"))
	load(t, s, 100)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	// Zero: no descriptor above those that are open already.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	f, openErr := os.Open("/dev/null")
	var err error
	for i := 0; i < 200 && err == nil; i++ {
		err = activation(s, i)
	}
	_, readErr := storetest.Events.Read(t.Context(), s, 0, 200)
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if openErr == nil {
		f.Close()
		t.Fatal("descriptors were still to be had")
	}
	if err != nil || readErr != nil {
		t.Errorf("without a free descriptor: committing %v, reading the log %v", err, readErr)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("c%d", clients), func(b *testing.B) {
			s := create(b, filepath.Join(b.TempDir(), "state"))
			load(b, s, 10_000)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for {
						i := int(next.Add(1))
						if i > b.N {
							return
						}
						if err := activation(s, i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkView reads one record, with and without writers at work.
func BenchmarkView(b *testing.B) {
	for _, writers := range []int{0, 4} {
		b.Run(fmt.Sprintf("writers%d", writers), func(b *testing.B) {
			s := create(b, filepath.Join(b.TempDir(), "state"))
			load(b, s, 10_000)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; ; i += writers {
						select {
						case <-stop:
							return
						default:
						}
						if err := activation(s, i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			for b.Loop() {
				_ = s.View(context.Background(), func(tx *store.Tx) error {
					records.Get(tx, "000050")
					return nil
				})
			}
			close(stop)
			wg.Wait()
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "state")
	s := create(b, dir)
	load(b, s, 10_000)
	s.Close()
	var total time.Duration
	for b.Loop() {
		at := time.Now()
		s := open(b, dir)
		total += time.Since(at)
		s.Close()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N)/1000, "open-ms")
}
