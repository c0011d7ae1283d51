package inject_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// completed fills in what an API server fills in for pods and leaves nothing of
// ours out.
func completed(p *corev1.Pod) {
	grace := int64(30)
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = &grace
	}
	p.Spec.RestartPolicy, p.Spec.DNSPolicy, p.Spec.SchedulerName = corev1.RestartPolicyAlways, corev1.DNSClusterFirst, "default-scheduler"
	if p.Spec.SecurityContext == nil {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	mode := int32(0o644)
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i].VolumeSource
		if v.Secret != nil && v.Secret.DefaultMode == nil {
			v.Secret.DefaultMode = &mode
		}
		if v.HostPath != nil && v.HostPath.Type == nil {
			v.HostPath.Type = new(corev1.HostPathType)
		}
		if v.DownwardAPI != nil && v.DownwardAPI.DefaultMode == nil {
			v.DownwardAPI.DefaultMode = &mode
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			c.TerminationMessagePath, c.TerminationMessagePolicy = "/dev/termination-log", corev1.TerminationMessageReadFile
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = corev1.PullIfNotPresent
			}
			for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
				if probe == nil {
					continue
				}
				probe.TimeoutSeconds, probe.PeriodSeconds = max(probe.TimeoutSeconds, 1), max(probe.PeriodSeconds, 1)
				probe.SuccessThreshold, probe.FailureThreshold = max(probe.SuccessThreshold, 1), max(probe.FailureThreshold, 1)
				if probe.HTTPGet != nil && probe.HTTPGet.Scheme == "" {
					probe.HTTPGet.Scheme = corev1.URISchemeHTTP
				}
			}
			for j := range c.Env {
				if from := c.Env[j].ValueFrom; from != nil && from.FieldRef != nil && from.FieldRef.APIVersion == "" {
					from.FieldRef.APIVersion = "v1"
				}
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"})
		}
	}
}

// otherMesh does what another mesh's injector does: containers first, probes
// through its own agent, variables and volumes everywhere.
func otherMesh(p *corev1.Pod) {
	agent := func(name string) *corev1.HTTPGetAction {
		return &corev1.HTTPGetAction{Path: "/app-health/" + name, Port: intstr.FromInt32(15020), Scheme: corev1.URISchemeHTTP}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		for name, probe := range map[string]*corev1.Probe{"readyz": c.ReadinessProbe, "livez": c.LivenessProbe} {
			if probe != nil && probe.HTTPGet != nil {
				probe.HTTPGet = agent(name)
			}
		}
		c.Env = slices.Insert(c.Env, 0, corev1.EnvVar{Name: "PROXY", Value: "1"})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "workload-socket", MountPath: "/var/run/secrets/workload"})
	}
	p.Spec.Volumes = slices.Insert(p.Spec.Volumes, 0, corev1.Volume{Name: "workload-socket", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	p.Spec.InitContainers = slices.Insert(p.Spec.InitContainers, 0, corev1.Container{Name: "istio-init", Image: "proxy"})
	p.Spec.Containers = slices.Insert(p.Spec.Containers, 0, corev1.Container{Name: "istio-proxy", Image: "proxy"})
	p.Annotations["kubectl.kubernetes.io/default-container"] = "istio-proxy"
}

// TestCalledAgain is the API server calling once more after another injector has
// changed the pod: what is ours is there, so nothing is left to do.
func TestCalledAgain(t *testing.T) {
	for name, row := range inject.Profiles() {
		t.Run(name, func(t *testing.T) {
			pod := readPod(t, plainPod)
			annotate(inject.ProfileOf, name)(pod)
			completed(pod)
			once := injected(t, pod, marbleFor(row.TEE), settings())
			between := once.Pod.DeepCopy()
			otherMesh(between)
			twice, err := inject.Pod(between, marbleFor(row.TEE), settings())
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, twice.Pod, between)
		})
	}
}

// TestCompleted: the API server fills fields in between two calls.
func TestCompleted(t *testing.T) {
	once := injected(t, readPod(t, plainPod), marbleFor("sim:sgx"), settings())
	completed(once.Pod)
	twice, err := inject.Pod(once.Pod, marbleFor("sim:sgx"), settings())
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, twice.Pod, once.Pod)
}

// TestSettingsChangeBetweenCalls: while injectors are being replaced, the second
// call may reach one with newer settings, which then hold as a whole.
func TestSettingsChangeBetweenCalls(t *testing.T) {
	newer := settings()
	newer.Coordinator, newer.Image, newer.Policy = "other:2001", "registry.example/ashlar-marble:2", policy+" "
	newer.ReadyPort = 0
	once := injected(t, readPod(t, plainPod), marbleFor("sim:sgx"), settings())
	got := injected(t, once.Pod, marbleFor("sim:sgx"), newer)
	sameJSON(t, got.Pod, injected(t, readPod(t, plainPod), marbleFor("sim:sgx"), newer).Pod)
}

// TestClaims are pods that say they were injected, and were not.
func TestClaims(t *testing.T) {
	want := injected(t, readPod(t, plainPod), marbleFor("sim:sgx"), settings())
	for name, change := range map[string]func(*corev1.Pod){
		"annotation": annotate(inject.Injected, "v1 "+settings().Digest()),
		"policy":     annotate(inject.Policy, "{}"),
		"all of it": func(p *corev1.Pod) {
			p.Annotations = want.Pod.Annotations
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := readPod(t, plainPod)
			change(pod)
			sameJSON(t, injected(t, pod, marbleFor("sim:sgx"), settings()).Pod, want.Pod)
		})
	}
	t.Run("annotation and variables", func(t *testing.T) {
		pod := readPod(t, plainPod)
		annotate(inject.Injected, "v1 x")(pod)
		env("ASHLAR_READY_ADDR", "127.0.0.1:1")(pod)
		if got, err := inject.Pod(pod, marbleFor("sim:sgx"), settings()); err == nil {
			t.Errorf("got %v, want a refusal", got.Pod.Spec.Containers[0].Env)
		}
	})
}

// TestAnySequence injects pods that are changed in random ways: either the pod is
// refused, or a second call changes nothing, also after other injectors.
func TestAnySequence(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tees, made := []string{"sgx", "snp", "tdx", "sim:sgx"}, 0
	for range 1500 {
		pod, m := readPod(t, plainPod), marbleFor(tees[random.IntN(len(tees))])
		for range random.IntN(4) {
			c := refusedPods[random.IntN(len(refusedPods))]
			if c.pod != nil && len(pod.Spec.Containers) > 0 {
				c.pod(pod)
			}
		}
		if random.IntN(2) == 0 {
			completed(pod)
		}
		once, err := inject.Pod(pod, m, settings())
		if err != nil {
			continue
		}
		made++
		if random.IntN(2) == 0 {
			otherMesh(once.Pod)
		}
		twice, err := inject.Pod(once.Pod, m, settings())
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		sameJSON(t, twice.Pod, once.Pod)
	}
	if made < 150 {
		t.Errorf("only %d pods were injected: the test says little", made)
	}
}
