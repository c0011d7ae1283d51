package files_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/files"
)

// TestCopyIntoVolumes runs itself where it may mount.
func TestCopyIntoVolumes(t *testing.T) {
	if os.Getenv("MAY_MOUNT") != "" {
		copyIntoVolumes(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCopyIntoVolumes$", "-test.v")
	cmd.Env = append(os.Environ(), "MAY_MOUNT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func copyIntoVolumes(t *testing.T) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	volume := func(t *testing.T, name string) string {
		t.Helper()
		dir := filepath.Join(realDir(t), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) }) //nolint:errcheck // ends with the process
		return dir
	}
	content := func(paths ...string) map[string][]byte {
		all := map[string][]byte{}
		for _, p := range paths {
			all[p] = []byte("content of " + p)
		}
		return all
	}
	t.Run("confined", func(t *testing.T) {
		dir := volume(t, "memory")
		for path, code := range map[string]problem.Code{dir + "/password": "", dir + "/not/there/yet": "", "/password": "", "/proc/password": "MRB-071", "/sys/not/there": "MRB-071"} {
			if err := files.Confine(path); problem.CodeOf(err) != code {
				t.Errorf("%s: got %v, want %q", path, err, code)
			}
		}
	})
	t.Run("a volume of its own", func(t *testing.T) {
		dir := volume(t, "db")
		var w files.Writer
		if _, err := w.Write(content(dir + "/password")); err != nil {
			t.Fatal(err)
		}
		for range 2 { // again, as at each renewal
			if err := w.Copy(content(dir+"/ca.crt", dir+"/more/user")); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(dir + "/more/user"); err != nil || string(b) != "content of "+dir+"/more/user" {
			t.Errorf("got %q, %v", b, err)
		}
		if err := os.WriteFile(dir+"/of-the-program", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Copy(content(dir + "/new")); err != nil {
			t.Errorf("later, when the program wrote there too: %v", err)
		}
		if err := w.RemoveAll(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("left: %v, want what the program wrote", left)
		}
	})
	t.Run("what an earlier run left", func(t *testing.T) {
		dir := volume(t, "db")
		for _, name := range []string{"ca.crt", ".ashlar-0123456789abcdef"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := new(files.Writer).Copy(content(dir + "/ca.crt")); err != nil {
			t.Error(err)
		}
	})
	t.Run("another volume within", func(t *testing.T) {
		dir := volume(t, "app")
		if err := errors.Join(os.Mkdir(dir+"/conf.d", 0o755), syscall.Mount("tmpfs", dir+"/conf.d", "tmpfs", 0, "size=1m"),
			os.WriteFile(dir+"/conf.d/of-another", nil, 0o600), os.WriteFile(dir+"/one.yaml", nil, 0o600),
			syscall.Mount("/proc/version", dir+"/one.yaml", "", syscall.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		var w files.Writer
		if err := w.Copy(content(dir + "/ca.crt")); err != nil {
			t.Error(err)
		}
		if err := w.Copy(content(dir + "/conf.d/new")); problem.CodeOf(err) != "MRB-067" {
			t.Errorf("into the other: got %v, want MRB-067", err)
		}
	})
	other := volume(t, "other")
	if err := os.WriteFile(other+"/program", []byte("another's"), 0o755); err != nil {
		t.Fatal(err)
	}
	kept := volume(t, "kept")
	var w files.Writer
	w.Keep(kept + "/run")
	for _, path := range []string{other + "/program-2", other + "/deeper/x", kept + "/run/bootstrap.json", kept + "/run", "/no-such-folder/x",
		"/" + filepath.Base(t.TempDir()), "/proc/sys/kernel/core_pattern", "/sys/x", "relative"} {
		if err := w.Copy(content(path)); problem.CodeOf(err) != "MRB-067" {
			t.Errorf("%s: got %v, want MRB-067", path, err)
		}
		if _, err := os.Lstat(path); err == nil && path != "/proc/sys/kernel/core_pattern" {
			t.Errorf("%s is there", path)
		}
	}
	link := filepath.Join(realDir(t), "link")
	if err := os.Symlink(volume(t, "target"), link); err != nil {
		t.Fatal(err)
	}
	if err := w.Copy(content(link + "/x")); err == nil {
		t.Error("a link was followed")
	}
	if b, _ := os.ReadFile(other + "/program"); string(b) != "another's" {
		t.Error("another's file was replaced")
	}
	if _, err := os.Stat("/no-such-folder"); err == nil {
		t.Error("a folder was made on the way to a refusal")
	}
}
