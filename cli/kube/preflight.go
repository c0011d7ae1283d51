package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// preflight asks the cluster what would keep a plan from being applied, and
// changes nothing.
func (c *Cluster) preflight(ctx context.Context, p *Plan) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return problem.Because(err, "KUB-013", "preparing requests")
	}
	mapper, err := c.flags.ToRESTMapper()
	if err != nil {
		return c.explained(err, "asking what kinds of objects the cluster knows")
	}
	known := map[string]object{}
	for _, o := range p.old {
		known[o.key()] = o
	}
	asks := []access{{verb: "create", resource: "secrets", namespace: p.Namespace}} // Helm's record
	if p.Create {
		asks = append(asks, access{verb: "create", resource: "namespaces"})
	}
	var placed []place
	for _, o := range p.objects {
		at, err := c.place(mapper, client, p.Namespace, o)
		if err != nil {
			return err
		}
		verb := "create"
		if _, at.known = known[o.key()]; at.known {
			verb = "patch"
		}
		delete(known, o.key())
		placed, asks = append(placed, at), append(asks, at.asks(verb, p.Namespace))
	}
	for _, o := range known { // what goes; a kind that is gone needs no right
		if at, err := c.place(mapper, client, p.Namespace, o); err == nil {
			asks = append(asks, at.asks("delete", p.Namespace))
		}
	}
	if err := c.permitted(ctx, asks); err != nil {
		return err
	}
	for _, at := range placed {
		if !at.known {
			if err := c.unowned(ctx, p.Target, at); err != nil {
				return err
			}
		}
		if p.Create && at.namespaced {
			continue // nothing can be tried in a namespace that is not there
		}
		if err := c.try(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// place is an object and where the API server has it.
type place struct {
	object
	resource   schema.GroupVersionResource
	client     dynamic.ResourceInterface
	namespaced bool
	known      bool // the release has it already
}

func (c *Cluster) place(mapper meta.RESTMapper, client dynamic.Interface, namespace string, o object) (place, error) {
	gv, err := schema.ParseGroupVersion(o.text("apiVersion"))
	if err != nil {
		return place{}, problem.Because(err, "KUB-018", "%s", o)
	}
	m, err := mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: o.kind()}, gv.Version)
	if err != nil {
		return place{}, c.failed(err, "looking for "+o.String())
	}
	at := place{object: o, resource: m.Resource, namespaced: m.Scope.Name() == meta.RESTScopeNameNamespace}
	at.client = client.Resource(m.Resource)
	if at.namespaced {
		if o.namespace() != "" {
			namespace = o.namespace()
		}
		at.client = client.Resource(m.Resource).Namespace(namespace)
	}
	return at, nil
}

// asks is the right to do something with an object of a release in a namespace.
func (at place) asks(verb, namespace string) access {
	if !at.namespaced {
		namespace = ""
	}
	return access{verb, at.resource.Group, at.resource.Resource, namespace}
}

// removable says whether the caller may remove the objects of a release, and
// names all that it may not.
func (c *Cluster) removable(ctx context.Context, t Target, all []object) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return problem.Because(err, "KUB-013", "preparing requests")
	}
	mapper, err := c.flags.ToRESTMapper()
	if err != nil {
		return c.explained(err, "asking what kinds of objects the cluster knows")
	}
	asks := []access{{verb: "delete", resource: "secrets", namespace: t.Namespace}} // Helm's record
	for _, o := range all {
		if at, err := c.place(mapper, client, t.Namespace, o); err == nil {
			asks = append(asks, at.asks("delete", t.Namespace))
		}
	}
	return c.permitted(ctx, asks)
}

// permitted refuses with all of what is asked that the caller may not do.
func (c *Cluster) permitted(ctx context.Context, asks []access) error {
	var asked []access
	for _, a := range asks {
		if !slices.Contains(asked, a) {
			asked = append(asked, a)
		}
	}
	denied, err := c.denied(ctx, asked)
	if err != nil || len(denied) == 0 {
		return err
	}
	var what []string
	for _, a := range denied {
		where := " in namespace " + a.namespace
		if a.namespace == "" {
			where = " in the cluster"
		}
		what = append(what, a.verb+" "+a.what()+where)
	}
	return problem.New("KUB-022", "you may not %s", strings.Join(what, ", "))
}

// unowned says that an object which would be made is not there already.
func (c *Cluster) unowned(ctx context.Context, t Target, at place) error {
	there, err := at.client.Get(ctx, at.name(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return c.explained(err, "looking for "+at.String())
	}
	name, namespace := there.GetAnnotations()["meta.helm.sh/release-name"], there.GetAnnotations()["meta.helm.sh/release-namespace"]
	switch {
	case name == t.Name && namespace == t.Namespace:
		return nil
	case name != "":
		return problem.New("KUB-015", "%s belongs to release %s in namespace %s", at, name, namespace).
			WithNext("choose another name: --release NAME, or --set fullnameOverride=NAME")
	}
	return problem.New("KUB-015", "%s is there already, and no release has made it", at)
}

// try has the API server look at an object as if it were applied: admission and
// fields that cannot be changed. A webhook that does not take part in trials
// decides nothing.
func (c *Cluster) try(ctx context.Context, at place) error {
	o := metav1.ApplyOptions{DryRun: []string{metav1.DryRunAll}, Force: true, FieldManager: "ashlar"}
	_, err := at.client.Apply(ctx, at.name(), &unstructured.Unstructured{Object: at.object}, o)
	switch {
	case err == nil, apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "dry run"):
		return nil
	case apierrors.IsForbidden(err):
		return problem.New("KUB-022", "the cluster does not admit %s: %s", at, err)
	}
	return c.explained(err, "trying "+at.String())
}

// claims are the volume claims in a namespace that the StatefulSets of a release
// take up or have made.
func (c *Cluster) claims(ctx context.Context, namespace string, objects []object) ([]string, error) {
	found := []string{}
	for _, o := range objects {
		if o.kind() != "StatefulSet" {
			continue
		}
		all, err := c.client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(o)})
		if err != nil {
			return nil, c.explained(err, "looking for volume claims")
		}
		for _, claim := range all.Items {
			if ofStatefulSet(o, claim) {
				found = append(found, claim.Name)
			}
		}
	}
	return found, nil
}

// ofStatefulSet says whether a claim was made from a StatefulSet's templates.
func ofStatefulSet(o object, claim corev1.PersistentVolumeClaim) bool {
	templates, _ := o.field("spec", "volumeClaimTemplates").([]any)
	for _, t := range templates {
		if strings.HasPrefix(claim.Name, object(asMap(t)).text("metadata", "name")+"-"+o.name()+"-") {
			return true
		}
	}
	return false
}

// selector is the labels by which a workload finds its pods.
func selector(o object) string {
	labels := asMap(o.field("spec", "selector", "matchLabels"))
	var pairs []string
	for k, v := range labels {
		pairs = append(pairs, fmt.Sprintf("%s=%v", k, v))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
