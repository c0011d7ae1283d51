// Command errorsdoc writes docs/errors.md from the code table.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: errorsdoc FILE")
	}
	if err := os.WriteFile(os.Args[1], document(), 0o644); err != nil {
		log.Fatal(err)
	}
}

func document() []byte {
	var b bytes.Buffer
	b.WriteString("# Error codes\n\n<!-- generated from internal/problem by go generate: do not edit -->\n\n" +
		"Every refusal and failure has a code. It is the same on the command line, in the API's problem documents,\n" +
		"in gRPC statuses, in logs and in the audit log, and it never changes its meaning. `ashlar explain CODE` prints its row.\n\n" +
		"| code | kind | exit | HTTP | what happened | what to do |\n|---|---|---|---|---|---|\n")
	for _, e := range problem.All() {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s |\n", e.Code, e.Kind, e.Kind.ExitCode(), e.Kind.HTTPStatus(), e.Title, e.Next)
	}
	return b.Bytes()
}
