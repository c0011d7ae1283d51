package drive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Files calls back with the content of every file below a folder. Those that go
// meanwhile are left out: what runs there replaces its files.
func Files(t testing.TB, folder string, each func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var content []byte
			if content, err = os.ReadFile(path); err == nil {
				each(path, content)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
