package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// mounts adds what every marble has: its policy for the coordinator, and, where
// ashlar-marble is put before the program, the programs and a private folder.
func (in *injection) mounts() {
	readable := int32(0o444)
	in.volume(policyVolume, corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: &readable,
		Items: []corev1.DownwardAPIVolumeFile{{Path: policyFile, FieldRef: field("metadata.annotations['" + Policy + "']")}}}})
	in.mount(in.program, corev1.VolumeMount{Name: policyVolume, MountPath: policyDir, ReadOnly: true})
	if in.profile.Runtime == Wrap {
		in.volume(binVolume, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		in.volume(runVolume, inMemory("16Mi"))
		in.mount(in.program, corev1.VolumeMount{Name: binVolume, MountPath: binDir, ReadOnly: true})
		in.mount(in.program, corev1.VolumeMount{Name: runVolume, MountPath: runDir})
	}
	for _, h := range in.profile.HostPaths {
		in.hostPath(h)
	}
	in.foreignMounts()
}

// inMemory is a folder that no disk sees.
func inMemory(most string) corev1.VolumeSource {
	limit := resource.MustParse(most)
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}
}

// field names a field of the pod, as the API server would complete it.
func field(fieldPath string) *corev1.ObjectFieldSelector {
	return &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fieldPath}
}

// hostPath hands a device or socket of the node to the program, unless the pod
// has it mounted there itself.
func (in *injection) hostPath(h HostPath) {
	kind := corev1.HostPathType(h.Type)
	source := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: h.Path, Type: &kind}}
	if i := in.mounted(in.program, h.Path); i >= 0 {
		m := in.program.VolumeMounts[i]
		if v := in.source(m.Name); v != nil && v.HostPath != nil && v.HostPath.Path == h.Path && !strings.HasPrefix(m.Name, ours) {
			return
		}
	}
	name := hostVolume + short(h.Path)
	in.volume(name, source)
	in.mount(in.program, corev1.VolumeMount{Name: name, MountPath: h.Path, ReadOnly: h.ReadOnly})
}

// short names a path in the name of a volume.
func short(p string) string {
	sum := sha256.Sum256([]byte(p))
	return hex.EncodeToString(sum[:4])
}

// volume adds a volume of ours.
func (in *injection) volume(name string, source corev1.VolumeSource) {
	volumes := in.pod.Spec.Volumes
	i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == name })
	switch {
	case i < 0:
		in.pod.Spec.Volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: source})
	case equality.Semantic.DeepEqual(volumes[i].VolumeSource, source):
	case in.again:
		volumes[i].VolumeSource = source
	default:
		in.refused.add("KUB-058", "the volume %s is not the injector's: give it another name", name)
	}
}

// source returns a volume by its name.
func (in *injection) source(name string) *corev1.VolumeSource {
	for i := range in.pod.Spec.Volumes {
		if v := &in.pod.Spec.Volumes[i]; v.Name == name {
			return &v.VolumeSource
		}
	}
	return nil
}

// mounted returns which of the container's mounts is at a path, or -1.
func (in *injection) mounted(c *corev1.Container, at string) int {
	return slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return cleaned(m.MountPath) == at })
}

// cleaned is a mount's path in its shortest form.
func cleaned(p string) string { return path.Clean("/" + p) }

// mount adds a mount of ours.
func (in *injection) mount(c *corev1.Container, m corev1.VolumeMount) {
	i := in.mounted(c, m.MountPath)
	switch {
	case i < 0:
		c.VolumeMounts = append(c.VolumeMounts, m)
	case equality.Semantic.DeepEqual(c.VolumeMounts[i], m):
	case in.again && strings.HasPrefix(c.VolumeMounts[i].Name, ours):
		c.VolumeMounts[i] = m
	case c == in.program && within(m.MountPath, ashlarDir): // foreignMounts says so
	default:
		in.refused.add("KUB-058", "container %s mounts volume %s at %s, where the injector mounts %s", c.Name, c.VolumeMounts[i].Name, m.MountPath, m.Name)
	}
}

// mountsOfOurs are the volumes in our folder, by their paths.
var mountsOfOurs = map[string]string{binDir: binVolume, runDir: runVolume, policyDir: policyVolume}

// foreignMounts refuses what the user mounts into our folder.
func (in *injection) foreignMounts() {
	for _, m := range in.program.VolumeMounts {
		at := cleaned(m.MountPath)
		switch {
		case !within(at, ashlarDir) || mountsOfOurs[at] == m.Name:
		case within(at, references) && at != references && holdsSecret(in.source(m.Name)):
		default:
			in.refused.add("KUB-058", "container %s mounts volume %s at %s: %s is the injector's", in.program.Name, m.Name, at, ashlarDir)
		}
	}
}

// holdsSecret says whether a volume shows a Secret.
func holdsSecret(v *corev1.VolumeSource) bool {
	return v != nil && (v.Secret != nil || v.Projected != nil && slices.ContainsFunc(v.Projected.Sources,
		func(p corev1.VolumeProjection) bool { return p.Secret != nil }))
}

// secrets moves the program's Secret volumes to where ashlar-marble reads
// references from, and puts a folder in memory into their places, which it fills.
// An image that is a marble by itself finds them at both places: what is mounted
// in an enclave is for the enclave to say.
func (in *injection) secrets() {
	if in.profileName == "" {
		return
	}
	plain := in.plain()
	for i := range in.program.VolumeMounts {
		m := in.program.VolumeMounts[i]
		at := cleaned(m.MountPath)
		if !holdsSecret(in.source(m.Name)) || within(at, ashlarDir) || slices.Contains(plain, m.Name) {
			continue
		}
		moved := corev1.VolumeMount{Name: m.Name, MountPath: path.Join(references, at), ReadOnly: true}
		if in.profile.Runtime == Image {
			moved.SubPath, moved.SubPathExpr = m.SubPath, m.SubPathExpr
			in.mount(in.program, moved)
			continue
		}
		if m.SubPath != "" || m.SubPathExpr != "" || at == "/" {
			in.refused.add("KUB-060", "container %s mounts one file of the Secret volume %s at %s, where no folder in memory can be put", in.program.Name, m.Name, at)
			continue
		}
		name := filesVolume + short(at)
		in.volume(name, inMemory("32Mi"))
		in.program.VolumeMounts[i] = corev1.VolumeMount{Name: name, MountPath: m.MountPath}
		if p := in.source(m.Name).Projected; p != nil && slices.ContainsFunc(p.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			in.warning("volume %s has a token beside a Secret: it is copied when the marble renews, and may be out of date; mount it by itself", m.Name)
		}
		in.mount(in.program, moved)
	}
}

// plain lists the volumes that an annotation leaves where they are.
func (in *injection) plain() []string {
	names := in.list(Plain)
	for _, name := range names {
		if !holdsSecret(in.source(name)) {
			in.refused.add("KUB-057", "the annotation %s names %.64q, which is no volume with a Secret", Plain, name)
		}
	}
	return names
}

// readsReferences says whether a Secret volume is where ashlar-marble looks.
func (in *injection) readsReferences() bool {
	return slices.ContainsFunc(in.program.VolumeMounts, func(m corev1.VolumeMount) bool { return within(cleaned(m.MountPath), references) })
}
