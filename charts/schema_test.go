package charts_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

// schema is as much of JSON Schema as ours uses to describe.
type schema struct {
	Description          string            `json:"description"`
	Type                 any               `json:"type"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties json.RawMessage   `json:"additionalProperties"`
	Definitions          map[string]schema `json:"definitions"`
	Items                *schema           `json:"items"`
}

func readSchema(t *testing.T) schema {
	t.Helper()
	var s schema
	if err := json.Unmarshal(load(t).Schema, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// leaves calls f with each value that has no described values below it.
func (s schema) leaves(path string, f func(path string, s schema)) {
	if len(s.Properties) == 0 {
		f(path, s)
		return
	}
	for name, p := range s.Properties {
		p.leaves(strings.TrimPrefix(path+"."+name, "."), f)
	}
}

func TestEveryValueIsDescribed(t *testing.T) {
	var walk func(path string, s schema)
	walk = func(path string, s schema) {
		if path != "" && !strings.HasSuffix(s.Description, ".") {
			t.Errorf("%s: got description %q, want a sentence", path, s.Description)
		}
		if len(s.Properties) > 0 && string(s.AdditionalProperties) != "false" {
			t.Errorf("%s takes values that nobody reads", path)
		}
		for name, p := range s.Properties {
			walk(path+"."+name, p)
		}
		if s.Items != nil && len(s.Items.Properties) > 0 {
			for name, p := range s.Items.Properties {
				walk(path+"[]."+name, p)
			}
		}
	}
	root := readSchema(t)
	walk("", root)
	walk("profile", root.Definitions["profile"])
}

// The schema, values.yaml and the guide's table name the same values, with the
// same defaults.
func TestValuesSchemaAndGuideAgree(t *testing.T) {
	root, defaults := readSchema(t), load(t).Values
	delete(root.Properties, "global")
	guide := guideTable(t)
	count := 0
	root.leaves("", func(path string, s schema) {
		count++
		value, ok := lookup(defaults, path)
		if !ok {
			t.Errorf("%s: the schema has it, values.yaml has not", path)
			return
		}
		want := fmt.Sprintf("| `%s` | %s | %s |", path, shown(t, path, value), strings.ReplaceAll(s.Description, "|", `\|`))
		if guide[path] != want {
			t.Errorf("docs/guides/kubernetes.md: got %q, want %q; go test ./charts -run Guide -update writes it", guide[path], want)
		}
		delete(guide, path)
	})
	for path := range guide {
		t.Errorf("docs/guides/kubernetes.md describes %s, which is no value", path)
	}
	if count < 60 {
		t.Errorf("got %d values, want at least 60", count)
	}
	unknown(t, root, "", defaults)
}

// unknown reports the values that the schema does not describe.
func unknown(t *testing.T, s schema, path string, v map[string]any) {
	t.Helper()
	for name, value := range v {
		p, ok := s.Properties[name]
		if !ok {
			t.Errorf("values.yaml: %s.%s is not in the schema", path, name)
			continue
		}
		if below, ok := value.(map[string]any); ok && len(p.Properties) > 0 {
			unknown(t, p, path+"."+name, below)
		}
	}
}

func lookup(v map[string]any, path string) (any, bool) {
	var at any = v
	for name := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = m[name]; !ok {
			return nil, false
		}
	}
	return at, true
}

// shown is a default in the guide's table.
func shown(t *testing.T, path string, value any) string {
	t.Helper()
	if path == "tee.profiles" {
		return "[the table](#profiles)"
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	switch text := string(b); text {
	case `""`, "[]", "{}":
		return ""
	default:
		return "`" + strings.Trim(text, `"`) + "`"
	}
}

const guidePath = "../docs/guides/kubernetes.md"

