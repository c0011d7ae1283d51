//go:build linux

// Package cluster starts a Kubernetes control plane for tests: the real etcd,
// kube-apiserver and kube-controller-manager, from the binary that
// scripts/controlplane.sh builds. RBAC, ServiceAccounts and pod security are on.
//
// It has no kubelet, scheduler, proxy or DNS; package node stands for these. It
// runs inside package isolate alone, where its fixed ports are free and nothing of
// it is left behind.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/ashlar-mesh/ashlar/integration/kube/isolate"
)

// Where the control plane answers, and the addresses that Services get.
const (
	Host         = "https://127.0.0.1:6443"
	ServiceCIDR  = "10.96.0.0/24"
	kubernetesIP = "10.96.0.1"
	etcd         = "http://127.0.0.1:2379"
)

// Variable names the binary of the control plane.
const Variable = "ASHLAR_CONTROLPLANE"

// controllers are those that a chart and its tests live on; the others watch
// nodes, clouds and volumes that are not there.
var controllers = []string{
	"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller",
	"endpoints-controller", "endpointslice-controller", "namespace-controller", "garbage-collector-controller",
	"serviceaccount-controller", "root-ca-certificate-publisher-controller", "disruption-controller",
	"persistentvolumeclaim-protection-controller", "clusterrole-aggregation-controller",
}

// Cluster is a running control plane and its administrator's access.
type Cluster struct {
	Dir    string       // certificates, kubeconfig, data and logs
	Config *rest.Config // of the administrator; no rate limit
	Client kubernetes.Interface

	pki       *authority
	processes []*process // in order of starting
}

// process is a child that is waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts a control plane below dir and waits until it is ready. Close it in
// any case.
func Start(ctx context.Context, binary, dir string) (*Cluster, error) {
	c := &Cluster{Dir: dir}
	if err := c.prepare(binary); err != nil {
		return c, err
	}
	if err := c.start("etcd", "etcd", "--data-dir="+c.path("etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn", "--unsafe-no-fsync"); err != nil {
		return c, err
	}
	if err := c.await(ctx, "etcd", func() error { return answers(ctx, http.DefaultClient, etcd+"/health") }); err != nil {
		return c, err
	}
	if err := c.start("kube-apiserver", "kube-apiserver", c.apiserver()...); err != nil {
		return c, err
	}
	if err := c.await(ctx, "kube-apiserver", func() error { return c.ready(ctx) }); err != nil {
		return c, err
	}
	return c, c.start("kube-controller-manager", "kube-controller-manager", "--kubeconfig="+c.Kubeconfig(), "--service-account-private-key-file="+c.path("sa.key"),
		"--root-ca-file="+c.path("ca.crt"), "--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=true",
		"--concurrent-gc-syncs=5", "--kube-api-qps=200", "--kube-api-burst=400", "--controllers="+strings.Join(controllers, ","))
}

func (c *Cluster) path(name string) string { return filepath.Join(c.Dir, name) }

// prepare makes the folders, the names of the binary, keys and certificates.
func (c *Cluster) prepare(binary string) error {
	for _, d := range []string{"bin", "logs"} {
		if err := os.MkdirAll(c.path(d), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		if err := os.Symlink(binary, c.path("bin/"+name)); err != nil {
			return err
		}
	}
	var err error
	if c.pki, err = newAuthority(c.Dir); err != nil {
		return err
	}
	if err := c.pki.tokenKey(); err != nil {
		return err
	}
	for _, p := range []struct {
		name, user string
		hosts      []string
	}{
		{"apiserver", "kube-apiserver", []string{"localhost", "127.0.0.1", isolate.Gateway, kubernetesIP, "kubernetes",
			"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
		{"kubelet-client", "kube-apiserver-kubelet-client", nil},
	} {
		pair, err := c.pki.issue(p.user, nil, p.hosts...)
		if err != nil {
			return err
		}
		if err := c.pki.files(p.name, pair); err != nil {
			return err
		}
	}
	if c.Config, err = c.User("admin", "system:masters"); err != nil {
		return err
	}
	if err := WriteKubeconfig(c.Kubeconfig(), c.Config, "default"); err != nil {
		return err
	}
	c.Client, err = kubernetes.NewForConfig(c.Config)
	return err
}

func (c *Cluster) apiserver() []string {
	return []string{
		"--etcd-servers=" + etcd, "--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + isolate.Gateway,
		"--tls-cert-file=" + c.path("apiserver.crt"), "--tls-private-key-file=" + c.path("apiserver.key"), "--client-ca-file=" + c.path("ca.crt"),
		"--kubelet-client-certificate=" + c.path("kubelet-client.crt"), "--kubelet-client-key=" + c.path("kubelet-client.key"),
		"--kubelet-certificate-authority=" + c.path("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + c.path("sa.key"),
		"--service-account-signing-key-file=" + c.path("sa.key"), "--service-cluster-ip-range=" + ServiceCIDR,
		"--authorization-mode=Node,RBAC", "--allow-privileged=true", "--event-ttl=1h",
	}
}

// start starts one of the three; its output goes to logs/NAME.log.
func (c *Cluster) start(program, name string, args ...string) error {
	log, err := os.Create(c.path("logs/" + name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.path("bin/"+program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd, make(chan struct{})}
	c.processes = append(c.processes, p)
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return nil
}

// Close ends the control plane, last started first, and waits for it.
func (c *Cluster) Close() {
	for i := len(c.processes) - 1; i >= 0; i-- {
		_ = c.processes[i].cmd.Process.Kill()
		<-c.processes[i].done
	}
	c.processes = nil
}

// Logs returns the end of each log, for a failed test.
func (c *Cluster) Logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(c.path("logs/*.log"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		fmt.Fprintf(&b, "--- %s\n%s\n", f, text[max(0, len(text)-3000):])
	}
	return b.String()
}

// startup is how long a part may take to be ready on a machine that is busy.
const startup = 2 * time.Minute

// await asks again and again until ask is content. It gives up when the part that
// was started last has ended.
func (c *Cluster) await(ctx context.Context, name string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	last := c.processes[len(c.processes)-1]
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-last.done:
			return fmt.Errorf("%s ended\n%s", filepath.Base(last.cmd.Path), c.Logs())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", name, err, c.Logs())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) ready(ctx context.Context) error {
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return err
	}
	return answers(ctx, client, Host+"/readyz")
}

func answers(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return errors.New(resp.Status + " " + string(b))
	}
	return nil
}
