//go:build linux

// Package isolate runs a test binary in network, mount and process namespaces of
// its own: its ports are all free, its addresses and mounts are nobody else's, and
// when it ends, however it ends, the kernel ends all that it started.
//
// It needs root, util-linux and iproute2. Files are those of the machine,
// but for an empty /run.
package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// The network that the test binary finds: a bridge for pods, with an address by
// which they reach the test binary.
const (
	Bridge  = "pods"
	Gateway = "10.77.0.1"
	Subnet  = "10.77.0.0/16"
)

// inside marks the process that runs in the namespaces.
const inside = "ASHLAR_ISOLATED"

// Available reports why the namespaces cannot be made, or "".
func Available() string {
	if os.Geteuid() != 0 {
		return "root is needed for namespaces and mounts"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "ip is missing: apt-get install iproute2"
	}
	return ""
}

// Run starts this binary again, with its arguments, in new namespaces, runs f
// there, and returns the exit code. TestMain calls it with its m.Run.
func Run(f func() int) int {
	if os.Getenv(inside) == "" {
		return again()
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		return 1
	}
	return f()
}

func again() int {
	runtime.LockOSThread() // the death signal is sent when this thread ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		return 1
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	fmt.Fprintln(os.Stderr, "isolate: the tests ended by", cmd.ProcessState)
	return 1
}

// settle makes the namespaces usable: mounts that do not travel, a /proc of these
// processes, an empty /run, and the bridge.
func settle() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	return IP(
		"link set lo up",
		"link add "+Bridge+" type bridge",
		"addr add "+Gateway+"/16 dev "+Bridge,
		"link set "+Bridge+" up",
	)
}

// IP runs commands of ip(8) in the network namespace of the calling thread.
func IP(commands ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
