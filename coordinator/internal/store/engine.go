package store

import (
	"context"
	"errors"
	"io"
)

// Entry is one key and value as an engine sees them: both opaque. A key has 1
// to 64 bytes.
type Entry struct {
	Key   string
	Value []byte
}

// Rev is an engine's revision. It changes with every commit.
type Rev uint64

// LogPrefix is the first byte of the keys of log records, BlobPrefix that of
// blobs. An engine keeps both out of Load.
const (
	LogPrefix  = "l"
	BlobPrefix = "b"
)

// FormatKey and HeadKey are the keys of the two entries without which no others
// are a state: who copies a state writes them last.
const (
	FormatKey = "f"
	HeadKey   = "h"
)

// ErrConflict is what Commit returns (wrapped) when expected is not the
// engine's revision. Nothing was changed then.
var ErrConflict = errors.New("another writer was faster")

// Snapshotter is an Engine that can write one durable state out while it goes on.
type Snapshotter interface {
	// Snapshot calls each with the size of a snapshot in bytes, and what writes
	// it. It is a file that the engine opens.
	Snapshot(ctx context.Context, each func(size int64, write func(io.Writer) error) error) error
}

// Until returns a writer to w that fails when ctx has ended: a snapshot may be
// large, and what it is written to slow.
func Until(ctx context.Context, w io.Writer) io.Writer { return untilWriter{ctx, w} }

type untilWriter struct {
	ctx context.Context
	w   io.Writer
}

func (u untilWriter) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// Engine makes entries durable. The store above it calls Commit from one
// goroutine at a time; Range may be called at any time from any goroutine.
type Engine interface {
	// Load calls each for every entry whose key does not start with
	// LogPrefix or BlobPrefix, in any order. The value is only valid during the call.
	Load(ctx context.Context, each func(Entry) error) (Rev, error)

	// Commit makes all puts and deletes or none of them. When it returns nil
	// they survive a crash. After any other error than ErrConflict they may
	// have been made or not, but wholly either way. Deleting what is absent
	// is no error.
	Commit(ctx context.Context, expected Rev, puts []Entry, deletes []string) (Rev, error)

	// Range returns at most limit entries with from <= key < to in ascending
	// order of keys. The caller owns them.
	Range(ctx context.Context, from, to string, limit int) ([]Entry, error)

	// Close releases everything. It is called once.
	Close() error
}
