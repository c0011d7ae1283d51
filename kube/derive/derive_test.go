package derive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// anyProgram is a package with a measurement.
var anyProgram = attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{bytes.Repeat([]byte{7}, 32)}, Agent: []attest.Hex{bytes.Repeat([]byte{8}, 32)}}}

func sample(t testing.TB) []Source {
	t.Helper()
	var all []Source
	names, err := filepath.Glob("testdata/shop/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("no sample: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Source{filepath.Base(name), b})
	}
	return all
}

// TestSample compares what becomes of a folder with the manifest and the report
// that it must become, which is valid and holds no value of a Secret.
func TestSample(t *testing.T) {
	c, err := Read(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]attest.Package{"shop/web:1.4": anyProgram, "cart": anyProgram, "db": anyProgram, "shop/report:2": anyProgram}
	r, err := c.Manifest(Options{TrustDomain: "shop.example", Packages: packages})
	if err != nil {
		t.Fatal(err)
	}
	if _, diags := manifest.Parse(r.Manifest); diags.HasErrors() || !r.Valid {
		t.Errorf("the manifest is not valid: %v", diags)
	}
	var report strings.Builder
	for _, l := range r.Report {
		fmt.Fprintf(&report, "%s | %s | %s | %s\n", l.Place, l.Became, l.Verdict, l.Reason)
	}
	for _, o := range r.Open {
		fmt.Fprintf(&report, "! %s %s: %s\n", o.Code, o.Path, o.Message)
	}
	fmt.Fprintf(&report, "%s\n", strings.Join(r.Commands, "\n"))
	golden(t, "testdata/shop.golden.json", string(r.Manifest))
	golden(t, "testdata/shop.golden.txt", report.String())
	if all := string(r.Manifest) + report.String(); strings.Contains(all, "hunter2") || strings.Contains(all, "aHVudGVyMg") {
		t.Errorf("the value of a secret is in the manifest or the report")
	}
}

