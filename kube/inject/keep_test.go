package inject_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

// TestAccepted are pods whose own settings stay or are taken over.
func TestAccepted(t *testing.T) {
	args := func(want ...string) func(*testing.T, *corev1.Pod) {
		return func(t *testing.T, p *corev1.Pod) {
			if got := program(p).Args; !slices.Equal(got, append([]string{"run", "--grace"}, want...)) {
				t.Errorf("got arguments %q, want run --grace %q", got, want)
			}
		}
	}
	value := func(name, want string) func(*testing.T, *corev1.Pod) {
		return func(t *testing.T, p *corev1.Pod) {
			for _, e := range program(p).Env {
				if e.Name == name {
					if e.Value != want {
						t.Errorf("got %s=%s, want %s", name, e.Value, want)
					}
					return
				}
			}
			t.Errorf("%s is not set", name)
		}
	}
	for _, c := range []struct {
		name, tee string
		pod       func(*corev1.Pod)
		want      func(*testing.T, *corev1.Pod)
		warning   string // empty: none
	}{
		{"as it is", "sim:sgx", func(*corev1.Pod) {}, args("30s", "--", "/app/web", "--port", "8080"), ""},
		{"entrypoint by annotation", "sim:sgx", func(p *corev1.Pod) {
			program(p).Command = nil
			annotate(inject.Command, `["/entry", "x y"]`)(p)
		}, args("30s", "--", "/entry", "x y", "--port", "8080"), ""},
		{"grace period", "sim:sgx", func(p *corev1.Pod) { long := int64(300); p.Spec.TerminationGracePeriodSeconds = &long }, args("300s", "--", "/app/web", "--port", "8080"), ""},
		{"measured files", "sim:sgx", annotate(inject.Measure, "/app/web.py, lib=/app/lib.so,"),
			args("30s", "--measure", "/app/web.py", "--measure", "lib=/app/lib.so", "--", "/app/web", "--port", "8080"), ""},
		{"measured files of a VM", "snp", annotate(inject.Measure, "/app/web.py"), args("30s", "--", "/app/web", "--port", "8080"), "measures the VM as a whole"},
		{"interpreter", "snp", func(p *corev1.Pod) { program(p).Command = []string{"/usr/bin/python3"} }, nil, "parameters.argv"},
		{"script", "snp", func(p *corev1.Pod) { program(p).Command = []string{"./entry.sh"} }, nil, "MRB-003"},
		{"what a pod may set", "snp", env("ASHLAR_ON_CUT", "stop"), value("ASHLAR_ON_CUT", "stop"), ""},
		{"own variable of the profile", "sgx", env("SGX_AESM_ADDR", "0"), value("SGX_AESM_ADDR", "0"), ""},
		{"probe with headers", "snp", probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("8080"), Path: "up?x=1&y=2",
			HTTPHeaders: []corev1.HTTPHeader{{Name: "x-probe", Value: "1"}}}}),
			value("ASHLAR_PROBES", `{"liveness":{"url":"tcp://127.0.0.1:8080","timeoutSeconds":3},"readiness":{"url":"http://127.0.0.1:8080/up?x=1\u0026y=2","headers":{"X-Probe":"1"}}}`), ""},
		{"probe by command", "snp", probeOf(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/up"}}}), func(t *testing.T, p *corev1.Pod) {
			if program(p).ReadinessProbe.Exec == nil {
				t.Error("the command is gone")
			}
		}, ""},
		{"probe of another host", "snp", probeOf(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: "10.0.0.1", Port: intstr.FromInt32(1)}}), func(t *testing.T, p *corev1.Pod) {
			if program(p).ReadinessProbe.TCPSocket == nil {
				t.Error("the probe was handed over")
			}
		}, ""},
		{"no probe", "snp", func(p *corev1.Pod) { program(p).ReadinessProbe = nil }, func(t *testing.T, p *corev1.Pod) {
			if get := program(p).ReadinessProbe.HTTPGet; get == nil || get.Path != "/ready" || get.Port != intstr.FromInt32(9101) {
				t.Errorf("got %v, want /ready", program(p).ReadinessProbe)
			}
		}, ""},
		{"EPC of the container", "sgx", func(p *corev1.Pod) {
			program(p).Resources.Limits = corev1.ResourceList{"sgx.intel.com/epc": quantity("32Mi")}
		}, func(t *testing.T, p *corev1.Pod) {
			if got := program(p).Resources.Limits["sgx.intel.com/epc"]; got.String() != "32Mi" {
				t.Errorf("got %s", got.String())
			}
		}, ""},
		{"quote provider", "sgx", annotate("sgx.intel.com/quote-provider", "aesmd"), func(t *testing.T, p *corev1.Pod) {
			if got := p.Annotations["sgx.intel.com/quote-provider"]; got != "aesmd" {
				t.Errorf("got %s", got)
			}
		}, ""},
		{"plain Secret", "snp", annotate(inject.Plain, "db"), func(t *testing.T, p *corev1.Pod) {
			if m := program(p).VolumeMounts[0]; m.Name != "db" || m.MountPath != "/etc/db" {
				t.Errorf("got %v", m)
			}
		}, ""},
		{"root", "snp", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &root} }, func(t *testing.T, p *corev1.Pod) {
			if sc := p.Spec.InitContainers[0].SecurityContext; sc.RunAsNonRoot != nil {
				t.Error("an init container that inherits root must not say runAsNonRoot")
			}
		}, ""},
		{"second container", "snp", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "log"}) }, nil, "log share the program's loopback"},
		{"another container by name", "snp", func(p *corev1.Pod) {
			p.Spec.Containers = slices.Insert(p.Spec.Containers, 0, corev1.Container{Name: "log"})
			annotate(inject.Container, "web")(p)
		}, nil, "log share"},
		{"Istio", "snp", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "istio-proxy"})
		}, nil, "another mesh's proxy"},
		{"a user", "snp", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user} }, nil, "does not run as root"},
		{"a user in a simulation", "sim:sgx", func(p *corev1.Pod) { program(p).SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes} }, nil, ""},
		{"shared processes", "snp", func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &yes }, nil, "shareProcessNamespace"},
		{"host's processes", "snp", func(p *corev1.Pod) { p.Spec.HostPID = true }, nil, "hostPID"},
		{"privileged", "snp", func(p *corev1.Pod) { program(p).SecurityContext = &corev1.SecurityContext{Privileged: &yes} }, nil, "is privileged"},
		{"hook that starts early", "snp", func(p *corev1.Pod) {
			program(p).Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}}}
		}, nil, "postStart"},
		{"init container with references", "snp", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "migrate", VolumeMounts: []corev1.VolumeMount{{Name: "db", MountPath: "/db"}}}}
		}, nil, "container migrate sees the Secret volume db as it is"},
		{"EPC without an enclave", "snp", annotate(inject.EPC, "64Mi"), nil, "for enclaves alone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := readPod(t, plainPod)
			c.pod(pod)
			got := injected(t, pod, marbleFor(c.tee), settings())
			if c.want != nil {
				c.want(t, got.Pod)
			}
			if all := strings.Join(got.Warnings, "\n"); c.warning == "" && all != "" || !strings.Contains(all, c.warning) {
				t.Errorf("got warnings %q, want %q", all, c.warning)
			}
		})
	}
}

