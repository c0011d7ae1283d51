package derive

import (
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// Limits of a manifest.
const (
	maxVariables = 256
	maxFiles     = 64
	maxPath      = 512
)

var filePath = regexp.MustCompile(`^(/[^/\x00-\x1f\x7f]+)+$`)

// secretKey names one value of a Secret.
type secretKey struct {
	object
	key string
}

// secretsOfMarble makes opaque secrets of what programs get from Secrets, each
// only for the marbles that get it and only at the places where they do.
func (j *job) secretsOfMarble(m *marble) {
	for n, w := range m.runs {
		j.places = manifest.References{}
		j.secretsInEnv(m, w)
		for i, mount := range w.container().VolumeMounts {
			for _, v := range w.spec.Volumes {
				if v.Name == mount.Name {
					j.mounted(m, w, mount, v, w.containerAt().at("volumeMounts[%d]", i))
				}
			}
		}
		j.beside(w)
		if n == 0 {
			m.made.Parameters.References = j.places
		} else if !reflect.DeepEqual(j.places, m.made.Parameters.References) {
			j.decide(m.path("parameters.references"), "%s and %s have Secrets at different places, and one of these without a reference is refused: make them alike", m.runs[0].at, w.at)
		}
	}
}

// secretsInEnv refers to the Secrets in a program's environment. Of two variables
// of one name the later counts.
func (j *job) secretsInEnv(m *marble, w *workload) {
	c, at := w.container(), w.containerAt()
	last := make(map[string]int, len(c.Env))
	for i, e := range c.Env {
		last[e.Name] = i
	}
	for i, from := range c.EnvFrom {
		if from.SecretRef == nil {
			continue
		}
		ref, at := object{w.namespace, from.SecretRef.Name}, at.at("envFrom[%d]", i)
		if j.secretKeys[ref] == nil {
			j.decide(m.path("parameters.references.env"), "%s: the keys of Secret %s are not in what was read: add it, or write a secret for each", at, ref.name)
		}
		for _, key := range j.secretKeys[ref] {
			if _, own := last[from.Prefix+key]; !own {
				j.inEnv(m, at, from.Prefix+key, secretKey{ref, key})
			}
		}
	}
	for i, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && last[e.Name] == i {
			ref := e.ValueFrom.SecretKeyRef
			j.inEnv(m, at.at("env[%d]", i), e.Name, secretKey{object{w.namespace, ref.Name}, ref.Key})
		}
	}
}

// beside tells of Secrets for containers that are not the program.
func (j *job) beside(w *workload) {
	tell := func(c *corev1.Container, at Place) {
		for i, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				j.note(at.at("env[%d]", i), importer.NoCounterpart, "", "container %s is not the program: no secret is given to it", c.Name)
			}
		}
	}
	for i := range w.spec.Containers {
		if i != w.program {
			tell(&w.spec.Containers[i], w.pod.at("spec.containers[%d]", i))
		}
	}
	for i := range w.spec.InitContainers {
		tell(&w.spec.InitContainers[i], w.pod.at("spec.initContainers[%d]", i))
	}
}

func (j *job) inEnv(m *marble, at Place, variable string, key secretKey) {
	if !environmentName.MatchString(variable) {
		j.note(at, importer.NoCounterpart, "", "%q is no name of a variable that a manifest takes", variable)
		return
	}
	j.refer(m, at, "env", variable, key)
}

// mounted refers to each file of a Secret's volume.
func (j *job) mounted(m *marble, w *workload, mount corev1.VolumeMount, v corev1.Volume, at Place) {
	type part struct {
		name  string
		items []corev1.KeyToPath
	}
	var parts []part
	if v.Secret != nil {
		parts = append(parts, part{v.Secret.SecretName, v.Secret.Items})
	}
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				parts = append(parts, part{s.Secret.Name, s.Secret.Items})
			}
		}
	}
	for _, p := range parts {
		ref, items := object{w.namespace, p.name}, p.items
		if items == nil {
			for _, key := range j.secretKeys[ref] {
				items = append(items, corev1.KeyToPath{Key: key, Path: key})
			}
		}
		if len(items) == 0 {
			j.decide(m.path("parameters.references.files"), "%s: the keys of Secret %s are not in what was read: add it, or write a secret for each file", at, ref.name)
		}
		for _, item := range items {
			if !filepath.IsLocal(item.Path) {
				j.note(at, importer.Dropped, "", "key %s would be a file outside of the volume", item.Key)
				continue
			}
			file := path.Join("/", mount.MountPath, item.Path)
			if mount.SubPath != "" {
				if path.Clean(mount.SubPath) != path.Clean(item.Path) {
					continue
				}
				file = path.Join("/", mount.MountPath)
			}
			j.refer(m, at, "files", file, secretKey{ref, item.Key})
		}
	}
}

// refer makes a secret, its reader and the place where a sealed reference to it
// has to stand.
func (j *job) refer(m *marble, at Place, kind, place string, key secretKey) {
	places, limit := &j.places.Env, maxVariables
	if kind == "files" {
		places, limit = &j.places.Files, maxFiles
	}
	if len(*places) == limit || kind == "files" && (len(place) > maxPath || !filePath.MatchString(place)) {
		j.note(at, importer.Dropped, m.path("parameters.references.%s", kind), "a manifest takes %d of them, and absolute paths of at most %d bytes", limit, maxPath)
		return
	}
	name, made := j.secretOf[key]
	if !made {
		name = j.secretName(key)
		j.secretOf[key] = name
		j.commands = append(j.commands, fmt.Sprintf("ashlar secret set %s --file %s", name, name), reference(name, key))
	}
	s := j.secrets[name]
	s.Type = manifest.Opaque
	if !slices.Contains(s.Readers, m.name) {
		s.Readers = append(s.Readers, m.name)
	}
	j.secrets[name] = s
	if *places == nil {
		*places = map[string][]string{}
	}
	(*places)[place] = []string{name}
	j.note(at, importer.Maps, m.path("parameters.references.%s %s", kind, place), "key %s of Secret %s: give the value to the coordinator, and put the reference to %s where it was", key.key, key.name, name)
}

// plain are names that a shell takes as they are.
var plain = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*$`)

// reference is the command that prints what to put where a value was.
func reference(name string, key secretKey) string {
	command := "ashlar secret ref " + name
	if plain.MatchString(key.name) && plain.MatchString(key.key) && plain.MatchString(key.namespace) {
		command += " --kubernetes " + key.name + " --key " + key.key + " --namespace " + key.namespace
	}
	return command
}

// secretName makes dbCredentialsPassword of key password of Secret
// db-credentials.
func (j *job) secretName(key secretKey) string {
	var b strings.Builder
	upper := false
	for _, c := range key.name + "-" + key.key {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_':
			if upper && b.Len() > 0 {
				c = []rune(strings.ToUpper(string(c)))[0]
			}
			b.WriteRune(c)
			upper = false
		default:
			upper = true
		}
	}
	name := b.String()
	if name == "" || name[0] == '_' || name[0] >= '0' && name[0] <= '9' {
		name = "s" + name
	}
	name = name[:min(len(name), 60)]
	for n, first := 2, name; j.taken[name]; n++ {
		name = fmt.Sprintf("%.55s_%d", first, n)
	}
	j.taken[name] = true
	return name
}
