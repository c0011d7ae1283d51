// Package bolt is the embedded engine of the store: one bbolt file on a local
// file system. It also owns the two files of a state directory.
//
//	state.db    the sealed records (bbolt)
//	seal.json   the data key, wrapped under the platform's sealing key
//
// Create makes both and refuses where either exists; Open needs both. During
// Create both are written beside their names (*.new) and take their names last,
// so a crash leaves something that Create starts over or that Open finishes.
//
// The file stays open and locked (flock) as long as the store is: a commit
// needs no descriptor, and a second process is refused. The engine needs
// writable shared mappings of files.
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Keys that start with "r" are live records, those with store.LogPrefix are log
// records, those with store.BlobPrefix blobs. All others, the head above all, are in a bucket so small that bbolt
// keeps it inside the page of the bucket names, which every commit writes.
const liveStart = "r"

var (
	headBucket = []byte("ashlar-head-v1")
	liveBucket = []byte("ashlar-live-v1")
	logBucket  = []byte("ashlar-log-v1")
	blobBucket = []byte("ashlar-blob-v1")
	allBuckets = [][]byte{headBucket, liveBucket, logBucket, blobBucket}
)

const (
	// mapSize is mapped at once, in bytes of address space: a smaller file
	// then grows without a new mapping, which would wait for readers.
	mapSize = 256 << 20

	lockTimeout = 2 * time.Second
	cancelEvery = 1024 // entries between two looks at the context
)

// engine implements store.Engine. The bucket sequence of headBucket is the
// revision.
type engine struct {
	db     *bolt.DB
	file   *os.File              // the one that db writes to
	broken atomic.Pointer[error] // set after a panic inside bbolt: its locks may be held for ever
}

// openFile opens a bbolt file that must have content, or with create one that
// starts empty.
func openFile(path string, create bool) (e *engine, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if err != nil && file != nil {
			release(file) // after a panic bbolt has not done it
		}
	}()
	defer guard(&err)
	options := &bolt.Options{
		Timeout: lockTimeout, InitialMmapSize: mapSize, FreelistType: bolt.FreelistMapType, NoStatistics: true,
		OpenFile: func(name string, _ int, mode fs.FileMode) (f *os.File, err error) {
			file, err = prepare(name, mode, create)
			return file, err
		},
	}
	db, err := bolt.Open(path, 0o600, options)
	if err != nil {
		return nil, codedOpen(path, err)
	}
	e = &engine{db: db, file: file}
	check := e.checkBuckets
	if create {
		check = e.makeBuckets
	}
	if err := check(); err != nil {
		db.Close()
		return nil, err
	}
	return e, nil
}

