//go:build linux

package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/kube/node"
)

const patience = drive.Patience

// site is a page server that shows what the kubelet gave it.
const site = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: access}
stringData: {password: pw-4711}
---
apiVersion: v1
kind: Service
metadata: {name: site}
spec:
  selector: {app: site}
  ports: [{port: 80, targetPort: web}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: site}
spec:
  replicas: 2
  selector: {matchLabels: {app: site}}
  template:
    metadata: {labels: {app: site}, annotations: {note: from the annotation}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, runAsNonRoot: true}
      initContainers:
      - name: prepare
        image: tools
        command: [/bin/sh, -ec, 'echo "$(GREETING) $(cat /settings/greeting) $POD_IP $(cat /access/password) $(cat /info/note) $(id -u) $(hostname)" > /www/index.html; cat /proc/self/status > /www/status']
        env:
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts:
        - {name: www, mountPath: /www}
        - {name: settings, mountPath: /settings}
        - {name: access, mountPath: /access, readOnly: true}
        - {name: info, mountPath: /info}
      containers:
      - name: serve
        image: tools
        command: [/usr/bin/python3, -m, http.server, --directory, /www, "8000"]
        ports: [{name: web, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /index.html, port: web}, periodSeconds: 1}
        livenessProbe: {exec: {command: [cat, /www/index.html]}, periodSeconds: 1}
        volumeMounts: [{name: www, mountPath: /www, readOnly: true}]
      volumes:
      - {name: www, emptyDir: {medium: Memory}}
      - {name: settings, configMap: {name: settings}}
      - {name: access, secret: {secretName: access, defaultMode: 0440}}
      - {name: info, downwardAPI: {items: [{path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}]}}
