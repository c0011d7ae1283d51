//go:build unix

package api

import "golang.org/x/sys/unix"

// descriptors raises the soft limit of open descriptors to the hard one and
// returns it; 0 where it cannot be known.
func descriptors() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	if raised := (unix.Rlimit{Cur: l.Max, Max: l.Max}); l.Cur < l.Max && unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
		l = raised
	}
	return uint64(l.Cur)
}
