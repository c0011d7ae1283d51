package samples

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/kube/derive"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// samples are the folders, with the TEE and the profile that their pods get from
// the label alone.
var samples = map[string]struct{ marble, tee, profile string }{
	"ego": {"cart", "sgx", "intel"}, "gramine": {"cart", "sgx", "intel"}, "occlum": {"cart", "sgx", "intel"}, "cvm": {"web", "snp", "kata-qemu-snp"},
}

// passed are the only variables that a measured image takes from the host.
var passed = []string{"ASHLAR_COORDINATOR", "ASHLAR_IP", "ASHLAR_MARBLE", "ASHLAR_READY_ADDR", "ASHLAR_UUID"}

func read(t *testing.T, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t *testing.T, folder string) *manifest.Manifest {
	t.Helper()
	m, diags := manifest.Parse(read(t, folder, "manifest.json"))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPodsBecomeMarbles injects each sample's pod as the label alone asks for it,
// and compares with what must come out.
func TestPodsBecomeMarbles(t *testing.T) {
	settings := inject.Settings{Coordinator: "ashlar-mesh.mesh.svc:2001", Policy: string(read(t, "ego", "policy.json")), Image: "ashlar-marble:1",
		Defaults: map[string]string{"sgx": "intel", "snp": "kata-qemu-snp"}, ReadinessGate: true}
	for folder, want := range samples {
		t.Run(folder, func(t *testing.T) {
			var deployment appsv1.Deployment
			first, _, _ := strings.Cut(string(read(t, folder, "k8s.yaml")), "\n---\n")
			if err := yaml.UnmarshalStrict([]byte(first), &deployment); err != nil {
				t.Fatal(err)
			}
			template := deployment.Spec.Template
			pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
			pod.Namespace = deployment.Namespace
			if name, ok := inject.Labelled(pod); !ok || name != want.marble {
				t.Fatalf("the label names %q, want %q", name, want.marble)
			}
			m, err := inject.FromManifest(parsed(t, folder), want.marble)
			if err != nil {
				t.Fatal(err)
			}
			result, err := inject.Pod(pod, m, settings)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range result.Warnings {
				t.Errorf("warning: %s", w)
			}
			if got := result.Profile; got != want.profile {
				t.Errorf("got profile %q, want %q", got, want.profile)
			}
			raw, err := yaml.Marshal(result.Pod)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", folder+".golden.yaml")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); !bytes.Equal(raw, want) {
				t.Errorf("got\n%s\nwant\n%s", raw, want)
			}
		})
	}
}

