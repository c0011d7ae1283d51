package kube

import (
	"cmp"
	"errors"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func revision(n int, status release.Status) *release.Release {
	return &release.Release{Name: "r", Version: n, Info: &release.Info{Status: status}, Chart: &chart.Chart{Metadata: &chart.Metadata{Version: "1.0.0", AppVersion: "2.0.0"}}}
}

func TestPlansAreForOneRevision(t *testing.T) {
	from := func(n int) *Plan { return &Plan{Target: Target{"r", "shop"}, From: &Release{Revision: n}} }
	for _, c := range []struct {
		name string
		plan *Plan
		all  []*release.Release
		ok   bool
	}{
		{"a first one", &Plan{}, nil, true},
		{"somebody was faster", &Plan{}, []*release.Release{revision(1, release.StatusDeployed)}, false},
		{"an uninstalled one with its history", &Plan{}, []*release.Release{revision(4, release.StatusUninstalled)}, true},
		{"the same", from(2), []*release.Release{revision(2, release.StatusDeployed), revision(1, release.StatusSuperseded)}, true},
		{"a newer one", from(2), []*release.Release{revision(3, release.StatusDeployed), revision(2, release.StatusSuperseded)}, false},
		{"gone", from(2), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.plan.current(c.all); c.ok != (err == nil) || err != nil && problem.CodeOf(err) != "KUB-016" {
				t.Errorf("got %v, want accepted: %v", err, c.ok)
			}
		})
	}
}

// TestReleasesOfOthersAreLeftAlone: no command changes or removes what another
// chart has made, whatever name it was given.
func TestReleasesOfOthersAreLeftAlone(t *testing.T) {
	for name, code := range map[string]problem.Code{"ashlar": "", "postgresql": "KUB-015", "": "KUB-015"} {
		conf := &action.Configuration{Releases: storage.Init(driver.NewMemory())}
		r := revision(1, release.StatusDeployed)
		r.Namespace, r.Chart.Metadata.Name = "default", name
		if err := conf.Releases.Create(r); err != nil {
			t.Fatal(err)
		}
		c := &Cluster{}
		if _, err := c.newest(conf, Target{"r", "default"}); problem.CodeOf(err) != code {
			t.Errorf("chart %q, to remove: got %v, want %q", name, err, code)
		}
		if err := c.free(conf, Target{"r", "default"}); problem.CodeOf(err) != cmp.Or(code, "KUB-006") {
			t.Errorf("chart %q, to install: got %v", name, err)
		}
		if all, err := c.revisions(conf, Target{"other", "default"}); err != nil || len(all) > 0 {
			t.Errorf("no release: got %v, %v", all, err)
		}
	}
}

func TestPendingReleasesAreLeftAlone(t *testing.T) {
	for status, next := range map[release.Status]string{release.StatusDeployed: "", release.StatusFailed: "", release.StatusPendingInstall: "ashlar uninstall",
		release.StatusPendingUpgrade: "ashlar rollback", release.StatusPendingRollback: "ashlar rollback"} {
		err := pending(revision(1, status))
		if (err != nil) != (next != "") || err != nil && (problem.CodeOf(err) != "KUB-016" || !strings.Contains(problem.From(err).Next, next)) {
			t.Errorf("%s: got %v, want next step %q", status, err, next)
		}
	}
}

func TestDeployedIsWhatTheClusterHas(t *testing.T) {
	all := []*release.Release{revision(3, release.StatusFailed), revision(2, release.StatusDeployed), revision(1, release.StatusSuperseded)}
	if got := deployed(all).Version; got != 2 {
		t.Errorf("got revision %d, want 2", got)
	}
	if got := deployed(all[:1]).Version; got != 3 {
		t.Errorf("got revision %d where none succeeded, want the newest", got)
	}
}

func TestFailuresHaveCodes(t *testing.T) {
	c := &Cluster{Server: "https://example:6443"}
	kind := schema.GroupResource{Group: "apps", Resource: "statefulsets"}
	for _, e := range []struct {
		err  error
		code problem.Code
	}{
		{errors.New(`no matches for kind "ServiceMonitor" in version "monitoring.coreos.com/v1"`), "KUB-014"},
		{errors.New("another operation (install/upgrade/rollback) is in progress"), "KUB-016"},
		{errors.New("execution error at (ashlar/templates/x.yaml:1:2): coordinator.profile: no"), "KUB-005"},
		{errors.New(`Service "a" exists and cannot be imported into the current release: invalid ownership metadata`), "KUB-015"},
		{apierrors.NewForbidden(kind, "x", errors.New("no")), "KUB-022"},
		{apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, "x", nil), "KUB-005"},
		{apierrors.NewAlreadyExists(kind, "x"), "KUB-015"},
		{apierrors.NewServiceUnavailable("later"), "KUB-021"},
		{apierrors.NewInternalError(errors.New("oops")), "KUB-013"},
		{errors.New("something else"), "KUB-013"},
		{problem.New("KUB-009", "kept as it is"), "KUB-009"},
	} {
		if got := problem.CodeOf(c.failed(e.err, "upgrade")); got != e.code {
			t.Errorf("%v: got %s, want %s", e.err, got, e.code)
		}
	}
}
