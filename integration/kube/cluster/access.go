//go:build linux

package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.path("admin.kubeconfig") }

// base reaches the API server without credentials.
func (c *Cluster) base() *rest.Config {
	return &rest.Config{Host: Host, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.pem()}}
}

// User is access with the client certificate of a user in groups; what it may do
// is up to RBAC.
func (c *Cluster) User(name string, groups ...string) (*rest.Config, error) {
	pair, err := c.pki.issue(name, groups)
	if err != nil {
		return nil, err
	}
	cfg := c.base()
	cfg.CertData, cfg.KeyData = pair.Cert, pair.Key
	return cfg, nil
}

// ServiceAccount is access with a fresh token of a ServiceAccount.
func (c *Cluster) ServiceAccount(ctx context.Context, namespace, name string) (*rest.Config, error) {
	hour := int64(3600)
	tr, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: &hour}}, meta.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("a token for %s/%s: %w", namespace, name, err)
	}
	cfg := c.base()
	cfg.BearerToken = tr.Status.Token
	return cfg, nil
}

// Serving issues a certificate of the cluster's CA for a server.
func (c *Cluster) Serving(name string, hosts ...string) (Pair, error) {
	return c.pki.issue(name, []string{"system:nodes"}, hosts...)
}

// CA is the cluster's certificate authority, PEM.
func (c *Cluster) CA() []byte { return c.pki.pem() }

// WriteKubeconfig writes a kubeconfig for an access and a namespace.
func WriteKubeconfig(path string, cfg *rest.Config, namespace string) error {
	k := api.NewConfig()
	k.Clusters["test"] = &api.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	k.AuthInfos["user"] = &api.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken}
	k.Contexts["test"] = &api.Context{Cluster: "test", AuthInfo: "user", Namespace: namespace}
	k.CurrentContext = "test"
	return clientcmd.WriteToFile(*k, path)
}

// Namespace makes a namespace for a test, with labels, and waits until pods can be
// made in it. It is deleted when the test ends; nobody waits for that.
func (c *Cluster) Namespace(t testing.TB, labels map[string]string) string {
	t.Helper()
	ns, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
		&core.Namespace{ObjectMeta: meta.ObjectMeta{GenerateName: "test-", Labels: labels}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := c.Client.CoreV1().Namespaces().Delete(ctx, ns.Name, meta.DeleteOptions{}); err != nil {
			t.Errorf("deleting the namespace: %v", err)
		}
	})
	c.AwaitNamespace(t, ns.Name)
	return ns.Name
}

// AwaitNamespace waits until the controllers have prepared a namespace: its
// default ServiceAccount and the ConfigMap with the cluster's CA.
func (c *Cluster) AwaitNamespace(t testing.TB, name string) {
	t.Helper()
	err := c.await(t.Context(), "namespace "+name, func() error {
		if _, err := c.Client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", meta.GetOptions{}); err != nil {
			return err
		}
		_, err := c.Client.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", meta.GetOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