// TestManifestsFitTheirYAML derives a manifest of each sample's YAML and compares
// marble, port and protocol with the one that lies beside it.
func TestManifestsFitTheirYAML(t *testing.T) {
	for folder, want := range samples {
		c, err := derive.Read([]derive.Source{{Name: folder, Data: read(t, folder, "k8s.yaml")}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Manifest(derive.Options{TEE: want.tee})
		if err != nil {
			t.Fatal(err)
		}
		var derived manifest.Manifest
		if err := json.Unmarshal(r.Manifest, &derived); err != nil {
			t.Fatal(err)
		}
		given := parsed(t, folder).Marbles[want.marble]
		if got := derived.Marbles[want.marble]; len(got.Serves) != 1 || len(given.Serves) != 1 {
			t.Errorf("%s: got %+v, want one port", folder, got)
		} else {
			for name, p := range got.Serves {
				if given.Serves[name] != p {
					t.Errorf("%s: the YAML serves %s as %+v, the manifest %+v", folder, name, p, given.Serves[name])
				}
			}
		}
	}
}

var profileValue = regexp.MustCompile(`--set (?:coordinator\.profile|tee\.defaults\.([a-z:]+))=([a-z-]+)`)

// TestGuidesNameProfiles looks each profile that a guide's commands name up in
// the table, with the TEE that it is the default of.
func TestGuidesNameProfiles(t *testing.T) {
	guides, err := filepath.Glob("../docs/guides/*.md")
	if err != nil {
		t.Fatal(err)
	}
	table, found := inject.Profiles(), 0
	for _, guide := range guides {
		for _, m := range profileValue.FindAllStringSubmatch(string(read(t, guide)), -1) {
			found++
			if row, ok := table[m[2]]; !ok || m[1] != "" && row.TEE != m[1] {
				t.Errorf("%s: %s: the table has %+v", guide, m[0], row)
			}
		}
	}
	if found < 10 {
		t.Errorf("found only %d commands with a profile", found)
	}
}

func TestPoliciesAreForHardware(t *testing.T) {
	for _, folder := range []string{"ego", "gramine", "occlum"} {
		file, diags := manifest.ParsePolicyFile(read(t, folder, "policy.json"))
		if err := diags.Err(); err != nil {
			t.Errorf("%s: %v", folder, err)
		} else if file.Simulated() {
			t.Errorf("%s: the policy is for a simulation", folder)
		}
	}
}

func strict(t *testing.T, raw []byte, v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatal(err)
	}
}

// TestEGoConfiguration reads enclave.json by the fields that EGo documents.
func TestEGoConfiguration(t *testing.T) {
	var c struct {
		Exe, Key        string
		Debug           bool
		HeapSize        int
		ExecutableHeap  bool
		ProductID       int
		SecurityVersion int
		Env             []struct {
			Name, Value string
			FromHost    bool
		}
		Files []struct{ Source, Target string }
	}
	strict(t, read(t, "ego", "enclave.json"), &c)
	if c.Debug || c.ExecutableHeap || c.HeapSize < 512 || c.ProductID == 0 || c.SecurityVersion == 0 || c.Exe != "cart" {
		t.Errorf("got %+v, want a production enclave of cart", c)
	}
	var names []string
	for _, e := range c.Env {
		if names = append(names, e.Name); !e.FromHost || e.Value != "" {
			t.Errorf("variable %+v does not come from the host", e)
		}
	}
	if slices.Sort(names); !slices.Equal(names, passed) {
		t.Errorf("the host chooses %v, want %v", names, passed)
	}
	if len(c.Files) != 1 || c.Files[0].Target != "/etc/ashlar/policy.json" {
		t.Errorf("the policy is not measured: %+v", c.Files)
	}
}

// TestOcclumConfiguration reads Occlum.json by the fields that Occlum documents.
func TestOcclumConfiguration(t *testing.T) {
	type mount struct {
		Target, Type, Source string
		Options              json.RawMessage
	}
	var c struct {
		Resources struct {
			User    string `json:"user_space_size"`
			Heap    string `json:"kernel_space_heap_size"`
			Stack   string `json:"kernel_space_stack_size"`
			Threads int    `json:"max_num_of_threads"`
		} `json:"resource_limits"`
		Process struct {
			Stack string `json:"default_stack_size"`
			Heap  string `json:"default_heap_size"`
			Mmap  string `json:"default_mmap_size"`
		} `json:"process"`
		EntryPoints []string                              `json:"entry_points"`
		Env         struct{ Default, Untrusted []string } `json:"env"`
		Metadata    struct {
			Product    int  `json:"product_id"`
			Version    int  `json:"version_number"`
			Debuggable bool `json:"debuggable"`
			PKU        int  `json:"pkru"`
		} `json:"metadata"`
		Mount []mount `json:"mount"`
	}
	strict(t, read(t, "occlum", "Occlum.json"), &c)
	if c.Metadata.Debuggable || !slices.Equal(c.EntryPoints, []string{"/bin/cart"}) || c.Resources.Threads < 32 {
		t.Errorf("got %+v, want a production enclave that runs /bin/cart alone", c)
	}
	if slices.Sort(c.Env.Untrusted); !slices.Equal(c.Env.Untrusted, passed) {
		t.Errorf("the host chooses %v, want %v", c.Env.Untrusted, passed)
	}
	device := false
	for _, m := range c.Mount {
		device = device || m.Type == "devfs" && m.Target == "/dev"
		if m.Type == "hostfs" {
			t.Errorf("the host's files are mounted at %s", m.Target)
		}
	}
	if !device {
		t.Errorf("there is no /dev, through which quotes are made")
	}
	var bom struct {
		Includes []string `json:"includes"`
		Targets  []struct {
			Target string `json:"target"`
			Copy   []struct {
				Files []string `json:"files"`
			} `json:"copy"`
		} `json:"targets"`
	}
	if err := yaml.UnmarshalStrict(read(t, "occlum", "bom.yaml"), &bom); err != nil {
		t.Fatal(err)
	}
	if len(bom.Targets) != 2 || bom.Targets[1].Target != "/etc/ashlar" {
		t.Errorf("the policy is not in the measured image: %+v", bom)
	}
}

var jinja = regexp.MustCompile(`\{\{[^}]*\}\}`)

// TestGramineManifest reads the template, with texts in place of what Gramine
// fills in, by Python's TOML reader.
func TestGramineManifest(t *testing.T) {
	toml := jinja.ReplaceAll(read(t, "gramine", "cart.manifest.template"), []byte("x"))
	cmd := exec.Command("python3", "-c", "import json,sys,tomllib; json.dump(tomllib.loads(sys.stdin.read()), sys.stdout)")
	cmd.Stdin = bytes.NewReader(toml)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reading the manifest: %v", err)
	}
	var c struct {
		Loader struct {
			Entrypoint string                     `json:"entrypoint"`
			LogLevel   string                     `json:"log_level"`
			Argv       []string                   `json:"argv"`
			Env        map[string]json.RawMessage `json:"env"`
		} `json:"loader"`
		LibOS struct {
			Entrypoint string `json:"entrypoint"`
		} `json:"libos"`
		FS struct {
			Mounts []struct {
				Type, Path, URI string
				KeyName         string `json:"key_name"`
			} `json:"mounts"`
		} `json:"fs"`
		Sys struct {
			Names   bool `json:"enable_extra_runtime_domain_names_conf"`
			SIGTERM bool `json:"enable_sigterm_injection"`
		} `json:"sys"`
		SGX struct {
			Debug       bool     `json:"debug"`
			Attestation string   `json:"remote_attestation"`
			Size        string   `json:"enclave_size"`
			Threads     int      `json:"max_threads"`
			Product     int      `json:"isvprodid"`
			Version     int      `json:"isvsvn"`
			Trusted     []string `json:"trusted_files"`
		} `json:"sgx"`
	}
	strict(t, out, &c)
	if c.SGX.Debug || c.SGX.Attestation != "dcap" || c.Loader.LogLevel != "error" || !strings.HasSuffix(c.LibOS.Entrypoint, "/ashlar-marble") {
		t.Errorf("got %+v, want a production enclave of ashlar-marble", c)
	}
	var names []string
	for name, value := range c.Loader.Env {
		if strings.Contains(string(value), "passthrough") {
			names = append(names, name)
		}
	}
	if slices.Sort(names); !slices.Equal(names, passed) {
		t.Errorf("the host chooses %v, want %v", names, passed)
	}
	policy := slices.Index(c.Loader.Argv, "--coordinator-policy")
	if policy < 0 || !slices.Contains(c.SGX.Trusted, "file:"+filepath.Dir(c.Loader.Argv[policy+1])+"/") {
		t.Errorf("the policy is no trusted file: %v", c.Loader.Argv)
	}
	sealed := map[string]bool{}
	for _, m := range c.FS.Mounts {
		if m.Type == "encrypted" && m.KeyName == "_sgx_mrenclave" {
			sealed[m.Path] = true
		} else if m.Type == "" && !slices.Contains(c.SGX.Trusted, m.URI) && !slices.Contains(c.SGX.Trusted, m.URI+"/") {
			t.Errorf("%s is mounted and not trusted", m.URI)
		}
	}
	for file := range parsed(t, "gramine").Marbles["cart"].Parameters.Files {
		if !sealed[filepath.Dir(file)] {
			t.Errorf("%s would be written in no encrypted mount", file)
		}
	}
}

