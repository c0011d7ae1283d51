package kube

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Release is one revision of an installed chart.
type Release struct {
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	Revision  int       `json:"revision"`
	Status    string    `json:"status"` // Helm's: deployed, failed, pending-upgrade, …
	Chart     string    `json:"chart"`  // the chart's version
	App       string    `json:"app"`    // the programs' version
	Updated   time.Time `json:"updated"`
	Note      string    `json:"note,omitempty"` // what Helm recorded of it
}

// historyLimit is how many revisions of a release are kept, as Helm does.
const historyLimit = 10

// requestLimit bounds each request that Helm makes: it takes no context there.
const requestLimit = "30s"

// helm sets up Helm for a namespace. Its log is dropped: what matters of it
// comes back as errors.
func (c *Cluster) helm(namespace string) (*action.Configuration, error) {
	silence()
	flags := configFlags(ConnectOptions{Kubeconfig: *c.flags.KubeConfig, Context: *c.flags.Context, Namespace: namespace})
	limit := requestLimit
	flags.Timeout = &limit
	conf := new(action.Configuration)
	if err := conf.Init(flags, namespace, "secrets", func(string, ...any) {}); err != nil {
		return nil, c.explained(err, "setting up Helm")
	}
	return conf, nil
}

// chartName is of the chart whose releases are ours to change.
const chartName = "ashlar"

// revisions are those of a release, the newest first; none if there is no such
// release. KUB-015 says that it is another product's.
func (c *Cluster) revisions(conf *action.Configuration, t Target) ([]*release.Release, error) {
	all, err := conf.Releases.History(t.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explained(err, "reading the records of release "+t.Name)
	}
	releaseutil.Reverse(all, releaseutil.SortByRevision)
	for _, r := range all {
		if r.Chart == nil || r.Chart.Name() != chartName {
			return nil, problem.New("KUB-015", "release %s in namespace %s is of another chart than %s", t.Name, t.Namespace, chartName).
				WithNext("name the release of %s: --release, --namespace; helm list --all-namespaces finds it", chartName)
		}
	}
	return all, nil
}

func releaseOf(r *release.Release) Release {
	out := Release{Name: r.Name, Namespace: r.Namespace, Revision: r.Version}
	if r.Info != nil {
		out.Status, out.Updated, out.Note = r.Info.Status.String(), r.Info.LastDeployed.Time, r.Info.Description
	}
	if r.Chart != nil && r.Chart.Metadata != nil {
		out.Chart, out.App = r.Chart.Metadata.Version, r.Chart.Metadata.AppVersion
	}
	return out
}

// newest is the last revision of a release that is there; KUB-007 if none is.
func (c *Cluster) newest(conf *action.Configuration, t Target) (*release.Release, error) {
	all, err := c.revisions(conf, t)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 || all[0].Info.Status == release.StatusUninstalled {
		return nil, problem.New("KUB-007", "namespace %s has no release %s", t.Namespace, t.Name)
	}
	return all[0], nil
}

// pending says that somebody works on a release, or did and was broken off.
func pending(r *release.Release) error {
	if !r.Info.Status.IsPending() {
		return nil
	}
	e := problem.New("KUB-016", "revision %d of release %s is %s since %s", r.Version, r.Name, r.Info.Status, r.Info.LastDeployed.UTC().Format(time.RFC3339))
	if r.Info.Status == release.StatusPendingInstall {
		return e.WithNext("wait for it; if it was broken off: ashlar uninstall, which keeps the state, and ashlar install")
	}
	return e.WithNext("wait for it; if it was broken off: ashlar rollback")
}

// deployed is the revision whose objects the cluster has: the newest that
// succeeded, or else the newest.
func deployed(all []*release.Release) *release.Release {
	if i := slices.IndexFunc(all, func(r *release.Release) bool { return r.Info.Status == release.StatusDeployed }); i >= 0 {
		return all[i]
	}
	return all[0]
}

// failed gives what Helm failed with its code.
func (c *Cluster) failed(err error, doing string) error {
	text := err.Error()
	switch {
	case meta.IsNoMatchError(err), strings.Contains(text, "no matches for kind"):
		return problem.Because(err, "KUB-014", "the cluster does not know a kind of object").
			WithNext("turn the value off that needs it, or install its CustomResourceDefinition")
	case unsuited(text) != nil:
		return unsuited(text)
	case strings.Contains(text, "cannot be imported into the current release"):
		return problem.New("KUB-015", "%s: %s", doing, text)
	case errors.Is(err, driver.ErrReleaseExists), strings.Contains(text, "another operation"):
		return problem.New("KUB-016", "%s: %s", doing, text)
	case errors.Is(err, context.DeadlineExceeded):
		return c.failure(err, "%s", doing)
	}
	return c.explained(err, doing)
}
