package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Shell is a working directory, and the built command line that is used in it.
type Shell struct {
	T       testing.TB
	Program string
	Dir     string
	Env     []string
}

// Outcome is what one command printed and ended with.
type Outcome struct {
	Stdout, Stderr string
	Code           int
}

// Command is a command line that was not started.
func (s *Shell) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Program, args...)
	cmd.Dir, cmd.Env = s.Dir, s.Env
	return cmd
}

// Run runs a command line to its end.
func (s *Shell) Run(args ...string) Outcome {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), Patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := s.Command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.T.Fatalf("ashlar %s: %v", strings.Join(args, " "), err)
	}
	got := Outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if strings.Contains(got.Stdout+got.Stderr, "\x1b") {
		s.T.Errorf("ashlar %s: an escape code in a pipe", strings.Join(args, " "))
	}
	return got
}

// Must runs a command line that has to end with a code.
func (s *Shell) Must(code int, args ...string) Outcome {
	s.T.Helper()
	got := s.Run(args...)
	if got.Code != code {
		s.T.Fatalf("ashlar %s: got exit %d, want %d\n%s%s", strings.Join(args, " "), got.Code, code, got.Stdout, got.Stderr)
	}
	return got
}

// folded is where a long line was broken.
var folded = regexp.MustCompile(`\n(SIMULATION )? +`)

// Wants checks that a text has parts, wherever its lines were folded.
func Wants(t testing.TB, text string, parts ...string) {
	t.Helper()
	flat := folded.ReplaceAllString(text, " ")
	for _, p := range parts {
		if !strings.Contains(flat, p) {
			t.Errorf("got %q, want %q in it", text, p)
		}
	}
}

// Document runs a command with -o json, and with -o yaml to see that it has one.
func Document[V any](s *Shell, args ...string) V {
	s.T.Helper()
	var v V
	got := s.Must(0, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(got.Stdout), &v); err != nil {
		s.T.Fatalf("ashlar %s -o json: %v\n%s", strings.Join(args, " "), err, got.Stdout)
	}
	if y := s.Must(0, append(args, "-o", "yaml")...); strings.HasPrefix(y.Stdout, "{") || y.Stdout == "" {
		s.T.Errorf("ashlar %s -o yaml: got %.80q", strings.Join(args, " "), y.Stdout)
	}
	return v
}
