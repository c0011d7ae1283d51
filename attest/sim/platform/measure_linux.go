package platform

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
)

const (
	maxDigests     = 4096
	maxGenerations = 64
	// settle is how long a file must have been left alone for its digest to be
	// remembered: a later write then changes its times.
	settle = 2 * time.Second
)

// asker is the process at the other end of a connection. Its folder in /proc
// stays that of this process when the id is given to another.
type asker struct {
	pid int
	dir int // descriptor of /proc/PID
}

// askerOf identifies the peer by the credentials that the kernel recorded when
// it connected.
func askerOf(conn net.Conn) (*asker, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	pidfd := -1
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			pidfd = n
		}
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("reading peer credentials: %w", credErr)
	}
	a, err := openProcess(int(cred.Pid))
	if pidfd < 0 || err != nil { // Linux before 6.5 has no descriptor of the peer
		return a, err
	}
	defer func() { _ = unix.Close(pidfd) }() // it refers to a process, nothing is written
	if ended(pidfd) {
		a.close()
		return nil, errors.New("the process has ended")
	}
	return a, nil
}

// ended reports whether the process has ended, so that its id may have been
// given to another before its folder was opened (pidfd_open(2): readable).
func ended(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err != nil || n > 0
}

func openProcess(pid int) (*asker, error) {
	if pid <= 0 {
		return nil, errors.New("the process is not visible from here: another pid namespace")
	}
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	return &asker{pid, dir}, nil
}

func (a *asker) close() { _ = unix.Close(a.dir) }

// parent returns the id of the process's parent (proc_pid_stat(5), field 4).
func (a *asker) parent() (int, error) {
	fd, err := unix.Openat(a.dir, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("reading process %d: %w", a.pid, err)
	}
	f := os.NewFile(uintptr(fd), "stat")
	defer func() { _ = f.Close() }() // only read from
	raw, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return 0, fmt.Errorf("reading process %d: %w", a.pid, err)
	}
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("reading process %d: no parent", a.pid)
	}
	return strconv.Atoi(fields[1])
}

func (p *Platform) hashExe(ctx context.Context, a *asker) (attest.Hex, error) {
	return p.hash(ctx, a, "exe")
}

func (p *Platform) hashFD(ctx context.Context, a *asker, fd int) (attest.Hex, error) {
	if fd < 0 {
		return nil, fmt.Errorf("descriptor %d", fd)
	}
	return p.hash(ctx, a, "fd/"+strconv.Itoa(fd))
}

// hashDescendant hashes the executable of a process that a started.
func (p *Platform) hashDescendant(ctx context.Context, a *asker, pid int) (attest.Hex, error) {
	child, err := openProcess(pid)
	if err != nil {
		return nil, err
	}
	defer child.close()
	parent, err := child.parent()
	for i := 0; err == nil && parent != a.pid; i++ {
		if parent <= 1 || i == maxGenerations {
			return nil, fmt.Errorf("process %d was not started by process %d", pid, a.pid)
		}
		var next *asker
		if next, err = openProcess(parent); err == nil {
			parent, err = next.parent()
			next.close()
		}
	}
	if err != nil {
		return nil, err
	}
	return p.hashExe(ctx, child)
}

// hash returns SHA-256 of the regular file behind a link of /proc/PID. It looks
// at the file before opening it for reading, so that no device or pipe is ever
// opened.
func (p *Platform) hash(ctx context.Context, a *asker, link string) (attest.Hex, error) {
	path, err := unix.Openat(a.dir, link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /proc/%d/%s: %w", a.pid, link, err)
	}
	defer func() { _ = unix.Close(path) }() // O_PATH: nothing to lose
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("/proc/%d/%s is not a regular file", a.pid, link)
	}
	if st.Size > sim.MaxFileSize {
		return nil, fmt.Errorf("/proc/%d/%s has %d bytes, limit %d", a.pid, link, st.Size, sim.MaxFileSize)
	}
	id := fileOf(st)
	if sum, ok := p.digests.get(id); ok {
		return sum[:], nil
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(path))
	if err != nil {
		return nil, fmt.Errorf("reading /proc/%d/%s: %w", a.pid, link, err)
	}
	defer func() { _ = f.Close() }() // only read from
	select {
	case p.hashSlots <- struct{}{}:
		defer func() { <-p.hashSlots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, io.LimitReader(f, sim.MaxFileSize+1)})
	if err != nil {
		return nil, fmt.Errorf("reading /proc/%d/%s: %w", a.pid, link, err)
	}
	var after unix.Stat_t
	if err := unix.Fstat(path, &after); err != nil {
		return nil, err
	}
	if fileOf(after) != id || n != st.Size {
		return nil, fmt.Errorf("/proc/%d/%s changed while it was read", a.pid, link)
	}
	sum := [32]byte(h.Sum(nil))
	if time.Since(time.Unix(st.Ctim.Unix())) > settle {
		p.digests.put(id, sum)
	}
	return sum[:], nil
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// file identifies a file's content, as far as its metadata can.
type file struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func fileOf(st unix.Stat_t) file {
	return file{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// digests remembers the digests of files that have settled.
type digests struct {
	mu sync.Mutex
	m  map[file][32]byte
}

func (d *digests) get(f file) ([32]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum, ok := d.m[f]
	return sum, ok
}

func (d *digests) put(f file, sum [32]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.m == nil || len(d.m) >= maxDigests {
		d.m = make(map[file][32]byte)
	}
	d.m[f] = sum
}
