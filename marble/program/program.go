// Package program opens, starts and supervises the program that a marble wraps.
//
// It owns the open file that is both measured and executed, so that what runs is
// what was measured, the process and its descendants, the signals forwarded to
// it, and its exit code. It refuses scripts, whose interpreter would run
// unmeasured text. It knows nothing of evidence or secrets.
package program

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Program is an executable file that is held open.
type Program struct {
	Path string // absolute, as found
	file *os.File
}

// Open finds name like a shell does, by path or in PATH, and opens it. Codes:
// MRB-002 not found or not executable, MRB-003 a script.
func Open(name string) (*Program, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, problem.Because(err, "MRB-002", "looking for %q", name)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, problem.Because(err, "MRB-002", "looking for %q", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, problem.Because(err, "MRB-002", "opening the program")
	}
	if err := check(f, path); err != nil {
		f.Close() //nolint:errcheck // read only
		return nil, err
	}
	return &Program{Path: path, file: f}, nil
}

func check(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return problem.Because(err, "MRB-002", "looking at %s", path)
	}
	if !st.Mode().IsRegular() {
		return problem.New("MRB-002", "%s is no regular file", path)
	}
	var head [2]byte
	switch _, err := f.ReadAt(head[:], 0); {
	case errors.Is(err, io.EOF):
		return problem.New("MRB-002", "%s is too short for an executable", path)
	case err != nil:
		return problem.Because(err, "MRB-002", "reading %s", path)
	}
	if string(head[:]) == "#!" {
		return problem.New("MRB-003", "%s starts with #!, so its interpreter would run, and the script would not be measured", path)
	}
	return nil
}

// File returns the open file. It stays owned by the program: the caller neither
// closes nor moves it.
func (p *Program) File() *os.File { return p.file }

// Close closes the file. A process that was started keeps running.
func (p *Program) Close() error { return p.file.Close() }

// execPath names the open file for execve, which resolves it in the child,
// before descriptors marked close-on-exec are closed.
func (p *Program) execPath() string { return fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()) }
