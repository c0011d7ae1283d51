package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Plan is a change of a release that was looked at and not made yet. Only what
// it shows is applied.
type Plan struct {
	Target
	Verb    string   `json:"verb"`          // "install", "upgrade" or "rollback"
	From    *Release `json:"from"`          // what is there; nil if nothing is
	Chart   string   `json:"chart"`         // the chart's version then
	App     string   `json:"app"`           // the programs' version then
	To      int      `json:"to,omitempty"`  // the revision that a rollback goes back to
	Changes []Change `json:"changes"`       // by object
	Risks   []Risk   `json:"risks"`         // to be accepted by name
	Notes   []string `json:"notes"`         // to be known
	Kept    []string `json:"kept"`          // claims of an earlier release that it takes up
	Create  bool     `json:"makeNamespace"` // the namespace is not there yet
	Policy  string   `json:"-"`             // the text of the policy that it gives to marbles

	chart    *Chart
	values   map[string]any
	manifest string
	objects  []object
	old      []object
}

// Risk is a change that somebody has to accept by name.
type Risk struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// The names of risks.
const (
	RiskDowngrade = "downgrade" // an older chart or older programs
	RiskRecovery  = "recovery"  // the state may need its holders to be opened
)

// Risks lists the names of risks.
var Risks = []string{RiskDowngrade, RiskRecovery}

// PlanInstall looks at what an installation would make. It refuses a release
// that is there (KUB-006), values that the chart does not take (KUB-005), a
// cluster that it does not run on (KUB-014), objects of others (KUB-015), and
// what the caller may not make (KUB-022).
func (c *Cluster) PlanInstall(ctx context.Context, ch *Chart, t Target, v Values) (*Plan, error) {
	given, err := v.merged()
	if err != nil {
		return nil, err
	}
	values := ch.until(given, v.Until)
	if err := ch.checkValues(values); err != nil {
		return nil, err
	}
	if err := ch.runsOn(c.Version); err != nil {
		return nil, err
	}
	conf, err := c.helm(t.Namespace)
	if err != nil {
		return nil, err
	}
	if err := c.free(conf, t); err != nil {
		return nil, err
	}
	p := &Plan{Target: t, Verb: "install", Chart: ch.Version(), App: ch.App(), Risks: []Risk{}, Kept: []string{}, chart: ch, values: values}
	if p.Create, err = c.missing(ctx, t.Namespace); err != nil {
		return nil, err
	}
	if err := c.rehearse(p, nil); err != nil {
		return nil, err
	}
	if p.Kept, err = c.claims(ctx, t.Namespace, p.objects); err != nil {
		return nil, err
	}
	if len(p.Kept) > 0 { // a state that is there is taken up, and none made in its place
		p.values = ch.never(given)
		if err := c.rehearse(p, nil); err != nil {
			return nil, err
		}
	}
	return p, c.preflight(ctx, p)
}

// rehearse renders a plan as Helm will for this cluster; now is the revision in
// whose place it comes, nil if there is none.
func (c *Cluster) rehearse(p *Plan, now *release.Release) error {
	discovery, err := c.flags.ToDiscoveryClient()
	if err != nil {
		return c.explained(err, "asking what the cluster knows")
	}
	apis, err := action.GetVersionSet(discovery)
	if err != nil {
		return c.explained(err, "asking what the cluster knows")
	}
	version, err := chartutil.ParseKubeVersion(c.Version)
	if err != nil {
		return problem.Because(err, "KUB-014", "the cluster's version")
	}
	rel, err := p.chart.render(p.Target, p.values, circumstances{*version, apis, now != nil})
	if err != nil {
		return err
	}
	return p.render(rel, now)
}

// free says that no release has the name yet.
func (c *Cluster) free(conf *action.Configuration, t Target) error {
	all, err := c.revisions(conf, t)
	if err != nil || len(all) == 0 || all[0].Info.Status == release.StatusUninstalled {
		return err
	}
	if err := pending(all[0]); err != nil {
		return err
	}
	e := problem.New("KUB-006", "namespace %s has release %s already: revision %d, %s", t.Namespace, t.Name, all[0].Version, all[0].Info.Status)
	if all[0].Info.Status == release.StatusFailed {
		return e.WithNext("ashlar upgrade tries it again; ashlar uninstall removes what there is of it")
	}
	return e
}

// missing says whether a namespace is not there.
func (c *Cluster) missing(ctx context.Context, namespace string) (bool, error) {
	_, err := c.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsForbidden(err): // one may be let into a namespace and not know of it
		return false, nil
	}
	return false, c.explained(err, "looking for namespace "+namespace)
}

