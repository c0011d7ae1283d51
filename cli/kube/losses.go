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
