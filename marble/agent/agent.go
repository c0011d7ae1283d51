// Package agent serves a marble's Envoy on a local unix socket: the marble's own
// certificate, key and bundle by SDS, and the coordinator's configuration by
// relaying delta ADS under the marble's leaf.
//
// Without an identity it serves none, and takes the configuration back from
// Envoy, which thereby closes every connection.
//
// It is the only way by which keys reach Envoy, and the only way by which
// configuration does. It gives no secret to a process of another user, none that
// the marble does not own, and never lets a secret through from the coordinator.
// It makes no key and verifies no coordinator: its Source and its Upstream do.
package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of the socket.
const (
	maxConnections = 64
	maxStreams     = 1024    // of one connection: Envoy opens one for each secret's name
	maxMessage     = 4 << 20 // bytes
	maxSocketPath  = 107     // bytes of sun_path without its final 0 (unix(7))
)

// Identity is what a marble is in the mesh at one time. The zero Identity is
// none: the lease has ended, or was taken away.
type Identity struct {
	SPIFFEID    string
	TrustDomain string
	ChainPEM    []byte // leaf first
	KeyPEM      []byte // PKCS #8
	BundlePEM   []byte // trust anchors
}

// none reports whether there is no identity.
func (i Identity) none() bool { return i.SPIFFEID == "" }

// version names the identity's content for xDS. It does not depend on the key.
func (i Identity) version() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", len(i.ChainPEM))
	h.Write(i.ChainPEM)
	h.Write(i.BundlePEM)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Format prints the name alone.
func (i Identity) Format(f fmt.State, _ rune) { fmt.Fprint(f, i.SPIFFEID) } //nolint:errcheck // as fmt itself does

// Source knows the identity in force.
type Source interface {
	// Identity returns it, and a channel that is closed when another takes its
	// place or there is none any more. It is safe for concurrent use.
	Identity() (Identity, <-chan struct{})
}

// Upstream opens a connection to the coordinator under the identity in force,
// verified, and returns a function that closes it. It honours ctx.
type Upstream func(ctx context.Context) (*grpc.ClientConn, func(), error)

// Refusal is a message that Envoy refused (NACK), with its own words.
type Refusal struct {
	TypeURL string
	Message string
}

// Config says what to serve, and where.
type Config struct {
	Socket   string // absolute path, at most 107 bytes, in a folder of mode 0700
	Source   Source
	Upstream Upstream
	Refused  func(Refusal) // learns what Envoy refuses; must not block; may be nil
	Log      *slog.Logger
	// BackoffMin and BackoffMax bound the wait between attempts to reach the
	// coordinator: 200 ms and 10 s if zero.
	BackoffMin, BackoffMax time.Duration
}

// Agent serves until Close.
type Agent struct {
	cfg    Config
	server *grpc.Server
	closed chan struct{} // closed at the start of Close
	once   sync.Once
	done   chan struct{} // closed when nothing is served any more
}

// Start listens on the socket, mode 0600. An old socket at its path is replaced;
// anything else there is an error.
func Start(cfg Config) (*Agent, error) {
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 200 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 10 * time.Second
	}
	checked, err := Listen(cfg.Socket, cfg.Log)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, closed: make(chan struct{}), done: make(chan struct{})}
	a.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams), grpc.WaitForHandlers(true),
		// Envoy sends a ping every 30 s.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	secret.RegisterSecretDiscoveryServiceServer(a.server, &secrets{agent: a})
	discovery.RegisterAggregatedDiscoveryServiceServer(a.server, &relay{agent: a})
	go func() {
		defer close(a.done)
		_ = a.server.Serve(checked) // ends by Close
	}()
	return a, nil
}

// Listen listens on a socket, mode 0600, that takes connections of this user's
// processes alone, 64 at a time. An old socket at its path is replaced; anything
// else there is an error.
func Listen(path string, log *slog.Logger) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(&sameUser{Listener: l, uid: os.Geteuid(), log: log}, maxConnections), nil
}

func listen(path string) (net.Listener, error) {
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return nil, problem.New("MRB-023", "socket path %q: wanted an absolute path of at most %d bytes", path, maxSocketPath)
	}
	switch st, err := os.Lstat(path); {
	case err == nil && st.Mode().Type() != fs.ModeSocket:
		return nil, problem.New("MRB-023", "%s exists and is no socket", path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return nil, problem.Because(err, "MRB-023", "replacing the socket %s", path)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, problem.Because(err, "MRB-023", "looking at %s", path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, problem.Because(err, "MRB-023", "listening on %s", path)
	}
	// The folder is private, so nobody else can connect before this.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close() //nolint:errcheck // the failure is reported
		return nil, problem.Because(err, "MRB-023", "protecting %s", path)
	}
	return l, nil
}

// Close ends every stream, waits for them, and removes the socket.
func (a *Agent) Close() {
	a.once.Do(func() {
		close(a.closed)
		a.server.Stop() // closes the listener, which removes the socket
	})
	<-a.done
}

// stopping returns a context that ends with ctx or with the agent.
func (a *Agent) stopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-a.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (a *Agent) refused(typeURL, message string) {
	a.cfg.Log.Warn("Envoy refused what it was sent", "type", typeURL, "reason", message)
	if a.cfg.Refused != nil {
		a.cfg.Refused(Refusal{TypeURL: typeURL, Message: message})
	}
}

// sameUser accepts connections of processes of one user only.
type sameUser struct {
	net.Listener
	uid int
	log *slog.Logger
}

// Accept returns the next connection of the right user, as the kernel knows it
// (SO_PEERCRED, unix(7)); others are closed.
func (l *sameUser) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, pid, err := peer(conn)
		if err == nil && uid == l.uid {
			return conn, nil
		}
		if err == nil {
			err = problem.New("MRB-017", "process %d is of user %d, wanted %d", pid, uid, l.uid)
		}
		l.log.Warn("connection to the agent refused", "reason", err)
		conn.Close() //nolint:errcheck // nothing was said
	}
}

func peer(conn net.Conn) (uid, pid int, err error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, 0, fmt.Errorf("connection of type %T has no peer credentials", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("reading the peer's credentials: %w", err)
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		return 0, 0, fmt.Errorf("reading the peer's credentials: %w", err)
	}
	return int(cred.Uid), int(cred.Pid), nil
}
