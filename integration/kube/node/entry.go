//go:build linux

package node

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is the variable with a container's job.
const entry = "ASHLAR_TEST_CONTAINER"

// notStarted is the exit code of a container whose program could not be started.
const notStarted = 128

// Main becomes a container if this process was started to be one; else it
// returns. TestMain calls it first.
func Main() {
	text := os.Getenv(entry)
	if text == "" {
		return
	}
	runtime.LockOSThread() // capabilities and groups are a thread's until exec
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.become()
	}
	fmt.Fprintln(os.Stderr, "container:", err)
	os.Exit(notStarted)
}

// become sets the container up and turns into its program; it returns with an
// error alone.
func (j *job) become() error {
	if err := j.root(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(j.Hostname)); err != nil {
		return err
	}
	dir := j.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	os.Clearenv()
	for _, e := range j.Env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(j.Argv[0])
	if err != nil {
		return err
	}
	if err := j.rights(); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, unix.Exec(path, j.Argv, j.Env))
}

// root builds the container's file system and moves into it.
func (j *job) root() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(j.Root, j.Root, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := j.system(); err != nil {
		return err
	}
	if err := j.devices(); err != nil {
		return err
	}
	for _, m := range j.Mounts {
		if err := bind(m.From, filepath.Join(j.Root, m.To), m.ReadOnly); err != nil {
			return fmt.Errorf("mounting %s: %w", m.To, err)
		}
	}
	if err := pivot(j.Root); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if j.ReadOnly {
		return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// pivot changes the root and drops the old one.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

// system binds what every image has here: this machine's programs and libraries.
func (j *job) system() error {
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache",
		"/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/sys"} {
		info, err := os.Lstat(dir)
		if err != nil {
			continue
		}
		to := filepath.Join(j.Root, dir)
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(dir)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, to); err != nil {
				return err
			}
			continue
		}
		if err := bind(dir, to, true); err != nil {
			return fmt.Errorf("binding %s: %w", dir, err)
		}
	}
	for dir, mode := range map[string]fs.FileMode{"/tmp": 0o777 | fs.ModeSticky, "/var/tmp": 0o777 | fs.ModeSticky, "/run": 0o755, "/root": 0o700, "/proc": 0o555} {
		if err := os.MkdirAll(filepath.Join(j.Root, dir), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(j.Root, dir), mode); err != nil {
			return err
		}
	}
	return unix.Mount("proc", filepath.Join(j.Root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

func (j *job) devices() error {
	dev := filepath.Join(j.Root, "dev")
	if err := os.MkdirAll(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bind("/dev/"+name, filepath.Join(dev, name), false); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dev, "shm"), 0o777); err != nil {
		return err
	}
	return unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
}

// bind mounts a file or folder at a place that is made if it is missing.
func bind(from, to string, readOnly bool) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := place(to, info.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	return unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

func place(to string, dir bool) error {
	if dir {
		return os.MkdirAll(to, 0o755)
	}
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// rights gives up what the security context does not give.
func (j *job) rights() error {
	keep, err := capabilities(j.Keep)
	if err != nil {
		return err
	}
	if j.Drop {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if keep&(1<<c) == 0 {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) // one that this kernel does not know is not held
			}
		}
	}
	if err := unix.Setgroups(j.Groups); err != nil {
		return err
	}
	if err := unix.Setresgid(j.Group, j.Group, j.Group); err != nil {
		return err
	}
	if err := unix.Setresuid(j.User, j.User, j.User); err != nil {
		return err
	}
	if j.Drop && j.User == 0 {
		if err := setCapabilities(keep); err != nil {
			return err
		}
	}
	if j.Raise {
		return nil
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// known are the capabilities that a security context may add here.
var known = map[string]int{"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
	"SETUID": unix.CAP_SETUID, "SETGID": unix.CAP_SETGID, "KILL": unix.CAP_KILL, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "IPC_LOCK": unix.CAP_IPC_LOCK}

func capabilities(names []string) (uint64, error) {
	var set uint64
	for _, n := range names {
		c, ok := known[n]
		if !ok {
			return 0, fmt.Errorf("capability %s is not known here", n)
		}
		set |= 1 << c
	}
	return set, nil
}

func setCapabilities(set uint64) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(set), uint32(set>>32)
	d := [2]unix.CapUserData{{Effective: low, Permitted: low, Inheritable: low}, {Effective: high, Permitted: high, Inheritable: high}}
	return unix.Capset(&h, &d[0])
}
