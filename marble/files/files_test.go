package files_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/files"
)

func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWriteReplacesAndRemoves(t *testing.T) {
	dir := realDir(t)
	old := filepath.Join(dir, "old.pem")
	if err := os.WriteFile(old, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "a", "b", "key.pem")
	var w files.Writer
	for _, content := range []string{"first", "second"} {
		if _, err := w.Write(map[string][]byte{old: []byte(content), deep: []byte(content)}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{old, deep} {
			got, err := os.ReadFile(path)
			if err != nil || string(got) != content {
				t.Errorf("%s: got %q, %v, want %q", path, got, err, content)
			}
			st, _ := os.Stat(path)
			if st.Mode().Perm() != 0o600 {
				t.Errorf("%s: got mode %v, want 0600", path, st.Mode())
			}
		}
	}
	if st, _ := os.Stat(filepath.Join(dir, "a")); st.Mode().Perm() != 0o700 {
		t.Errorf("made folder: got mode %v, want 0700", st.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".ashlar-*")); len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
	if err := w.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("after RemoveAll: got %v, %v, want an empty folder", left, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := realDir(t)
	victim := filepath.Join(dir, "victim")
	for _, err := range []error{
		os.WriteFile(victim, []byte("victim"), 0o600),
		os.Mkdir(filepath.Join(dir, "real"), 0o700),
		os.Symlink(victim, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(dir, "real"), filepath.Join(dir, "linkdir")),
		os.Mkdir(filepath.Join(dir, "folder"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, path, code string }{
		{"relative", "etc/key", "MRB-013"},
		{"dots", dir + "/real/../x", "MRB-013"},
		{"trailing slash", dir + "/x/", "MRB-013"},
		{"root", "/", "MRB-013"},
		{"zero byte", dir + "/a\x00b", "MRB-013"},
		{"link as file", dir + "/link", "MRB-013"},
		{"link as folder", dir + "/linkdir/key", "MRB-013"},
		{"file as folder", victim + "/key", "MRB-013"},
		{"folder as file", dir + "/folder", "MRB-013"},
		{"not writable", "/proc/ashlar/key", "MRB-012"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w files.Writer
			_, err := w.Write(map[string][]byte{c.path: []byte("secret")})
			if got := string(problem.CodeOf(err)); got != c.code {
				t.Errorf("got %v, want code %s", err, c.code)
			}
		})
	}
	if got, _ := os.ReadFile(victim); string(got) != "victim" {
		t.Errorf("file behind the link: got %q, want it untouched", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "real", "key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was written through a linked folder")
	}
}

func TestRuntimeFolder(t *testing.T) {
	dir := realDir(t)
	fresh, shared, readable := filepath.Join(dir, "new", "run"), filepath.Join(dir, "shared"), filepath.Join(dir, "readable")
	link := filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777), os.Mkdir(readable, 0o700), os.Chmod(readable, 0o755), os.Symlink(shared, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{fresh: fresh, shared: filepath.Join(shared, fmt.Sprintf("user-%d", os.Geteuid()))} {
		for range 2 { // the second time it is there
			got, err := files.RuntimeFolder(path)
			if err != nil || got != want {
				t.Errorf("%s: got %s, %v, want %s", path, got, err, want)
			}
		}
		if st, err := os.Stat(want); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want mode 0700", want, st, err)
		}
	}
	for _, path := range []string{readable, link} {
		if _, err := files.RuntimeFolder(path); problem.CodeOf(err) != "MRB-023" {
			t.Errorf("%s: got %v, want MRB-023", path, err)
		}
	}
}

// Somebody may have put a folder or a link of theirs where ours is to be.
func TestRuntimeFolderPrepared(t *testing.T) {
	for name, prepare := range map[string]func(string) error{
		"open": func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o750)) },
		"link": func(path string) error { return os.Symlink("/tmp", path) },
		"file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		shared := realDir(t)
		if err := errors.Join(os.Chmod(shared, 0o777), prepare(filepath.Join(shared, fmt.Sprintf("user-%d", os.Geteuid())))); err != nil {
			t.Fatal(err)
		}
		if _, err := files.RuntimeFolder(shared); problem.CodeOf(err) != "MRB-023" {
			t.Errorf("%s: got %v, want MRB-023", name, err)
		}
	}
}
