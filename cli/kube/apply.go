package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// Apply makes what a plan says, and returns when the API server has taken it;
// Wait waits for the workloads. KUB-016 says that the release is no longer the
// one that the plan was made for.
func (c *Cluster) Apply(ctx context.Context, p *Plan) (Release, error) {
	conf, err := c.helm(p.Namespace)
	if err != nil {
		return Release{}, err
	}
	all, err := c.revisions(conf, p.Target)
	if err != nil {
		return Release{}, err
	}
	if err := p.current(all); err != nil {
		return Release{}, err
	}
	var rel *release.Release
	switch p.Verb {
	case "install":
		rel, err = c.install(ctx, conf, p)
	case "upgrade":
		up := action.NewUpgrade(conf)
		up.Namespace, up.ResetValues, up.MaxHistory = p.Namespace, true, historyLimit // p.values are whole
		up.PostRenderer = exactly(p.manifest)
		rel, err = up.RunWithContext(ctx, p.Name, p.chart.chart, p.values)
	case "rollback":
		back := action.NewRollback(conf)
		back.Version, back.MaxHistory = p.To, historyLimit
		if err = back.Run(p.Name); err == nil {
			rel, err = conf.Releases.Last(p.Name)
		}
	}
	if err != nil {
		return Release{}, c.failed(err, p.Verb)
	}
	return releaseOf(rel), nil
}

// install makes the namespace first, as a request of its own whose refusal says
// what is missing.
func (c *Cluster) install(ctx context.Context, conf *action.Configuration, p *Plan) (*release.Release, error) {
	if p.Create {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.Namespace}}
		_, err := c.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, c.explained(err, "making namespace "+p.Namespace)
		}
	}
	in := action.NewInstall(conf)
	in.ReleaseName, in.Namespace, in.Replace = p.Name, p.Namespace, true
	in.PostRenderer = exactly(p.manifest)
	return in.RunWithContext(ctx, p.chart.chart, p.values)
}

// current says that a release is as it was when the plan was made.
func (p *Plan) current(all []*release.Release) error {
	newest, wanted := 0, 0
	if len(all) > 0 && all[0].Info.Status != release.StatusUninstalled {
		newest = all[0].Version
	}
	if p.From != nil {
		wanted = p.From.Revision
	}
	if newest == wanted {
		return nil
	}
	return problem.New("KUB-016", "release %s is at revision %d now, and this was planned on revision %d", p.Name, newest, wanted).
		WithNext("look at the change again: repeat the command")
}

// Removal is what an uninstallation would take away, and what it would leave.
type Removal struct {
	Release Release  `json:"release"`
	Objects []string `json:"objects"`          // that go
	Claims  []string `json:"claims"`           // of volumes with state
	Shared  string   `json:"shared,omitempty"` // where the state is in etcd, which stays
	Pods    int      `json:"pods"`             // marbles that run in the cluster; -1 if that may not be asked

	objects []object
}

// PlanRemoval looks at what uninstalling a release takes away: KUB-007 if there
// is none, KUB-022 if the caller may not.
func (c *Cluster) PlanRemoval(ctx context.Context, t Target) (*Removal, error) {
	conf, err := c.helm(t.Namespace)
	if err != nil {
		return nil, err
	}
	last, err := c.newest(conf, t)
	if err != nil {
		return nil, err
	}
	r := &Removal{Release: releaseOf(last), Objects: []string{}, Pods: -1}
	if r.objects, err = objects(last.Manifest); err != nil {
		return nil, err
	}
	r.Shared = sharedState(r.objects)
	for _, o := range r.objects {
		r.Objects = append(r.Objects, o.String())
	}
	if err := c.removable(ctx, t, r.objects); err != nil {
		return nil, err
	}
	if r.Claims, err = c.claims(ctx, t.Namespace, r.objects); err != nil {
		return nil, err
	}
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: inject.Label, Limit: pageSize})
	if err == nil {
		r.Pods = len(pods.Items)
	}
	return r, nil
}

// Uninstall removes a release. Webhooks go first: while one is registered that
// nobody answers, pods with its label cannot be made. The volumes of state are
// removed only with state.
func (c *Cluster) Uninstall(ctx context.Context, r *Removal, state bool) error {
	if err := c.removeWebhooks(ctx, r.objects); err != nil {
		return err
	}
	conf, err := c.helm(r.Release.Namespace)
	if err != nil {
		return err
	}
	un := action.NewUninstall(conf)
	un.DeletionPropagation = "background"
	if _, err := un.Run(r.Release.Name); err != nil {
		return c.failed(err, "uninstalling "+r.Release.Name)
	}
	if !state {
		return nil
	}
	for _, claim := range r.Claims {
		err := c.client.CoreV1().PersistentVolumeClaims(r.Release.Namespace).Delete(ctx, claim, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return c.explained(err, "removing volume claim "+claim)
		}
	}
	return nil
}

func (c *Cluster) removeWebhooks(ctx context.Context, all []object) error {
	for _, o := range all {
		var err error
		switch o.kind() {
		case "MutatingWebhookConfiguration":
			err = c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, o.name(), metav1.DeleteOptions{})
		case "ValidatingWebhookConfiguration":
			err = c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, o.name(), metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return c.explained(err, "removing "+o.String())
		}
	}
	return nil
}

// Wait polls the workloads of a plan until all are ready, and shows how each is
// whenever that changes. Where ctx ends first, KUB-008 says what is not ready,
// and why.
func (c *Cluster) Wait(ctx context.Context, p *Plan, each func([]Workload)) error {
	last := ""
	var now []Workload // as they were when they could be looked at
	for {
		seen, err := c.workloads(ctx, p)
		if err == nil {
			now = seen
			if text := fmt.Sprint(now); text != last {
				last = text
				each(now)
			}
			if !slices.ContainsFunc(now, func(w Workload) bool { return !w.Done }) {
				return nil
			}
		} else if !transient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return unready(now, err)
		case <-time.After(pollEvery):
		}
	}
}

// pollEvery is how often workloads are looked at: their controllers take seconds.
const pollEvery = time.Second

// transient says that asking again may help.
func transient(err error) bool {
	return problem.From(err).Kind() == problem.Unavailable || errors.Is(err, context.DeadlineExceeded)
}

// unready is the error of a wait that came to its end.
func unready(now []Workload, err error) error {
	var lines []string
	next := ""
	for _, w := range now {
		if !w.Done {
			lines = append(lines, w.String())
			if next == "" {
				next = w.Next
			}
		}
	}
	if len(lines) == 0 && err != nil {
		return err
	}
	e := problem.New("KUB-008", "%s", strings.Join(lines, "; "))
	if next != "" {
		return e.WithNext("%s", next)
	}
	return e
}
