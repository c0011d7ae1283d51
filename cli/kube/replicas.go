package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
)

// coordinatorName is the coordinator's in labels and of its container.
const coordinatorName = "coordinator"

// coordinator is what of a coordinator's StatefulSet decides where its state is,
// who opens it, and how many do.
type coordinator struct {
	image, tee, seal string
	store            store
	replicas         int
}

// store is where a coordinator's state is: in its volume if it is zero.
type store struct {
	hosts, prefix string
	plain         bool // no TLS
}

// String says where that is.
func (s store) String() string {
	if s.prefix == "" {
		return "in its volume"
	}
	return "in etcd below " + s.prefix
}

// storeOf reads the coordinator's flag --store.
func storeOf(location string) store {
	hosts, path, _ := strings.Cut(strings.TrimPrefix(location, "etcd://"), "/")
	prefix, options, _ := strings.Cut(path, "?")
	return store{hosts, "/" + strings.Trim(prefix, "/"), options == "tls=off"}
}

func isCoordinator(o object) bool {
	return o.kind() == "StatefulSet" && o.text("metadata", "labels", "app.kubernetes.io/component") == coordinatorName
}

func coordinatorOf(set object) coordinator {
	c := coordinator{replicas: 1}
	if n, err := strconv.Atoi(show(set.field("spec", "replicas"))); err == nil {
		c.replicas = n
	}
	containers, _ := set.field("spec", "template", "spec", "containers").([]any)
	for _, e := range containers {
		container := object(asMap(e))
		if container.text("name") != coordinatorName {
			continue
		}
		c.image = container.text("image")
		args, _ := container.field("args").([]any)
		for _, a := range args {
			name, value, _ := strings.Cut(show(a), "=")
			switch name {
			case "--tee":
				c.tee = value
			case "--seal":
				c.seal = value
			case "--store":
				c.store = storeOf(value)
			}
		}
	}
	return c
}

// coordinators calls each with every coordinator among objects, and with what it
// was in old.
func coordinators(old, new []object, each func(n object, was *coordinator, is coordinator)) {
	for _, n := range new {
		if !isCoordinator(n) {
			continue
		}
		var was *coordinator
		if i := slices.IndexFunc(old, func(o object) bool { return o.key() == n.key() }); i >= 0 {
			before := coordinatorOf(old[i])
			was = &before
		}
		each(n, was, coordinatorOf(n))
	}
}

// moves are the changes after which a coordinator would look for its state
// elsewhere, in words.
func moves(old, new []object) []string {
	var lost []string
	coordinators(old, new, func(n object, was *coordinator, is coordinator) {
		if was != nil && was.store.prefix != is.store.prefix {
			lost = append(lost, fmt.Sprintf("%s: its state is %s, and would be looked for %s", n, was.store, is.store))
		}
	})
	return lost
}

// notes say what a plan means for coordinators that share a state.
func notes(old, new []object) []string {
	said := []string{}
	note := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	coordinators(old, new, func(n object, was *coordinator, is coordinator) {
		if is.store.plain && (was == nil || !was.store.plain) {
			note("etcd is asked without TLS: whoever is on the way to it, or reaches it, can hold back, put back and delete the state")
		}
		switch {
		case was == nil && is.replicas > 1:
			note("one of %d coordinators has the state's key at first: the others get it when a manifest names them under coordinators", is.replicas)
		case was == nil:
		case is.replicas > was.replicas && is.replicas > 1:
			note("a further coordinator gets the state's key when the manifest in force names it under coordinators; until then it passes connections on, and cannot take over")
		case is.replicas < was.replicas && is.replicas > 0:
			note("%d of %d coordinators go, and their volumes stay: see by ashlar status that one of %s has the state's key", was.replicas-is.replicas, was.replicas, names(n.name(), is.replicas))
		}
		if was != nil && was.store.hosts != is.store.hosts && was.store.prefix == is.store.prefix {
			note("etcd is asked at %s in place of %s: it has to be the same cluster", is.store.hosts, was.store.hosts)
		}
	})
	return said
}

