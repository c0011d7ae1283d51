// Command scenario lives through weeks of a deployment in a minute or two: a
// coordinator, marbles with real Envoys, traffic without end and a clock that is
// put forward. A checker that knows the rules in force at each moment counts
// requests that failed though they were allowed, and that passed though they were
// forbidden. Its last line is that count; any such request is a failure.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	envoy := flag.String("envoy", os.Getenv("ASHLAR_ENVOY"), "Envoy's `binary`")
	keep := flag.String("dir", "", "`folder` for state and logs, which stays; a temporary one if empty")
	flag.Parse()
	if err := run(*envoy, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "scenario:", err)
		os.Exit(1)
	}
}

func run(envoy, keep string) error {
	binary, err := exec.LookPath(envoy)
	if err != nil {
		return err
	}
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "ashlar-scenario-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "coordinator.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := newSite(dir, binary, slog.New(slog.NewTextHandler(file, nil)))
	if err != nil {
		return err
	}
	defer s.close()
	tale := &story{site: s, out: os.Stdout, began: time.Now(), services: map[string]*service{}, seal: "product"}
	defer tale.close()
	err = tale.tell(ctx)
	if err != nil {
		err = fmt.Errorf("%w (logs: %s, kept with -dir)", err, dir)
	}
	if tale.checker == nil {
		return err
	}
	counts, _, wrong := tale.checker.totals()
	for _, o := range wrong {
		fmt.Printf("WRONG %s  %s → %s %s direct=%t passed=%t after %s: %s\n", o.began.Format("15:04:05.000"), o.from, o.to, o.route, o.direct, o.passed, o.ended.Sub(o.began).Round(time.Millisecond), o.why)
	}
	fmt.Printf("failed allowed: %d, passed forbidden: %d\n", counts[failedAllowed], counts[passedForbidden])
	if err == nil && counts[failedAllowed]+counts[passedForbidden] > 0 {
		err = fmt.Errorf("%d requests had the wrong end", counts[failedAllowed]+counts[passedForbidden])
	}
	return err
}
