package daemon

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// mapFile maps length bytes of a file, shared and for reading (mmap(2)).
type mapFile func(fd int, length int) ([]byte, error)

func mapShared(fd int, length int) ([]byte, error) {
	return unix.Mmap(fd, 0, length, unix.PROT_READ, unix.MAP_SHARED)
}

// checkMapping makes sure that what is written to a file of a folder shows in a
// mapping of the file, as the embedded store relies on. LibOSes differ: some map
// no files, and some give a copy, with which the state would rot unnoticed.
func checkMapping(folder string, mapping mapFile) (err error) {
	f, err := os.CreateTemp(folder, ".mapping-")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no state: whoever opens it says so
	}
	if err != nil {
		return problem.Because(err, "CRD-140", "writing to the state's folder")
	}
	defer func() {
		if tidy := errors.Join(f.Close(), os.Remove(f.Name())); err == nil && tidy != nil {
			err = problem.Because(tidy, "CRD-140", "writing to the state's folder")
		}
	}()
	before, after := bytes.Repeat([]byte{1}, os.Getpagesize()), bytes.Repeat([]byte{2}, os.Getpagesize())
	if _, err := f.WriteAt(before, 0); err != nil {
		return problem.Because(err, "CRD-140", "writing to the state's folder")
	}
	mapped, err := mapping(int(f.Fd()), len(before))
	if err != nil {
		return problem.Because(err, "CRD-140", "files in %s cannot be mapped", folder)
	}
	defer unix.Munmap(mapped) //nolint:errcheck // nothing depends on it
	same := bytes.Equal(mapped, before)
	if _, err := f.WriteAt(after, 0); err != nil {
		return problem.Because(err, "CRD-140", "writing to the state's folder")
	}
	if !same || !bytes.Equal(mapped, after) {
		return problem.New("CRD-140", "what is written to files in %s does not show in their mappings", folder)
	}
	return nil
}
