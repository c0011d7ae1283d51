package charts_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/coordinator/daemon"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// The rows of values.yaml are the injector's own.
func TestProfilesAreTheInjectors(t *testing.T) {
	b, err := json.Marshal(load(t).Values["tee"].(values)["profiles"])
	if err != nil {
		t.Fatal(err)
	}
	var rows map[string]inject.Profile
	strict(t, b, &rows)
	built := inject.Profiles()
	for _, name := range slices.Sorted(maps.Keys(built)) {
		if !reflect.DeepEqual(rows[name], built[name]) {
			t.Errorf("%s: got %+v in values.yaml, want %+v", name, rows[name], built[name])
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("%s is in values.yaml, and not in the injector", name)
	}
}

func strict(t *testing.T, b []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
}

// The injector understands the settings that the chart writes.
func TestSettings(t *testing.T) {
	each(t, func(t *testing.T, name string, v values) {
		if name == "no-injector" {
			return
		}
		all := objects(t, mustRender(t, usual, v))
		var got struct {
			inject.Settings
			Client  string `json:"client"`
			Webhook string `json:"webhook"`
			Service string `json:"service"`
		}
		strict(t, []byte(find[*corev1.ConfigMap](t, all, "ashlar-injector").Data["settings.json"]), &got)
		if got.Coordinator != "ashlar-mesh.mesh.svc:2001" || got.Client != "ashlar.mesh.svc:4433" || got.Service != "ashlar-injector.mesh.svc" || got.Webhook != "ashlar-injector.mesh" {
			t.Errorf("got %+v", got)
		}
		if err := got.Check(); err != nil {
			t.Error(err)
		}
	})
}

// A change of the settings, or of the coordinator's files, replaces pods.
func TestChangesReplacePods(t *testing.T) {
	templates := func(v values) map[string]corev1.PodTemplateSpec { return pods(objects(t, mustRender(t, usual, v))) }
	before := templates(nil)
	for _, c := range []struct {
		what     string
		v        values
		replaced []string
	}{
		{"nothing", nil, nil},
		{"the policy", values{"policy": policy + " "}, []string{"ashlar-injector"}},
		{"the owner", values{"coordinator": values{"owner": values{"certificate": "-----BEGIN CERTIFICATE-----"}}}, []string{"ashlar-coordinator"}},
		{"monitoring", values{"monitoring": values{"rules": values{"enabled": true}}}, nil},
		{"the volume's size", values{"coordinator": values{"state": values{"size": "2Gi"}}}, nil},
	} {
		var replaced []string
		for name, after := range templates(c.v) {
			if !reflect.DeepEqual(before[name], after) {
				replaced = append(replaced, name)
			}
		}
		if !slices.Equal(replaced, c.replaced) {
			t.Errorf("%s: got %v replaced, want %v", c.what, replaced, c.replaced)
		}
	}
	long := values{"coordinator": values{"owner": values{"certificate": "-----BEGIN CERTIFICATE-----\nMAA="}}}
	if short := templates(values{"coordinator": values{"owner": values{"certificate": "-----BEGIN CERTIFICATE-----"}}}); reflect.DeepEqual(templates(long), short) {
		t.Error("another owner replaces no pod")
	}
}

// Every flag is one that the coordinator has, and init gets those that run gets.
func TestCoordinatorFlags(t *testing.T) {
	var help bytes.Buffer
	if exit := daemon.Main([]string{"help"}, func(string) string { return "" }, &help, &help); exit != 0 {
		t.Fatalf("help: got exit %d", exit)
	}
	seen := map[string]bool{}
	each(t, func(t *testing.T, _ string, v values) {
		spec := find[*appsv1.StatefulSet](t, objects(t, mustRender(t, usual, v)), "ashlar-coordinator").Spec.Template.Spec
		begin, run := spec.InitContainers[0], spec.Containers[0]
		for _, arg := range append(slices.Clone(begin.Args[1:]), run.Args[1:]...) {
			flag, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if seen[flag] = true; !strings.Contains(help.String(), "  -"+flag+" ") && !strings.Contains(help.String(), "  -"+flag+"\n") {
				t.Errorf("the coordinator has no flag --%s", flag)
			}
		}
		if begin.Args[0] != "init" || run.Args[0] != "run" || !slices.Equal(begin.Args[2:], run.Args[4:]) {
			t.Errorf("init gets %q, run %q", begin.Args, run.Args)
		}
		if !reflect.DeepEqual(begin.VolumeMounts, run.VolumeMounts) || !reflect.DeepEqual(begin.Resources, run.Resources) || !reflect.DeepEqual(begin.Env, run.Env) {
			t.Error("init and run differ in what they reach")
		}
		for _, m := range run.VolumeMounts {
			if m.Name != "state" && !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("no volume %s", m.Name)
			}
		}
	})
	for _, flag := range []string{"until", "state", "store", "replica", "reach", "tee", "seal", "sim-socket", "sim-root", "tpm-roots", "pccs", "kds", "endorsements", "owner", "client-addr", "mesh-addr", "metrics-addr", "advertise", "log-format", "debug"} {
		if !seen[flag] {
			t.Errorf("no values give --%s", flag)
		}
	}
}