// guideTable reads the rows of the guide's table of values by their paths; with
// -update it writes them first.
func guideTable(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(guidePath)
	if err != nil {
		t.Fatal(err)
	}
	const head = "| value | default | what |\n|---|---|---|\n"
	before, rest, found := strings.Cut(string(text), head)
	if !found {
		t.Fatalf("%s has no table of values", guidePath)
	}
	table, after, _ := strings.Cut(rest, "\n\n")
	if *update {
		var rows []string
		root, defaults := readSchema(t), load(t).Values
		delete(root.Properties, "global")
		root.leaves("", func(path string, s schema) {
			value, _ := lookup(defaults, path)
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", path, shown(t, path, value), strings.ReplaceAll(s.Description, "|", `\|`)))
		})
		slices.Sort(rows)
		table = strings.Join(rows, "\n")
		if err := os.WriteFile(guidePath, []byte(before+head+table+"\n\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rows := map[string]string{}
	for row := range strings.SplitSeq(table, "\n") {
		path, _, _ := strings.Cut(strings.TrimPrefix(row, "| `"), "`")
		rows[path] = row
	}
	return rows
}

// Each key of values.yaml is preceded or followed by words.
func TestEveryValueHasAComment(t *testing.T) {
	text, err := os.ReadFile("ashlar/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	key := regexp.MustCompile(`^ *[a-zA-Z]+: *(\S.*)$`)
	inTable := false
	for i, line := range lines {
		if strings.HasPrefix(line, "  profiles:") {
			inTable = true
			continue
		}
		if inTable = inTable && strings.HasPrefix(line, "    "); inTable || !key.MatchString(line) || strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if regexp.MustCompile(`^ *(requests|limits): `).MatchString(line) {
			continue // described by what is above
		}
		if !strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#") {
			t.Errorf("values.yaml:%d: %q has no comment", i+1, line)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	for _, c := range []struct{ values, says string }{
		{"coordinatr: {}", "coordinatr"},
		{"coordinator: {replicas: 0}", "coordinator.replicas"},
		{"coordinator: {replicas: 10}", "coordinator.replicas"},
		{"coordinator: {replicas: '3'}", "coordinator.replicas"},
		{"coordinator: {store: {engine: bbolt}}", "coordinator.store.engine"},
		{"coordinator: {store: {etcd: {endpoints: etcd:2379}}}", "coordinator.store.etcd.endpoints"},
		{"coordinator: {store: {etcd: {endpoints: [etcd]}}}", "coordinator.store.etcd.endpoints.0"},
		{"coordinator: {store: {etcd: {endpoints: ['https://etcd:2379']}}}", "coordinator.store.etcd.endpoints.0"},
		{"coordinator: {store: {etcd: {endpoints: ['a:1,b:1']}}}", "coordinator.store.etcd.endpoints.0"},
		{"coordinator: {store: {etcd: {endpoints: ['me@a:1']}}}", "coordinator.store.etcd.endpoints.0"},
		{"coordinator: {store: {etcd: {endpoints: ['a:1', 'a:1']}}}", "coordinator.store.etcd.endpoints"},
		{"coordinator: {store: {etcd: {endpoints: ['a:1','b:1','c:1','d:1','e:1','f:1','g:1','h:1','i:1','j:1']}}}", "coordinator.store.etcd.endpoints"},
		{"coordinator: {store: {etcd: {prefix: mesh}}}", "coordinator.store.etcd.prefix"},
		{"coordinator: {store: {etcd: {prefix: /}}}", "coordinator.store.etcd.prefix"},
		{"coordinator: {store: {etcd: {prefix: '/a?tls=off'}}}", "coordinator.store.etcd.prefix"},
		{"coordinator: {store: {etcd: {prefix: '/$(POD_NAME)'}}}", "coordinator.store.etcd.prefix"},
		{"coordinator: {store: {etcd: {tls: {ca: x}}}}", "coordinator.store.etcd.tls"},
		{"networkPolicy: {etcd: [10.0.0.0/8]}", "networkPolicy.etcd.0"},
		{"coordinator: {seal: none}", "coordinator.seal"},
		{"coordinator: {epc: 64}", "coordinator.epc"},
		{"coordinator: {epc: 64MB}", "coordinator.epc"},
		{"coordinator: {state: {createUntil: tomorrow}}", "coordinator.state.createUntil"},
		{"coordinator: {state: {createUntil: '2026-01-02'}}", "coordinator.state.createUntil"},
		{"coordinator: {state: {size: big}}", "coordinator.state.size"},
		{"coordinator: {owner: {certificate: owner.pem}}", "coordinator.owner.certificate"},
		{"coordinator: {advertise: ['a b']}", "coordinator.advertise"},
		{"coordinator: {advertise: coordinator.test}", "coordinator.advertise"},
		{"coordinator: {logFormat: xml}", "coordinator.logFormat"},
		{"coordinator: {service: {type: ExternalName}}", "coordinator.service.type"},
		{"coordinator: {image: {tag: latest}}", "coordinator.image.tag"},
		{"coordinator: {image: {digest: abc}}", "coordinator.image.digest"},
		{"coordinator: {image: {repository: 'a:1'}}", "coordinator.image.repository"},
		{"image: {tag: latest}", "image.tag"},
		{"image: {pullPolicy: Sometimes}", "image.pullPolicy"},
		{"injector: {replicas: 0}", "injector.replicas"},
		{"injector: {webhook: {timeoutSeconds: 60}}", "injector.webhook.timeoutSeconds"},
		{"injector: {resources: {limits: {memory: lots}}}", "injector.resources.limits.memory"},
		{"marble: {readyPort: 80}", "marble.readyPort"},
		{"tee: {profiles: {intel: {tee: sxg}}}", "tee.profiles.intel.tee"},
		{"tee: {profiles: {mine: {tee: sgx}}}", "missing property 'runtime'"},
		{"tee: {profiles: {Mine_: {tee: sgx, runtime: wrap}}}", "Mine_"},
		{"tee: {profiles: {intel: {devices: []}}}", "devices"},
		{"tee: {profiles: {sim: {hostPaths: [{path: run}]}}}", "hostPaths.0.path"},
		{"tee: {defaults: {sev: snp-node}}", "sev"},
		{"endorsements: {pccs: ['pccs.test:8081']}", "endorsements.pccs.0"},
		{"endorsements: {kds: https://kds.test}", "endorsements.kds"},
		{"networkPolicy: {clients: [{cidr: 10.0.0.0/8}]}", "networkPolicy.clients.0"},
		{"networkPolicy: {apiServer: [10.0.0.1]}", "networkPolicy.apiServer.0"},
		{"monitoring: {serviceMonitor: {interval: fast}}", "monitoring.serviceMonitor.interval"},
		{"fullnameOverride: Shop", "fullnameOverride"},
	} {
		t.Run(c.values, func(t *testing.T) {
			v, err := chartutil.ReadValues([]byte(c.values))
			if err != nil {
				t.Fatal(err)
			}
			_, err = render(t, release{name: "ashlar", namespace: "mesh", upgrade: true}, v)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "/", "."), c.says) {
				t.Errorf("got %v, want an error that names %s", err, c.says)
			}
		})
	}
}

// What a schema cannot say, the templates do.
func TestTemplatesRefuse(t *testing.T) {
	for _, c := range []struct{ values, says string }{
		{"{}", "coordinator.state.createUntil: say until when"},
		{"coordinator: {state: {createUntil: never}}", "policy: say what the coordinator has to be"},
		{"coordinator: {state: {createUntil: never}, profile: sgx}", `"sgx" is no row of tee.profiles; there are`},
		{"coordinator: {state: {createUntil: never}, profile: tdx-node}", "no key to seal a state with"},
		{"coordinator: {state: {createUntil: never}, profile: aks-snp-node}", "no key to seal a state with"},
		{"coordinator: {state: {createUntil: never}, profile: kata-qemu-snp}", "coordinator.guestMeasuresContainer"},
		{"tee: {defaults: {sgx: snp-node}}", `tee.defaults: "snp-node" is no row of tee.profiles for sgx`},
		{"tee: {defaults: {sgx: intle}}", "there are aks-snp-node"},
		{"coordinator: {replicas: 2}", "coordinator.replicas: the embedded store has one writer"},
		{"coordinator: {store: {engine: etcd}}", "coordinator.store.etcd.endpoints: say where etcd is"},
		{"coordinator: {store: {etcd: {endpoints: ['etcd:2379']}}}", "coordinator.store.etcd: the embedded store does not read it"},
		{"coordinator: {store: {etcd: {prefix: /mesh}}}", "coordinator.store.etcd: the embedded store does not read it"},
		{"coordinator: {store: {engine: etcd, etcd: {tls: {enabled: false, secret: x}}}}", "coordinator.store.etcd.tls: a Secret"},
		{"coordinator: {replicas: 2, nodeSelector: {kubernetes.io/hostname: a}}", "coordinator.nodeSelector: kubernetes.io/hostname puts all"},
		{"coordinator: {profile: sgx}", "createUntil: say until"}, // all at once
		{"coordinator: {profile: sgx}", "is no row of"},
		{"coordinator: {state: {createUntil: never}, owner: {configMap: a, certificate: '-----BEGIN CERTIFICATE-----'}}", "not both"},
	} {
		t.Run(c.values+" "+c.says, func(t *testing.T) {
			var v values
			if err := yaml.Unmarshal([]byte(c.values), &v); err != nil {
				t.Fatal(err)
			}
			if _, err := render(t, usual, v); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	if _, err := render(t, release{name: "ashlar", namespace: "mesh", upgrade: true}, values{"policy": policy}); err != nil {
		t.Errorf("an upgrade has a state already: got %v", err)
	}
}

// A chart of other charts gives each of them the values under global.
func TestGlobalIsTaken(t *testing.T) {
	if _, err := render(t, release{name: "ashlar", namespace: "mesh", upgrade: true}, values{"policy": policy, "global": values{"x": 1}}); err != nil {
		t.Error(err)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	c := load(t)
	if err := chartutil.ValidateAgainstSchema(c, c.Values); err != nil {
		t.Error(err)
	}
	if names := slices.Sorted(maps.Keys(c.Values)); len(names) < 10 {
		t.Errorf("got %v", names)
	}
}
