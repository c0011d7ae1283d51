// Command ashlar-injector is the admission webhook of a cluster; package injector
// has the code.
package main

import (
	"os"

	"github.com/ashlar-mesh/ashlar/kube/injector"
)

func main() { os.Exit(injector.Main(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }
