package reference

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits on a folder of references; a Secret of Kubernetes has 1 MiB at most.
const (
	maxFiles   = 1024
	maxEntries = 4 * maxFiles // that are looked at
	maxDepth   = 16
	maxFile    = 1 << 20  // bytes
	maxFolder  = 16 << 20 // bytes of all files
)

// reader reads a folder that the host filled.
type reader struct {
	root    *os.Root
	content map[string][]byte // by the absolute path below / that a file stands for
	entries int
	size    int
}

// readFolder returns the files below dir by their paths with dir as /. Links are
// followed within dir and nowhere else: in volumes of Kubernetes each name is a
// link into a folder ..data, which is a link to the version in force. Names that
// begin with two dots are left out, as they are such folders.
func readFolder(dir string) (map[string][]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, problem.Because(err, "MRB-068", "opening the folder")
	}
	defer root.Close() //nolint:errcheck // read only
	r := &reader{root: root, content: map[string][]byte{}}
	if err := r.folder(".", 0); err != nil {
		return nil, err
	}
	return r.content, nil
}

func (r *reader) folder(at string, depth int) error {
	if depth > maxDepth {
		return problem.New("MRB-069", "%.200q: folders are nested more than %d deep", at, maxDepth)
	}
	f, err := r.root.Open(at)
	if err != nil {
		return problem.Because(err, "MRB-068", "%.200q", at)
	}
	defer f.Close() //nolint:errcheck // read only
	for {
		entries, err := f.ReadDir(64)
		for _, e := range entries {
			if r.entries++; r.entries > maxEntries {
				return problem.New("MRB-069", "more than %d files and folders", maxEntries)
			}
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			if err := r.entry(path.Join(at, e.Name()), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return problem.Because(err, "MRB-068", "%.200q", at)
		}
	}
}

func (r *reader) entry(at string, depth int) error {
	st, err := r.root.Stat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // replaced in this moment, or a link that leads nowhere
	case err != nil:
		return problem.Because(err, "MRB-068", "%.200q", at)
	case st.IsDir():
		return r.folder(at, depth+1)
	case !st.Mode().IsRegular():
		return problem.New("MRB-068", "%.200q is neither file nor folder", at)
	}
	if len(r.content) == maxFiles {
		return problem.New("MRB-069", "more than %d files", maxFiles)
	}
	content, err := r.read(at)
	if err != nil {
		return err
	}
	if r.size += len(content); r.size > maxFolder {
		return problem.New("MRB-069", "more than %d bytes", maxFolder)
	}
	r.content["/"+at] = content
	return nil
}

// read reads a regular file; what has become a pipe meanwhile does not hold it up.
func (r *reader) read(at string) ([]byte, error) {
	f, err := r.root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, problem.Because(err, "MRB-068", "%.200q", at)
	}
	defer f.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, problem.Because(fmt.Errorf("reading: %w", err), "MRB-068", "%.200q", at)
	}
	if len(content) > maxFile {
		return nil, problem.New("MRB-069", "%.200q has more than %d bytes", at, maxFile)
	}
	return content, nil
}
