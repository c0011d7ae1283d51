// Command ashlar-marble runs a program as a member of the mesh.
package main

import (
	"os"

	"github.com/ashlar-mesh/ashlar/marble/command"
)

func main() { os.Exit(command.Main(os.Args[1:], os.Stdout, os.Stderr)) }
