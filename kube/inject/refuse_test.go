package inject_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// change is one thing that is other than in a good pod.
type change struct {
	name   string
	pod    func(*corev1.Pod)
	marble func(*inject.Marble)
	code   problem.Code
	text   string // in the refusal
}

func program(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

func annotate(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[key] = value
	}
}

func probeOf(h corev1.ProbeHandler) func(*corev1.Pod) {
	return func(p *corev1.Pod) { program(p).ReadinessProbe = &corev1.Probe{ProbeHandler: h} }
}

func secretMount(m corev1.VolumeMount) func(*corev1.Pod) {
	return func(p *corev1.Pod) { program(p).VolumeMounts[0] = m }
}

func env(name, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { program(p).Env = append(program(p).Env, corev1.EnvVar{Name: name, Value: value}) }
}

var yes, no, root, user = true, false, int64(0), int64(1000)

// refusedPods are refused for what each changes, in the profile of a
// simulation unless it says otherwise.
var refusedPods = []change{
	{"empty label", func(p *corev1.Pod) { p.Labels[inject.Label] = "" }, nil, "KUB-051", `is "", wanted "web"`},
	{"other label", func(p *corev1.Pod) { p.Labels[inject.Label] = "cart" }, nil, "KUB-051", `is "cart", wanted "web"`},
	{"TEE not in the package", annotate(inject.TEE, "snp"), nil, "KUB-053", "may run in sim:sgx"},
	{"several TEEs", nil, func(m *inject.Marble) { m.TEEs = []string{"sgx", "snp"} }, "KUB-053", "sgx, snp, and this cluster has default profiles for several"},
	{"several TEEs without defaults", nil, func(m *inject.Marble) { m.TEEs = []string{"cca", "tpm"} }, "KUB-053", "for none of them"},
	{"no TEE", nil, func(m *inject.Marble) { m.TEEs = nil }, "KUB-053", "names no TEE"},
	{"no default", nil, func(m *inject.Marble) { m.TEEs = []string{"cca"} }, "KUB-054", "no default profile for TEE cca"},
	{"unknown profile", annotate(inject.ProfileOf, "kata-qemu-spn"), nil, "KUB-054", "did you mean kata-qemu-snp?"},
	{"profile of another TEE", annotate(inject.ProfileOf, "kata-qemu-snp"), nil, "KUB-053", `TEE "snp"`},
	{"profile against TEE", func(p *corev1.Pod) { annotate(inject.ProfileOf, "sim")(p); annotate(inject.TEE, "tdx")(p) }, nil, "KUB-054", `says "tdx"`},
	{"runtime", annotate(inject.Runtime, "wrapped"), nil, "KUB-057", `wanted "wrap" or "image"`},
	{"enclave to be wrapped", annotate(inject.Runtime, "wrap"), func(m *inject.Marble) { m.TEEs = []string{"sgx"} }, "KUB-057", "start is measured"},
	{"unknown container", annotate(inject.Container, "wep"), nil, "KUB-055", "did you mean web?"},
	{"no container", func(p *corev1.Pod) { p.Spec.Containers = nil }, nil, "KUB-055", "no container"},
	{"no command", func(p *corev1.Pod) { program(p).Command = nil }, nil, "KUB-056", "container web has no command"},
	{"two commands", annotate(inject.Command, `["/app/other"]`), nil, "KUB-056", "gives another"},
	{"command no JSON", func(p *corev1.Pod) { program(p).Command = nil; annotate(inject.Command, "/app/web")(p) }, nil, "KUB-057", `is "/app/web", wanted a JSON array`},
	{"command empty", func(p *corev1.Pod) { program(p).Command = nil; annotate(inject.Command, "[]")(p) }, nil, "KUB-057", "wanted a JSON array"},
	{"wrapped without program", func(p *corev1.Pod) {
		program(p).Command = []string{"/ashlar/bin/ashlar-marble"}
		program(p).Args = []string{"run"}
	}, nil, "KUB-056", "but not the command"},
	{"wrapped by another injector", func(p *corev1.Pod) { program(p).Command = []string{"/wait", "--", "/ashlar/bin/ashlar-marble", "run"} }, nil, "KUB-058", "another injector has wrapped it"},
	{"measure relative", annotate(inject.Measure, "app/web.py"), nil, "KUB-057", "wanted an absolute path"},
	{"measure twice", annotate(inject.Measure, "/a, /a"), nil, "KUB-057", "each once"},
	{"EPC", annotate(inject.EPC, "much"), func(m *inject.Marble) { m.TEEs = []string{"sgx"} }, "KUB-057", `"much": wanted a size such as 64Mi`},
	{"EPC negative", annotate(inject.EPC, "-1"), func(m *inject.Marble) { m.TEEs = []string{"sgx"} }, "KUB-057", `"-1": wanted a size`},
	{"plain", annotate(inject.Plain, "settings"), nil, "KUB-057", "no volume with a Secret"},

	{"variable of ours", env("ASHLAR_UUID", "x"), nil, "KUB-058", "ASHLAR_UUID, which is the injector's to set"},
	{"variable that undermines", env("ASHLAR_COORDINATOR_ROOT", "/evil.pem"), nil, "KUB-058", "a pod may set only"},
	{"volume of ours", func(p *corev1.Pod) { p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "ashlar-run"}) }, nil, "KUB-058", "volume ashlar-run is not the injector's"},
	{"mount at ours", secretMount(corev1.VolumeMount{Name: "settings", MountPath: "/ashlar/run"}), nil, "KUB-058", "volume settings at /ashlar/run: /ashlar is the injector's"},
	{"mount below ours", secretMount(corev1.VolumeMount{Name: "settings", MountPath: "/ashlar/../ashlar/etc/"}), nil, "KUB-058", "at /ashlar/etc: /ashlar is the injector's"},
	{"mount over ours", secretMount(corev1.VolumeMount{Name: "settings", MountPath: "/ashlar"}), nil, "KUB-058", "at /ashlar"},
	{"port of ours", func(p *corev1.Pod) { program(p).Ports[0].ContainerPort = 9101 }, nil, "KUB-058", "container web has port 9101"},
	{"port of the marble", nil, func(m *inject.Marble) { m.Ports = []int32{9101} }, "KUB-058", "marble web serves port 9101"},
	{"container of ours", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "ashlar-install", Image: "other"}}
	}, nil, "KUB-058", "container ashlar-install"},

	{"gRPC probe", probeOf(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 8080}}), nil, "KUB-059", "the readiness probe is gRPC"},
	{"HTTPS probe", probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080), Scheme: corev1.URISchemeHTTPS}}), nil, "KUB-059", "is HTTPS"},
	{"port by unknown name", probeOf(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("htpp")}}), nil, "KUB-059", `asks port "htpp"`},
	{"port out of range", probeOf(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(70000)}}), nil, "KUB-059", `asks port "70000"`},
	{"header twice", probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080), HTTPHeaders: []corev1.HTTPHeader{{Name: "a"}, {Name: "A"}}}}), nil, "KUB-059", "twice"},
	{"header not valid", probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080), HTTPHeaders: []corev1.HTTPHeader{{Name: "a b"}}}}), nil, "KUB-059", "MRB-062"},
	{"path no URL", probeOf(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080), Path: "/%zz"}}), nil, "KUB-059", "MRB-062"},
	{"hook to the network", func(p *corev1.Pod) {
		program(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}}}
	}, nil, "KUB-059", "the hook preStop"},

	{"one file of a Secret", secretMount(corev1.VolumeMount{Name: "db", MountPath: "/etc/password", SubPath: "password"}), nil, "KUB-060", "one file of the Secret volume db at /etc/password"},
	{"Secret at the root", secretMount(corev1.VolumeMount{Name: "db", MountPath: "/"}), nil, "KUB-060", "at /"},
	{"RuntimeClass", func(p *corev1.Pod) { class := "gvisor"; p.Spec.RuntimeClassName = &class }, func(m *inject.Marble) { m.TEEs = []string{"snp"} }, "KUB-060", `runtimeClassName is "gvisor"`},
	{"resource", func(p *corev1.Pod) {
		program(p).Resources.Limits = corev1.ResourceList{"sgx.intel.com/enclave": quantity("2")}
	}, func(m *inject.Marble) { m.TEEs = []string{"sgx"} }, "KUB-060", "limit sgx.intel.com/enclave: 2"},
	{"EPC against the container's", func(p *corev1.Pod) {
		annotate(inject.EPC, "64Mi")(p)
		program(p).Resources.Limits = corev1.ResourceList{"sgx.intel.com/epc": quantity("32Mi")}
	}, func(m *inject.Marble) { m.TEEs = []string{"sgx"} }, "KUB-060", "limit sgx.intel.com/epc: 32Mi, and profile intel wants 64Mi"},

	{"too many volumes", func(p *corev1.Pod) { p.Spec.Volumes = make([]corev1.Volume, 1001) }, nil, "KUB-061", "1001 volumes, limit 1000"},
	{"too many mounts", func(p *corev1.Pod) { program(p).VolumeMounts = make([]corev1.VolumeMount, 1001) }, nil, "KUB-061", "1001 mounts"},
	{"too many containers", func(p *corev1.Pod) { p.Spec.InitContainers = make([]corev1.Container, 200) }, nil, "KUB-061", "201 containers"},
	{"host network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil, "KUB-061", "hostNetwork"},
	{"Windows", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, nil, "KUB-061", `os.name is "windows"`},
	{"static", annotate("kubernetes.io/config.mirror", "x"), nil, "KUB-061", "static pod"},
}

