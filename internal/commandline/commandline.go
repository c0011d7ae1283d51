// Package commandline is what the command lines of the services share: flags that
// the environment may give, the nearest flag for one that is unknown, a log, and
// how a program says why it ends. What a service's flags mean is its own.
package commandline

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Text returns what defines a text flag whose default the environment may
// replace: --ops-addr is ASHLAR_OPS_ADDR.
func Text(f *flag.FlagSet, getenv func(string) string) func(p *string, name, def, help string) {
	return func(p *string, name, def, help string) {
		if v := getenv("ASHLAR_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); v != "" {
			def = v
		}
		f.StringVar(p, name, def, help)
	}
}

// Suggest gives e, made of an error of the flags, the nearest flag as its next
// step where the flag is unknown.
func Suggest(f *flag.FlagSet, e *problem.Error) *problem.Error {
	_, unknown, found := strings.Cut(e.Detail, "flag provided but not defined: -")
	if !found {
		return e
	}
	var names []string
	f.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if best := nearest.Word(unknown, names); best != "" {
		return e.WithNext("did you mean --%s?", best)
	}
	return e
}

// Log returns a log in a format, "json" or else text.
func Log(w io.Writer, format string, debug bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		o.Level = slog.LevelDebug
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Exit writes why a program ends, and what to do, and returns its exit code.
func Exit(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	e := problem.From(err)
	fmt.Fprintf(stderr, "error: %s  %s\n", e.Detail, e.Code)
	if e.Next != "" {
		fmt.Fprintf(stderr, "next: %s\n", e.Next)
	}
	return e.Kind().ExitCode()
}
