package envoy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Bounds on the process.
const (
	stopGrace    = 5 * time.Second        // from SIGTERM to SIGKILL
	firstBackoff = 100 * time.Millisecond // before the first restart; doubles
	lastBackoff  = 5 * time.Second
	stableAfter  = 10 * time.Second // running this long makes the next back-off the first again
	earlyEnds    = 4                // ends before it was ever ready, after which it is not started again
	drainSeconds = 1                // how long a replaced listener's connections stay
	readyPoll    = 20 * time.Millisecond
	adminTimeout = 5 * time.Second
	adminLimit   = 16 << 20 // bytes of one answer
)

// Config says what to run.
type Config struct {
	Binary      string    // path of Envoy, or its name on PATH; "envoy" if empty
	Dir         string    // private directory (0700) for the bootstrap and the administration socket
	AgentSocket string    // absolute path of the agent's socket
	NodeID      string    // for Envoy's log only
	LogLevel    string    // Envoy's: trace to critical; "warning" if empty
	Concurrency int       // worker threads; 1 if 0
	Stderr      io.Writer // Envoy's log; discarded if nil
}

// Proxy is a supervised Envoy. Its methods are safe for concurrent use.
type Proxy struct {
	config   Config
	binary   string
	admin    string // socket
	client   *http.Client
	restarts atomic.Int64
	ready    atomic.Bool // it was, at least once
	stop     context.CancelFunc
	done     chan struct{}
	failed   error // why it is not started again; read after done
}

// Start writes the bootstrap into config.Dir, starts Envoy and watches over it
// until ctx ends or Stop is called. It returns MSH-020 if Envoy cannot be
// started at all; an Envoy that dies later is started again, but one that ends
// four times without ever having been ready is given up.
func Start(ctx context.Context, config Config) (*Proxy, error) {
	p, err := prepare(config)
	if err != nil {
		return nil, problem.Because(err, "MSH-020", "preparing Envoy")
	}
	ctx, p.stop = context.WithCancel(ctx)
	started := make(chan error, 1)
	go p.supervise(ctx, started)
	if err := <-started; err != nil {
		<-p.done
		return nil, problem.Because(err, "MSH-020", "starting %s", p.binary)
	}
	return p, nil
}

func prepare(config Config) (*Proxy, error) {
	if config.Binary == "" {
		config.Binary = "envoy"
	}
	if config.LogLevel == "" {
		config.LogLevel = "warning"
	}
	if config.Concurrency <= 0 {
		config.Concurrency = 1
	}
	binary, err := exec.LookPath(config.Binary)
	if err != nil {
		return nil, err
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if config.Dir, err = filepath.Abs(config.Dir); err != nil {
		return nil, err
	}
	p := &Proxy{config: config, binary: binary, admin: filepath.Join(config.Dir, "admin.sock"), done: make(chan struct{})}
	bootstrap, err := RequiredBootstrap(Bootstrap{NodeID: config.NodeID, AgentSocket: config.AgentSocket, AdminSocket: p.admin})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.bootstrapPath(), bootstrap, 0o600); err != nil {
		return nil, err
	}
	p.client = &http.Client{Timeout: adminTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.admin)
		},
	}}
	return p, nil
}

func (p *Proxy) bootstrapPath() string { return filepath.Join(p.config.Dir, "envoy.json") }

// Validate lets Envoy read a configuration file without running it. The error
// holds Envoy's own words.
func Validate(ctx context.Context, binary, path string) error {
	out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "-c", path, "--log-level", "error", "--disable-hot-restart").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// command returns Envoy's command line. It gets no environment: nothing of its
