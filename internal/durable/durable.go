// Package durable writes small files so that a crash leaves either the old
// content or the new one, and never a part of it.
//
// It owns the order of system calls that this takes on POSIX file systems. It
// refuses to guess: a file that is missing is fs.ErrNotExist, never empty.
//
// Each function returns only when the change survives a power cut, provided
// that the disk honours fsync. After an error the old content is still there
// under its name, unless the error is of the last step (fsync of the
// directory), after which either content may come back.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// WriteFile replaces the file at path by data. The calls are: openat
// (O_CREAT|O_EXCL, a random name beside path), write, fsync, close, rename,
// open and fsync of the directory. Mode bits are not subject to the umask.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// CreateFile writes a file that must not exist yet; the error is fs.ErrExist
// if it does. The calls are those of WriteFile with linkat and unlinkat in
// place of rename, because rename replaces what is there.
func CreateFile(path string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	err = os.Link(temp, path)
	if rerr := os.Remove(temp); err == nil {
		err = rerr
	}
	if err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// Rename moves a file within one directory and syncs that directory. It
// replaces what stands at newPath.
func Rename(oldPath, newPath string) error {
	if filepath.Dir(oldPath) != filepath.Dir(newPath) {
		return errors.New("durable: renaming across directories")
	}
	if err := os.Rename(oldPath, newPath); err != nil {
		return fmt.Errorf("renaming: %w", err)
	}
	return SyncDir(filepath.Dir(newPath))
}

// SyncDir makes the names in a directory durable.
// Windows has no such call and orders renames by itself: nothing is done there.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

// writeTemp writes and syncs data under a random name beside path.
func writeTemp(path string, data []byte, mode fs.FileMode) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}