// codedOpen says what an error of bbolt's Open means.
func codedOpen(path string, err error) error {
	switch {
	case problem.CodeOf(err) != "":
		return err
	case errors.Is(err, bolterrors.ErrTimeout):
		return problem.New("STO-008", "%s is locked", path)
	case errors.Is(err, fs.ErrNotExist):
		return problem.New("STO-002", "%s does not exist", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return problem.Because(err, "STO-003", "%s", path)
	case errors.Is(err, bolterrors.ErrChecksum):
		return problem.Because(err, "STO-005", "%s", path)
	}
	return problem.Because(err, "STO-007", "opening %s", path)
}

// prepare opens the file for bbolt, which would take an empty file for a new
// database, and would create a missing one.
func prepare(name string, mode fs.FileMode, create bool) (*os.File, error) {
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	f, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	if create {
		err = claim(f)
	} else if info, serr := f.Stat(); serr != nil {
		err = serr
	} else if info.Size() == 0 {
		err = problem.New("STO-005", "%s is empty", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// guard turns a panic or a fault inside bbolt, which is what damaged or
// truncated files cause, into STO-005. The caller has set PanicOnFault.
func guard(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error: // a page that is not there, or not what another says it is
		*err = problem.New("STO-005", "the database's pages do not fit together: it was cut short or changed")
	default:
		*err = problem.New("STO-005", "the database's structure does not hold: %.200s", fmt.Sprint(p))
	}
}

// release unlocks and closes a file that bbolt may still map. Closing is not
// enough: the mapping would keep the lock. On a file that is closed already it
// does nothing.
func release(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := conn.Control(func(fd uintptr) { unix.Flock(int(fd), unix.LOCK_UN) }); err != nil {
		return err
	}
	return f.Close()
}

// do runs f with faults in the mapping as panics. After one the engine refuses
// all work.
func (e *engine) do(f func() error) (err error) {
	if broken := e.broken.Load(); broken != nil {
		return *broken
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	panicked := true
	defer func() {
		if panicked {
			broken := err
			e.broken.Store(&broken)
		}
	}()
	defer guard(&err)
	err = f()
	panicked = false
	return err
}

func (e *engine) makeBuckets() error {
	return e.do(func() error {
		return e.db.Update(func(tx *bolt.Tx) error {
			for _, name := range allBuckets {
				if _, err := tx.CreateBucket(name); err != nil {
					return fmt.Errorf("creating %s: %w", name, err)
				}
			}
			return nil
		})
	})
}

// checkBuckets looks for what makes a file a state. States of the first version
// have no blobs yet.
func (e *engine) checkBuckets() error {
	return e.do(func() error {
		blobs := false
		err := e.db.View(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{headBucket, liveBucket, logBucket} {
				if tx.Bucket(name) == nil {
					return problem.New("STO-003", "the database has no bucket %s", name)
				}
			}
			blobs = tx.Bucket(blobBucket) != nil
			return nil
		})
		if err != nil || blobs {
			return err
		}
		return e.db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket(blobBucket)
			return err
		})
	})
}

// Load implements store.Engine.
func (e *engine) Load(ctx context.Context, each func(store.Entry) error) (rev store.Rev, err error) {
	err = e.do(func() error {
		return e.db.View(func(tx *bolt.Tx) error {
			rev = store.Rev(tx.Bucket(headBucket).Sequence())
			n := 0
			take := func(k, v []byte) error {
				if n++; n%cancelEvery == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				return each(store.Entry{Key: string(k), Value: v})
			}
			if err := tx.Bucket(headBucket).ForEach(take); err != nil {
				return err
			}
			return tx.Bucket(liveBucket).ForEach(take)
		})
	})
	return rev, err
}

// Commit implements store.Engine with one bbolt transaction: its pages, fsync,
// its meta page, fsync.
func (e *engine) Commit(_ context.Context, expected store.Rev, puts []store.Entry, deletes []string) (rev store.Rev, err error) {
	// Ascending keys touch each page once.
	puts = slices.Clone(puts)
	slices.SortFunc(puts, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	err = e.do(func() error {
		return e.db.Update(func(tx *bolt.Tx) error {
			head := tx.Bucket(headBucket)
			tx.Bucket(logBucket).FillPercent = 1 // records are only ever added behind the last
			if got := store.Rev(head.Sequence()); got != expected {
				return fmt.Errorf("%w: wanted revision %d, got %d", store.ErrConflict, expected, got)
			}
			for _, key := range deletes {
				if err := bucketOf(tx, key).Delete([]byte(key)); err != nil {
					return fmt.Errorf("deleting: %w", err)
				}
			}
			for _, p := range puts {
				if err := bucketOf(tx, p.Key).Put([]byte(p.Key), p.Value); err != nil {
					return fmt.Errorf("putting: %w", err)
				}
			}
			rev = expected + 1
			return head.SetSequence(uint64(rev))
		})
	})
	return rev, err
}

// Range implements store.Engine.
func (e *engine) Range(ctx context.Context, from, to string, limit int) (found []store.Entry, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = e.do(func() error {
		return e.db.View(func(tx *bolt.Tx) error {
			c := bucketOf(tx, from).Cursor()
			end := []byte(to)
			for k, v := c.Seek([]byte(from)); k != nil && bytes.Compare(k, end) < 0 && len(found) < limit; k, v = c.Next() {
				found = append(found, store.Entry{Key: string(k), Value: bytes.Clone(v)})
			}
			return nil
		})
	})
	return found, err
}

// Snapshot implements store.Snapshotter: the pages of one read transaction.
func (e *engine) Snapshot(ctx context.Context, each func(size int64, write func(io.Writer) error) error) error {
	return e.do(func() error {
		return e.db.View(func(tx *bolt.Tx) error {
			return each(tx.Size(), func(w io.Writer) error {
				_, err := tx.WriteTo(store.Until(ctx, w))
				return err
			})
		})
	})
}

// Close implements store.Engine.
func (e *engine) Close() error {
	if e.broken.Load() != nil {
		return release(e.file) // db.Close could wait for ever
	}
	return e.db.Close()
}

func bucketOf(tx *bolt.Tx, key string) *bolt.Bucket {
	switch {
	case strings.HasPrefix(key, store.LogPrefix):
		return tx.Bucket(logBucket)
	case strings.HasPrefix(key, store.BlobPrefix):
		return tx.Bucket(blobBucket)
	case strings.HasPrefix(key, liveStart):
		return tx.Bucket(liveBucket)
	}
	return tx.Bucket(headBucket)
}
