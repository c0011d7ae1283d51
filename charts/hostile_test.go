package charts_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// breakouts would end the line, the flow or the document that they are put in,
// or be another type than text, if a template put them there as they are.
var breakouts = []string{
	"x\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: breakout}\n", "x\n  breakout: y", "x, breakout: y", "x}, breakout: {y", "x]\nbreakout: [y",
	`x", "breakout": "y`, "{{ .Release.Name }}", "x: breakout", "a:2\nx: breakout", "/x?tls=off&x=", "$(POD_NAME)", "x\u2028breakout", "x\t# y", "&x y", "true", "0x10", "12",
}

// at returns values with one at a path.
func at(path string, value any) values {
	for _, name := range slices.Backward(strings.Split(path, ".")) {
		value = values{name: value}
	}
	return value.(values)
}

// places are values by a text, which some template writes.
func places() map[string]func(text string) values {
	all := map[string]func(text string) values{}
	for _, path := range []string{"coordinator.priorityClassName", "injector.priorityClassName", "coordinator.state.storageClass", "coordinator.state.size", "coordinator.state.createUntil",
		"coordinator.epc", "coordinator.seal", "coordinator.profile", "coordinator.owner.configMap", "coordinator.owner.certificate", "coordinator.tpmRoots", "coordinator.image.repository",
		"endorsements.existingClaim", "policy", "clusterDomain", "image.registry", "image.tag", "monitoring.serviceMonitor.interval", "nameOverride", "fullnameOverride"} {
		all[path] = func(text string) values { return at(path, text) }
	}
	for _, path := range []string{"image.pullSecrets", "networkPolicy.monitoring", "networkPolicy.apiServer", "coordinator.advertise", "endorsements.pccs", "endorsements.kds", "coordinator.service.loadBalancerSourceRanges"} {
		all[path] = func(text string) values { return at(path, []any{text}) }
	}
	for _, path := range []string{"coordinator.service.annotations", "coordinator.nodeSelector", "coordinator.podAnnotations", "injector.webhook.namespaceLabels", "injector.nodeSelector",
		"injector.podAnnotations", "monitoring.serviceMonitor.labels", "monitoring.rules.labels", "monitoring.dashboard.labels"} {
		all[path] = func(text string) values { return at(path, values{text: text}) }
	}
	for field, value := range map[string]func(string) any{
		"endpoints": func(text string) any { return []any{"a:1", text} },
		"prefix":    func(text string) any { return text },
		"tls":       func(text string) any { return values{"secret": text} },
	} {
		all["coordinator.store.etcd."+field] = func(text string) values {
			v := shared(values{field: value(text)})
			v["coordinator"].(values)["replicas"] = 1
			return v
		}
	}
	row := func(field string, value any) values {
		return values{"coordinator": values{"profile": "own", "guestMeasuresContainer": true}, "tee": values{"profiles": values{"own": values{"tee": "snp", "runtime": "wrap", field: value}}}}
	}
	for _, field := range []string{"nodeLabels", "annotations", "env"} {
		all["profile "+field] = func(text string) values { return row(field, values{text: text}) }
	}
	all["profile resources"] = func(text string) values { return row("resources", values{text: "1"}) }
	all["profile runtimeClass"] = func(text string) values { return row("runtimeClass", text) }
	all["profile tolerations"] = func(text string) values { return row("tolerations", []any{text}) }
	all["profile hostPaths"] = func(text string) values { return row("hostPaths", []any{values{"path": "/" + text}}) }
	return all
}

// TestTextsStayInTheirPlace: no text in the values adds an object or a field, or
// turns into something else than text. Some are refused before.
func TestTextsStayInTheirPlace(t *testing.T) {
	everything := values{"networkPolicy": values{"enabled": true},
		"monitoring": values{"serviceMonitor": values{"enabled": true}, "rules": values{"enabled": true}, "dashboard": values{"enabled": true}}}
	usually := documents(mustRender(t, usual, everything))
	all := places()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		taken := 0
		for _, text := range breakouts {
			files, err := render(t, usual, complete(chartutil.CoalesceTables(all[name](text), everything)))
			if err != nil {
				continue
			}
			taken++
			rendered := documents(files)
			if added := len(rendered) - len(usually); added != 0 {
				t.Errorf("%s: %q adds %d documents", name, text, added)
			}
			for _, d := range rendered {
				if slices.Contains(usually, d) {
					continue
				}
				if err := decodes(d); err != nil {
					t.Errorf("%s: %q: %v", name, text, err)
				}
			}
		}
		t.Logf("%s takes %d of %d texts", name, taken, len(breakouts))
	}
}

// TestNamesThatLookLikeNumbers: a release and a namespace may have such names.
func TestNamesThatLookLikeNumbers(t *testing.T) {
	for _, d := range documents(mustRender(t, release{name: "12", namespace: "1234"}, values{"monitoring": values{"serviceMonitor": values{"enabled": true}}})) {
		if err := decodes(d); err != nil {
			t.Errorf("%v in\n%s", err, d)
		}
		for _, line := range strings.Split(d, "\n") {
			if line = strings.TrimRight(line, "}] "); strings.HasSuffix(line, ": 12") || strings.HasSuffix(line, ": 1234") || strings.HasSuffix(line, "[1234") {
				t.Errorf("a number stands for a name: %s", line)
			}
		}
	}
}

// decodes reports why a document is not what its type says.
func decodes(d string) error {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(d), &head); err != nil || head.APIVersion == "monitoring.coreos.com/v1" {
		return err // monitoring_test.go has their types
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	_, _, err := strict.Decode([]byte(d), nil, nil)
	return err
}
