package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/transcript"
)

// child is a coordinator in a process of its own.
type child struct {
	*exec.Cmd
	Addresses
	log *transcript.Buffer
	out chan error
}

var readyLine = regexp.MustCompile(`msg=ready .*client=(\S+) mesh=(\S+) metrics=(\S+)`)

func start(t *testing.T, m *machine, env ...string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.Command(exe, m.flags("run", "--client-addr", "127.0.0.1:0", "--mesh-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0")...),
		log: &transcript.Buffer{}, out: make(chan error, 1)}
	c.Env = append(os.Environ(), append(env, "TEST_RUN_MAIN=1")...)
	pipe, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan []string, 1)
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			fmt.Fprintln(c.log, lines.Text())
			if a := readyLine.FindStringSubmatch(lines.Text()); a != nil {
				ready <- a
			}
		}
		close(ready)
		c.out <- c.Wait()
	}()
	t.Cleanup(func() { _ = c.Process.Kill() })
	a, ok := <-ready
	if !ok {
		t.Fatalf("the coordinator did not start: %v\n%s", <-c.out, c.log)
	}
	c.Addresses = Addresses{a[1], a[2], a[3]}
	return c
}

func (c *child) end(t *testing.T) {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-c.out; err != nil {
		t.Errorf("got %v, want exit 0\n%s", err, c.log)
	}
}

// flood opens connections that ask for nothing, from several addresses, and
// keeps them.
func flood(t *testing.T, addrs []string, n int) {
	t.Helper()
	opened := 0
	for i := range n {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%8+1))}}
		c, err := d.Dial("tcp", addrs[i%len(addrs)])
		if err != nil {
			continue // refused: that is what the limit is for
		}
		opened++
		t.Cleanup(func() { _ = c.Close() })
	}
	if opened == 0 {
		t.Fatal("not one connection was taken")
	}
}

// More sockets than descriptors: the state can still be written and read.
func TestFewDescriptors(t *testing.T) {
	m := newMachine(t)
	if err := Init(context.Background(), m.config()); err != nil {
		t.Fatal(err)
	}
	c := start(t, m, "TEST_DESCRIPTORS=256")
	flood(t, []string{c.Client, c.Mesh}, 1000)
	commit(t, m, c)
	c.end(t)
}

