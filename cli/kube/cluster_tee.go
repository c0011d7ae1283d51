package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// Wanted is a marble that somebody wants to run: what its package allows, and
// where the manifest says so.
type Wanted struct {
	Marble string
	TEEs   []string
	Field  string // such as "packages.web (manifest.json:12)"
}

// teeFindings says how many nodes offer each TEE, and to which of them the
// cluster's labels claim one that no pod can have.
func teeFindings(c cluster, profiles map[string]inject.Profile) []check.Finding {
	nodes, resources := map[string]int{}, map[string][]string{}
	claimed := map[string]int{}
	for _, n := range c.nodes {
		has := offered(n)
		for tee, names := range has {
			nodes[tee]++
			for _, name := range names {
				if !slices.Contains(resources[tee], name) {
					resources[tee] = append(resources[tee], name)
				}
			}
		}
		for _, tee := range labelled(n) {
			if has[tee] == nil && !c.runsSome(profiles, tee, n) {
				claimed[tee]++
			}
		}
	}
	var out []check.Finding
	for _, tee := range slices.Sorted(maps.Keys(nodes)) {
		out = append(out, check.Pass("%s %s (%s)", check.Count(nodes[tee], "node offers", "nodes offer"), tee, strings.Join(resources[tee], ", ")))
	}
	for _, tee := range slices.Sorted(maps.Keys(claimed)) {
		f := check.Warn("KUB-030", "%s %s by label, but no pod can have it there", check.Count(claimed[tee], "node has", "nodes have"), tee)
		out = append(out, f.WithNext(installs(tee)))
	}
	return out
}

// installs is what makes a TEE that a node has usable for pods.
func installs(tee string) string {
	if tee == "sgx" {
		return "install the SGX device plugin on these nodes"
	}
	return "install Kata Containers with the runtime class of " + tee + " (kata-deploy), or name the nodes' own labels in the values' profiles"
}

// runsSome reports whether some profile of a TEE, which says what nodes it is for,
// fits this one.
func (c cluster) runsSome(profiles map[string]inject.Profile, tee string, n corev1.Node) bool {
	for _, p := range profiles {
		if p.TEE == tee && choosy(p) && c.obstacle(p, n) == "" {
			return true
		}
	}
	return false
}

// pluginFindings says what is installed that makes TEEs usable, and where it is
// not up.
func pluginFindings(plugins []plugin) []check.Finding {
	var out []check.Finding
	for _, p := range plugins {
		if p.ready < p.wanted {
			out = append(out, check.Warn("KUB-030", "%s %s is ready on %d of %d nodes (namespace %s)", p.name, p.version, p.ready, p.wanted, p.where).
				WithNext("kubectl -n "+p.where+" get pods"))
			continue
		}
		out = append(out, check.Pass("%s %s on %s (namespace %s)", p.name, p.version, check.Count(int(p.wanted), "node", "nodes"), p.where))
	}
	return out
}

// choosy reports whether a profile says which nodes are its own. One that asks
// nothing of a node fits them all, and that tells nothing about a TEE.
func choosy(p inject.Profile) bool {
	return len(p.Resources) > 0 || p.EPC != nil || p.RuntimeClass != "" || len(p.NodeLabels) > 0
}

func simulated(tee string) bool { return strings.HasPrefix(tee, "sim:") }

// profileFindings says which profiles' pods have a node to run on.
func profileFindings(c cluster, profiles map[string]inject.Profile) []check.Finding {
	var runs, classes, why []string
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		p := profiles[name]
		if !choosy(p) || simulated(p.TEE) {
			continue
		}
		nodes, _ := c.fitting(p)
		if len(nodes) == 0 {
			if near := c.nearly(p); near != "" {
				why = append(why, name+": "+near)
			}
			continue
		}
		runs = append(runs, fmt.Sprintf("%s (%s)", name, check.Count(len(nodes), "node", "nodes")))
		if p.RuntimeClass != "" && !slices.Contains(classes, p.RuntimeClass) {
			classes = append(classes, p.RuntimeClass)
		}
	}
	switch {
	case len(runs) > 0:
	case len(why) > 0:
		return []check.Finding{check.Warn("KUB-031", "no node takes pods of a profile: %s", strings.Join(why, "; ")).
			WithNext("add the tolerations or labels to the profile in the values' tee.profiles, or change the nodes")}
	default:
		return []check.Finding{check.Warn("KUB-029", "no node says that it offers a TEE: only simulation is sure to run here")}
	}
	out := []check.Finding{check.Pass("profiles with nodes: %s", strings.Join(runs, ", "))}
	if len(classes) > 0 {
		out = append(out, check.Pass("runtime classes: %s", strings.Join(classes, ", ")))
	}
	return out
}

// nearly says what keeps a profile's pods from a node that has all its
// resources.
func (c cluster) nearly(p inject.Profile) string {
	if len(p.Resources) == 0 && p.EPC == nil {
		return ""
	}
	for _, n := range c.nodes {
		if lacksResource(p, n) == "" {
			return n.Name + ": " + c.obstacle(p, n)
		}
	}
	return ""
}

// marbleFinding says whether some node can run a marble, by the profiles that
// the injector chooses for its package's TEEs, or where it is told none, by any.
func marbleFinding(c cluster, s inject.Settings, w Wanted) check.Finding {
	var sure, perhaps, why []string
	table := s.Table()
	for _, name := range slices.Sorted(maps.Keys(table)) {
		p := table[name]
		chosen, told := s.Defaults[p.TEE]
		if !slices.Contains(w.TEEs, p.TEE) || told && chosen != name {
			continue
		}
		nodes, obstacles := c.fitting(p)
		switch {
		case len(nodes) == 0:
			why = append(why, name+": "+append(obstacles, "there is no node")[0])
		case choosy(p) || simulated(p.TEE):
			sure = append(sure, fmt.Sprintf("%s on %s (profile %s)", p.TEE, check.Count(len(nodes), "node", "nodes"), name))
		default:
			perhaps = append(perhaps, name)
		}
	}
	allows := fmt.Sprintf("%s allows %s", w.Field, strings.Join(w.TEEs, ", "))
	switch {
	case len(sure) > 0:
		return check.Pass("marble %s can run: %s", w.Marble, strings.Join(sure, ", "))
	case len(perhaps) > 0:
		return check.Warn("KUB-031", "marble %s: %s, and profile %s asks nothing of a node: it may land on any", w.Marble, allows, strings.Join(perhaps, ", ")).
			WithNext("give the profile nodeLabels in the values' tee.profiles")
	case len(why) == 0:
		return check.Fail("KUB-031", "no node can run marble %s: %s, for which there is no profile", w.Marble, allows).
			WithNext("add a profile of that TEE to the values' tee.profiles")
	}
	return check.Fail("KUB-031", "no node can run marble %s: %s; %s", w.Marble, allows, strings.Join(why, "; "))
}
