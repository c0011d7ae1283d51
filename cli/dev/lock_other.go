//go:build !unix

package dev

import (
	"os"
	"runtime"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// hold refuses: the programs of a deployment talk over Unix sockets and are
// found through /proc.
func hold(*os.File, bool) (bool, error) {
	return false, problem.New("CLI-028", "a local deployment does not run on %s", runtime.GOOS)
}