`

func TestNodeRunsPods(t *testing.T) {
	c := controlPlane(t)
	n := machines(t, map[string]node.Image{"tools": {}}, node.Machine{Name: "one"})
	ns := c.Namespace(t, nil)
	apply(t, ns, site)

	pods := readyPods(t, c.Client, ns, "app=site", 2)
	body := get(t, "http://"+serviceIP(t, c.Client, ns, "site")+"/index.html")
	for _, want := range []string{"hello hello 10.77.", "pw-4711", "from the annotation", "65532", pods[0].Name[:5]} {
		if !strings.Contains(body, want) {
			t.Errorf("the page is %q, want %q in it", body, want)
		}
	}
	if status := get(t, "http://"+pods[0].Status.PodIP+":8000/status"); !strings.Contains(status, "NoNewPrivs:\t1") || !strings.Contains(status, "CapBnd:\t0000000000000000") {
		t.Errorf("got %q, want no new privileges and no capabilities", status)
	}

	drive.Eventually(t, patience, func() string { // a name of the cluster, and another pod by way of the Service
		resp, err := n.Client(ns, pods[0].Name).Get("http://127.0.0.1:8000/index.html")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return ""
	})
	logs, err := c.Client.CoreV1().Pods(ns).GetLogs(pods[0].Name, &core.PodLogOptions{Container: "serve"}).DoRaw(t.Context())
	if err != nil || !strings.Contains(string(logs), "GET /index.html") {
		t.Errorf("got logs %q (%v), want a request in them", logs, err)
	}
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), pods[0].Name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		if _, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), pods[0].Name, meta.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("the deleted pod: got %v, want not found", err)
		}
		return ""
	})
	readyPods(t, c.Client, ns, "app=site", 2)
}

// once are pods that end, one that cannot be placed, and one that names a service.
const once = `
apiVersion: batch/v1
kind: Job
metadata: {name: fails}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: tools, command: [/bin/sh, -c, 'echo gone wrong >&2; exit 7'], terminationMessagePolicy: FallbackToLogsOnError}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  containers: [{name: main, image: tools, command: [/bin/true], resources: {limits: {sgx.intel.com/enclave: 2}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  restartPolicy: Never
  containers: [{name: main, image: tools, command: [/usr/bin/python3, -c, 'import socket,os; print(socket.gethostbyname("kubernetes.default"), os.getpid(), open("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read())']}]
---
apiVersion: v1
kind: Pod
metadata: {name: unknown}
spec:
  containers: [{name: main, image: no-such-image}]
`

func TestNodeReports(t *testing.T) {
	c := controlPlane(t)
	n := machines(t, map[string]node.Image{"tools": {}}, node.Machine{Name: "small", Resources: map[string]string{"sgx.intel.com/enclave": "1"}}, node.Machine{Name: "plain"})
	ns := c.Namespace(t, nil)
	apply(t, ns, once)
	for _, want := range []struct{ selector, what string }{
		{"job-name=fails", " 7 gone wrong"},
		{"greedy", "Unschedulable 0/2 nodes are available: 2 Insufficient sgx.intel.com/enclave."},
		{"asks", "PodCompleted"},
		{"unknown", "ErrImagePull"},
	} {
		drive.Eventually(t, patience, func() string {
			pod, err := aPod(t.Context(), c.Client, ns, want.selector)
			if err != nil {
				return err.Error()
			}
			if got := summary(pod); !strings.Contains(got, want.what) {
				return fmt.Sprintf("%s: got %q, want %q", want.selector, got, want.what)
			}
			return ""
		})
	}
	if got, want := n.Logs(ns, "asks")["main"], "10.96.0.1 1 "+ns; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// aPod returns the pod of a name, or the first of a selector.
func aPod(ctx context.Context, c kubernetes.Interface, ns, selector string) (*core.Pod, error) {
	if !strings.Contains(selector, "=") {
		return c.CoreV1().Pods(ns).Get(ctx, selector, meta.GetOptions{})
	}
	list, err := c.CoreV1().Pods(ns).List(ctx, meta.ListOptions{LabelSelector: selector})
	if err == nil && len(list.Items) == 0 {
		err = fmt.Errorf("no pod has %s", selector)
	}
	if err != nil {
		return nil, err
	}
	return &list.Items[0], nil
}

// summary says what a pod's status shows.
func summary(pod *core.Pod) string {
	s := string(pod.Status.Phase)
	for _, c := range pod.Status.Conditions {
		if c.Status != core.ConditionTrue {
			s += " " + string(c.Type) + ":" + c.Reason + " " + c.Message
		}
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		switch {
		case c.State.Waiting != nil:
			s += " " + c.Name + ":" + c.State.Waiting.Reason + " " + c.State.Waiting.Message
		case c.State.Terminated != nil:
			s += fmt.Sprintf(" %d %s", c.State.Terminated.ExitCode, c.State.Terminated.Message)
		}
	}
	return s
}

// readyPods waits until a number of pods is ready and no other is left.
func readyPods(t *testing.T, c kubernetes.Interface, ns, selector string, n int) []core.Pod {
	t.Helper()
	var items []core.Pod
	drive.Eventually(t, patience, func() string {
		list, err := c.CoreV1().Pods(ns).List(t.Context(), meta.ListOptions{LabelSelector: selector})
		if err != nil {
			return err.Error()
		}
		items = list.Items
		for _, p := range items {
			if !podReady(&p) || p.DeletionTimestamp != nil { // one that ends may be ready yet
				return fmt.Sprintf("%s, to end at %v: %s", p.Name, p.DeletionTimestamp, summary(&p))
			}
		}
		if len(items) != n {
			return fmt.Sprintf("got %d pods of %s, want %d", len(items), selector, n)
		}
		return ""
	})
	return items
}

func podReady(p *core.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

func serviceIP(t *testing.T, c kubernetes.Interface, ns, name string) string {
	t.Helper()
	s, err := c.CoreV1().Services(ns).Get(t.Context(), name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// get asks until the answer is 200, and returns it.
func get(t *testing.T, url string) string {
	t.Helper()
	var body string
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	drive.Eventually(t, patience, func() string {
		resp, err := client.Get(url)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Sprintf("%s: %s %s %v", url, resp.Status, b, err)
		}
		body = string(b)
		return ""
	})
	return body
}