// parent's is for it.
func (p *Proxy) command() *exec.Cmd {
	cmd := exec.Command(p.binary, "-c", p.bootstrapPath(),
		"--disable-hot-restart", "--drain-strategy", "immediate", "--drain-time-s", strconv.Itoa(drainSeconds),
		"--concurrency", strconv.Itoa(p.config.Concurrency), "--log-level", p.config.LogLevel,
		"--file-flush-interval-msec", "500", // the log's lines of refusals
		"--log-format", "[%Y-%m-%dT%T.%e][%l][%n] %v")
	cmd.Dir = p.config.Dir
	cmd.Env = []string{"TMPDIR=" + p.config.Dir}
	cmd.Stdout, cmd.Stderr = p.config.Stderr, p.config.Stderr
	cmd.WaitDelay = stopGrace
	cmd.SysProcAttr = processAttributes()
	return cmd
}

// supervise owns the process. It holds on to its thread, because the kernel
// ties the child's life to the thread that started it, not to the process.
func (p *Proxy) supervise(ctx context.Context, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer p.stop()
	backoff := firstBackoff
	for ends := 0; ; ends++ {
		begin := time.Now()
		cmd := p.command()
		_ = os.Remove(p.admin)
		err := cmd.Start()
		if ends == 0 {
			started <- err
			if err != nil {
				return
			}
		}
		if err == nil {
			err = waitOrStop(ctx, cmd)
		}
		if ctx.Err() != nil {
			_ = os.Remove(p.admin)
			return
		}
		if ends+1 >= earlyEnds && !p.ready.Load() {
			p.failed = problem.New("MSH-021", "Envoy ended %d times before it was ready, the last time with %s", ends+1, ending(err))
			return
		}
		if time.Since(begin) > stableAfter {
			backoff = firstBackoff
		}
		if !pause.For(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, lastBackoff)
		p.restarts.Add(1)
	}
}

// ending says how a process ended.
func ending(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// waitOrStop waits for the process and returns how it ended; when ctx ends it
// asks it to end, and after the grace it makes it.
func waitOrStop(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan struct{})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopGrace):
			_ = cmd.Process.Kill()
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-asked
	return err
}

// Stop ends Envoy and returns when the process is gone.
func (p *Proxy) Stop() {
	p.stop()
	<-p.done
}

// Wait returns when Envoy is gone for good: after Stop, the end of ctx, or when
// it was given up.
func (p *Proxy) Wait() { <-p.done }

// Restarts returns how often Envoy was started again.
func (p *Proxy) Restarts() int { return int(p.restarts.Load()) }

// Ready returns once Envoy has its configuration and serves; MSH-021 with what
// it last said if ctx ends before, or with how it ended if it was given up.
func (p *Proxy) Ready(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	var said []byte
	var last error
	for {
		b, err := p.Get(ctx, "/ready")
		if err == nil {
			p.ready.Store(true)
			return nil
		}
		if ctx.Err() == nil || last == nil {
			said, last = b, err // not that it was asked once too often
		}
		select {
		case <-p.done:
			if p.failed != nil {
				return p.failed
			}
			return problem.New("MSH-021", "Envoy was stopped before it was ready")
		case <-ctx.Done():
			return problem.Because(last, "MSH-021", "Envoy says %q", strings.TrimSpace(string(said)))
		case <-tick.C:
		}
	}
}

// Drain has Envoy end connections from peers with its next answer on each, so
// that running requests finish and new ones come over no old connection; Undrain
// ends that. Envoy forgets it when it is started again.
func (p *Proxy) Drain(ctx context.Context) error {
	_, err := p.ask(ctx, http.MethodPost, "/healthcheck/fail")
	return err
}

// Undrain ends Drain.
func (p *Proxy) Undrain(ctx context.Context) error {
	_, err := p.ask(ctx, http.MethodPost, "/healthcheck/ok")
	return err
}

// Get asks the administration socket, which answers to /ready and /stats only.
// It returns the body, at most 16 MiB, and an error unless the status is 200.
func (p *Proxy) Get(ctx context.Context, path string) ([]byte, error) {
	return p.ask(ctx, http.MethodGet, path)
}

func (p *Proxy) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking Envoy for %s: %w", path, err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking Envoy for %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, adminLimit))
	if err != nil {
		return nil, fmt.Errorf("asking Envoy for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return body, fmt.Errorf("asking Envoy for %s: %s", path, resp.Status)
	}
	return body, nil
}
