package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Forward reaches a port of a release's pods through the API server, as kubectl
// port-forward does, and without a listener on this machine: whoever is on the
// way may cut a connection and see its ciphertext, and no more.
type Forward struct {
	c         *Cluster
	namespace string
	service   string
	port      int64
	target    string // the port's name or number in the pod
	selector  string
}

// portName is the name of the client API's port in the chart's Service.
const portName = "client"

// Service is the name of the client API's Service; "" if there is none.
func (p *Plan) Service() string {
	service, _ := p.clientAPI()
	if service == nil {
		return ""
	}
	return service.name()
}

// clientAPI is the Service of the client API among a plan's objects, and its port.
func (p *Plan) clientAPI() (service, port object) {
	for _, o := range p.objects {
		ports, _ := o.field("spec", "ports").([]any)
		for _, e := range ports {
			if port := object(asMap(e)); o.kind() == "Service" && port.text("name") == portName {
				return o, port
			}
		}
	}
	return nil, nil
}

// Forward finds the way to the client API of a plan's release.
func (c *Cluster) Forward(p *Plan) (*Forward, error) {
	o, port := p.clientAPI()
	if o == nil {
		return nil, problem.New("KUB-018", "it has no Service with a port %q", portName)
	}
	number, err := strconv.ParseInt(show(port["port"]), 10, 32)
	if err != nil {
		return nil, problem.Because(err, "KUB-018", "%s", o)
	}
	var labels []string
	for k, v := range asMap(o.field("spec", "selector")) {
		labels = append(labels, k+"="+show(v))
	}
	target := cmp.Or(show(port["targetPort"]), show(port["port"]))
	return &Forward{c, p.Namespace, o.name(), number, target, strings.Join(labels, ",")}, nil
}

// Address is the client API's in the cluster.
func (f *Forward) Address() string {
	return fmt.Sprintf("%s.%s.svc:%d", f.service, f.namespace, f.port)
}

// DialContext opens a connection to a running pod behind the Service, whatever
// address is asked for. KUB-017 says what is in the way.
func (f *Forward) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	pod, port, err := f.pod(ctx)
	if err != nil {
		return nil, err
	}
	dialer, err := f.dialer(pod)
	if err != nil {
		return nil, problem.Because(err, "KUB-017", "pod %s", pod)
	}
	type dialled struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialled, 1)
	go func() { // ends with the request, whose connection ends with the transport's limits
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- dialled{conn, err}
	}()
	select {
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				d.conn.Close()
			}
		}()
		return nil, ctx.Err()
	case d := <-done:
		if d.err != nil {
			return nil, problem.Because(d.err, "KUB-017", "pod %s", pod)
		}
		return open(d.conn, pod, port)
	}
}

// pod chooses a running pod, a ready one if there is one, and its port.
func (f *Forward) pod(ctx context.Context) (name string, port int32, err error) {
	pods, err := f.c.client.CoreV1().Pods(f.namespace).List(ctx, metav1.ListOptions{LabelSelector: f.selector})
	if err != nil {
		return "", 0, f.c.explained(err, "looking for the coordinator's pod")
	}
	for _, p := range pods.Items {
		ready := conditionOf(p, corev1.PodReady).Status == corev1.ConditionTrue
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil || name != "" && !ready {
			continue
		}
		if n := portOf(p, f.target); n > 0 {
			name, port = p.Name, n
		}
	}
	if name == "" {
		return "", 0, problem.New("KUB-017", "no pod of Service %s runs in namespace %s", f.service, f.namespace).
			WithNext("kubectl -n %s get pods", f.namespace)
	}
	return name, port, nil
}

func portOf(p corev1.Pod, target string) int32 {
	if n, err := strconv.ParseInt(target, 10, 32); err == nil {
		return int32(n)
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == target {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// dialer asks by WebSocket, and by SPDY where the API server or something before
// it knows no other.
func (f *Forward) dialer(pod string) (httpstream.Dialer, error) {
	u := f.c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(f.namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(f.c.config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	socket, err := portforward.NewSPDYOverWebsocketDialerForStreaming((*url.URL)(u), f.c.config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(socket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// forwarded is one connection through the API server. A pipe gives it the
// deadlines that streams do not have.
type forwarded struct {
	net.Conn // our end of the pipe
	far      net.Conn
	streams  httpstream.Connection
	work     sync.WaitGroup
	said     atomic.Pointer[problem.Error] // what the node said is wrong
	once     sync.Once
}

// open makes the two streams of a connection: the error stream first.
func open(streams httpstream.Connection, pod string, port int32) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, fmt.Sprint(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	complaints, err := streams.CreateStream(headers)
	if err != nil {
		streams.Close()
		return nil, problem.Because(err, "KUB-017", "pod %s", pod)
	}
	complaints.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := streams.CreateStream(headers)
	if err != nil {
		streams.Close()
		return nil, problem.Because(err, "KUB-017", "pod %s", pod)
	}
	near, far := net.Pipe()
	f := &forwarded{Conn: near, far: far, streams: streams}
	f.work.Go(func() {
		text, _ := io.ReadAll(io.LimitReader(complaints, 4<<10))
		if len(text) > 0 {
			f.said.Store(problem.New("KUB-017", "pod %s, port %d: %s", pod, port, strings.TrimSpace(string(text))))
			far.Close()
		}
	})
	f.work.Go(func() {
		_, _ = io.Copy(far, data) // an end, or a failure that the reader sees as one
		far.Close()
	})
	f.work.Go(func() {
		_, _ = io.Copy(data, far)
		data.Close()
	})
	return f, nil
}

// Read says what the node said where the connection ends for that.
func (f *forwarded) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if said := f.said.Load(); err != nil && said != nil && errors.Is(err, io.EOF) {
		err = said
	}
	return n, err
}

// Close ends the connection and waits for what served it.
func (f *forwarded) Close() error {
	err := f.Conn.Close()
	f.once.Do(func() {
		f.far.Close()
		_ = f.streams.Close() // the far end may have closed already
		f.work.Wait()
	})
	return err
}
