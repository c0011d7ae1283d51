package kube

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// beforehand lists what must hold before an installation.
func (c *Cluster) beforehand(o *CheckOptions) []check.Check {
	if o.Trouble != nil {
		return []check.Check{{Category: Platform, Name: "the chart takes the values", Run: func(context.Context) check.Finding { return check.FromError(o.Trouble) }}}
	}
	return []check.Check{
		{Category: Platform, Name: "may install", Each: func(ctx context.Context) []check.Finding { return c.checkChart(ctx, o.Manifest) }},
		{Category: Platform, Name: "the state finds a volume", Run: func(ctx context.Context) check.Finding { return c.checkStorage(ctx, o.Manifest) }},
		{Category: Platform, Name: "the certificates for etcd are there", Each: func(ctx context.Context) []check.Finding { return c.checkSecrets(ctx, o.Manifest) }},
		{Category: Platform, Name: "pod security admits marbles", Each: func(ctx context.Context) []check.Finding { return c.checkSecurity(ctx, o.Manifest) }},
	}
}

// kind is one that the chart makes, as the cluster knows it.
type kind struct {
	apiVersion, name string
	resource         string // empty if the cluster does not know it
	namespaced       bool
}

// String names it as people do: "Deployment (apps/v1)".
func (k kind) String() string { return k.name + " (" + k.apiVersion + ")" }

func (c *Cluster) checkChart(ctx context.Context, manifest string) []check.Finding {
	docs, err := objects(manifest)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	kinds, err := c.kinds(ctx, docs)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	asked := accesses(kinds, c.Namespace)
	denied, err := c.denied(ctx, asked)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	return []check.Finding{servedFinding(kinds), accessFinding(asked, denied, c.Namespace)}
}

// kinds asks the cluster what it knows of the kinds of these objects.
func (c *Cluster) kinds(ctx context.Context, docs []object) ([]kind, error) {
	known := map[string]*metav1.APIResourceList{}
	var kinds []kind
	for _, o := range docs {
		k := kind{apiVersion: o.text("apiVersion"), name: o.kind()}
		if slices.ContainsFunc(kinds, func(had kind) bool { return had.apiVersion == k.apiVersion && had.name == k.name }) {
			continue
		}
		if known[k.apiVersion] == nil {
			list, err := c.served(ctx, k.apiVersion)
			if err != nil {
				return nil, err
			}
			known[k.apiVersion] = list
		}
		for _, r := range known[k.apiVersion].APIResources {
			if r.Kind == k.name && !strings.Contains(r.Name, "/") {
				k.resource, k.namespaced = r.Name, r.Namespaced
			}
		}
		kinds = append(kinds, k)
	}
	return kinds, nil
}

// served asks for the kinds of one version of one API; none if there is no such.
func (c *Cluster) served(ctx context.Context, apiVersion string) (*metav1.APIResourceList, error) {
	path := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		path = "/api/" + apiVersion
	}
	list := &metav1.APIResourceList{}
	raw, err := c.client.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return list, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, list)
	}
	if err != nil {
		return nil, c.failure(err, "asking for the kinds of %s", apiVersion)
	}
	return list, nil
}

// accesses lists what Helm does with these kinds, from the installation to the
// removal, and with the Secrets that it keeps a release in.
func accesses(kinds []kind, namespace string) []access {
	var out []access
	add := func(group, resource, namespace string, verbs ...string) {
		for _, verb := range verbs {
			out = append(out, access{verb, group, resource, namespace})
		}
	}
	for _, k := range kinds {
		if k.resource == "" {
			continue
		}
		group, _, versioned := strings.Cut(k.apiVersion, "/")
		if !versioned {
			group = ""
		}
		where := ""
		if k.namespaced {
			where = namespace
		}
		add(group, k.resource, where, "create", "get", "patch", "delete")
	}
	add("", "secrets", namespace, "create", "get", "list", "update", "delete")
	return out
}

const reviewsAtOnce = 8

// denied asks the API server which of these this account may not do.
func (c *Cluster) denied(ctx context.Context, asked []access) ([]access, error) {
	no := make([]bool, len(asked))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(reviewsAtOnce)
	for i, a := range asked {
		g.Go(func() error {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: a.resource, Namespace: a.namespace}}}
			answer, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return c.failure(err, "asking what you may do")
			}
			no[i] = !answer.Status.Allowed
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []access
	for i, a := range asked {
		if no[i] {
			out = append(out, a)
		}
	}
	return out, nil
}

func (c *Cluster) checkStorage(ctx context.Context, manifest string) check.Finding {
	docs, err := objects(manifest)
	if err != nil {
		return check.FromError(err)
	}
	classes, err := c.client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return check.FromError(c.failure(err, "listing storage classes"))
	}
	return storageFinding(classes.Items, claimedClass(docs))
}

// claimedClass is the storage class that the coordinator's state asks for; empty
// for the default one.
func claimedClass(docs []object) string {
	for _, o := range docs {
		claims, _ := o.field("spec", "volumeClaimTemplates").([]any)
		for _, claim := range claims {
			if name := object(asMap(claim)).text("spec", "storageClassName"); name != "" {
				return name
			}
		}
	}
	return ""
}

func (c *Cluster) checkSecurity(ctx context.Context, manifest string) []check.Finding {
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return []check.Finding{check.Pass("namespace %s is not there yet", c.Namespace)}
	}
	if err != nil {
		return []check.Finding{check.FromError(c.failure(err, "reading namespace %s", c.Namespace))}
	}
	return securityFindings(*ns, c.settings(ctx, manifest))
}

// securityFindings hold the namespace against the profiles that the injector
// chooses by itself.
func securityFindings(ns corev1.Namespace, s inject.Settings) []check.Finding {
	table := s.Table()
	var out []check.Finding
	for _, tee := range slices.Sorted(maps.Keys(s.Defaults)) {
		if p, ok := table[s.Defaults[tee]]; ok {
			out = append(out, securityFinding(ns, s.Defaults[tee], p))
		}
	}
	return out
}
