package kube

import (
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/chartutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// versionFinding holds the API server's version against the chart's kubeVersion.
func versionFinding(version, constraint string) check.Finding {
	if constraint != "" && !chartutil.IsCompatibleRange(constraint, version) {
		return check.Fail("KUB-014", "the API server is %s, and the chart wants %s", version, strings.TrimSuffix(constraint, "-0"))
	}
	return check.Pass("can reach the cluster (%s)", version)
}

// access is one thing that an installation does; for the whole cluster without a
// namespace.
type access struct{ verb, group, resource, namespace string }

// what names the kind of object, with its API's group.
func (a access) what() string {
	return schema.GroupResource{Group: a.group, Resource: a.resource}.String()
}

// accessFinding says what of an installation the account may not do.
func accessFinding(asked, denied []access, namespace string) check.Finding {
	if len(denied) == 0 {
		return check.Pass("may do in namespace %s what an installation needs (%d permissions)", namespace, len(asked))
	}
	var what []string
	for i := 0; i < len(denied); {
		verbs := []string{denied[i].verb}
		first := denied[i]
		for i++; i < len(denied) && denied[i].resource == first.resource && denied[i].group == first.group; i++ {
			verbs = append(verbs, denied[i].verb)
		}
		what = append(what, first.what()+" ("+strings.Join(verbs, ", ")+")")
	}
	return check.Fail("KUB-024", "you may not do all of an installation in namespace %s: %s", namespace, strings.Join(what, ", "))
}

const defaultClass = "storageclass.kubernetes.io/is-default-class"

// storageFinding says whether the coordinator's state finds a volume. An empty
// name asks for the default class.
func storageFinding(classes []storagev1.StorageClass, name string) check.Finding {
	var names []string
	for _, c := range classes {
		if name == "" && c.Annotations[defaultClass] == "true" || name != "" && c.Name == name {
			return check.Pass("the coordinator's state goes to storage class %s (%s)", c.Name, c.Provisioner)
		}
		names = append(names, c.Name)
	}
	there := "there is none"
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	if name == "" {
		return check.Fail("KUB-025", "no storage class is the default one: %s", there)
	}
	return check.Fail("KUB-025", "there is no storage class %s: %s", name, there)
}

// enforce is the namespace's label that pod security admission goes by.
const enforce = "pod-security.kubernetes.io/enforce"

// securityFinding says whether pod security admission lets the pods of a
// profile into a namespace. Volumes of the node and privileged containers are for
// the level "privileged" alone; what else the injector adds, "restricted" takes.
func securityFinding(ns corev1.Namespace, profile string, p inject.Profile) check.Finding {
	level := ns.Labels[enforce]
	why := ""
	switch {
	case p.Privileged:
		why = "runs a privileged container"
	case len(p.HostPaths) > 0:
		why = "mounts " + p.HostPaths[0].Path + " of the node"
	}
	if why == "" || level == "" || level == "privileged" {
		return check.Pass("pod security of namespace %s admits profile %s", ns.Name, profile)
	}
	return check.Fail("KUB-026", "namespace %s enforces pod security %q, and profile %s %s", ns.Name, level, profile, why).
		WithNext(fmt.Sprintf("kubectl label --overwrite namespace %s %s=privileged, or run these marbles in another", ns.Name, enforce))
}

// servedFinding says which kinds that the chart makes the cluster does not know.
func servedFinding(kinds []kind) check.Finding {
	var missing []string
	for _, k := range kinds {
		if k.resource == "" {
			missing = append(missing, k.String())
		}
	}
	if len(missing) == 0 {
		return check.Pass("knows every kind that the chart makes (%d)", len(kinds))
	}
	f := check.Fail("KUB-027", "the chart makes what the cluster does not know: %s", strings.Join(missing, ", "))
	if strings.Contains(missing[0], "monitoring.coreos.com") {
		return f.WithNext("install the Prometheus operator, or switch the values of monitoring off")
	}
	return f
}

// part is a program of a release, as its labels and status say.
type part struct {
	kind, name, version string
	ready, wanted       int32
}

func statefulSet(s appsv1.StatefulSet) part {
	return part{"StatefulSet", s.Name, s.Labels["app.kubernetes.io/version"], s.Status.ReadyReplicas, wanted(s.Spec.Replicas)}
}

func deployment(d appsv1.Deployment) part {
	return part{"Deployment", d.Name, d.Labels["app.kubernetes.io/version"], d.Status.ReadyReplicas, wanted(d.Spec.Replicas)}
}

// releaseFindings says what of Ashlar runs in the namespace.
func releaseFindings(parts []part, namespace, own string) []check.Finding {
	if len(parts) == 0 {
		return []check.Finding{check.Warn("KUB-028", "Ashlar is not installed in namespace %s", namespace).
			WithNext("ashlar install -n " + namespace)}
	}
	var out []check.Finding
	for _, p := range parts {
		if p.ready < p.wanted {
			out = append(out, check.Fail("KUB-028", "%s: %d of %d pods are ready", p.name, p.ready, p.wanted).
				WithNext(fmt.Sprintf("kubectl -n %s describe %s %s", namespace, strings.ToLower(p.kind), p.name)))
			continue
		}
		text := fmt.Sprintf("%s %s: %d of %d pods are ready", p.name, p.version, p.ready, p.wanted)
		if p.version != "" && p.version != own {
			out = append(out, check.Warn("KUB-028", "%s; this command is %s", text, own).WithNext("ashlar upgrade"))
			continue
		}
		out = append(out, check.Pass("%s", text))
	}
	return out
}
