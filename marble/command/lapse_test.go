package command

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// variable returns what the program has of its environment.
func (s seen) variable(name string) string {
	for _, kv := range s.Env {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

func TestRevocationStopsTheProgram(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	file := filepath.Join(x.dir, "secrets", "key")
	b := marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"s": {Value: []byte("top-secret")}}, Parameters: x.parameters(map[string]string{"SECRET_FILE": file})}
	b.Parameters.Files = map[string]string{file: "{{ raw .Secrets.s }}"}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0])
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	x.await("a session", p, func() bool {
		return x.coordinator.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Revocation{
			Revocation: &marblepb.Revocation{Code: "INC-001", Reason: "stolen"}}}) > 0
	})
	if code := p.code(t); code != stage.ExitRevoked {
		t.Errorf("got exit code %d, want %d\n%s", code, stage.ExitRevoked, p.stderr.String())
	}
	if s, _ := x.seen(); !slices.Contains(s.Signals, syscall.SIGTERM.String()) {
		t.Errorf("the program got %q, want SIGTERM", s.Signals)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", file, err)
	}
	if left := x.leftovers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// refusing grants one activation, and nothing else. The program has started long
// before its lease ends.
func (x *bench) refusing() marbletest.Behaviour {
	granted := false
	b := marbletest.Behaviour{Life: 3 * time.Second, RenewAfter: 50 * time.Millisecond, Parameters: x.parameters(nil),
		Renewed: func(*marblepb.Renewal) error { return problem.New("ATT-014", "no") }}
	b.Activated = func(*marblepb.ActivateRequest) error {
		if granted {
			return problem.New("ATT-014", "no")
		}
		granted = true
		return nil
	}
	return b
}

func TestCutStopsTheProgramIfAsked(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(x.refusing())
	p := x.start([]string{"--on-cut", "stop"}, os.Args[0])
	if code := p.code(t); code != stage.ExitCut {
		t.Errorf("got exit code %d, want %d\n%s", code, stage.ExitCut, p.stderr.String())
	}
}

// A program that is cut runs on, is told, finds the stage where it was told to
// look, and is told again when the marble is healed.
func TestCutIsToldAndHealed(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	b := x.refusing()
	b.Parameters.Reload = &marblepb.Reload{Signal: "USR1"}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0])
	x.await("the signal of the cut", p, func() bool { s, _ := x.seen(); return len(s.Signals) == 1 })
	x.await("the cut", p, func() bool { code, stage := x.stage(); return code == 503 && stage == "cut" })
	s, _ := x.seen()
	text, err := os.ReadFile(s.variable(envStageFile))
	if err != nil || !strings.Contains(string(text), `"stage":"cut"`) {
		t.Errorf("the stage file says %s, %v", text, err)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.variable(envSocket))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://marble/v1/secrets/token")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 503 || !strings.Contains(string(body), "MRB-021") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	x.coordinator.Behave(marbletest.Behaviour{Parameters: b.Parameters})
	x.await("healed", p, func() bool { code, stage := x.stage(); return code == 200 && stage == "running" })
	x.await("the signal of the healing", p, func() bool { s, _ := x.seen(); return len(s.Signals) == 2 })
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code is looked at
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want 42\n%s", code, p.stderr.String())
	}
}

// A push with another secret and other parameters: files follow at once, the
// command runs, its failure is shown, and what only a restart gives is said.
func TestParametersFollowWhileTheProgramRuns(t *testing.T) {
	x := newBench(t, marbletest.Behaviour{})
	file, proof := filepath.Join(x.dir, "state", "key"), filepath.Join(x.dir, "proof")
	b := marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"s": {Value: []byte("one"), Version: 1}},
		Parameters: x.parameters(map[string]string{"SECRET_FILE": file, "TOKEN": "{{ raw .Secrets.s }}"})}
	b.Parameters.Files = map[string]string{file: "{{ raw .Secrets.s }}"}
	x.coordinator.Behave(b)
	p := x.start(nil, os.Args[0])
	x.await("the program", p, func() bool { _, ok := x.seen(); return ok })
	push := func(value string, reload *marblepb.Reload) {
		t.Helper()
		now := time.Now()
		lease := &marblepb.Lease{Bundle: [][]byte{x.coordinator.CA.Root.Raw}, SpiffeId: "spiffe://" + marbletest.TrustDomain + "/web", Revision: value,
			RenewAfterUnixMs: now.Add(time.Minute).UnixMilli(), NotAfterUnixMs: now.Add(2 * time.Minute).UnixMilli(),
			Secrets:    map[string]*marblepb.Secret{"s": {Value: []byte(value), Version: 2, Previous: &marblepb.Secret{Value: []byte("one"), Version: 1}}},
			Parameters: &marblepb.Parameters{Env: b.Parameters.Env, Files: map[string]string{file: "{{ raw .Secrets.s }} after {{ raw .Secrets.s.Previous }}"}, Reload: reload}}
		x.await("a session", p, func() bool {
			return x.coordinator.Push(&marblepb.SessionResponse{Message: &marblepb.SessionResponse_Lease{Lease: lease}}) > 0
		})
	}
	push("two", &marblepb.Reload{Signal: "USR1", Command: []string{"/bin/sh", "-c", "cat $SECRET_FILE > " + proof}})
	x.await("the signal with the new file", p, func() bool { s, _ := x.seen(); return s.Secret == "two after one" })
	x.await("the command", p, func() bool { text, _ := os.ReadFile(proof); return string(text) == "two after one" })
	x.await("what a restart would give", p, func() bool { return strings.Contains(p.stderr.String(), "older values of TOKEN") })
	push("three", &marblepb.Reload{Command: []string{"/bin/sh", "-c", "echo not today; exit 7"}})
	x.await("the failure of the command", p, func() bool { _, stage := x.stage(); return stage == "degraded" })
	for _, want := range []string{"MRB-034", "not today", "exit status 7"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, p.stderr.String())
		}
	}
	p.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit code is looked at
	if code := p.code(t); code != 42 {
		t.Errorf("got exit code %d, want 42\n%s", code, p.stderr.String())
	}
	if strings.Contains(p.stderr.String(), "two after") {
		t.Error("a secret was logged")
	}
}
