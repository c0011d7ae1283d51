package program

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Subreaper makes this process the parent of orphans among its descendants, so
// that none outlives it unseen (prctl(2), PR_SET_CHILD_SUBREAPER).
func Subreaper() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// Reap collects ended orphans every interval until ctx ends. A child that
// somebody waits for is collected by them at once; so an orphan is what is seen
// ended twice in a row.
func Reap(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	seen := map[int]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := map[int]bool{}
		for pid, c := range children() {
			if c.state != 'Z' {
				continue
			}
			if seen[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
				continue
			}
			now[pid] = true
		}
		seen = now
	}
}

// KillOrphans kills every child that this process did not start itself, which
// are the orphans that a Subreaper got, and their children in turn. It is
// called when the program has ended; keep names the children that stay.
func KillOrphans(keep func(pid int) bool) {
	for range 8 { // a killed child's own children become ours
		killed := false
		for pid := range children() {
			if keep(pid) {
				continue
			}
			if unix.Kill(pid, unix.SIGKILL) == nil {
				killed = true
				_, _ = unix.Wait4(pid, nil, 0, nil)
			}
		}
		if !killed {
			return
		}
	}
}

type child struct{ state byte }

// children lists the processes whose parent is this one, from /proc (proc(5)).
func children() map[int]child {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer folder.Close() //nolint:errcheck // read only
	names, _ := folder.Readdirnames(-1)
	self := strconv.Itoa(os.Getpid())
	found := make(map[int]child)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// pid (comm) state ppid …; comm may hold spaces and brackets.
		text := string(stat)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) >= 2 && fields[1] == self {
			found[pid] = child{state: fields[0][0]}
		}
	}
	return found
}