// commit sets two manifests, one after the other.
func commit(t *testing.T, m *machine, c *child) {
	t.Helper()
	alice := user(t)
	cl, err := m.dial(c.Client, "127.0.0.1", alice)
	if err != nil {
		t.Fatalf("%v\n%s", err, c.log)
	}
	defer cl.Close()
	first, err := cl.SetManifest(context.Background(), manifestOf(alice, "1h"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.SetManifest(context.Background(), manifestOf(alice, "2h"), first.Digest); err != nil {
		t.Fatal(err)
	}
	if s, err := cl.Status(context.Background()); err != nil || s.Revision != 2 {
		t.Errorf("got %+v, %v, want revision 2", s, err)
	}
}

// Ten thousand idle connections at a port, or as many as the limit of open
// files lets this test open.
func TestManyIdleConnections(t *testing.T) {
	n := 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(min(limit.Max, 1<<20)) - 500; most < n {
		t.Logf("the limit of open files is %d: %d connections instead of %d", limit.Max, most, n)
		n = most
	}
	m := newMachine(t)
	if err := Init(context.Background(), m.config()); err != nil {
		t.Fatal(err)
	}
	c := start(t, m)
	flood(t, []string{c.Client}, n)
	commit(t, m, c)
	c.end(t)
}

func TestSecondSignalForces(t *testing.T) {
	m := newMachine(t)
	if err := Init(context.Background(), m.config()); err != nil {
		t.Fatal(err)
	}
	c := start(t, m)
	// A request that never ends keeps the first signal waiting.
	conn, err := tls.Dial("tcp", c.Client, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PUT /v1/manifest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("got %q, %v, want 100 Continue: the body is being read", line, err)
	}
	for range 2 {
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// Two signals at once count as one.
		eventually(t, func() bool { return strings.Contains(c.log.String(), "msg=stopping") }, "the first signal was heard")
	}
	if err := <-c.out; err != nil {
		t.Errorf("got %v, want exit 0\n%s", err, c.log)
	}
	if !strings.Contains(c.log.String(), "running requests are cut") {
		t.Errorf("the log does not say that requests were cut:\n%s", c.log)
	}
	c = start(t, m)
	c.end(t)
}

func TestCommandLine(t *testing.T) {
	m := newMachine(t)
	empty := func(string) string { return "" }
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		exit int
		want string
	}{
		"nothing":          {args: nil, exit: 2, want: "next: ashlar-coordinator help"},
		"help":             {args: []string{"help"}, exit: 0, want: "ashlar-coordinator init"},
		"help flag":        {args: []string{"run", "-h"}, exit: 0, want: "-sim-root"},
		"version":          {args: []string{"version"}, exit: 0, want: Version},
		"unknown command":  {args: []string{"rnu"}, exit: 2, want: `did you mean "run"?`},
		"unknown flag":     {args: []string{"run", "--stat", "x"}, exit: 2, want: "did you mean --state?"},
		"argument":         {args: []string{"run", "x"}, exit: 2, want: "unexpected argument"},
		"no state":         {args: m.flags("run"), exit: 1, want: "ashlar-coordinator init --state"},
		"init":             {args: m.flags("init"), exit: 0, want: "Made the state"},
		"from environment": {args: []string{"init"}, env: map[string]string{"ASHLAR_STATE": "x", "ASHLAR_TEE": "sev"}, exit: 2, want: "--tee"},
		"log format":       {args: m.flags("run", "--log-format", "xml"), exit: 2, want: "--log-format"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no state" {
				c.args[2] = filepath.Join(m.dir, "none")
			}
			getenv := empty
			if c.env != nil {
				getenv = func(k string) string { return c.env[k] }
			}
			var out, errs bytes.Buffer
			exit := Main(c.args, getenv, &out, &errs)
			if exit != c.exit || !strings.Contains(out.String()+errs.String(), c.want) {
				t.Errorf("got exit %d\n%s%s\nwant exit %d and %q", exit, out.String(), errs.String(), c.exit, c.want)
			}
		})
	}
	var errs bytes.Buffer
	if exit := Main(m.flags("init"), empty, io.Discard, &errs); exit == 0 || !strings.Contains(errs.String(), "STO-001") {
		t.Errorf("init again: got exit %d, %s, want STO-001", exit, errs.String())
	}
}

// What starts a coordinator again and again may make its state once.
func TestInitUntil(t *testing.T) {
	m := newMachine(t)
	state := m.config().State
	soon, past := time.Now().Add(time.Hour).Format(time.RFC3339), "2026-01-02T15:04:05Z"
	for _, c := range []struct {
		name, until string
		prepare     func() error
		exit        int
		says        string
		made        bool
	}{
		{"no time", "tomorrow", nil, 2, "--until", false},
		{"too late", past, nil, 1, "STO-002", false},
		{"in time", soon, nil, 0, "Made the state", true},
		{"again", soon, nil, 0, "There is a state", true},
		{"again and late", past, nil, 0, "There is a state", true},
		{"a part of it is gone", soon, func() error { return os.Remove(filepath.Join(state, "seal.json")) }, 0, "There is a part of a state in " + state, true},
		{"all of it is gone, and late", past, func() error { return os.RemoveAll(state) }, 1, "STO-002", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				if err := c.prepare(); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			exit := Main(append(m.flags("init"), "--until", c.until), func(string) string { return "" }, &out, &out)
			_, err := os.Stat(filepath.Join(state, "state.db"))
			if exit != c.exit || !strings.Contains(out.String(), c.says) || (err == nil) != c.made {
				t.Errorf("got exit %d, a state %v, %s; want %d, %v, %q", exit, err == nil, out.String(), c.exit, c.made, c.says)
			}
		})
	}
	var out bytes.Buffer
	if exit := Main(append(m.flags("run"), "--until", soon), func(string) string { return "" }, &out, &out); exit != 2 || !strings.Contains(out.String(), "--until") {
		t.Errorf("run --until: got exit %d, %s", exit, out.String())
	}
}
