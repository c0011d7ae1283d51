// Package command is ashlar-marble: it wraps a program that knows nothing of
// Ashlar. It reads the command line, has the program measured, activates the
// marble, puts rendered files, environment and arguments in place, starts Envoy
// behind the marble's own agent, starts the program, supervises both, and
// leaves nothing behind.
//
// It fails closed: each step must succeed before the next, and the program
// starts last. The command line and the environment are chosen by the host and
// are not attested; what the manifest gives (argv, env) wins over them.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Version is the version that this binary was built as.
var Version = "devel"

// Main runs the command and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	switch args[0] {
	case "run":
		o, err := parse(args[1:], os.Getenv)
		if errors.Is(err, flag.ErrHelp) {
			printUsage(stdout)
			return 0
		}
		if err != nil {
			return report(stderr, err)
		}
		return run(o, stderr)
	case "install":
		if err := install(args[1:], os.Getenv, stdout); err != nil {
			return report(stderr, err)
		}
		return 0
	case "ready":
		code, err := ready(context.Background(), args[1:], os.Getenv, stdout)
		if err != nil {
			return report(stderr, err)
		}
		return code
	case "detect":
		if len(args) > 1 {
			return report(stderr, problem.New("MRB-001", "detect takes no arguments, got %q", args[1]))
		}
		if err := detect(context.Background(), stdout); err != nil {
			return report(stderr, err)
		}
		return 0
	case "help", "-h", "-help", "--help":
		printUsage(stdout)
		return 0
	case "version", "--version":
		fmt.Fprintf(stdout, "ashlar-marble %s (%s, %s/%s)\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH) //nolint:errcheck // on a closed pipe
		return 0
	}
	e := problem.New("MRB-001", "unknown command %q", args[0])
	if best := nearest.Word(args[0], []string{"run", "install", "ready", "detect", "version"}); best != "" {
		e.Detail += fmt.Sprintf(": did you mean %q?", best)
	}
	return report(stderr, e)
}

// run returns the program's exit code, or that of the problem that kept it from
// starting.
func run(o options, stderr io.Writer) int {
	r := newRunner(o, newLogger(o.logFormat, stderr), stderr)
	code, err := r.run()
	if err != nil {
		code = report(stderr, err)
		if r.signal != 0 {
			code = 128 + int(r.signal)
		}
	}
	return code
}

func newLogger(format string, w io.Writer) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}
