package recovery

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxFile is the most that a document beside the state has, in bytes: 16
// certificates, keys and shares.
const MaxFile = 512 << 10

// Files holds the small documents beside a state, by name. What returned nil
// survives a crash; an error leaves the old content or the new one.
type Files interface {
	// Read returns a document, at most MaxFile bytes and one more of it. One
	// that is absent is fs.ErrNotExist.
	Read(ctx context.Context, name string) ([]byte, error)
	// Write replaces a document.
	Write(ctx context.Context, name string, data []byte) error
	// Rename gives a document another name, whose old document is gone.
	Rename(ctx context.Context, from, to string) error
	// Remove removes a document. Removing what is absent is no error.
	Remove(ctx context.Context, name string) error
}

// Documents returns what there is of the recovery document, and of the next one,
// for a copy of the state.
func Documents(ctx context.Context, from Files) (map[string][]byte, error) {
	found := map[string][]byte{}
	for _, name := range []string{File, nextFile} {
		b, err := from.Read(ctx, name)
		switch {
		case err == nil:
			found[name] = b
		case !errors.Is(err, fs.ErrNotExist):
			return nil, problem.Because(err, "STO-007", "reading %s", name)
		}
	}
	return found, nil
}

// Folder is the folder of an embedded state. It implements Files.
type Folder string

func (f Folder) path(name string) string { return filepath.Join(string(f), name) }

// Read implements Files.
func (f Folder) Read(_ context.Context, name string) ([]byte, error) {
	file, err := os.Open(f.path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, MaxFile+1))
}

// Write implements Files.
func (f Folder) Write(_ context.Context, name string, data []byte) error {
	return durable.WriteFile(f.path(name), data, 0o600)
}

// Rename implements Files.
func (f Folder) Rename(_ context.Context, from, to string) error {
	return durable.Rename(f.path(from), f.path(to))
}

// Remove implements Files.
func (f Folder) Remove(_ context.Context, name string) error {
	switch err := os.Remove(f.path(name)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return durable.SyncDir(string(f))
}
