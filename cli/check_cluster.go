package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// clusterLists are the checks of a cluster: those before the coordinator is
// asked, and those after.
type clusterLists struct {
	before, after []check.Check
	services      kube.Services
	options       *kube.CheckOptions
}

// known tells the checks that come after which marbles there are.
func (l clusterLists) known(marbles []apiv1.Marble) {
	if l.options != nil && l.options.Marble == "" && len(marbles) > 0 {
		l.options.Marble = marbles[0].Name
	}
}

// clusterChecks connects to the cluster. Without one there is nothing to look at,
// and that is only wrong if it was asked for.
func (a *app) clusterChecks(ctx context.Context, f checkFlags) clusterLists {
	if !f.wants(ofCluster...) && !f.wants("endorsements") {
		return clusterLists{}
	}
	c, err := a.connect(ctx, f.cluster)
	if errors.Is(err, kube.ErrNoCluster) && !f.needCluster() {
		if !f.again {
			a.p.Notef("no kubeconfig names a cluster: its checks are left out\n")
		}
		return clusterLists{}
	}
	var o *kube.CheckOptions
	if err == nil {
		o, err = a.clusterOptions(c, f)
	}
	if err != nil {
		failed := check.FromError(err)
		return clusterLists{before: []check.Check{{Category: kube.Platform, Name: "can reach the cluster", Fatal: true,
			Run: func(context.Context) check.Finding { return failed }}}}
	}
	l := clusterLists{options: o, services: c.Services(ctx, o.Manifest)}
	for _, one := range c.Checks(o) {
		if one.Category == kube.Webhook {
			l.after = append(l.after, one)
		} else {
			l.before = append(l.before, one)
		}
	}
	return l
}

// clusterOptions reads what the cluster is held against.
func (a *app) clusterOptions(c *kube.Cluster, f checkFlags) (*kube.CheckOptions, error) {
	ch, err := chart()
	if err != nil {
		return nil, err
	}
	o := &kube.CheckOptions{Pre: f.pre, Constraint: ch.KubeVersion(), App: ch.App(), Now: a.p.Now}
	if f.pre {
		v, err := a.values(f.values)
		if err != nil {
			return nil, err
		}
		// What an installation must be told, a check need not.
		v.Documents = slices.Insert(v.Documents, 0, kube.Document{Name: "defaults", Data: []byte(`{"` + kube.PolicyValue + `": "{}"}`)})
		r, err := kube.Render(ch, kube.Target{Name: "ashlar", Namespace: c.Namespace}, v, "")
		o.Manifest, o.Trouble = r, err
	}
	if f.manifest == "" {
		return o, nil
	}
	m, err := a.parseManifest(f.manifest)
	if err != nil {
		return nil, err
	}
	names := manifest.MarbleNames(m)
	for _, name := range names {
		marble, err := inject.FromManifest(m, name)
		if err != nil {
			return nil, err
		}
		o.Wanted = append(o.Wanted, kube.Wanted{Marble: name, TEEs: marble.TEEs, Field: fieldOf(m, f.manifest, "packages."+m.Marbles[name].Package)})
	}
	if len(names) > 0 {
		o.Marble = names[0]
	}
	return o, nil
}

// fieldOf names a field of a manifest with its line.
func fieldOf(m *manifest.Manifest, file, path string) string {
	root, faults := jsonpos.Parse(m.Raw(), jsonpos.Limits{Depth: 64, Values: manifest.MaxSize})
	if len(faults) > 0 {
		return path
	}
	at, found := nearestNode(root, path)
	if !found {
		return path
	}
	return fmt.Sprintf("%s (%s:%d)", path, file, jsonpos.NewLines(m.Raw()).Line(at.Start))
}

// endorsementChecks ask the services that the coordinator takes endorsements
// from, or that flags name, from this machine.
func (a *app) endorsementChecks(f checkFlags, s kube.Services) []check.Check {
	var list []check.Check
	add := func(address, whose string, reach func(context.Context) error, err error) {
		list = append(list, check.Check{Category: "endorsements", Name: address + " answers", Run: func(ctx context.Context) check.Finding {
			if err == nil {
				err = reach(ctx)
			}
			return serviceFinding(address, whose, err)
		}})
	}
	for _, address := range union(f.pccs, s.PCCS) {
		source, err := fetch.NewPCCS(fetch.ClientConfig{URL: address})
		add(address, "PCCS", source.Reach, err)
	}
	for _, address := range union(f.kds, s.KDS) {
		source, err := fetch.NewKDS(fetch.ClientConfig{URL: address})
		add(address, "KDS", source.Reach, err)
	}
	if len(list) == 0 && f.only == "endorsements" && !f.again {
		a.p.Notef("no service of endorsements is named: --pccs URL, --kds URL\n")
	}
	return list
}

func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(a), b...))))
}

// serviceFinding says whether a service answered. It was asked from this
// machine, and pods may have another way to it.
func serviceFinding(address, whose string, err error) check.Finding {
	switch {
	case err == nil:
		return check.Pass("%s answers at %s (asked from this machine)", whose, address)
	case problem.CodeOf(err) == "ATT-067":
		return check.Warn("KUB-033", "%s answers at %s, but has nothing yet (asked from this machine)", whose, address)
	case strings.Contains(address, ".svc"):
		return check.Warn("KUB-033", "%s at %s does not answer this machine: the name is one of the cluster's", whose, address).
			WithNext("kubectl get endpoints shows whether the Service has pods")
	}
	return check.Fail("KUB-033", "no %s answers at %s (asked from this machine): %s", whose, address, problem.From(err).Detail)
}