// TestManyWarnings are bounded: each is for a person.
func TestManyWarnings(t *testing.T) {
	pod := readPod(t, plainPod)
	for range 100 {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: "x", VolumeMounts: []corev1.VolumeMount{{Name: "db", MountPath: "/db"}}})
	}
	got := injected(t, pod, marbleFor("snp"), settings())
	if n := len(got.Warnings); n != 21 || got.Warnings[20] != "and 80 further warnings" {
		t.Errorf("got %d warnings, the last %q", n, got.Warnings[n-1])
	}
}

// TestNodeLabels adds a profile's label to each alternative of the pod's own
// affinity, and to none that matches no node anyway.
func TestNodeLabels(t *testing.T) {
	pod := readPod(t, plainPod)
	zone := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}
	byName := corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{zone}}, {MatchFields: []corev1.NodeSelectorRequirement{byName}}, {}}}}}
	annotate(inject.ProfileOf, "gke-tdx-node")(pod)
	got := injected(t, pod, marbleFor("tdx"), settings())
	terms := got.Pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i, want := range []int{2, 1, 0} {
		if n := len(terms[i].MatchExpressions); n != want {
			t.Errorf("term %d: got %d expressions, want %d", i, n, want)
		}
	}
	pod = readPod(t, plainPod)
	pod.Spec.NodeSelector = map[string]string{"cloud.google.com/gke-confidential-nodes-instance-type": "TDX"}
	annotate(inject.ProfileOf, "gke-tdx-node")(pod)
	if got := injected(t, pod, marbleFor("tdx"), settings()); got.Pod.Spec.Affinity != nil {
		t.Error("a label that the pod demands by itself is demanded twice")
	}
}

// TestManifestWithArgumentsNeedsNoWarning: the command line comes from there.
func TestManifestWithArgumentsNeedsNoWarning(t *testing.T) {
	pod, m := readPod(t, plainPod), marbleFor("snp")
	program(pod).Command, m.Argv = []string{"/bin/sh"}, true
	if got := injected(t, pod, m, settings()); len(got.Warnings) > 0 {
		t.Errorf("got %q", got.Warnings)
	}
}

// TestProjectedSecrets moves what shows a Secret, and leaves the pod's token.
func TestProjectedSecrets(t *testing.T) {
	pod := readPod(t, plainPod)
	secret := corev1.VolumeProjection{Secret: &corev1.SecretProjection{Items: []corev1.KeyToPath{{Key: "a", Path: "b"}}, Optional: &yes}}
	token := corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "both", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{secret}}}},
		corev1.Volume{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{token}}}})
	program(pod).VolumeMounts = append(program(pod).VolumeMounts,
		corev1.VolumeMount{Name: "both", MountPath: "/both/"}, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true})
	got := injected(t, pod, marbleFor("snp"), settings())
	at := map[string]string{}
	for _, m := range program(got.Pod).VolumeMounts {
		at[m.MountPath] = m.Name
	}
	if at["/ashlar/references/both"] != "both" || at["/var/run/secrets/kubernetes.io/serviceaccount"] != "kube-api-access-x" || !strings.HasPrefix(at["/both/"], "ashlar-files-") {
		t.Errorf("got mounts %v", at)
	}
}