// names are those of the first pods of a StatefulSet.
func names(set string, n int) string {
	if n == 1 {
		return set + "-0"
	}
	return fmt.Sprintf("%s-0 to -%d", set, n-1)
}

// recoveries are the changes after which a coordinator may not open its state by
// itself.
func recoveries(old, new []object) []Risk {
	risks := []Risk{}
	coordinators(old, new, func(_ object, was *coordinator, is coordinator) {
		if was == nil {
			return
		}
		otherwise := "unless the manifest seals by product"
		if is.store.prefix != "" {
			otherwise += ", or names the new image under coordinators and another coordinator has the key meanwhile"
		}
		switch {
		case was.tee != is.tee:
			risks = append(risks, Risk{RiskRecovery, fmt.Sprintf("the coordinator moves from TEE %s to %s, which does not open its state: holders of recovery shares have to (ashlar recover)", cmp.Or(was.tee, "none"), cmp.Or(is.tee, "none"))})
		case was.image != is.image && is.seal == "unique":
			risks = append(risks, Risk{RiskRecovery, fmt.Sprintf("the coordinator's image changes (%s), and %s, holders of recovery shares have to open its state (ashlar recover)", is.image, otherwise)})
		}
	})
	return risks
}

// sharedState is where the state of a release's coordinators is in etcd; "" if it
// is in a volume.
func sharedState(all []object) string {
	for _, o := range all {
		if s := coordinatorOf(o).store; isCoordinator(o) && s.prefix != "" {
			return s.prefix + " at " + s.hosts
		}
	}
	return ""
}

// versionsFinding says whether the coordinators of a release run one program. It
// is no finding where there is one.
func versionsFinding(pods []corev1.Pod) []check.Finding {
	by := map[string][]string{}
	var images []string
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			if c.Name != coordinatorName || p.DeletionTimestamp != nil {
				continue
			}
			if by[c.Image] == nil {
				images = append(images, c.Image)
			}
			by[c.Image] = append(by[c.Image], p.Name)
		}
	}
	switch {
	case len(pods) < 2 || len(images) == 0:
		return nil
	case len(images) == 1:
		return []check.Finding{check.Pass("%d coordinators run %s", len(by[images[0]]), images[0])}
	}
	var said []string
	for _, image := range images {
		said = append(said, fmt.Sprintf("%s on %s", image, strings.Join(by[image], ", ")))
	}
	return []check.Finding{check.Warn("KUB-097", "coordinators run %s", strings.Join(said, "; "))}
}

// checkSecrets says whether the Secrets that coordinators mount are there. It is no
// finding where they mount none.
func (c *Cluster) checkSecrets(ctx context.Context, manifest string) []check.Finding {
	docs, err := objects(manifest)
	if err != nil {
		return []check.Finding{check.FromError(err)}
	}
	var found []check.Finding
	for _, o := range docs {
		volumes, _ := o.field("spec", "template", "spec", "volumes").([]any)
		for _, v := range volumes {
			name := object(asMap(v)).text("secret", "secretName")
			if !isCoordinator(o) || name == "" {
				continue
			}
			secret, err := c.client.CoreV1().Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return append(found, check.FromError(c.failure(err, "looking for Secret %s", name)))
			}
			items, _ := object(asMap(v)).field("secret", "items").([]any)
			found = append(found, secretFinding(secret.Data, c.Namespace, name, items))
		}
	}
	return found
}

// secretFinding says whether a Secret has what is mounted of it.
func secretFinding(data map[string][]byte, namespace, name string, items []any) check.Finding {
	var missing, files []string
	for _, i := range items {
		key := object(asMap(i)).text("key")
		files = append(files, "--from-file="+key)
		if len(data[key]) == 0 {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 {
		return check.Pass("Secret %s has the certificates for etcd", name)
	}
	return check.Fail("KUB-098", "Secret %s in namespace %s has no %s", name, namespace, strings.Join(missing, ", ")).
		WithNext("kubectl -n " + namespace + " create secret generic " + name + " " + strings.Join(files, " "))
}
