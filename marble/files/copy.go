package files

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Keep keeps Copy out of a folder.
func (w *Writer) Keep(folder string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = append(w.kept, folder)
}

// Copy writes files whose content and paths somebody else chose, as Write does,
// but only into volumes that are there for them: mounted, in memory, and with
// nothing in them but these files and those that Write wrote. So nothing that
// another program left is replaced, and nobody is handed a file that a mount
// could not have handed. All else is MRB-067.
func (w *Writer) Copy(content map[string][]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(content)) {
		if err := w.admit(path, content); err != nil {
			return err
		}
		if _, err := w.write(path, content[path]); err != nil {
			return err
		}
	}
	return nil
}

// Confine refuses a path in a volume that is mounted from a disk or from another
// machine: whoever mounts it, the host, would choose where a secret goes. The
// root's own file system is what the program was started from. File systems of
// enclaves have no type, and are measured.
func Confine(path string) error {
	mount, err := mountOf(filepath.Dir(path))
	if err != nil {
		return problem.Because(err, "MRB-071", "looking where %s would lie", path)
	}
	if kind := kindOf(mount); mount != "/" && kind != 0 && !inMemory(kind) {
		return problem.New("MRB-071", "%s would lie in the volume %s, which is not in memory", path, mount)
	}
	return nil
}

// kindOf returns the type of the file system at a path, 0 if it has none.
func kindOf(path string) uint32 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return uint32(st.Type)
}

func inMemory(kind uint32) bool { return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC }

// admit refuses a path that is in no volume for such files.
func (w *Writer) admit(path string, content map[string][]byte) error {
	if !isClean(path) {
		return problem.New("MRB-067", "%q is not a clean absolute path", path)
	}
	for _, folder := range w.kept {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return problem.New("MRB-067", "%s is in %s, which is the marble's own", path, folder)
		}
	}
	mount, err := mountOf(filepath.Dir(path))
	if err != nil {
		return problem.Because(err, "MRB-067", "looking where %s would lie", path)
	}
	if w.mounts[mount] {
		return nil
	}
	if mount == "/" || !inMemory(kindOf(mount)) {
		return problem.New("MRB-067", "%s would lie in %s, which is no volume in memory of its own", path, mount)
	}
	other, err := w.other(mount, content)
	if err != nil {
		return problem.Because(err, "MRB-067", "looking through %s", mount)
	}
	if other != "" {
		return problem.New("MRB-067", "%s would lie in the volume %s, where %s is already", path, mount, other)
	}
	if w.mounts == nil {
		w.mounts = make(map[string]bool)
	}
	w.mounts[mount] = true
	return nil
}

// other returns a file of a volume that is neither to be written nor was.
func (w *Writer) other(mount string, content map[string][]byte) (other string, err error) {
	top, err := lstat(mount)
	if err != nil {
		return "", err
	}
	err = filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch st, err := lstat(path); {
		case err != nil:
			return err
		case st.Dev != top.Dev && d.IsDir(): // another volume, mounted within
			return fs.SkipDir
		case st.Dev != top.Dev, d.IsDir(), strings.HasPrefix(d.Name(), temporaryPrefix):
			return nil
		}
		_, known := content[path]
		if _, written := w.written[path]; !known && !written {
			other = path
			return fs.SkipAll
		}
		return nil
	})
	return other, err
}

// mountOf returns the outermost folder of the volume in which dir is, or would be.
func mountOf(dir string) (string, error) {
	st, err := lstat(dir)
	for err != nil && os.IsNotExist(err) && dir != "/" {
		dir = filepath.Dir(dir)
		st, err = lstat(dir)
	}
	for err == nil && dir != "/" {
		above, aboveErr := lstat(filepath.Dir(dir))
		if aboveErr != nil || above.Dev != st.Dev {
			return dir, aboveErr
		}
		dir = filepath.Dir(dir)
	}
	return dir, err
}

func lstat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return st, err
}
