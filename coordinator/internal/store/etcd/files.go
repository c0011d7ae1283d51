package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	filesStart = "files/"
	maxFile    = 512 << 10 // bytes of one document
)

// errFileMoved is that another coordinator changed a document in the meantime.
var errFileMoved = errors.New("another coordinator changed it")

// Files holds the documents beside the state. It changes only what it has seen
// itself: where another coordinator changed a document since, that stays, and the
// change is refused; then the document counts as seen. It is safe for concurrent
// use, and implements recovery.Files.
type Files struct {
	cluster *Cluster

	mu   sync.Mutex       // held while documents change or are read
	seen map[string]int64 // ModRevision by name; 0 for one that is absent
}

// Files returns the documents beside the state.
func (c *Cluster) Files() *Files { return &Files{cluster: c, seen: map[string]int64{}} }

func (f *Files) key(name string) string { return f.cluster.Key(filesStart + name) }

// Read implements recovery.Files.
func (f *Files) Read(ctx context.Context, name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kv, err := f.look(ctx, name)
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return kv.GetValue()[:min(len(kv.GetValue()), maxFile+1)], nil
}

// look reads a document, which then counts as seen. The caller holds mu.
func (f *Files) look(ctx context.Context, name string) (*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := f.cluster.client.Get(ctx, f.key(name))
	if err != nil {
		return nil, f.cluster.coded(err, "reading %s", name)
	}
	if len(resp.Kvs) == 0 {
		f.seen[name] = 0
		return nil, nil
	}
	f.seen[name] = resp.Kvs[0].GetModRevision()
	return resp.Kvs[0], nil
}

// Write implements recovery.Files.
func (f *Files) Write(ctx context.Context, name string, data []byte) error {
	if len(data) > maxFile {
		return problem.New("STO-009", "%s has at most %d bytes, got %d", name, maxFile, len(data))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.change(ctx, []clientv3.Op{clientv3.OpPut(f.key(name), string(data))}, map[string][]byte{name: data})
}

// Remove implements recovery.Files.
func (f *Files) Remove(ctx context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.change(ctx, []clientv3.Op{clientv3.OpDelete(f.key(name))}, map[string][]byte{name: nil})
}

// Rename implements recovery.Files.
func (f *Files) Rename(ctx context.Context, from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	last, known := f.seen[from]
	kv, err := f.look(ctx, from)
	switch {
	case err != nil:
		return err
	case known && kv.GetModRevision() != last:
		return fmt.Errorf("%s: %w", from, errFileMoved)
	case kv == nil:
		return fmt.Errorf("%s: %w", from, fs.ErrNotExist)
	}
	return f.change(ctx, []clientv3.Op{clientv3.OpPut(f.key(to), string(kv.GetValue())), clientv3.OpDelete(f.key(from))},
		map[string][]byte{from: nil, to: kv.GetValue()})
}

// change makes all operations or none: if the documents that it changes are as
// they were seen. want is what they are then, nil for one that is gone. The caller
// holds mu.
func (f *Files) change(ctx context.Context, ops []clientv3.Op, want map[string][]byte) error {
	var when []clientv3.Cmp
	for name := range want {
		if _, ok := f.seen[name]; !ok {
			if _, err := f.look(ctx, name); err != nil {
				return err
			}
		}
		when = append(when, clientv3.Compare(clientv3.ModRevision(f.key(name)), "=", f.seen[name]))
	}
	resp, err := f.cluster.insist(ctx, when, ops, nil)
	if err != nil {
		return f.cluster.coded(err, "changing a document beside the state")
	}
	for name, data := range want {
		switch {
		case resp.Succeeded && data == nil:
			f.seen[name] = 0
		case resp.Succeeded:
			f.seen[name] = resp.Header.GetRevision()
		default:
			// It may have been made by a request whose answer was lost.
			kv, err := f.look(ctx, name)
			if err != nil {
				return err
			}
			if (kv == nil) != (data == nil) || !bytes.Equal(kv.GetValue(), data) {
				return fmt.Errorf("%s: %w", name, errFileMoved)
			}
		}
	}
	return nil
}
