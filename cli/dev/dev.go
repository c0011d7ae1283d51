// Package dev runs a whole deployment on one machine: a software TEE, a
// coordinator on its embedded store, and the sample shop's services, each
// wrapped by ashlar-marble with an Envoy of its own. Every process is a real
// one; it owns them all and leaves none behind.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/samples/shop"
)

// Config says where a deployment lives and what it is made of.
type Config struct {
	Dir   string // state, logs and documents; made if missing
	Bin   string // directory with ashlar, ashlar-coordinator, ashlar-marble, shop-gateway
	Envoy string // Envoy's binary
	// Client, Mesh and Metrics are the coordinator's addresses, host:port.
	Client, Mesh, Metrics string
	Say                   func(format string, args ...any) // progress, one line each
	Amend                 func(manifest map[string]any)    // changes the shop's manifest before it is set; may be nil
}

// Addresses of a deployment on a laptop.
const (
	DefaultClient  = "127.0.0.1:4433"
	DefaultMesh    = "127.0.0.1:2001"
	DefaultMetrics = "127.0.0.1:9944"
)

// Deployment is a running deployment. It is not safe for concurrent use.
type Deployment struct {
	Config
	Services []Service

	bin, work string
	pccs      string // address of the platform's service for endorsements
	lock      *os.File
	spawner   *spawner
	platform  *Process
	coord     *Process
	marbles   map[string]*Process
}

// Files of a deployment, below its directory.
func (d *Deployment) file(name string) string { return filepath.Join(d.Dir, name) }

// ManifestFile is where the generated manifest lies.
func (d *Deployment) ManifestFile() string { return d.file("manifest.json") }

// PolicyFile is what a client judges the coordinator by.
func (d *Deployment) PolicyFile() string { return d.file("policy.json") }

// CertFile and KeyFile are alice's, the operator's.
func (d *Deployment) CertFile() string { return d.file("alice.pem") }

// PlatformDir holds the keys of the software TEE's platform.
func (d *Deployment) PlatformDir() string { return d.file("platform") }

// KeyFile is alice's private key.
func (d *Deployment) KeyFile() string { return d.file("alice.key") }

// LogDir holds one log for each process.
func (d *Deployment) LogDir() string { return d.file("logs") }

func (d *Deployment) shopDir() string      { return d.file("shop") }
func (d *Deployment) simRoot() string      { return d.file("sim_root.pem") }
func (d *Deployment) marbleBinary() string { return filepath.Join(d.bin, "ashlar-marble") }
func (d *Deployment) coordBinary() string  { return filepath.Join(d.bin, "ashlar-coordinator") }
func (d *Deployment) pidFile() string      { return d.file("dev.pid") }

// Start prepares a deployment and starts the software TEE and the coordinator;
// no manifest is set and no marble runs yet. Close it in any case.
func Start(ctx context.Context, c Config) (*Deployment, error) {
	d := &Deployment{Config: c, marbles: map[string]*Process{}}
	if err := d.prepare(); err != nil {
		return d, err
	}
	services, err := d.shop(ctx)
	if err != nil {
		return d, err
	}
	place(services)
	d.Services = services
	if err := d.checkPorts(); err != nil {
		return d, err
	}
	d.spawner = newSpawner()
	if err := d.startPlatform(ctx); err != nil {
		return d, err
	}
	return d, d.startCoordinator(ctx)
}

// prepare makes the directories, takes the lock, and unpacks the shop.
func (d *Deployment) prepare() error {
	dir, err := filepath.Abs(d.Dir)
	if err != nil {
		return err
	}
	d.Dir = dir
	if d.bin, err = filepath.Abs(d.Bin); err != nil {
		return err
	}
	for _, b := range []string{"ashlar", "ashlar-coordinator", "ashlar-marble", "shop-gateway"} {
		if _, err := os.Stat(filepath.Join(d.bin, b)); err != nil {
			return problem.New("CLI-010", "%s is not in %s", b, d.bin).WithNext("make build")
		}
	}
	if err := os.MkdirAll(d.LogDir(), 0o700); err != nil {
		return problem.Because(err, "CLI-003", "making %s", d.LogDir())
	}
	if err := d.takeLock(); err != nil {
		return err
	}
	if d.work, err = os.MkdirTemp("", "ashlar-dev-"); err != nil {
		return problem.Because(err, "CLI-003", "making a working directory")
	}
	return d.unpackShop()
}

func (d *Deployment) takeLock() error {
	f, err := os.OpenFile(d.pidFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return problem.Because(err, "CLI-003", "opening %s", d.pidFile())
	}
	free, err := hold(f, true)
	if err == nil && !free {
		err = problem.New("CLI-012", "a deployment is running in %s", d.Dir)
	}
	if err != nil {
		f.Close()
		return err
	}
	d.lock = f
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return err
}

