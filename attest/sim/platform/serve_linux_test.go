package platform

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// machine is a served platform and programs to measure.
type machine struct {
	*Platform
	socket string
	agent  string // this test binary
	good   string // a copy of it with a byte appended: the released program
	evil   string // another copy: the tampered program
	script string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{Platform: newPlatform(t, Config{}), socket: filepath.Join(dir, "s")}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	if m.agent, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(m.agent)
	if err != nil {
		t.Fatal(err)
	}
	m.good, m.evil, m.script = filepath.Join(dir, "good"), filepath.Join(dir, "evil"), filepath.Join(dir, "app.py")
	for path, content := range map[string][]byte{
		m.good: append(bytes.Clone(binary), 'g'), m.evil: append(bytes.Clone(binary), 'e'), m.script: []byte("print('hello')"),
	} {
		if err := os.WriteFile(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// run has a process of the executable path carry out an order.
func (m machine) run(t *testing.T, path string, o order) ([]byte, error) {
	t.Helper()
	o.Socket = m.socket
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "SIM_TEST_ROLE=asker", "GORACE=atexit_sleep_ms=0", "SIM_TEST_ORDER="+string(raw))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out, nil
}

func mustDigest(t *testing.T, path string) attest.Hex {
	t.Helper()
	d, err := sim.FileDigest(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (m machine) policy(t *testing.T) attest.Policy {
	return attest.Policy{PackageName: "web", PlatformName: "default", Package: attest.Package{Sim: &attest.SimReference{
		Program: []attest.Hex{mustDigest(t, m.good)}, Agent: []attest.Hex{mustDigest(t, m.agent)},
		Files: map[string]attest.Hex{"app.py": mustDigest(t, m.script)},
	}}}
}

// TestEndToEnd lets processes ask over the socket and judges what they get.
func TestEndToEnd(t *testing.T) {
	m := newMachine(t)
	claims := binding.Claims{
		Purpose: binding.Activate, PublicKey: binding.KeyHash([]byte("key")),
		Nonce: bytes.Repeat([]byte{1}, 32), Exporter: bytes.Repeat([]byte{2}, 32),
	}
	b := claims.Binding()
	files := map[string]string{"app.py": m.script}
	for _, c := range []struct {
		name  string
		asker string
		order order
		want  []string // failed fields
	}{
		{"program by descriptor", m.agent, order{Program: m.good, Files: files}, nil},
		{"program by process", m.agent, order{Child: m.good, Files: files}, nil},
		{"tampered program", m.agent, order{Program: m.evil, Files: files}, []string{"sim.program"}},
		{"tampered child", m.agent, order{Child: m.evil, Files: files}, []string{"sim.program"}},
		{"tampered agent", m.evil, order{Program: m.good, Files: files}, []string{"sim.agent"}},
		{"own program", m.agent, order{Files: files}, []string{"sim.program"}},
		{"file left out", m.agent, order{Program: m.good}, []string{"sim.files"}},
		{"other file", m.agent, order{Program: m.good, Files: map[string]string{"app.py": m.evil}}, []string{"sim.files"}},
	} {
		for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
			t.Run(c.name+" "+string(tee), func(t *testing.T) {
				c.order.TEE, c.order.Binding = tee, b[:]
				out, err := m.run(t, c.asker, c.order)
				if err != nil {
					t.Fatal(err)
				}
				var e attest.Evidence
				if err := json.Unmarshal(out, &e); err != nil {
					t.Fatal(err)
				}
				en, err := sim.Client{Socket: m.socket}.Endorse(t.Context(), e)
				if err != nil {
					t.Fatal(err)
				}
				v := attest.Judge(verifiers(t, m.Platform), e, b, en, m.policy(t), time.Now())
				var got []string
				for _, s := range v.Failed() {
					got = append(got, s.Field)
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) || v.OK() != (c.want == nil) {
					t.Errorf("got %s, failed %v, want failed %v\n%+v", v.Verdict, got, c.want, v.Failed())
				}
				replayed := claims
				replayed.Nonce = bytes.Repeat([]byte{3}, 32)
				if v := attest.Judge(verifiers(t, m.Platform), e, replayed.Binding(), en, m.policy(t), time.Now()); v.OK() {
					t.Error("evidence for one nonce was accepted for another")
				}
			})
		}
	}
}

// TestMeasurementRefused: what cannot be measured gets no evidence.
func TestMeasurementRefused(t *testing.T) {
	m := newMachine(t)
	stop, stranger, err := start(m.good) // a child of ours, not of the asker
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	fd := func(n int) *int { return &n }
	for _, c := range []struct {
		name  string
		order order
		want  string
	}{
		{"somebody else's process", order{TEE: attest.SimSGX, PID: stranger}, "ATT-091"},
		{"init", order{TEE: attest.SimSGX, PID: 1}, "ATT-091"},
		{"negative process", order{TEE: attest.SimSGX, PID: -1}, "ATT-091"},
		{"pipe", order{TEE: attest.SimSGX, FD: fd(1)}, "ATT-091"},
		{"closed descriptor", order{TEE: attest.SimSGX, FD: fd(987)}, "ATT-091"},
		{"negative descriptor", order{TEE: attest.SimSGX, FD: fd(-3)}, "ATT-091"},
		{"descriptor and process", order{TEE: attest.SimSGX, FD: fd(0), PID: stranger}, "ATT-091"},
		{"folder as file", order{TEE: attest.SimSGX, Files: map[string]string{"d": filepath.Dir(m.good)}}, "ATT-091"},
		{"device as file", order{TEE: attest.SimSGX, Files: map[string]string{"d": "/dev/zero"}}, "ATT-091"},
		{"nameless file", order{TEE: attest.SimSGX, Files: map[string]string{"": m.script}}, "ATT-091"},
		{"unknown policy", order{Seal: "everyone"}, "ATT-092"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.order.Binding = make([]byte, 64)
			_, err := m.run(t, m.agent, c.order)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestSealKey(t *testing.T) {
	m := newMachine(t)
	key := func(path string, policy sim.SealPolicy) string {
		t.Helper()
		out, err := m.run(t, path, order{Seal: policy})
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 32 {
			t.Fatalf("got a key of %d bytes, want 32", len(out))
		}
		return string(out)
	}
	unique, product := key(m.good, sim.SealUnique), key(m.good, sim.SealProduct)
	if unique != key(m.good, sim.SealUnique) {
		t.Error("the unique key differs between two runs of one program")
	}
	if unique == key(m.evil, sim.SealUnique) {
		t.Error("two programs have one unique key")
	}
	if product != key(m.evil, sim.SealProduct) {
		t.Error("two programs have different product keys")
	}
	if unique == product {
		t.Error("the unique key is the product key")
	}
	if s := fmt.Sprintf("%v %+v %#v %s %x %d", sim.SealKey{1}, sim.SealKey{1}, sim.SealKey{1}, sim.SealKey{1}, sim.SealKey{1}, sim.SealKey{1}); strings.Trim(strings.ReplaceAll(s, "[redacted]", ""), " ") != "" {
		t.Errorf("a sealing key prints itself: %s", s)
	}
}

func TestClient(t *testing.T) {
	m := newMachine(t)
	c := sim.Client{Socket: m.socket}
	root, err := c.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !root.Equal(m.Root()) {
		t.Error("got another root")
	}
	if _, err := c.Endorsements(t.Context(), attest.SGX); problem.CodeOf(err) != "ATT-092" {
		t.Errorf("endorsements of hardware: got %v, want ATT-092", err)
	}
	m.Misbehave(Misbehaviour{Throttled: true})
	if _, err := c.Root(t.Context()); problem.CodeOf(err) != "ATT-093" {
		t.Errorf("throttled: got %v, want ATT-093", err)
	}
	m.Misbehave(Misbehaviour{Delay: attest.Duration(time.Hour)})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Root(ctx); problem.CodeOf(err) != "ATT-090" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late answer: got %v, want ATT-090 for the deadline", err)
	}
	c.Socket += "nobody"
	if _, err := c.Root(t.Context()); problem.CodeOf(err) != "ATT-090" {
		t.Errorf("no platform: got %v, want ATT-090", err)
	}
}

// TestHostileRequests: none of them harms the platform.
func TestHostileRequests(t *testing.T) {
	m := newMachine(t)
	frame := func(n uint32, body string) []byte { return append(binary.BigEndian.AppendUint32(nil, n), body...) }
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"half a length": {0, 0},
		"huge length":   frame(1<<31, "{}"),
		"short body":    frame(100, "{}"),
		"not JSON":      frame(3, "\xff{}"),
		"unknown field": frame(17, `{"misbehave":"x"}`),
		"two documents": frame(4, "{}{}"),
		"deep":          frame(60000, strings.Repeat("[", 60000)),
		"no operation":  frame(2, "{}"),
		"short binding": frame(50, `{"op":"evidence","tee":"sim:sgx","binding":"0011"}`),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", m.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var r sim.Response
			if err := sim.ReadMessage(conn, &r, sim.MaxResponse); err != nil {
				t.Fatal(err)
			}
			if r.Problem == nil || r.Problem.Code != "ATT-092" {
				t.Errorf("got %+v, want ATT-092", r)
			}
		})
	}
	if _, err := (sim.Client{Socket: m.socket}).Root(t.Context()); err != nil {
		t.Errorf("the platform does not answer any more: %v", err)
	}
}

// TestChangedFile: a digest is never remembered for other content.
func TestChangedFile(t *testing.T) {
	m := newMachine(t)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.script, old, old); err != nil {
		t.Fatal(err)
	}
	measure := func() attest.Hex {
		t.Helper()
		f, err := os.Open(m.script)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		a, err := openProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		d, err := m.hashFD(t.Context(), a, int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := measure()
	if err := os.WriteFile(m.script, []byte("print('jello')"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(m.script, old, old); err != nil { // the times are the old ones, but not ctime
		t.Fatal(err)
	}
	if bytes.Equal(first, measure()) {
		t.Error("got the digest of the old content")
	}
}

// TestAskerThatEnded: the id of a process that has ended may be another's.
func TestAskerThatEnded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SIM_TEST_ROLE=connect", "SIM_TEST_SOCKET="+socket, "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a, err := askerOf(conn)
	if err != nil {
		t.Fatalf("a living asker: %v", err)
	}
	if a.pid != cmd.Process.Pid {
		t.Errorf("got process %d, want %d", a.pid, cmd.Process.Pid)
	}
	a.close()
	in.Close()
	// WNOWAIT leaves the process as it is, so that its id stays taken.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := askerOf(conn); err == nil {
		t.Error("got the process of an asker that has ended")
	}
}

// TestManyAskers: the bound on connections delays and loses nobody.
func TestManyAskers(t *testing.T) {
	m := newMachine(t)
	var wg sync.WaitGroup
	for range 2 * maxConnections {
		wg.Go(func() {
			if _, err := (sim.Client{Socket: m.socket}).Endorsements(t.Context(), attest.SimTDX); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkEvidenceOverSocket(b *testing.B) {
	p := newPlatform(b, Config{})
	socket := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	issuer, err := sim.NewIssuer(sim.Config{Socket: socket, Shape: attest.SimSGX})
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(settle) // so that the digest of this binary is remembered
	for b.Loop() {
		if _, err := issuer.Issue(ctx, attest.Binding{}); err != nil {
			b.Fatal(err)
		}
	}
}