// A coordinator that may make no state has no init container.
func TestNeverMakesAState(t *testing.T) {
	later := usual
	later.upgrade = true
	for _, c := range []struct {
		r     release
		until string
		made  int
	}{{usual, "never", 0}, {later, "", 0}, {later, "never", 0}, {later, "2026-01-02T15:04:05Z", 1}, {usual, "2026-01-02T15:04:05+01:00", 1}} {
		files, err := render(t, c.r, values{"policy": policy, "coordinator": values{"state": values{"createUntil": c.until}}})
		if err != nil {
			t.Fatal(err)
		}
		got := find[*appsv1.StatefulSet](t, objects(t, files), "ashlar-coordinator").Spec.Template.Spec.InitContainers
		if len(got) != c.made || c.made == 1 && got[0].Args[1] != "--until="+c.until {
			t.Errorf("until %q, upgrade %v: got %d init containers, want %d", c.until, c.r.upgrade, len(got), c.made)
		}
	}
}

// Values win over what a row says, and are not beside it.
func TestValuesWinOverTheRow(t *testing.T) {
	v := values{"coordinator": values{"profile": "gke-snp-node",
		"nodeSelector": values{"cloud.google.com/gke-confidential-nodes-instance-type": "SEV", "pool": "one"}}}
	pod := find[*appsv1.StatefulSet](t, objects(t, mustRender(t, usual, v)), "ashlar-coordinator").Spec.Template
	if want := map[string]string{"cloud.google.com/gke-confidential-nodes-instance-type": "SEV", "pool": "one"}; !reflect.DeepEqual(pod.Spec.NodeSelector, want) {
		t.Errorf("got %v, want %v", pod.Spec.NodeSelector, want)
	}
	v = values{"coordinator": values{"profile": "intel", "podAnnotations": values{"sgx.intel.com/quote-provider": "aesmd"},
		"resources": values{"limits": values{"sgx.intel.com/enclave": 2}}}}
	pod = find[*appsv1.StatefulSet](t, objects(t, mustRender(t, usual, v)), "ashlar-coordinator").Spec.Template
	if got := pod.Annotations["sgx.intel.com/quote-provider"]; got != "aesmd" {
		t.Errorf("got %q, want aesmd", got)
	}
	if got, want := limit("sgx.intel.com/enclave", "2")(pod); got != want {
		t.Errorf("got %v enclaves, want %v", got, want)
	}
}

// The coordinator gets what its row says.
func TestCoordinatorProfiles(t *testing.T) {
	for _, c := range []struct {
		profile, epc string
		check        func(corev1.PodTemplateSpec) (got, want any)
	}{
		{"intel", "512Mi", limit("sgx.intel.com/epc", "512Mi")},
		{"intel", "1Gi", limit("sgx.intel.com/enclave", "1")},
		{"azure", "512Mi", limit("kubernetes.azure.com/sgx_epc_mem_in_MiB", "512")},
		{"azure", "2Gi", limit("kubernetes.azure.com/sgx_epc_mem_in_MiB", "2048")},
		{"alibaba", "1Gi", limit("alibabacloud.com/sgx_epc_MiB", "1024")},
		{"intel", "1Gi", func(p corev1.PodTemplateSpec) (any, any) {
			return p.Annotations["sgx.intel.com/quote-provider"], "coordinator"
		}},
		{"azure", "1Gi", func(p corev1.PodTemplateSpec) (any, any) {
			return p.Spec.Tolerations, []corev1.Toleration{{Key: "kubernetes.azure.com/sgx_epc_mem_in_MiB", Operator: corev1.TolerationOpExists}}
		}},
		{"gke-snp-node", "1Gi", func(p corev1.PodTemplateSpec) (any, any) {
			return p.Spec.NodeSelector, map[string]string{"cloud.google.com/gke-confidential-nodes-instance-type": "SEV_SNP"}
		}},
		{"kata-qemu-snp", "1Gi", func(p corev1.PodTemplateSpec) (any, any) { return *p.Spec.RuntimeClassName, "kata-qemu-snp" }},
		{"sim", "1Gi", func(p corev1.PodTemplateSpec) (any, any) { return p.Spec.Volumes[0].HostPath.Path, "/run/ashlar/sim" }},
		{"sim", "1Gi", func(p corev1.PodTemplateSpec) (any, any) {
			return p.Spec.Containers[0].Env, []corev1.EnvVar{{Name: "ASHLAR_SIM_SOCKET", Value: "/run/ashlar/sim/platform.sock"}}
		}},
		{"snp-node", "1Gi", func(p corev1.PodTemplateSpec) (any, any) {
			return *p.Spec.Containers[0].SecurityContext.Privileged, true
		}},
		{"", "1Gi", func(p corev1.PodTemplateSpec) (any, any) { return len(p.Spec.Volumes), 0 }},
	} {
		v := values{"coordinator": values{"profile": c.profile, "epc": c.epc, "guestMeasuresContainer": true}}
		pod := find[*appsv1.StatefulSet](t, objects(t, mustRender(t, usual, v)), "ashlar-coordinator").Spec.Template
		if got, want := c.check(pod); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, %s: got %v, want %v", c.profile, c.epc, got, want)
		}
	}
}

func limit(resource, want string) func(corev1.PodTemplateSpec) (any, any) {
	return func(p corev1.PodTemplateSpec) (any, any) {
		amount := p.Spec.Containers[0].Resources.Limits[corev1.ResourceName(resource)]
		return amount.String(), want
	}
}
