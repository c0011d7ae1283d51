package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/kube"
)

// clusterFlags say which cluster is meant, as kubectl's flags do.
type clusterFlags struct{ kubeconfig, context, namespace string }

// register adds the flags; what says what the namespace is of. A namespace that
// is set already is the default in place of the context's.
func (f *clusterFlags) register(c *cobra.Command, what string) {
	if f.namespace == "" {
		what += "; the context's if not given"
	}
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file ($KUBECONFIG, or ~/.kube/config)")
	c.Flags().StringVar(&f.context, "context", "", "context of the kubeconfig; its current one if not given")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", f.namespace, what)
	_ = c.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return kube.Contexts(f.options()), cobra.ShellCompDirectiveNoFileComp
	})
}

func (f *clusterFlags) options() kube.ConnectOptions {
	return kube.ConnectOptions{Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace}
}

// connect finds the cluster and asks its API server for its version.
func (a *app) connect(ctx context.Context, f clusterFlags) (*kube.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return kube.Connect(ctx, f.options())
}
