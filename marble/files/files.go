// Package files puts a marble's rendered files in place: mode 0600, whole or
// not at all, at absolute paths that lead through no symbolic link. It removes
// them when the marble ends, since they hold secrets.
//
// It renders nothing and decides nothing about content. It follows no link: a
// path through one is refused, because whoever made the link could send a
// secret elsewhere.
package files

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits on what is written.
const (
	MaxFiles = 1024
	MaxSize  = 4 << 20 // bytes of one file
)

// Writer writes files and knows which it wrote. It is safe for concurrent use.
type Writer struct {
	mu      sync.Mutex
	written map[string]struct{} // guarded by mu
	folders []string            // made by Write, outermost first; guarded by mu
	kept    []string            // folders into which Copy writes nothing; guarded by mu
	mounts  map[string]bool     // volumes that Copy writes to; guarded by mu
}

// Write replaces each file by its content, atomically one by one, in the order
// of their paths. Missing folders are made with mode 0700. It returns the paths
// that do not lie in memory (tmpfs or ramfs), for a warning.
func (w *Writer) Write(content map[string][]byte) (onDisk []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(content) > MaxFiles {
		return nil, problem.New("MRB-012", "%d files, limit %d", len(content), MaxFiles)
	}
	paths := make([]string, 0, len(content))
	for path := range content {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		volatile, err := w.write(path, content[path])
		if err != nil {
			return onDisk, err
		}
		if !volatile {
			onDisk = append(onDisk, path)
		}
	}
	return onDisk, nil
}

func isClean(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.HasSuffix(path, "/") && !strings.ContainsRune(path, 0)
}

func (w *Writer) write(path string, content []byte) (volatile bool, err error) {
	if !isClean(path) {
		return false, problem.New("MRB-013", "%q is not a clean absolute path", path)
	}
	if len(content) > MaxSize {
		return false, problem.New("MRB-012", "%s would have %d bytes, limit %d", path, len(content), MaxSize)
	}
	folder, err := w.openFolder(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	defer unix.Close(folder) //nolint:errcheck // nothing was written through it
	if err := replace(folder, path, content); err != nil {
		return false, err
	}
	if w.written == nil {
		w.written = make(map[string]struct{})
	}
	w.written[path] = struct{}{}
	var st unix.Statfs_t
	if err := unix.Fstatfs(folder, &st); err != nil {
		return false, nil
	}
	return inMemory(uint32(st.Type)), nil
}

// openFolder opens dir without following a link anywhere, making what is
// missing.
func (w *Writer) openFolder(dir string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", flags|unix.O_PATH, 0)
	if err != nil {
		return -1, problem.Because(err, "MRB-012", "opening /")
	}
	at := "/"
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		if name == "" {
			continue
		}
		at = filepath.Join(at, name)
		next, err := unix.Openat(fd, name, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(fd, name, 0o700); err == nil {
				w.folders = append(w.folders, at)
			}
			if err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(fd, name, flags, 0)
			}
		}
		if errors.Is(err, unix.EACCES) { // searchable but not readable
			next, err = unix.Openat(fd, name, flags|unix.O_PATH, 0)
		}
		unix.Close(fd) //nolint:errcheck // read only
		if err != nil {
			return -1, folderError(at, err)
		}
		fd = next
	}
	return fd, nil
}

func folderError(at string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		if target, linkErr := os.Readlink(at); linkErr == nil {
			return problem.New("MRB-013", "%s is a symbolic link to %s", at, target)
		}
		return problem.New("MRB-013", "%s is no folder", at)
	}
	return problem.Because(err, "MRB-012", "opening folder %s", at)
}

// temporaryPrefix begins the names of files that are not in place yet.
const temporaryPrefix = ".ashlar-"

// replace writes content beside the file and renames it into place.
func replace(folder int, path string, content []byte) error {
	name := filepath.Base(path)
	var st unix.Stat_t
	switch err := unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG:
		return problem.New("MRB-013", "%s exists and is no regular file", path)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return problem.Because(err, "MRB-012", "looking at %s", path)
	}
	var suffix [8]byte
	rand.Read(suffix[:]) //nolint:errcheck // never fails
	temporary := temporaryPrefix + hex.EncodeToString(suffix[:])
	fd, err := unix.Openat(folder, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return problem.Because(err, "MRB-012", "writing %s", path)
	}
	f := os.NewFile(uintptr(fd), path)
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = unix.Renameat(folder, temporary, folder, name)
	}
	if err != nil {
		_ = unix.Unlinkat(folder, temporary, 0)
		return problem.Because(err, "MRB-012", "writing %s", path)
	}
	return nil
}

// RemoveAll removes the files that were written, and the folders that were made
// for them and are empty now. It reports the first file that stays.
func (w *Writer) RemoveAll() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first error
	for path := range w.written {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = fmt.Errorf("removing rendered file: %w", err)
		}
	}
	for i := len(w.folders) - 1; i >= 0; i-- {
		_ = os.Remove(w.folders[i]) // stays where something else is in it
	}
	w.written, w.folders = nil, nil
	return first
}

// RuntimeFolder returns dir, made with mode 0700 if it is missing, where it is
// this user's alone; in one of root's or this user's that is open to others, as
// volumes of pods are, a private folder of this user. All else is refused.
func RuntimeFolder(dir string) (string, error) {
	var st unix.Stat_t
	own := unix.Lstat(dir, &st) == nil && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
	if own && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&0o022 != 0 {
		dir = filepath.Join(dir, fmt.Sprintf("user-%d", os.Geteuid()))
	}
	return dir, privateFolder(dir)
}

// privateFolder makes dir if it is missing, with mode 0700, and refuses one that
// is a link, belongs to another user, or is open to others.
func privateFolder(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return problem.Because(err, "MRB-023", "making %s", filepath.Dir(dir))
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return problem.Because(err, "MRB-023", "making %s", dir)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return problem.Because(err, "MRB-023", "looking at %s", dir)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return problem.New("MRB-023", "%s is no folder", dir)
	case int(st.Uid) != os.Geteuid():
		return problem.New("MRB-023", "%s belongs to user %d, not %d", dir, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		return problem.New("MRB-023", "%s has mode %04o, wanted 0700", dir, st.Mode&0o777)
	}
	return nil
}
