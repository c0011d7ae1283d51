//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

const kubeletPort = 10250

// server is what the API server asks of a kubelet: logs and forwarded ports.
type server struct {
	n    *Nodes
	http *http.Server
	work sync.WaitGroup
}

// listen starts the server; only holders of the cluster's certificates get in.
func listen(n *Nodes) (*server, error) {
	pair, err := n.cfg.Cluster.Serving("system:node", isolate.Gateway)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.cfg.Cluster.CA())
	l, err := net.Listen("tcp", net.JoinHostPort(isolate.Gateway, strconv.Itoa(kubeletPort)))
	if err != nil {
		return nil, err
	}
	s := &server{n: n}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.forward)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, MinVersion: tls.VersionTLS13})
	s.work.Go(func() { _ = s.http.Serve(l) })
	return s, nil
}

func (s *server) close() {
	_ = s.http.Close()
	s.work.Wait()
}

// logs sends what a container has written so far.
func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	name := filepath.Base(filepath.Join("/", r.PathValue("container"))) + ".log"
	f, err := os.Open(filepath.Join(s.n.logs(r.PathValue("namespace"), r.PathValue("pod")), name))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	_, _ = io.Copy(w, f)
}

// forward carries connections to ports of a pod. Each has two streams of one
// request id: one for data and one for an error.
func (s *server) forward(w http.ResponseWriter, r *http.Request) {
	p := s.n.find(r.PathValue("namespace"), r.PathValue("pod"))
	if p == nil {
		http.Error(w, "no such pod", http.StatusNotFound)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return // it has answered
	}
	streams := make(chan httpstream.Stream, 16)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		select {
		case streams <- stream:
			return nil
		default:
			return errors.New("too many streams")
		}
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	var work sync.WaitGroup
	defer work.Wait()
	failures := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case stream := <-streams:
			id := stream.Headers().Get("requestID")
			if stream.Headers().Get("streamType") == "error" {
				failures[id] = stream
				continue
			}
			failure := failures[id]
			delete(failures, id)
			work.Go(func() { p.forward(conn, stream, failure) })
		}
	}
}

// forward carries one connection to a port of the pod's loopback, as container
// runtimes do.
func (p *pod) forward(conn httpstream.Connection, data, failure httpstream.Stream) {
	defer conn.RemoveStreams(data, failure)
	defer data.Close()
	defer failure.Close()
	target, err := p.dial("127.0.0.1:" + data.Headers().Get("port"))
	if err != nil {
		fmt.Fprintf(failure, "connecting to the pod: %v", err)
		return
	}
	defer target.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(data, target)
		data.Close()
	}()
	_, _ = io.Copy(target, data)
	_ = target.(*net.TCPConn).CloseWrite()
	select {
	case <-ended:
	case <-conn.CloseChan():
		target.Close()
		<-ended
	}
}

// Client makes requests as a process in the pod does: 127.0.0.1 is the pod's.
func (n *Nodes) Client(namespace, name string) *http.Client {
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		p := n.find(namespace, name)
		if p == nil {
			return nil, fmt.Errorf("no pod %s/%s runs here", namespace, name)
		}
		return p.dial(address)
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
}

// ReadFile reads a file of a running container, as its processes see it.
func (n *Nodes) ReadFile(namespace, name, container, path string) (content []byte, err error) {
	running := n.running(namespace, name, container, func(first *os.Process) {
		content, err = os.ReadFile(filepath.Join(fmt.Sprintf("/proc/%d/root", first.Pid), path))
	})
	return content, errors.Join(running, err)
}

// Kill ends all processes of a container at once (SIGKILL), as the loss of power
// would.
func (n *Nodes) Kill(namespace, name, container string) (err error) {
	running := n.running(namespace, name, container, func(first *os.Process) {
		err = first.Kill() // the first of its process namespace: all of it ends
	})
	return errors.Join(running, err)
}

// running calls f with the first process of a running container.
func (n *Nodes) running(namespace, name, container string, f func(*os.Process)) error {
	p := n.find(namespace, name)
	if p == nil {
		return fmt.Errorf("no pod %s/%s runs here", namespace, name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if c.spec.Name == container && c.process != nil {
			f(c.process.cmd.Process)
			return nil
		}
	}
	return fmt.Errorf("no container %s of %s/%s runs", container, namespace, name)
}

func (p *pod) dial(address string) (net.Conn, error) {
	p.mu.Lock()
	w := p.net
	p.mu.Unlock()
	if w == nil {
		return nil, errors.New("the pod has no network yet")
	}
	var conn net.Conn
	var err error
	enter(w, func() { conn, err = net.DialTimeout("tcp", address, 5*time.Second) })
	return conn, err
}
