// Command ashlar-coordinator runs a coordinator; package daemon has the code.
package main

import (
	"os"

	"github.com/ashlar-mesh/ashlar/coordinator/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }
