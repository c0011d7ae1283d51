package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// theirs are the variables of ashlar-marble that a pod may set itself.
var theirs = []string{"ASHLAR_ON_CUT", "ASHLAR_ENVOY_LOG", "ASHLAR_LOG_FORMAT"}

// environment sets the variables of the program's container.
func (in *injection) environment() {
	if in.profileName == "" {
		return
	}
	set := []corev1.EnvVar{
		{Name: "ASHLAR_MARBLE", Value: in.marble.Name},
		{Name: "ASHLAR_COORDINATOR", Value: in.settings.Coordinator},
		{Name: "ASHLAR_COORDINATOR_POLICY", Value: policyDir + "/" + policyFile},
		{Name: "ASHLAR_UUID", ValueFrom: &corev1.EnvVarSource{FieldRef: field("metadata.uid")}},
		{Name: "ASHLAR_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: field("status.podIP")}},
		{Name: "ASHLAR_READY_ADDR", Value: fmt.Sprintf("0.0.0.0:%d", in.settings.readyPort())},
		{Name: "ASHLAR_TEE", Value: in.profile.TEE},
	}
	if in.profile.Runtime == Wrap {
		set = append(set, corev1.EnvVar{Name: "ASHLAR_DIR", Value: runDir}, corev1.EnvVar{Name: "ASHLAR_ENVOY", Value: envoyPath})
	}
	if in.readsReferences() {
		set = append(set, corev1.EnvVar{Name: "ASHLAR_REFERENCES", Value: references})
	}
	if probes, any := in.handedOver(); any {
		set = append(set, corev1.EnvVar{Name: probesVariable, Value: probes})
	}
	for _, name := range slices.Sorted(maps.Keys(in.profile.Env)) {
		v := corev1.EnvVar{Name: name, Value: in.profile.Env[name]}
		if strings.HasPrefix(name, "ASHLAR_") || !slices.ContainsFunc(in.program.Env, func(e corev1.EnvVar) bool { return e.Name == name }) {
			set = append(set, v)
		}
	}
	in.foreignVariables(set)
	for _, v := range set {
		in.variable(v)
	}
}

// foreignVariables refuses variables of Ashlar's that are not the pod's to set.
func (in *injection) foreignVariables(set []corev1.EnvVar) {
	for _, e := range in.program.Env {
		ourOwn := slices.ContainsFunc(set, func(v corev1.EnvVar) bool { return v.Name == e.Name })
		if !in.again && strings.HasPrefix(e.Name, "ASHLAR_") && !ourOwn && !slices.Contains(theirs, e.Name) {
			in.refused.add("KUB-058", "container %s sets %.64s: a pod may set only %s", in.program.Name, e.Name, strings.Join(theirs, ", "))
		}
	}
}

// variable sets one variable, in its place if it is there.
func (in *injection) variable(v corev1.EnvVar) {
	env := in.program.Env
	i := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == v.Name })
	if i < 0 {
		in.program.Env = append(env, v)
		return
	}
	last := i // of several the last one counts
	for j := range env {
		if env[j].Name == v.Name {
			last = j
		}
	}
	switch {
	case last != i:
		in.refused.add("KUB-058", "container %s sets %s twice", in.program.Name, v.Name)
	case equality.Semantic.DeepEqual(env[i], v):
	case in.again:
		env[i] = v
	default:
		in.refused.add("KUB-058", "container %s sets %s, which is the injector's to set", in.program.Name, v.Name)
	}
}
