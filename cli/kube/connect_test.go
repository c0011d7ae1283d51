package kube

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// kubeconfig writes one for a server, with the context "there" in namespace shop.
func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "there",
		"clusters": [{"name": "c", "cluster": {"server": %q}}], "users": [{"name": "u", "user": {}}],
		"contexts": [{"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}]}`, server)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestConnect(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "absent"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/version" {
				t.Errorf("asked for %s, want /version only", r.URL.Path)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return kubeconfig(t, s.URL)
	}
	good := answer(200, `{"gitVersion": "v1.37.2"}`)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, c := range []struct {
		name string
		o    ConnectOptions
		code problem.Code
		next string
	}{
		{"answers", ConnectOptions{Kubeconfig: good}, "", ""},
		{"context by name", ConnectOptions{Kubeconfig: good, Context: "there"}, "", ""},
		{"no such context", ConnectOptions{Kubeconfig: good, Context: "their"}, "KUB-020", "--context there"},
		{"nothing configured", ConnectOptions{}, "KUB-020", "KUBECONFIG"},
		{"no such file", ConnectOptions{Kubeconfig: "absent"}, "KUB-020", ""},
		{"nobody there", ConnectOptions{Kubeconfig: kubeconfig(t, gone.URL)}, "KUB-021", ""},
		{"not an API server", ConnectOptions{Kubeconfig: answer(200, `<html>`)}, "KUB-021", ""},
		{"unknown user", ConnectOptions{Kubeconfig: answer(401, `{"kind":"Status","code":401,"reason":"Unauthorized"}`)}, "KUB-022", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Connect(t.Context(), c.o)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err != nil {
				if !strings.Contains(problem.From(err).Next, c.next) {
					t.Errorf("got next step %q, want %q in it", problem.From(err).Next, c.next)
				}
				return
			}
			if got.Version != "v1.37.2" || got.Namespace != "shop" {
				t.Errorf("got version %s, namespace %s; want v1.37.2, shop", got.Version, got.Namespace)
			}
		})
	}
	if _, err := Connect(t.Context(), ConnectOptions{}); !errors.Is(err, ErrNoCluster) {
		t.Errorf("got %v, want ErrNoCluster", err)
	}
	c, err := Connect(t.Context(), ConnectOptions{Kubeconfig: good, Namespace: "other"})
	if err != nil || c.Namespace != "other" {
		t.Errorf("got %+v, %v; want the namespace that was asked for", c, err)
	}
}
