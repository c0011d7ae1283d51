package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// The categories of what Checks looks at.
const (
	Platform = "kubernetes"
	TEEs     = "tee"
	Time     = "time"
	Webhook  = "webhook"
)

// CheckOptions say what a cluster is held against.
type CheckOptions struct {
	Pre        bool   // before an installation
	Constraint string // the chart's kubeVersion
	Manifest   string // what the chart would create, as YAML; with Pre
	Trouble    error  // why that is not known
	App        string // version of the programs that this command installs
	Wanted     []Wanted
	Marble     string // of the trial pod; one that there is not if empty
	Now        func() time.Time
}

// Checks lists what to look at in a cluster, by category.
func (c *Cluster) Checks(o *CheckOptions) []check.Check {
	list := []check.Check{{Category: Platform, Name: "can reach the cluster", Run: func(context.Context) check.Finding {
		return versionFinding(c.Version, o.Constraint)
	}}}
	if o.Pre {
		list = append(list, c.beforehand(o)...)
	} else {
		list = append(list, check.Check{Category: Platform, Name: "Ashlar runs", Each: func(ctx context.Context) []check.Finding {
			return c.checkRelease(ctx, o)
		}})
	}
	list = append(list,
		check.Check{Category: TEEs, Name: "nodes offer TEEs", Each: func(ctx context.Context) []check.Finding { return c.checkTEEs(ctx, o) }},
		check.Check{Category: Time, Name: "clocks agree", Each: func(ctx context.Context) []check.Finding { return c.checkTime(ctx, o) }})
	if !o.Pre {
		list = append(list, check.Check{Category: Webhook, Name: "the injector answers", Each: func(ctx context.Context) []check.Finding {
			return c.checkWebhook(ctx, o)
		}})
	}
	return list
}

// ours are the labels of what the chart creates.
const ours = "app.kubernetes.io/name=ashlar"

func (c *Cluster) checkRelease(ctx context.Context, o *CheckOptions) []check.Finding {
	parts, err := c.parts(ctx)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	found := releaseFindings(parts, c.Namespace, o.App)
	pods, err := c.client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ours + ",app.kubernetes.io/component=" + coordinatorName, Limit: pageSize})
	if err != nil {
		return append(found, check.FromError(c.failure(err, "listing coordinators")))
	}
	return append(found, versionsFinding(pods.Items)...)
}

// parts lists the programs of a release in the namespace.
func (c *Cluster) parts(ctx context.Context) ([]part, error) {
	var parts []part
	sets, err := c.client.AppsV1().StatefulSets(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ours, Limit: pageSize})
	if err != nil {
		return nil, c.failure(err, "listing StatefulSets")
	}
	for _, s := range sets.Items {
		parts = append(parts, statefulSet(s))
	}
	deployments, err := c.client.AppsV1().Deployments(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ours, Limit: pageSize})
	if err != nil {
		return nil, c.failure(err, "listing Deployments")
	}
	for _, d := range deployments.Items {
		parts = append(parts, deployment(d))
	}
	return parts, nil
}

func (c *Cluster) checkTEEs(ctx context.Context, o *CheckOptions) []check.Finding {
	facts, err := c.look(ctx)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	settings := c.settings(ctx, o.Manifest)
	out := teeFindings(facts, settings.Table())
	out = append(out, pluginFindings(c.plugins(ctx))...)
	out = append(out, profileFindings(facts, settings.Table())...)
	for _, w := range o.Wanted {
		out = append(out, marbleFinding(facts, settings, w))
	}
	return out
}

const (
	pageSize = 500
	maxPages = 20 // of nodes, pods, and what makes pods
)

// paged reads a list page by page.
func paged[L metav1.ListInterface](ctx context.Context, o metav1.ListOptions, list func(context.Context, metav1.ListOptions) (L, error), take func(L)) error {
	o.Limit = pageSize
	for range maxPages {
		page, err := list(ctx, o)
		if err != nil {
			return err
		}
		take(page)
		if o.Continue = page.GetContinue(); o.Continue == "" {
			break
		}
	}
	return nil
}

// look reads what a pod's place is chosen from.
func (c *Cluster) look(ctx context.Context) (cluster, error) {
	var out cluster
	err := paged(ctx, metav1.ListOptions{}, c.client.CoreV1().Nodes().List, func(l *corev1.NodeList) { out.nodes = append(out.nodes, l.Items...) })
	if err != nil {
		return out, c.failure(err, "listing nodes")
	}
	classes, err := c.client.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return out, c.failure(err, "listing runtime classes")
	}
	out.classes = classes.Items
	return out, nil
}

// settingsFile is the injector's configuration in its ConfigMap.
const settingsFile = "settings.json"

// settings are the injector's, of what the chart would create or else of the
// release in the namespace; the built-in table if there are none.
func (c *Cluster) settings(ctx context.Context, manifest string) inject.Settings {
	if docs, err := objects(manifest); err == nil {
		for _, o := range docs {
			if text := o.text("data", settingsFile); o.kind() == "ConfigMap" && text != "" {
				return readSettings(text)
			}
		}
	}
	maps, err := c.client.CoreV1().ConfigMaps(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ours, Limit: pageSize})
	if err != nil {
		return inject.Settings{}
	}
	for _, m := range maps.Items {
		if text := m.Data[settingsFile]; text != "" {
			return readSettings(text)
		}
	}
	return inject.Settings{}
}

// readSettings takes from the injector's configuration what is said of profiles.
func readSettings(text string) inject.Settings {
	var s inject.Settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return inject.Settings{}
	}
	return s
}

// plugins lists the programs that make TEEs usable.
func (c *Cluster) plugins(ctx context.Context) []plugin {
	sets, err := c.client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil // an account that may not see them is none the worse for it
	}
	return pluginsOf(sets.Items)
}

// pluginsOf finds them by their images.
func pluginsOf(sets []appsv1.DaemonSet) []plugin {
	var out []plugin
	for _, s := range sets {
		for _, known := range plugins {
			i := slices.IndexFunc(s.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return strings.Contains(c.Image, known.image) })
			if i < 0 {
				continue
			}
			out = append(out, plugin{name: known.name, version: tagOf(s.Spec.Template.Spec.Containers[i].Image), where: s.Namespace,
				ready: s.Status.NumberReady, wanted: s.Status.DesiredNumberScheduled})
			break
		}
	}
	return out
}

func (c *Cluster) checkTime(ctx context.Context, o *CheckOptions) []check.Finding {
	sent := o.Now()
	server, err := c.date(ctx)
	received := o.Now()
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	out := []check.Finding{serverFinding(sent, received, server)}
	leases, err := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return out // they are the cluster's own, and not everybody may read them
	}
	return append(out, leaseFinding(leases.Items, server))
}

// date asks the API server for its time.
func (c *Cluster) date(ctx context.Context) (time.Time, error) {
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return time.Time{}, c.failure(err, "asking for the time")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.config.Host, "/")+"/version", nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for the time: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, c.failure(err, "asking for the time")
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, c.failure(err, "asking for the time")
	}
	return at, nil
}
