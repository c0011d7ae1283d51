//go:build linux

package kube

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	node "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/charts"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// TestAPIServerTakesInjectedPods sends the pod that each row of the table of
// profiles gives to the API server, which knows every field of it.
func TestAPIServerTakesInjectedPods(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	cr := newCreator(t, c.Config)
	for name, row := range inject.Profiles() {
		runtimeClass(t, row.RuntimeClass)
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../kube/inject/testdata/profiles", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range objects(t, string(text)) {
				object.SetNamespace(ns)
				if err := cr.create(t.Context(), ns, object, meta.DryRunAll); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestAPIServerRefusesWhatIsNoField is the negative case of the tests beside it.
func TestAPIServerRefusesWhatIsNoField(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	err := newCreator(t, c.Config).create(t.Context(), ns, objects(t,
		"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: x, image: x, comand: [x]}]}}")[0], meta.DryRunAll)
	if err == nil || !strings.Contains(err.Error(), `unknown field "spec.containers[0].comand"`) {
		t.Errorf("got %v, want the unknown field", err)
	}
}

// runtimeClass makes a RuntimeClass for the time of a test, unless it is there.
func runtimeClass(t *testing.T, name string) {
	t.Helper()
	if name == "" {
		return
	}
	classes := controlPlane(t).Client.NodeV1().RuntimeClasses()
	_, err := classes.Create(t.Context(), &node.RuntimeClass{ObjectMeta: meta.ObjectMeta{Name: name}, Handler: name}, meta.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if err == nil {
		t.Cleanup(func() { _ = classes.Delete(context.Background(), name, meta.DeleteOptions{}) })
	}
}

// TestAPIServerTakesTheChart sends every object of the chart to the API server,
// for each file of values that the chart's own tests have.
func TestAPIServerTakesTheChart(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	cr := newCreator(t, c.Config)
	chart, err := kube.LoadChart(charts.Ashlar, "ashlar", "")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../charts/testdata/values/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files of values (%v), want some", len(files), err)
	}
	judged, err := os.ReadFile(policyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := json.Marshal(map[string]string{kube.PolicyValue: string(judged)})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			r, err := kube.Render(chart, kube.Target{Name: "ashlar", Namespace: ns},
				kube.Values{Documents: []kube.Document{{Name: "policy", Data: policy}, {Name: f, Data: text}}, Until: time.Now().Add(time.Hour)}, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range objects(t, r) {
				kinds[object.GetKind()]++
				if object.GroupVersionKind().Group == "monitoring.coreos.com" {
					continue // its types are an operator's, which is not here
				}
				if err := cr.create(t.Context(), ns, object, meta.DryRunAll); err != nil {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
	for _, kind := range []string{"StatefulSet", "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget", "MutatingWebhookConfiguration", "ClusterRole", "Role", "ServiceAccount", "ConfigMap"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s was among them", kind)
		}
	}
}
