package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// process is what /proc says of a running process.
type process struct {
	pid, parent int
	name        string // first 15 bytes of its program's name
	zombie      bool
}

// processes lists every process of this machine.
func processes(t *testing.T) []process {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var out []process
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …, proc_pid_stat(5); the name may hold anything.
		open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
		fields := strings.Fields(string(raw[end+1:]))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(raw[:open])))
		parent, _ := strconv.Atoi(fields[1])
		out = append(out, process{pid: pid, parent: parent, name: string(raw[open+1 : end]), zombie: fields[0] == "Z"})
	}
	return out
}

// children returns the children of a process by name.
func children(t *testing.T, pid int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, p := range processes(t) {
		if p.parent == pid && !p.zombie {
			out[p.name] = p.pid
		}
	}
	return out
}

// alive reports whether a process runs.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	return fields[0] != "Z" && fields[0] != "X"
}

// naming lists the processes, this one apart, whose command line, environment
// or working directory names a path.
func naming(t *testing.T, path string) []string {
	t.Helper()
	var out []string
	for _, p := range processes(t) {
		if p.pid == os.Getpid() || p.zombie {
			continue
		}
		dir := fmt.Sprintf("/proc/%d/", p.pid)
		cmdline, _ := os.ReadFile(dir + "cmdline") // it may have ended
		environ, _ := os.ReadFile(dir + "environ")
		cwd, _ := os.Readlink(dir + "cwd")
		if strings.Contains(string(cmdline)+string(environ)+cwd, path) {
			out = append(out, fmt.Sprintf("%d %s: %s", p.pid, p.name, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// memory is what a process holds, in MB: of its own, and pages of files that the
// kernel may take back at any time.
type memory struct{ own, files float64 }

func (m memory) String() string { return fmt.Sprintf("%.1f MB and %.1f MB of files", m.own, m.files) }

// memoryOf reads it, proc_pid_status(5).
func memoryOf(t *testing.T, pid int) memory {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var m memory
	for line := range strings.Lines(string(raw)) {
		name, kb, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), " kB"), ":")
		n, _ := strconv.ParseFloat(strings.TrimSpace(kb), 64) // other lines hold no number
		switch name {
		case "RssAnon":
			m.own = n / 1024
		case "RssFile":
			m.files = n / 1024
		}
	}
	if m.own == 0 {
		t.Fatalf("no RssAnon in the status of process %d", pid)
	}
	return m
}

// awaitEnd waits until a process is gone.
func awaitEnd(t *testing.T, what string, pid int) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		if alive(pid) {
			return fmt.Sprintf("%s (process %d) still runs", what, pid)
		}
		return ""
	})
}

// descriptorsOf counts the open files of a process.
func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