// TestPodsOfTheSample injects the pods that the manifest was made of, as the report
// says that they have to be: with the label, and with the ENTRYPOINT.
func TestPodsOfTheSample(t *testing.T) {
	c, err := Read(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]attest.Package{"web": anyProgram, "cart": anyProgram, "db": anyProgram, "report": anyProgram}
	r, err := c.Manifest(Options{TrustDomain: "shop.example", Packages: packages})
	if err != nil {
		t.Fatal(err)
	}
	m, diags := manifest.Parse(r.Manifest)
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	settings := inject.Settings{Coordinator: "ashlar-mesh.mesh.svc:2001", Policy: "{}", Image: "ashlar-marble:1", Defaults: map[string]string{"sim:sgx": "sim"}}
	for _, w := range c.workloads {
		marble, err := inject.FromManifest(m, w.marble.name)
		if err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Labels: map[string]string{inject.Label: w.marble.name}, Annotations: map[string]string{}}, Spec: *w.spec.DeepCopy()}
		pod.Spec.RuntimeClassName = nil
		if len(w.container().Command) == 0 {
			if !r.asks("marbles." + w.marble.name + " ") {
				t.Errorf("%s: nothing says that the injector needs its ENTRYPOINT", w.at)
			}
			pod.Annotations[inject.Command] = `["/app/program"]`
		}
		if _, err := inject.Pod(pod, marble, settings); err != nil {
			t.Errorf("%s: %v", w.at, err)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// pod is a Deployment of one container, to which texts are added.
func pod(name, metadata, container, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  template:
    metadata: {labels: {app: %s}%s}
    spec: {containers: [{name: main, image: "i/%s:1"%s}]%s}
`, name, name, metadata, name, container, spec)
}

func derived(t *testing.T, yaml string, o Options) (Result, document) {
	t.Helper()
	c, err := Read([]Source{{"k.yaml", []byte(yaml)}})
	if err != nil {
		t.Fatalf("%v in\n%s", err, yaml)
	}
	r, err := c.Manifest(o)
	if err != nil {
		t.Fatalf("%v in\n%s", err, yaml)
	}
	var doc document
	if err := json.Unmarshal(r.Manifest, &doc); err != nil {
		t.Fatal(err)
	}
	return r, doc
}

// said looks for a line of the report.
func (r Result) said(verdict importer.Verdict, words string) bool {
	return slices.ContainsFunc(r.Report, func(l Line) bool {
		return l.Verdict == verdict && strings.Contains(l.Place.String()+" "+l.Became+" "+l.Reason, words)
	})
}

func (r Result) asks(words string) bool {
	return slices.ContainsFunc(r.Open, func(o importer.Open) bool { return strings.Contains(o.Path+" "+o.Message, words) })
}

const cartService = `
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: http}, {name: raw, port: 9000}]}
`

func TestNames(t *testing.T) {
	yaml := pod("web", "", "", "") + pod("b", ", x: y", "", "") + strings.Replace(pod("web", "", "", ""), "{name: web}", "{name: web, namespace: other}", 1) +
		strings.Replace(pod("c", "", "", ""), "labels: {app: c}", "labels: {ashlar.dev/marble: Front}", 1) +
		strings.Replace(pod("d", "", "", ""), "labels: {app: d}", "labels: {ashlar.dev/marble: blue}", 1) + strings.Replace(pod("e", "", "", ""), "labels: {app: e}", "labels: {ashlar.dev/marble: blue}", 1)
	yaml = strings.Replace(yaml, ", x: y", "", 1)
	r, doc := derived(t, yaml, Options{})
	var got []string
	for name := range doc.Marbles {
		got = append(got, name)
	}
	slices.Sort(got)
	if want := []string{"b", "blue", "front", "web", "web.other"}; !slices.Equal(got, want) {
		t.Errorf("got marbles %v, want %v", got, want)
	}
	if !r.asks("no name of a marble: write front") || !r.said(importer.Maps, "ashlar.dev/marble: web.other") {
		t.Errorf("the report does not say which labels are missing: %+v", r)
	}
}

func TestServes(t *testing.T) {
	tests := []struct{ name, container, service, want string }{
		{"by name", `, ports: [{containerPort: 80, name: http}]`, "", "http:80:http"},
		{"grpc", `, ports: [{containerPort: 80, name: grpc-api}]`, "", "grpc-api:80:http"},
		{"https is the program's own", `, ports: [{containerPort: 443, name: https}]`, "", "https:443:tcp"},
		{"no name", `, ports: [{containerPort: 5432}]`, "", "port-5432:5432:"},
		{"udp", `, ports: [{containerPort: 53, name: dns, protocol: UDP}]`, "", ""},
		{"a probe", `, ports: [{containerPort: 81, name: x}], livenessProbe: {httpGet: {port: 81}}`, "", "x:81:http"},
		{"a probe with TLS", `, ports: [{containerPort: 81, name: x}], livenessProbe: {httpGet: {port: 81, scheme: HTTPS}}`, "", "x:81:"},
		{"a Service alone", ``, `{port: 80, targetPort: 8080, name: http}`, "http:8080:http"},
		{"a Service's word", `, ports: [{containerPort: 8080, name: x}]`, `{port: 80, targetPort: x, appProtocol: kubernetes.io/h2c}`, "x:8080:http"},
		{"a Service's word for TLS", `, ports: [{containerPort: 8080, name: x}]`, `{port: 80, targetPort: x, appProtocol: https}`, "x:8080:tcp"},
		{"no such name", `, ports: [{containerPort: 8080, name: x}]`, `{port: 80, targetPort: gone}`, "x:8080:"},
		{"a sidecar's", `}, {name: side, image: s, ports: [{containerPort: 9, name: m}]`, `{port: 9}`, ""},
	}
	for _, tt := range tests {
		yaml := pod("a", "", tt.container, "")
		if tt.service != "" {
			yaml += "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: a}, ports: [" + tt.service + "]}\n"
		}
		_, doc := derived(t, yaml, Options{})
		got := ""
		for name, p := range doc.Marbles["a"].Serves {
			got += fmt.Sprintf("%s:%d:%s", name, p.Port, p.Protocol)
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestGuesses(t *testing.T) {
	cart := pod("cart", "", `, ports: [{containerPort: 8080, name: http}, {containerPort: 9000, name: raw}]`, "") + cartService
	deny := "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np}\nspec: {podSelector: {}}\n"
	tests := []struct{ name, container, more, calls, env string }{
		{"url", `, env: [{name: A, value: "http://cart/x"}]`, "", "http", "http://127.0.0.1:8080/x"},
		{"url with port", `, env: [{name: A, value: "tcp://cart:9000"}]`, "", "raw", "tcp://127.0.0.1:9000"},
		{"fully qualified", `, env: [{name: A, value: "cart.default.svc.cluster.local:9000"}]`, "", "raw", "127.0.0.1:9000"},
		{"two of them", `, env: [{name: A, value: "http://cart,cart:9000"}]`, "", "http raw", "http://127.0.0.1:8080,127.0.0.1:9000"},
		{"a host alone needs a name for it", `, env: [{name: A, value: cart}]`, "", "", ""},
		{"a host alone", `, env: [{name: CART_HOST, value: "cart:80"}]`, "", "http", "127.0.0.1:8080"},
		{"another namespace", `, env: [{name: A, value: "http://cart.other/"}]`, "", "", ""},
		{"a part of a word", `, env: [{name: A, value: "http://my-cart:80 x.cart:80"}]`, "", "", ""},
		{"no such port", `, env: [{name: A, value: "cart:77"}]`, "", "", ""},
		{"a password is not written", `, env: [{name: A, value: "tcp://u:hunter2@cart:9000"}]`, "", "raw", ""},
		{"TLS of its own", `, env: [{name: A, value: "https://cart:9000"}]`, "", "raw", ""},
		{"policies forbid it", `, env: [{name: A, value: "http://cart"}]`, deny, "", ""},
		{"of a ConfigMap", `, envFrom: [{configMapRef: {name: c}}]`, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {A: 'http://cart'}\n", "http", "http://127.0.0.1:8080"},
		{"the later counts", `, envFrom: [{configMapRef: {name: c}}], env: [{name: A, value: x}]`, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {A: 'http://cart'}\n", "", ""},
	}
	for _, tt := range tests {
		r, doc := derived(t, cart+pod("web", "", tt.container, "")+tt.more, Options{})
		var calls []string
		for _, c := range doc.Marbles["web"].Calls {
			calls = append(calls, c.Port)
		}
		if got := strings.Join(calls, " "); got != tt.calls {
			t.Errorf("%s: got calls %q, want %q", tt.name, got, tt.calls)
		}
		env := doc.Marbles["web"].Parameters.Env["A"] + doc.Marbles["web"].Parameters.Env["CART_HOST"]
		if env != tt.env {
			t.Errorf("%s: got %q, want %q", tt.name, env, tt.env)
		}
		if tt.calls != "" && !r.said(Guess, "web.calls cart:") {
			t.Errorf("%s: the report does not call it a guess", tt.name)
		}
		if all := fmt.Sprintf("%s%+v", r.Manifest, r); strings.Contains(all, "hunter2") {
			t.Errorf("%s: a password was written", tt.name)
		}
	}
}

func TestCommandLines(t *testing.T) {
	tests := []struct{ name, metadata, container, want, asks string }{
		{"whole", "", `, command: [/web, --port], args: ["80", "$$(A)"]`, "/web --port 80 $(A)", ""},
		{"arguments alone", "", `, args: [x]`, "", "ENTRYPOINT"},
		{"the annotation", `, annotations: {ashlar.dev/command: '["/web"]'}`, `, args: [x]`, "/web x", ""},
		{"a broken annotation", `, annotations: {ashlar.dev/command: '/web'}`, ``, "", "no JSON array"},
		{"a variable", "", `, command: [/web, $(A)]`, "", "variable or braces"},
		{"a template", "", `, command: [/web, "{{x}}"]`, "", "variable or braces"},
		{"a secret", "", `, command: [/web, --password=hunter2]`, "", "seems to hold a secret"},
		{"none", "", ``, "", "cannot see an image's ENTRYPOINT"},
		{"kubectl's container", `, annotations: {kubectl.kubernetes.io/default-container: b}`, `}, {name: b, image: i, command: [/b]`, "/b", ""},
		{"the second container", `, annotations: {ashlar.dev/container: b}`, `}, {name: b, image: i, command: [/b]`, "/b", ""},
	}
	for _, tt := range tests {
		r, doc := derived(t, pod("web", tt.metadata, tt.container, ""), Options{})
		if got := strings.Join(doc.Marbles["web"].Parameters.Argv, " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if tt.asks != "" && !r.asks(tt.asks) {
			t.Errorf("%s: no open point says %q: %v", tt.name, tt.asks, r.Open)
		}
		if strings.Contains(fmt.Sprintf("%s%+v", r.Manifest, r), "hunter2") {
			t.Errorf("%s: a secret was written", tt.name)
		}
	}
}

func TestPackages(t *testing.T) {
	snp := ", runtimeClassName: kata-qemu-snp"
	tests := []struct {
		name, container, spec string
		o                     Options
		valid                 bool
		code, tee             string
	}{
		{"nothing is known", "", "", Options{}, false, "MAN-021", ""},
		{"a TEE is not enough", "", "", Options{TEE: "sgx"}, false, "MAN-020", "sgx"},
		{"of the runtime class", "", snp, Options{}, false, "MAN-020", "snp"},
		{"of the resources", ", resources: {limits: {sgx.intel.com/epc: 10Mi}}", "", Options{}, false, "MAN-020", "sgx"},
		{"the flag wins", "", snp, Options{TEE: "tdx"}, false, "MAN-020", "tdx"},
		{"by image", "", "", Options{TrustDomain: "a.example", Packages: map[string]attest.Package{"i/web:1": anyProgram}}, true, "", "sim"},
		{"by marble", "", "", Options{TrustDomain: "a.example", Packages: map[string]attest.Package{"web": anyProgram}}, true, "", "sim"},
	}
	for _, tt := range tests {
		r, doc := derived(t, pod("web", "", tt.container, tt.spec), tt.o)
		if r.Valid != tt.valid {
			t.Errorf("%s: valid is %v", tt.name, r.Valid)
		}
		if tt.code != "" && !slices.ContainsFunc(r.Open, func(o importer.Open) bool { return o.Code == problem.Code(tt.code) }) {
			t.Errorf("%s: got %v, want %s", tt.name, r.Open, tt.code)
		}
		p := doc.Packages["web"]
		got := map[bool]string{true: "sgx"}[p.SGX != nil] + map[bool]string{true: "tdx"}[p.TDX != nil] + map[bool]string{true: "snp"}[p.SNP != nil] + map[bool]string{true: "sim"}[p.Sim != nil]
		if got != tt.tee {
			t.Errorf("%s: got TEE %q, want %q", tt.name, got, tt.tee)
		}
		if bytes.Contains(r.Manifest, []byte("allowAny")) {
			t.Errorf("%s: any measurement is accepted", tt.name)
		}
	}
	c, err := Read([]Source{{"k.yaml", []byte(pod("web", "", "", ""))}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Manifest(Options{Packages: map[string]attest.Package{"wev": anyProgram}}); problem.CodeOf(err) != "KUB-093" {
		t.Errorf("a name that is not there: got %v, want KUB-093", err)
	}
}

func TestInstances(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       int
	}{
		{"deployment", pod("a", "", "", ""), 3},
		{"recreate", strings.Replace(pod("a", "", "", ""), "spec:\n  template", "spec:\n  replicas: 4\n  strategy: {type: Recreate}\n  template", 1), 8},
		{"surge", strings.Replace(pod("a", "", "", ""), "spec:\n  template", "spec:\n  replicas: 4\n  strategy: {rollingUpdate: {maxSurge: 3}}\n  template", 1), 11},
		{"scaled", pod("a", "", "", "") + "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {maxReplicas: 8, scaleTargetRef: {kind: Deployment, name: a}}\n", 18},
		{"scaled to nothing for now", strings.Replace(pod("a", "", "", ""), "spec:\n  template", "spec:\n  replicas: 0\n  template", 1), 3},
		{"daemonset", strings.Replace(pod("a", "", "", ""), "kind: Deployment", "kind: DaemonSet", 1), 0},
		{"job", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec: {parallelism: 5, template: {spec: {containers: [{name: c}]}}}\n", 10},
		{"cronjob", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}}\n", 0},
		{"cronjob, one at a time", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {concurrencyPolicy: Forbid, jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}}\n", 2},
	}
	for _, tt := range tests {
		if _, doc := derived(t, tt.yaml, Options{}); doc.Marbles["a"].MaxInstances != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, doc.Marbles["a"].MaxInstances, tt.want)
		}
	}
}

func TestSecretsBecomePlaces(t *testing.T) {
	secret := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hunter2, b-c: hunter2}\n"
	volume := `, volumes: [{name: v, secret: {secretName: s%s}}]`
	tests := []struct{ name, container, spec, env, files, asks string }{
		{"a variable", `, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: a}}}]`, "", "A=sA", "", ""},
		{"the later of two", `, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: a}}}, {name: A, value: x}]`, "", "", "", ""},
		{"all keys that are names", `, envFrom: [{prefix: P_, secretRef: {name: s}}]`, "", "P_a=sA", "", ""},
		{"one that the pod sets itself", `, envFrom: [{secretRef: {name: s}}], env: [{name: a, value: x}]`, "", "", "", ""},
		{"a Secret that is not there", `, envFrom: [{secretRef: {name: t}}]`, "", "", "", "keys of Secret t"},
		{"a volume", `, volumeMounts: [{name: v, mountPath: /etc/s/}]`, fmt.Sprintf(volume, ""), "", "/etc/s/a=sA /etc/s/b-c=sBC", ""},
		{"items", `, volumeMounts: [{name: v, mountPath: /etc/s}]`, fmt.Sprintf(volume, ", items: [{key: a, path: x/y}]"), "", "/etc/s/x/y=sA", ""},
		{"one file", `, volumeMounts: [{name: v, mountPath: /etc/key, subPath: a}]`, fmt.Sprintf(volume, ""), "", "/etc/key=sA", ""},
		{"projected", `, volumeMounts: [{name: v, mountPath: /p}]`, `, volumes: [{name: v, projected: {sources: [{secret: {name: s, items: [{key: a, path: a}]}}]}}]`, "", "/p/a=sA", ""},
		{"a key that no shell takes", `, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: "a; reboot"}}}]`, "", "A=sAReboot", "", ""},
		{"out of the folder", `, volumeMounts: [{name: v, mountPath: /p}]`, fmt.Sprintf(volume, ", items: [{key: a, path: ../../x}]"), "", "", ""},
	}
	for _, tt := range tests {
		r, doc := derived(t, pod("web", "", tt.container, tt.spec)+secret, Options{})
		list := func(places map[string][]string) string {
			var all []string
			for place, names := range places {
				all = append(all, place+"="+strings.Join(names, ","))
				for _, name := range names {
					if s := doc.Secrets[name]; s.Type != manifest.Opaque || !slices.Equal(s.Readers, []string{"web"}) {
						t.Errorf("%s: secret %s is %+v", tt.name, name, s)
					}
				}
			}
			slices.Sort(all)
			return strings.Join(all, " ")
		}
		refs := doc.Marbles["web"].Parameters.References
		if got := list(refs.Env); got != tt.env {
			t.Errorf("%s: got variables %q, want %q", tt.name, got, tt.env)
		}
		if got := list(refs.Files); got != tt.files {
			t.Errorf("%s: got files %q, want %q", tt.name, got, tt.files)
		}
		if strings.Contains(strings.Join(r.Commands, "\n"), ";") {
			t.Errorf("%s: a command to paste does more than it says: %q", tt.name, r.Commands)
		}
		if tt.asks != "" && !r.asks(tt.asks) {
			t.Errorf("%s: no open point says %q: %v", tt.name, tt.asks, r.Open)
		}
		if strings.Contains(fmt.Sprintf("%s%+v", r.Manifest, r), "hunter2") {
			t.Errorf("%s: the value was written", tt.name)
		}
	}
	blue := `, ashlar.dev/marble: web`
	a := strings.Replace(pod("a", "", `, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: a}}}]`, ""), "app: a", "app: a"+blue, 1)
	if r, _ := derived(t, a+strings.Replace(pod("b", "", "", ""), "app: b", "app: b"+blue, 1), Options{}); !r.asks("make them alike") {
		t.Errorf("two workloads of one marble with different places: %v", r.Open)
	}
}

func TestWhatHasNoCounterpartIsSaid(t *testing.T) {
	yaml := pod("web", "", `, ports: [{containerPort: 80, hostPort: 80}], envFrom: [{secretRef: {name: gone}}]`, `, hostNetwork: true, initContainers: [{name: i, env: [{name: X, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]`) + `
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: edge}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {type: ExternalName, externalName: pay.example}
---
apiVersion: v1
kind: Service
metadata: {name: lb}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}, {namespaceSelector: {matchLabels: {a: b}}}], ports: [{protocol: UDP, port: 53}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-x, uid: u, controller: true}]}
spec: {containers: [{name: c}]}
`
	r, doc := derived(t, yaml, Options{})
	if len(doc.Marbles) != 1 {
		t.Errorf("got marbles %v, want one", doc.Marbles)
	}
	for words, verdict := range map[string]importer.Verdict{
		"hostNetwork": importer.NoCounterpart, "hostPort": importer.NoCounterpart, "initContainers[0] ": importer.NoCounterpart, "initContainers[0].env": importer.NoCounterpart,
		"comes from outside": importer.NoCounterpart, "externalName": importer.NoCounterpart, "LoadBalancer": importer.Stricter, "HTTPRoute": importer.NoCounterpart,
		"ipBlock": importer.NoCounterpart, "labels of namespaces": importer.NoCounterpart, "UDP": importer.NoCounterpart, "made by ReplicaSet": importer.Dropped,
		"no NetworkPolicy says who": importer.Stricter,
	} {
		if !r.said(verdict, words) {
			t.Errorf("the report has no line %q that says %s:\n%+v", words, verdict, r.Report)
		}
	}
	if !r.asks("keys of Secret gone") {
		t.Errorf("a Secret whose keys are not known is no open point: %v", r.Open)
	}
}
