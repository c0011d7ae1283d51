package command

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/files"
	"github.com/ashlar-mesh/ashlar/marble/probe"
)

const maxTrustFile = 1 << 20 // bytes

// trust reads the pinned root or the policy.
func (o *options) trust() (marble.Trust, error) {
	if o.root != "" {
		raw, err := readFile(o.root)
		if err != nil {
			return marble.Trust{}, err
		}
		root, err := evidence.ParseRoot(raw)
		if err != nil {
			return marble.Trust{}, problem.Because(err, "MRB-001", "reading the coordinator's root from %s", o.root)
		}
		return marble.Trust{Root: root}, nil
	}
	raw, err := readFile(o.policy)
	if err != nil {
		return marble.Trust{}, err
	}
	file, diagnostics := manifest.ParsePolicyFile(raw)
	if err := diagnostics.Err(); err != nil {
		return marble.Trust{}, err
	}
	verifiers := hardware.Verifiers()
	if file.Simulated() {
		root, err := evidence.ParseRoot([]byte(file.SimulationRoot))
		if err != nil {
			return marble.Trust{}, problem.Because(err, "MRB-001", "reading the simulation root from %s", o.policy)
		}
		if err := sim.AddVerifiers(verifiers, root); err != nil {
			return marble.Trust{}, err
		}
	}
	policy := file.Policy()
	return marble.Trust{Policy: &policy, Verifiers: verifiers}, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxTrustFile {
		return nil, problem.New("MRB-001", "%s has %d bytes, limit %d", path, st.Size(), maxTrustFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.Because(err, "MRB-001", "reading %s", path)
	}
	return raw, nil
}

// runtimeFolder returns the private folder for sockets, and a function that
// removes it if it was made for this run.
func (o *options) runtimeFolder() (string, func(), error) {
	if o.dir != "" {
		dir, err := filepath.Abs(o.dir)
		if err != nil {
			return "", nil, problem.Because(err, "MRB-023", "--dir %s", o.dir)
		}
		dir, err = files.RuntimeFolder(dir)
		return dir, func() {}, err
	}
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "ashlar-"+o.marble+"-")
	if err != nil {
		return "", nil, problem.Because(err, "MRB-023", "making a runtime folder")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// idFile keeps the instance's id in the runtime folder.
const idFile = "instance"

// instanceID returns the id given, else the one kept in a folder that outlives
// the run, else a new one.
func (o *options) instanceID(dir string) (string, error) {
	if o.id != "" {
		return o.id, nil
	}
	path := filepath.Join(dir, idFile)
	kept, err := os.ReadFile(path)
	switch {
	case err == nil && isUUID(strings.TrimSpace(string(kept))):
		return strings.TrimSpace(string(kept)), nil
	case err == nil:
		return "", problem.New("MRB-023", "%s holds no UUID; remove it for a new instance", path)
	case !errors.Is(err, fs.ErrNotExist):
		return "", problem.Because(err, "MRB-023", "reading the instance id")
	}
	id := newUUID()
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", problem.Because(err, "MRB-023", "keeping the instance id")
	}
	return id, nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	_, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	return err == nil
}

// addresses fills in the address that peers reach: the one from which this
// machine reaches the coordinator. With an Envoy it must not be the program's.
func (o *options) addresses() error {
	if o.address == "" {
		target := o.coordinator
		if _, _, err := net.SplitHostPort(target); err != nil {
			target = net.JoinHostPort(target, marble.DefaultPort)
		}
		conn, err := net.Dial("udp", target) // finds the route; nothing is sent
		if err != nil {
			return problem.Because(err, "MRB-004", "finding the way to the coordinator")
		}
		host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
		conn.Close() //nolint:errcheck // nothing was sent
		o.address = host
	}
	if o.envoy != noEnvoy && o.address == o.loopback {
		return problem.New("MRB-001", "Envoy and the program would both listen on %s: give --ip the address for peers", o.address)
	}
	return nil
}

// serveProbes serves the probes until the function returned is called.
func (r *runner) serveProbes() (func(), error) {
	address := r.o.readyAddr
	if address == "" {
		return func() {}, nil
	}
	mux := http.NewServeMux()
	mux.Handle("/", r.tracker.Handler())
	mux.Handle("GET /probe/{name}", probe.New(r.o.probes, r.tracker, r.runs.Load, time.Now))
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
		if st, err := os.Lstat(address); err == nil && st.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(address) // of an earlier run; Listen reports what stays
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, problem.Because(err, "MRB-025", "probe on %s", address)
	}
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends by Shutdown
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}