func TestPodIsRefused(t *testing.T) {
	for _, c := range refusedPods {
		t.Run(c.name, func(t *testing.T) {
			pod, m := readPod(t, plainPod), marbleFor("sim:sgx")
			if c.pod != nil {
				c.pod(pod)
			}
			if c.marble != nil {
				c.marble(&m)
			}
			got, err := inject.Pod(pod, m, settings())
			if problem.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
			if got.Pod != nil {
				t.Error("a pod was made all the same")
			}
		})
	}
}

// TestNodeProfileIsRefused is about pods in nodes that are confidential VMs.
func TestNodeProfileIsRefused(t *testing.T) {
	labels := inject.Profile{TEE: "snp", Runtime: inject.Wrap, NodeLabels: map[string]string{"pool": "snp"}}
	selector := func(op corev1.NodeSelectorOperator, values ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "pool", Operator: op, Values: values}}}}}}}
		}
	}
	context := func(sc corev1.SecurityContext) func(*corev1.Pod) {
		return func(p *corev1.Pod) { program(p).SecurityContext = &sc }
	}
	for _, c := range []struct {
		name, profile string
		pod           func(*corev1.Pod)
		text          string
	}{
		{"nodeSelector", "labels", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"pool": "other"} }, `pool: "other"`},
		{"affinity to others", "labels", selector(corev1.NodeSelectorOpIn, "other"), "rules out nodes with pool"},
		{"affinity against", "labels", selector(corev1.NodeSelectorOpNotIn, "other", "snp"), "rules out nodes with pool"},
		{"affinity without", "labels", selector(corev1.NodeSelectorOpDoesNotExist), "rules out nodes with pool"},
		{"not privileged", "snp-node", context(corev1.SecurityContext{Privileged: &no}), "may not be privileged"},
		{"no escalation", "snp-node", context(corev1.SecurityContext{AllowPrivilegeEscalation: &no}), "may not be privileged"},
		{"not root", "snp-node", context(corev1.SecurityContext{RunAsNonRoot: &yes}), "does not run as root"},
		{"a user", "snp-node", context(corev1.SecurityContext{RunAsUser: &user}), "does not run as root"},
		{"a user of the pod", "snp-node", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user} }, "does not run as root"},
		{"device mounted from elsewhere", "snp-node", secretMount(corev1.VolumeMount{Name: "settings", MountPath: "/dev/sev-guest"}), "at /dev/sev-guest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := settings()
			s.Profiles = inject.Profiles()
			s.Profiles["labels"] = labels
			pod := readPod(t, plainPod)
			annotate(inject.ProfileOf, c.profile)(pod)
			c.pod(pod)
			_, err := inject.Pod(pod, marbleFor("snp"), s)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

// TestRefusalNamesEverything checks that one answer has all that is wrong, each
// with what to do, and that each can be found in it.
func TestRefusalNamesEverything(t *testing.T) {
	pod := readPod(t, plainPod)
	pod.Spec.HostNetwork = true
	program(pod).Command = nil
	env("ASHLAR_IP", "10.0.0.1")(pod)
	_, err := inject.Pod(pod, marbleFor("sim:sgx"), settings())
	if problem.CodeOf(err) != "KUB-050" {
		t.Fatalf("got %v, want KUB-050", err)
	}
	for _, code := range []problem.Code{"KUB-056", "KUB-058", "KUB-061"} {
		if !errors.Is(err, &problem.Error{Code: code}) {
			t.Errorf("%s cannot be found in the error", code)
		}
		if !strings.Contains(err.Error(), string(code)+": ") || !strings.Contains(err.Error(), problem.Lookup(code).Next) {
			t.Errorf("got %v, without %s and its next step", err, code)
		}
	}
}
