package kube

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// relay plays an API server with one pod, whose node answers each connection
// with complaint, or else with an echo in capitals. It knows SPDY alone, as older
// servers do.
func relay(t *testing.T, complaint string, phase corev1.PodPhase) *Cluster {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/shop/pods", func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("labelSelector"); got != "app=c" {
			t.Errorf("asked for pods with %q, want app=c", got)
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "c-0"}, "spec": {"containers": [{"name": "c",
			"ports": [{"name": "client", "containerPort": 7433}]}]}, "status": {"phase": "`+string(phase)+`"}}]}`)
	})
	mux.HandleFunc("POST /api/v1/namespaces/shop/pods/c-0/portforward", func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			return
		}
		streams := make(chan httpstream.Stream, 2)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if conn == nil {
			return
		}
		defer conn.Close()
		complaints, data := <-streams, <-streams
		if complaints.Headers().Get(corev1.StreamType) != corev1.StreamTypeError || data.Headers().Get(corev1.PortHeader) != "7433" {
			t.Errorf("got streams %v and %v, want an error stream and then one to port 7433", complaints.Headers(), data.Headers())
		}
		if complaint != "" {
			io.WriteString(complaints, complaint)
			complaints.Close()
			<-conn.CloseChan()
			return
		}
		b := make([]byte, 16)
		for {
			n, err := data.Read(b)
			if err != nil {
				return
			}
			io.WriteString(data, strings.ToUpper(string(b[:n])))
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	config := &rest.Config{Host: s.URL}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{Namespace: "shop", Server: s.URL, config: config, client: client}
}

// served is a plan with the Service of the client API.
func served() *Plan {
	port := map[string]any{"name": "client", "port": 4433, "targetPort": "client"}
	return &Plan{Target: Target{"r", "shop"}, objects: []object{{"kind": "Service", "metadata": map[string]any{"name": "r"},
		"spec": map[string]any{"selector": map[string]any{"app": "c"}, "ports": []any{port}}}}}
}

func TestForward(t *testing.T) {
	way, err := relay(t, "", corev1.PodRunning).Forward(served())
	if err != nil {
		t.Fatal(err)
	}
	if way.Address() != "r.shop.svc:4433" {
		t.Errorf("got address %s, want r.shop.svc:4433", way.Address())
	}
	conn, err := way.DialContext(t.Context(), "tcp", "whatever:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "HELLO" {
		t.Errorf("got %q, %v; want HELLO", b, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout interface{ Timeout() bool }
	if _, err := conn.Read(b); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v after the deadline, want a timeout", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	conn.Close() // again does no harm
}

func TestForwardSaysWhatIsInTheWay(t *testing.T) {
	way, err := relay(t, "connecting to the pod: connection refused", corev1.PodRunning).Forward(served())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := way.DialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); problem.CodeOf(err) != "KUB-017" || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v, want KUB-017 with what the node said", err)
	}

	way, err = relay(t, "", corev1.PodPending).Forward(served())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := way.DialContext(t.Context(), "", ""); problem.CodeOf(err) != "KUB-017" || !strings.Contains(err.Error(), "no pod of Service r runs") {
		t.Errorf("got %v, want KUB-017: no pod runs", err)
	}
	p := served()
	p.objects = nil
	if _, err := (&Cluster{}).Forward(p); problem.CodeOf(err) != "KUB-018" {
		t.Errorf("got %v of a chart without the Service, want KUB-018", err)
	}
}
