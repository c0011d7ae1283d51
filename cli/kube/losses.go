package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// inPlace are the fields of a StatefulSet's spec that Kubernetes changes in
// place; it refuses any other change, and what gets around that by making the
// StatefulSet again may begin with an empty volume.
var inPlace = []string{"replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}

// losses are the changes that would part a workload from its state, in words.
func losses(old, new []object) []string {
	after := map[string]object{}
	for _, n := range new {
		after[n.key()] = n
	}
	var lost []string
	for _, o := range old {
		n, stays := after[o.key()]
		switch {
		case o.kind() == "StatefulSet" && !stays && o.field("spec", "volumeClaimTemplates") != nil:
			lost = append(lost, o.String()+" would be removed, and what is in its volumes with it left behind"+renamed(old, new))
		case o.kind() == "PersistentVolumeClaim" && !stays && o.text("metadata", "annotations", "helm.sh/resource-policy") != "keep":
			lost = append(lost, o.String()+" would be removed with all that is in it")
		case !stays:
		case o.kind() == "StatefulSet":
			lost = append(lost, fixed(o, n, inPlace)...)
		case o.kind() == "PersistentVolumeClaim":
			lost = append(lost, fixed(o, n, []string{"resources"})...)
		}
	}
	return lost
}

// fixed are the changed fields of a spec beside those that may change.
func fixed(old, new object, may []string) []string {
	var lost []string
	for _, f := range differences(old, new) {
		field, below := strings.CutPrefix(f.Path, "spec.")
		if !below || slices.Contains(may, strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' })[0]) {
			continue
		}
		lost = append(lost, fmt.Sprintf("%s: %s cannot be changed where its state is (%s → %s)", new, f.Path, cmp.Or(f.From, "none"), cmp.Or(f.To, "none")))
	}
	return lost
}

// renamed says under which other name a removed StatefulSet would begin anew.
func renamed(old, new []object) string {
	had := map[string]bool{}
	for _, o := range old {
		had[o.key()] = true
	}
	for _, n := range new {
		if n.kind() == "StatefulSet" && !had[n.key()] {
			return "; " + n.String() + " would begin with an empty state"
		}
	}
	return ""
}

// recoveries are the changes after which a coordinator may not open its state by
// itself.
func recoveries(old, new []object) []Risk {
	risks := []Risk{}
	for _, n := range new {
		i := slices.IndexFunc(old, func(o object) bool { return o.key() == n.key() })
		if i < 0 || n.kind() != "StatefulSet" || n.text("metadata", "labels", "app.kubernetes.io/component") != "coordinator" {
			continue
		}
		was, is := coordinatorOf(old[i]), coordinatorOf(n)
		switch {
		case was.tee != is.tee:
			risks = append(risks, Risk{RiskRecovery, fmt.Sprintf("the coordinator moves from TEE %s to %s, which does not open its state: holders of recovery shares have to (ashlar recover)", cmp.Or(was.tee, "none"), cmp.Or(is.tee, "none"))})
		case was.image != is.image && is.seal == "unique":
			risks = append(risks, Risk{RiskRecovery, fmt.Sprintf("the coordinator's image changes (%s), and unless the manifest seals by product, holders of recovery shares have to open its state (ashlar recover)", is.image)})
		}
	}
	return risks
}

// coordinator is what of a coordinator's container decides who opens its state.
type coordinator struct{ image, tee, seal string }

func coordinatorOf(set object) coordinator {
	var c coordinator
	containers, _ := set.field("spec", "template", "spec", "containers").([]any)
	for _, e := range containers {
		container := object(asMap(e))
		if container.text("name") != "coordinator" {
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
			}
		}
	}
	return c
}
