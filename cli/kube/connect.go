// Package kube is what the ashlar command does in a Kubernetes cluster: it
// installs the chart with Helm, looks whether the cluster can run what is asked
// of it, and says why a pod is as it is.
//
// It owns the connection to the API server. It decides nothing about trust: what
// a cluster says of itself is a claim of whoever controls it, and only evidence
// settles what runs where. It gives types of its own, so that nobody above it
// imports Helm or Kubernetes.
package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// ConnectOptions say which cluster is meant, as kubectl's flags do.
type ConnectOptions struct {
	Kubeconfig string // a file; if empty $KUBECONFIG, ~/.kube/config, or the pod's own account
	Context    string // the file's current one if empty
	Namespace  string // the context's if empty
}

// Cluster is a cluster whose API server has answered.
type Cluster struct {
	Namespace string
	Server    string // its address
	Version   string // of the API server, such as v1.37.2
	flags     *genericclioptions.ConfigFlags
	config    *rest.Config
	client    kubernetes.Interface
}

// ErrNoCluster means that nothing on this machine names a cluster.
var ErrNoCluster = errors.New("no kubeconfig names a cluster")

// connectLimit bounds the first request where ctx has no earlier deadline.
const connectLimit = 10 * time.Second

// Connect finds the cluster that the options mean and asks its API server for
// its version. Every later call takes its deadline from its own context.
func Connect(ctx context.Context, o ConnectOptions) (*Cluster, error) {
	flags := configFlags(o)
	if err := configured(flags, o); err != nil {
		return nil, err
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, problem.Because(err, "KUB-020", "reading the kubeconfig")
	}
	namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, problem.Because(err, "KUB-020", "reading the kubeconfig")
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, problem.Because(err, "KUB-020", "using the kubeconfig")
	}
	c := &Cluster{Namespace: namespace, Server: config.Host, flags: flags, config: config, client: client}
	if err := c.askVersion(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func configFlags(o ConnectOptions) *genericclioptions.ConfigFlags {
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Context = &o.Kubeconfig, &o.Context
	if o.Namespace != "" {
		flags.Namespace = &o.Namespace
	}
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c.UserAgent = "ashlar"
		c.QPS, c.Burst = 50, 100 // a check asks dozens of small questions at once
		c.WarningHandler = rest.NoWarnings{}
		return c
	}
	return flags
}

// configured says what is wrong with the kubeconfig before client-go falls back
// to a server on this machine.
func configured(flags *genericclioptions.ConfigFlags, o ConnectOptions) error {
	raw, err := flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return problem.Because(err, "KUB-020", "reading the kubeconfig")
	}
	if len(raw.Clusters) == 0 {
		if o.Kubeconfig == "" && o.Context == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
			return nil // in a pod
		}
		return problem.New("KUB-020", "%s", ErrNoCluster)
	}
	name := cmp.Or(o.Context, raw.CurrentContext)
	if raw.Contexts[name] == nil {
		return problem.New("KUB-020", "the kubeconfig has no context %q", name).WithNext("%s", contextsOf(raw))
	}
	return nil
}

func contextsOf(raw api.Config) string {
	if len(raw.Contexts) == 0 {
		return "add one: kubectl config set-context"
	}
	return "--context " + strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", or --context ")
}

// Contexts lists the contexts of the kubeconfig that the options mean.
func Contexts(o ConnectOptions) []string {
	raw, err := configFlags(o).ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(raw.Contexts))
}

func (c *Cluster) askVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	raw, err := c.client.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return c.failure(err, "asking %s for its version", c.Server)
	}
	var v version.Info
	if err := json.Unmarshal(raw, &v); err != nil || v.GitVersion == "" {
		return problem.New("KUB-021", "%s answers, but not as the API server of a cluster", c.Server)
	}
	c.Version = v.GitVersion
	return nil
}

// failure gives an error of the API server a code: it does not answer, it does
// not know us, or it does not let us.
func (c *Cluster) failure(err error, format string, args ...any) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) && (status.Status().Code == http.StatusUnauthorized || apierrors.IsForbidden(err)) {
		return problem.Because(err, "KUB-022", format, args...)
	}
	return problem.Because(err, "KUB-021", format, args...)
}