// PlanUpgrade looks at what an upgrade would change. Values of the release stay,
// and v comes on top of them; with reset they do not. Besides the refusals of
// PlanInstall it refuses what would part a workload from its state (KUB-009,
// KUB-096).
func (c *Cluster) PlanUpgrade(ctx context.Context, ch *Chart, t Target, v Values, reset bool) (*Plan, error) {
	given, err := v.merged()
	if err != nil {
		return nil, err
	}
	if err := ch.runsOn(c.Version); err != nil {
		return nil, err
	}
	conf, err := c.helm(t.Namespace)
	if err != nil {
		return nil, err
	}
	last, err := c.newest(conf, t)
	if err != nil {
		return nil, err
	}
	if err := pending(last); err != nil {
		return nil, err
	}
	all, err := c.revisions(conf, t)
	if err != nil {
		return nil, err
	}
	now := deployed(all)
	p := &Plan{Target: t, Verb: "upgrade", Chart: ch.Version(), App: ch.App(), Risks: []Risk{}, Kept: []string{}, chart: ch, values: given}
	if !reset {
		p.values = overlay(now.Config, given)
	}
	if err := ch.checkValues(p.values); err != nil {
		return nil, err
	}
	if err := c.rehearse(p, now); err != nil {
		return nil, err
	}
	if err := p.judge(last, now); err != nil {
		return nil, err
	}
	return p, c.preflight(ctx, p)
}

// PlanRollback looks at what going back to a revision would change; 0 is the one
// before. The refusals are those of PlanUpgrade.
func (c *Cluster) PlanRollback(ctx context.Context, t Target, revision int) (*Plan, error) {
	conf, err := c.helm(t.Namespace)
	if err != nil {
		return nil, err
	}
	last, err := c.newest(conf, t)
	if err != nil {
		return nil, err
	}
	all, err := c.revisions(conf, t)
	if err != nil {
		return nil, err
	}
	was := func(r *release.Release) bool {
		if revision == 0 {
			return r.Version < last.Version && (r.Info.Status == release.StatusSuperseded || r.Info.Status == release.StatusDeployed)
		}
		return r.Version == revision
	}
	i := slices.IndexFunc(all, was)
	if i < 0 {
		if revision == 0 {
			return nil, problem.New("KUB-007", "release %s has no earlier revision that worked", t.Name).WithNext("ashlar upgrade, or ashlar uninstall")
		}
		var have []string
		for _, r := range all {
			have = append(have, fmt.Sprint(r.Version))
		}
		return nil, problem.New("KUB-007", "release %s has no revision %d; it has %s", t.Name, revision, strings.Join(have, ", ")).WithNext("ashlar rollback REVISION")
	}
	to := all[i]
	r := releaseOf(to)
	p := &Plan{Target: t, Verb: "rollback", To: to.Version, Chart: r.Chart, App: r.App, Risks: []Risk{}, Kept: []string{}, chart: &Chart{to.Chart}, values: to.Config}
	if err := p.render(to, last); err != nil {
		return nil, err
	}
	if err := p.judge(last, last); err != nil {
		return nil, err
	}
	return p, c.preflight(ctx, p)
}

// render keeps what a release consists of, and what it changes of now, if there
// is one.
func (p *Plan) render(rel, now *release.Release) error {
	var err error
	if now != nil {
		if p.old, err = objects(now.Manifest); err != nil {
			return err
		}
	}
	p.manifest = rel.Manifest
	if p.objects, err = objects(rel.Manifest); err != nil {
		return err
	}
	p.Changes, p.Notes = compare(p.old, p.objects), notes(p.old, p.objects)
	all, err := chartutil.CoalesceValues(p.chart.chart, p.values)
	if err != nil {
		return problem.Because(err, "KUB-005", "values")
	}
	p.Policy = object(all).text(PolicyValue)
	return nil
}

// judge refuses a plan that parts a workload from its state, and names the risks
// of another; last is the newest revision, now the one whose objects are there.
func (p *Plan) judge(last, now *release.Release) error {
	from, was := releaseOf(last), releaseOf(now)
	p.From = &from
	if lost := losses(p.old, p.objects); len(lost) > 0 {
		return problem.New("KUB-009", "%s", strings.Join(lost, "; "))
	}
	if moved := moves(p.old, p.objects); len(moved) > 0 {
		return problem.New("KUB-096", "%s", strings.Join(moved, "; "))
	}
	for _, v := range []struct{ what, from, to string }{{"chart", was.Chart, p.Chart}, {"programs", was.App, p.App}} {
		if older(v.to, v.from) {
			p.Risks = append(p.Risks, Risk{RiskDowngrade, fmt.Sprintf("the %s go back from %s to %s, which may not read the state that %s has written", v.what, v.from, v.to, v.from)})
		}
	}
	p.Risks = append(p.Risks, recoveries(p.old, p.objects)...)
	return nil
}

// older reports whether version a is before b. What follows a version's three
// numbers has no order here: git describe puts there what comes after them.
func older(a, b string) bool {
	return chartutil.IsCompatibleRange("<"+numbers(b), numbers(a))
}

func numbers(version string) string {
	if i := strings.IndexAny(version, "-+"); i >= 0 {
		version = version[:i]
	}
	return version
}

// runsOn holds a cluster's version against what the chart demands.
func (c *Chart) runsOn(version string) error {
	want := c.chart.Metadata.KubeVersion
	if want == "" || chartutil.IsCompatibleRange(want, version) {
		return nil
	}
	return problem.New("KUB-014", "the chart wants Kubernetes %s, and the cluster is %s", want, version)
}