func (d *Deployment) unpackShop() error {
	root := d.shopDir()
	return fs.WalkDir(shop.Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := shop.Files.ReadFile(path)
		if err != nil {
			return err
		}
		target := filepath.Join(root, filepath.Base(path))
		if filepath.Dir(path) == "catalog" {
			target = filepath.Join(root, path)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
}

// shopPorts are where the shop's programs listen on loopback, and where they reach
// their callees.
var shopPorts = []int{8080, 8081, 8082, 8083, 9081, 9082, 9083}

// checkPorts says which port is taken before anything is started.
func (d *Deployment) checkPorts() error {
	addrs := []string{d.Client, d.Mesh, d.Metrics}
	for _, s := range d.Services {
		addrs = append(addrs, s.Ready)
	}
	for _, port := range shopPorts {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", port))
	}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return problem.Because(err, "CLI-013", "%s is needed", addr)
		}
		l.Close()
	}
	return nil
}

// maxSocket is the length of a socket's path that every system accepts, in bytes.
const maxSocket = 100

// socket is the platform's, in Dir unless its path would be too long.
func (d *Deployment) socket() string {
	if s := d.file("platform.sock"); len(s) <= maxSocket {
		return s
	}
	return filepath.Join(d.work, "platform.sock")
}

func (d *Deployment) startPlatform(ctx context.Context) error {
	// Left by a killed deployment; the lock says that nobody uses it.
	if err := os.Remove(d.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return problem.Because(err, "CLI-003", "removing an old socket")
	}
	var err error
	d.platform, err = d.spawner.start(d.LogDir(), spec{name: "platform", path: filepath.Join(d.bin, "ashlar"),
		args: []string{"dev", "platform", "--dir", d.PlatformDir(), "--socket", d.socket(), "--pccs", "127.0.0.1:0", "--pccs-file", d.file("pccs.url")}})
	if err != nil {
		return err
	}
	client := sim.Client{Socket: d.socket()}
	return d.await(ctx, d.platform, func(ctx context.Context) error {
		root, err := client.Root(ctx)
		if err != nil {
			return err
		}
		address, err := os.ReadFile(d.file("pccs.url")) // written before the platform answers
		if err != nil {
			return err
		}
		d.pccs = strings.TrimSpace(string(address))
		return durable.WriteFile(d.simRoot(), encodeCertificate(root.Raw), 0o644)
	})
}

// startTime is how long a process may take to be ready on a machine that is busy.
const startTime = time.Minute

// await polls until ready returns nil, the process ends, or time is up.
func (d *Deployment) await(ctx context.Context, p *Process, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return problem.New("CLI-014", "%s ended before it was ready: %s", p.Name, d.lastWords(p.Name)).WithNext("%s", d.showLog(p.Name))
		case <-ctx.Done():
			return problem.Because(err, "CLI-014", "%s is not ready after %s", p.Name, startTime).WithNext("%s", d.showLog(p.Name))
		case <-tick.C:
		}
	}
}

// showLog is the command that prints a process's log.
func (d *Deployment) showLog(name string) string {
	return fmt.Sprintf("ashlar dev logs %s --dir %s", name, d.Dir)
}

// lastWords is the error that a process ended with, or the last line of its log.
func (d *Deployment) lastWords(name string) string {
	lines := strings.Split(strings.TrimSpace(d.tail(name)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		for _, mark := range []string{"error: ", "✗ "} {
			if found, ok := strings.CutPrefix(lines[i], mark); ok {
				return found
			}
		}
	}
	return lines[len(lines)-1]
}

// tail is the end of a process's log.
func (d *Deployment) tail(name string) string {
	f, err := os.Open(filepath.Join(d.LogDir(), name+".log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 2000 {
		_, _ = f.Seek(-2000, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, 2000))
	return string(b)
}

// Close stops everything, last started first, and removes what it made outside
// of its directory. Closing again does nothing.
func (d *Deployment) Close() {
	for _, s := range d.Services {
		if p := d.marbles[s.Name]; p != nil {
			_ = p.Signal(syscall.SIGTERM)
		}
	}
	for _, s := range d.Services {
		if p := d.marbles[s.Name]; p != nil {
			p.Stop()
		}
	}
	for _, p := range []*Process{d.coord, d.platform} {
		if p != nil {
			p.Stop()
		}
	}
	if d.spawner != nil {
		d.spawner.close()
		d.spawner = nil
	}
	if d.work != "" {
		os.RemoveAll(d.work)
	}
	if d.lock != nil {
		os.Remove(d.pidFile())
		d.lock.Close()
		d.lock = nil
	}
}

// Running returns the pid of the process that holds a directory's lock, or
// fs.ErrNotExist.
func Running(dir string) (int, error) {
	f, err := os.Open(filepath.Join(dir, "dev.pid"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	free, err := hold(f, false)
	if err != nil {
		return 0, err
	}
	if free {
		return 0, fs.ErrNotExist // nobody holds it: left by a killed process
	}
	var pid int
	if _, err := fmt.Fscan(f, &pid); err != nil || pid <= 1 {
		return 0, errors.New("dev.pid holds no process id")
	}
	return pid, nil
}
