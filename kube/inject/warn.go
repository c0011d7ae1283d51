package inject

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/attest"
)

// proxies are the containers of other meshes.
var proxies = []string{"istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"}

// warn says what works in the pod, but shares the marble's secrets or identity
// with others.
func (in *injection) warn() {
	spec, others := &in.pod.Spec, []string{}
	for _, c := range slices.Concat(spec.Containers, sidecars(spec.InitContainers)) {
		if slices.Contains(proxies, c.Name) {
			in.warning("container %s is another mesh's proxy: leave the pod out of that mesh, or exclude the marble's ports from it", c.Name)
		}
		if c.Name != in.program.Name {
			others = append(others, c.Name)
		}
	}
	if len(others) > 0 && in.profile.Runtime == Wrap {
		in.warning("%s share the program's loopback: they can call it, and what they send to its callees leaves as marble %s", few(others), in.marble.Name)
	}
	if in.profile.Runtime == Wrap && !in.profile.Privileged && !attest.TEE(in.profile.TEE).Simulated() && in.unprivilegedUser() {
		in.warning("container %s does not run as root, whose alone are the devices and settings that evidence comes from in most guests", in.program.Name)
	}
	if said := spec.ShareProcessNamespace; said != nil && *said {
		in.warning("shareProcessNamespace: other containers of the pod with the same user can read the marble's secrets")
	}
	if spec.HostPID || spec.HostIPC {
		in.warning("hostPID or hostIPC: the marble shares processes or memory with its node")
	}
	if sc := in.program.SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged && in.profile.Privileged {
		in.warning("profile %s makes container %s root of its node, which is the TEE", in.profileName, in.program.Name)
	} else if sc != nil && sc.Privileged != nil && *sc.Privileged {
		in.warning("container %s is privileged", in.program.Name)
	}
	in.warnOfReferences()
}

// sidecars are the init containers that stay.
func sidecars(init []corev1.Container) []corev1.Container {
	return slices.DeleteFunc(slices.Clone(init), func(c corev1.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
	})
}

// warnOfReferences names containers that see a Secret with the references in it.
func (in *injection) warnOfReferences() {
	plain := in.list(Plain)
	for _, c := range slices.Concat(in.pod.Spec.InitContainers, in.pod.Spec.Containers) {
		if c.Name == in.program.Name {
			continue
		}
		for _, m := range c.VolumeMounts {
			if holdsSecret(in.source(m.Name)) && !slices.Contains(plain, m.Name) {
				in.warning("container %s sees the Secret volume %s as it is: references are resolved for container %s alone", c.Name, m.Name, in.program.Name)
			}
		}
	}
}
