package derive

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// defaultContainer names the program where Ashlar's own annotation does not.
const defaultContainer = "kubectl.kubernetes.io/default-container"

// workload is what makes pods.
type workload struct {
	at, pod   Place // of the object, and of its pods' metadata and spec
	kind      string
	namespace string
	name      string
	labels    map[string]string // of its pods
	notes     map[string]string // annotations of its pods
	spec      *corev1.PodSpec
	program   int                    // index of the container that is the program
	replicas  int                    // at most; -1: not known
	rolling   func(replicas int) int // how many further ones a rollout makes; nil: none
	headless  string                 // the Service of a StatefulSet
	marble    *marble
	index     int
}

func (w *workload) container() *corev1.Container { return &w.spec.Containers[w.program] }

func (w *workload) containerAt() Place { return w.pod.at("spec.containers[%d]", w.program) }

// workload takes an object that makes pods, but for those that another makes.
func (c *Cluster) workload(at Place, o runtime.Object) error {
	w := &workload{at: at, pod: at.at("spec.template"), replicas: -1}
	var template *corev1.PodTemplateSpec
	meta := o.(metav1.Object)
	switch o := o.(type) {
	case *corev1.Pod:
		w.kind, w.pod, w.replicas = "Pod", at, 1
		template = &corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}
	case *appsv1.Deployment:
		w.kind, template, w.replicas = "Deployment", &o.Spec.Template, number(o.Spec.Replicas)
		if o.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
			w.rolling = func(replicas int) int { return surge(o.Spec.Strategy.RollingUpdate, replicas) }
		}
	case *appsv1.StatefulSet:
		w.kind, template, w.replicas, w.headless = "StatefulSet", &o.Spec.Template, number(o.Spec.Replicas), o.Spec.ServiceName
	case *appsv1.ReplicaSet:
		w.kind, template, w.replicas = "ReplicaSet", &o.Spec.Template, number(o.Spec.Replicas)
	case *appsv1.DaemonSet:
		w.kind, template = "DaemonSet", &o.Spec.Template
	case *batchv1.Job:
		w.kind, template, w.replicas = "Job", &o.Spec.Template, number(o.Spec.Parallelism)
	case *batchv1.CronJob:
		w.kind, template, w.pod = "CronJob", &o.Spec.JobTemplate.Spec.Template, at.at("spec.jobTemplate.spec.template")
		if o.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent || o.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
			w.replicas = number(o.Spec.JobTemplate.Spec.Parallelism)
		}
	}
	if owner := metav1.GetControllerOf(meta); owner != nil {
		c.lines = append(c.lines, Line{at.at("metadata.ownerReferences"), "", importer.Dropped, "made by " + owner.Kind + " " + owner.Name + ", which counts"})
		return nil
	}
	w.namespace, w.name, w.labels, w.notes, w.spec = meta.GetNamespace(), meta.GetName(), template.Labels, template.Annotations, &template.Spec
	if w.name == "" && meta.GetGenerateName() != "" {
		w.name = strings.TrimRight(meta.GetGenerateName(), "-.")
	}
	return c.add(w)
}

func (c *Cluster) add(w *workload) error {
	switch {
	case len(w.spec.Containers) == 0 || w.name == "":
		return problem.New("KUB-090", "%s: the %s has no name or no container", w.at, w.kind)
	case w.notes[inject.Injection] == "disabled" || w.labels[inject.Injection] == "disabled":
		c.skip(w.pod.at("metadata"), "%s says disabled: it is no marble", inject.Injection)
		return nil
	case len(c.workloads) == maxWorkloads:
		return problem.New("KUB-091", "%s: there are more than %d workloads", w.at, maxWorkloads)
	}
	if w.program = w.find(w.notes[inject.Container]); w.program < 0 {
		return problem.New("KUB-090", "%s: %s names container %q, which is not there", w.at, inject.Container, w.notes[inject.Container])
	}
	if w.notes[inject.Container] == "" {
		w.program = max(0, w.find(w.notes[defaultContainer]))
	}
	w.index = len(c.workloads)
	c.workloads = append(c.workloads, w)
	return nil
}

// find returns the index of a container: the first for no name, -1 if it is not
// there.
func (w *workload) find(name string) int {
	if name == "" {
		return 0
	}
	return slices.IndexFunc(w.spec.Containers, func(c corev1.Container) bool { return c.Name == name })
}

// number is a count of pods: 1 if it is not given.
func number(n *int32) int {
	if n == nil || *n < 0 {
		return 1
	}
	return int(*n)
}

// surge is how many pods a rolling update makes besides: a quarter if it is not
// given.
func surge(r *appsv1.RollingUpdateDeployment, replicas int) int {
	most := intstr.FromString("25%")
	if r != nil && r.MaxSurge != nil {
		most = *r.MaxSurge
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&most, replicas, true)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
