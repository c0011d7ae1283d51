package daemon

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
)

// TestClusterInitUntil starts every replica with init: one makes the state, the
// others leave it, also what one of them had begun.
func TestClusterInitUntil(t *testing.T) {
	c := newCrew(t, 2)
	soon, past := time.Now().Add(time.Hour).Format(time.RFC3339), "2026-01-02T15:04:05Z"
	for _, step := range []struct {
		name    string
		replica int
		until   string
		prepare func()
		exit    int
		says    string
	}{
		{"too late", 0, past, func() {}, 1, "STO-002"},
		{"beside a folder's state", 1, soon, func() { c.sealed(1) }, 0, "There is a part of a state in " + c.config(1).State},
		{"in time", 0, soon, func() { os.Remove(filepath.Join(c.config(1).State, "seal.json")) }, 0, "Made the state of a new coordinator in etcd://"},
		{"again", 0, soon, func() {}, 0, "There is a state"},
		{"another replica", 1, soon, func() {}, 0, "There is a state"},
		{"another replica, late", 1, past, func() {}, 0, "There is a state"},
		{"one that had begun", 1, soon, func() { c.begun(1) }, 0, "There is a state"},
	} {
		step.prepare()
		o := c.config(step.replica)
		args := []string{"init", "--state", o.State, "--store", o.Store, "--replica", o.Replica, "--tee", string(o.TEE), "--sim-socket", o.SimSocket,
			"--sim-root", o.SimRoot, "--until", step.until}
		var out bytes.Buffer
		if exit := Main(args, func(string) string { return "" }, &out, &out); exit != step.exit || !strings.Contains(out.String(), step.says) {
			t.Errorf("%s: got exit %d, %s; want %d and %q", step.name, exit, out.String(), step.exit, step.says)
		}
		if strings.Contains(out.String(), "tls=off") {
			t.Errorf("%s: the options of the store are printed: %s", step.name, out.String())
		}
	}
	if _, err := os.Stat(filepath.Join(c.config(1).State, "seal.json")); err == nil {
		t.Error("a replica that made nothing has a sealed key")
	}
}

// sealed leaves a key of no state in a replica's folder.
func (c *crew) sealed(i int) {
	c.t.Helper()
	path := filepath.Join(c.config(i).State, "seal.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
		c.t.Fatal(err)
	}
}

// TestClusterCannotTakeOver has a replica elected that cannot open what stands
// beside the state: it says so, lets others try, and goes on when it is mended.
func TestClusterCannotTakeOver(t *testing.T) {
	c := newCrew(t, 1)
	alice := newMember(t, "alice")
	if err := Init(t.Context(), c.config(0)); err != nil {
		t.Fatal(err)
	}
	first := c.run(0)
	first.until("waiting for a manifest", "")
	c.set(first, alice.cert, nil, c.alsoAdmitting(recoverable(t, "", "1h", 1, alice)))
	first.stop()

	cluster := beside(t, c.config(0).Store)
	replace := func(with []byte) (before []byte) {
		t.Helper()
		files := cluster.Files()
		before, err := files.Read(t.Context(), recovery.File)
		if err == nil {
			err = files.Write(t.Context(), recovery.File, with)
		}
		if err != nil {
			t.Fatal(err)
		}
		return before
	}
	right := replace([]byte("{}"))
	again := c.run(0)
	if p := again.until("standby", "REC-002"); p.Ready || !strings.Contains(p.Reason, "REP-011") {
		t.Errorf("got %+v, want it not to be ready because of REP-011", p)
	}
	replace(right)
	again.until("serving", "")
}