// TestPythonCompiles compiles the samples' Python.
func TestPythonCompiles(t *testing.T) {
	for _, file := range []string{"gramine/cart.py", "cvm/web.py"} {
		if out, err := exec.Command("python3", "-c", "import ast,sys; ast.parse(open(sys.argv[1]).read())", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

var dependency = regexp.MustCompile(`(?m)^(?:COPY|ADD) (?:--\S+ )*(\S+) `)

// TestDockerfilesCopyWhatIsThere looks for each file that a Dockerfile takes from
// the repository, and for secrets and registries in it.
func TestDockerfilesCopyWhatIsThere(t *testing.T) {
	for folder := range samples {
		text := string(read(t, folder, "Dockerfile"))
		for _, line := range strings.Split(text, "\n") {
			if m := dependency.FindStringSubmatch(line); m != nil && !strings.Contains(line, "--from=") {
				if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
					t.Errorf("%s: %v", folder, err)
				}
			}
			if image, ok := strings.CutPrefix(line, "FROM "); ok && strings.Contains(image, "/") {
				t.Errorf("%s: %s names a registry", folder, image)
			}
		}
		if strings.Contains(text, "COPY samples/"+folder+" ") || strings.Contains(text, "private.pem /") {
			t.Errorf("%s: a key might be copied", folder)
		}
	}
}
