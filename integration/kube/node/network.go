//go:build linux

package node

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// network is a pod's network namespace: loopback, and eth0 on the bridge.
type network struct {
	ip     string
	handle *os.File // keeps the namespace alive
	link   string   // the bridge's end
}

// newNetwork makes the namespace and gives it an address.
func newNetwork(ip string, number int) (*network, error) {
	w := &network{ip: ip, link: fmt.Sprintf("pod%d", number)}
	var err error
	enter(nil, func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		w.handle, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	})
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	err = isolate.IP(
		fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/fd/%d", w.link, os.Getpid(), w.handle.Fd()),
		fmt.Sprintf("link set %s master %s up", w.link, isolate.Bridge))
	if err == nil {
		enter(w, func() {
			err = isolate.IP("link set lo up", "addr add "+ip+"/16 dev eth0", "link set eth0 up", "route add default via "+isolate.Gateway)
		})
	}
	if err != nil {
		w.handle.Close()
		return nil, err
	}
	return w, nil
}

// close gives the namespace back; it ends with its last process.
func (w *network) close() {
	w.handle.Close()
	_ = isolate.IP("link del " + w.link)
}

// enter calls f on a thread in the namespace w, or, when w is nil, on one whose
// namespace f may change. The thread ends with it.
func enter(w *network, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if w != nil {
			if err := unix.Setns(int(w.handle.Fd()), unix.CLONE_NEWNET); err != nil {
				panic(fmt.Sprintf("entering a pod's network: %v", err))
			}
		}
		f()
	}()
	<-done
}
