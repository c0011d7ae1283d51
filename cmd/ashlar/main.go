// Command ashlar is what operators and outside clients use.
package main

import (
	"os"

	"github.com/ashlar-mesh/ashlar/cli"
)

func main() { os.Exit(cli.Main(cli.Arguments(os.Args), os.Stdin, os.Stdout, os.Stderr)) }
