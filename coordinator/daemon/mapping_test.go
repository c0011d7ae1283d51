package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestMapping(t *testing.T) {
	for name, c := range map[string]struct {
		mapping mapFile
		want    string
	}{
		"Linux": {mapShared, ""},
		"EGo":   {func(int, int) ([]byte, error) { return nil, unix.ENOSYS }, "cannot be mapped"},
		"Occlum, a copy": {func(fd, n int) ([]byte, error) {
			m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err == nil {
				_, err = unix.Pread(fd, m, 0)
			}
			return m, err
		}, "does not show"},
		"zeros": {func(_, n int) ([]byte, error) {
			return unix.Mmap(-1, 0, n, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
		}, "does not show"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			err := checkMapping(folder, c.mapping)
			if c.want == "" && err != nil || c.want != "" && (problem.CodeOf(err) != "CRD-140" || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want CRD-140 with %q", err, c.want)
			}
			if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if err := checkMapping(filepath.Join(t.TempDir(), "none"), mapShared); err != nil {
		t.Errorf("no folder: got %v, want nil", err)
	}
}
