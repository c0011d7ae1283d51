//go:build linux

package kube

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// objects reads the documents of a YAML text.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		object := &unstructured.Unstructured{}
		err := dec.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// creator creates objects of any kind. A field that the API server does not know
// is an error.
type creator struct {
	client dynamic.Interface
	mapper apimeta.RESTMapper
}

func newCreator(t *testing.T, cfg *rest.Config) creator {
	t.Helper()
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(controlPlane(t).Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	return creator{client, restmapper.NewDiscoveryRESTMapper(groups)}
}

func (c creator) create(ctx context.Context, namespace string, object *unstructured.Unstructured, dryRun ...string) error {
	kind := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = c.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == apimeta.RESTScopeNameNamespace {
		resource = c.client.Resource(mapping.Resource).Namespace(namespace)
	}
	_, err = resource.Create(ctx, object, meta.CreateOptions{FieldValidation: meta.FieldValidationStrict, DryRun: dryRun})
	return err
}

// apply creates the objects of a YAML text in a namespace.
func apply(t *testing.T, namespace, text string) {
	t.Helper()
	c := newCreator(t, controlPlane(t).Config)
	for _, object := range objects(t, text) {
		if err := c.create(t.Context(), namespace, object); err != nil {
			t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}
