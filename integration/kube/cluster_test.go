//go:build linux

package kube

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

func TestControlPlane(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)

	v, err := c.Client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if v.GitVersion != "v1.37.2" {
		t.Errorf("got version %s, want v1.37.2", v.GitVersion)
	}

	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "planted"}, Data: map[string][]byte{"k": []byte("planted-value-7315")}}
	if _, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	keys, found := 0, false
	if err := c.Raw(t.Context(), func(key string, value []byte) {
		keys++
		found = found || key == "/registry/secrets/"+ns+"/planted" && bytes.Contains(value, []byte("planted-value-7315"))
	}); err != nil {
		t.Fatal(err)
	}
	if !found || keys <= 100 {
		t.Errorf("etcd gave %d keys, the planted one among them: %v; want more than one page of 100, and true", keys, found)
	}

	labels := map[string]string{"app": "sleep"}
	deployment := &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "sleep"}, Spec: apps.DeploymentSpec{
		Selector: &meta.LabelSelector{MatchLabels: labels},
		Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: labels},
			Spec: core.PodSpec{Containers: []core.Container{{Name: "sleep", Image: "sleep"}}}}}}
	if _, err := c.Client.AppsV1().Deployments(ns).Create(t.Context(), deployment, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg, err := c.ServiceAccount(t.Context(), ns, "default")
	if err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, time.Minute, func() string { // the controllers' end-to-end: a Deployment's pod
		pods, err := c.Client.CoreV1().Pods(ns).List(t.Context(), meta.ListOptions{})
		if err != nil || len(pods.Items) != 1 {
			return fmt.Sprintf("got %d pods (%v), want 1", len(pods.Items), err)
		}
		return ""
	})
	nobody, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.CoreV1().Secrets(ns).List(t.Context(), meta.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a ServiceAccount without roles lists secrets: got %v, want forbidden", err)
	}
}
