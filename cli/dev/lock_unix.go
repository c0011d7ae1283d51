//go:build unix

package dev

import (
	"os"
	"syscall"
)

// hold takes the lock on a file, alone or with other readers, and reports
// whether it was free. The system lets go of it when the process ends, however
// it ends.
func hold(f *os.File, alone bool) (bool, error) {
	how := syscall.LOCK_SH
	if alone {
		how = syscall.LOCK_EX
	}
	return syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB) == nil, nil
}
