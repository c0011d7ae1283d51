package inject

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// devices asks for what the profile needs of a node's devices.
func (in *injection) devices() {
	for _, name := range slices.Sorted(maps.Keys(in.profile.Resources)) {
		if q, err := resource.ParseQuantity(in.profile.Resources[name]); err == nil {
			in.resource(name, q)
		}
	}
	in.epc()
	if in.profile.Privileged {
		in.privileged()
	}
}

// epc asks for memory of the enclave: as the annotation says, else as the
// container does, else the profile.
func (in *injection) epc() {
	size, asked := in.pod.Annotations[EPC]
	e := in.profile.EPC
	if e == nil {
		if asked && in.profileName != "" {
			in.warning("the annotation %s counts for enclaves alone", EPC)
		}
		return
	}
	if !asked {
		if _, own := in.program.Resources.Limits[corev1.ResourceName(e.Name)]; own {
			return
		}
		size = e.Default
	}
	q, err := e.quantity(size)
	if err != nil {
		in.refused.add("KUB-057", "the annotation %s: %v", EPC, err)
		return
	}
	in.resource(e.Name, q)
}

// resource sets limit and request, which are the same for devices.
func (in *injection) resource(name string, want resource.Quantity) {
	r := &in.program.Resources
	for what, list := range map[string]*corev1.ResourceList{"limit": &r.Limits, "request": &r.Requests} {
		got, there := (*list)[corev1.ResourceName(name)]
		if there && got.Cmp(want) != 0 {
			in.refused.add("KUB-060", "container %s has the %s %s: %s, and profile %s wants %s", in.program.Name, what, name, got.String(), in.profileName, want.String())
			continue
		}
		if !there {
			if *list == nil {
				*list = make(corev1.ResourceList)
			}
			(*list)[corev1.ResourceName(name)] = want
		}
	}
}

// privileged lets the container open the node's devices, which belong to root.
func (in *injection) privileged() {
	yes, sc := true, in.program.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	denied := func(b *bool) bool { return b != nil && !*b }
	switch {
	case denied(sc.Privileged) || denied(sc.AllowPrivilegeEscalation):
		in.refused.add("KUB-060", "container %s may not be privileged, and profile %s has it open devices of the node", in.program.Name, in.profileName)
	case in.unprivilegedUser():
		in.refused.add("KUB-060", "container %s does not run as root, and the devices of profile %s are root's alone", in.program.Name, in.profileName)
	default:
		sc.Privileged = &yes
		in.program.SecurityContext = sc
	}
}

// unprivilegedUser says whether the pod has the program run as another user than
// root; where it says nothing, the image decides.
func (in *injection) unprivilegedUser() bool {
	var user *int64
	var nonRoot *bool
	if pod := in.pod.Spec.SecurityContext; pod != nil {
		user, nonRoot = pod.RunAsUser, pod.RunAsNonRoot
	}
	if sc := in.program.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
	}
	return nonRoot != nil && *nonRoot || user != nil && *user != 0
}

// schedule sends the pod to nodes that have the TEE.
func (in *injection) schedule() {
	spec := &in.pod.Spec
	if class := in.profile.RuntimeClass; class != "" {
		if spec.RuntimeClassName != nil && *spec.RuntimeClassName != class {
			in.refused.add("KUB-060", "runtimeClassName is %.64q, and profile %s wants %s", *spec.RuntimeClassName, in.profileName, class)
		}
		spec.RuntimeClassName = &class
	}
	for _, key := range in.profile.Tolerations {
		tolerated := slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && t.Operator == corev1.TolerationOpExists && t.Effect == ""
		})
		if !tolerated {
			spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(in.profile.NodeLabels)) {
		in.nodeLabel(key, in.profile.NodeLabels[key])
	}
}

// nodeLabel requires a label of the node, in every term of the pod's affinity:
// terms are alternatives.
func (in *injection) nodeLabel(key, value string) {
	spec := &in.pod.Spec
	if own, there := spec.NodeSelector[key]; there {
		if own != value {
			in.refused.add("KUB-060", "nodeSelector has %s: %.64q, and profile %s wants %q", key, own, in.profileName, value)
		}
		return
	}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{isLabel(key, value)}}}}
		return
	}
	for i := range required.NodeSelectorTerms {
		if t := &required.NodeSelectorTerms[i]; len(t.MatchExpressions)+len(t.MatchFields) > 0 { // an empty term matches no node
			in.term(t, key, value)
		}
	}
}

func isLabel(key, value string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}
}

// term adds one label to a term, unless it is demanded or ruled out there.
func (in *injection) term(t *corev1.NodeSelectorTerm, key, value string) {
	for _, e := range t.MatchExpressions {
		has := slices.Contains(e.Values, value)
		switch {
		case e.Key != key:
		case e.Operator == corev1.NodeSelectorOpIn && has && len(e.Values) == 1:
			return
		case e.Operator == corev1.NodeSelectorOpIn && !has, e.Operator == corev1.NodeSelectorOpNotIn && has, e.Operator == corev1.NodeSelectorOpDoesNotExist:
			in.refused.add("KUB-060", "its node affinity rules out nodes with %s: %q, and profile %s wants them", key, value, in.profileName)
			return
		}
	}
	t.MatchExpressions = append(t.MatchExpressions, isLabel(key, value))
}
