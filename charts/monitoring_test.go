package charts_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// monitor has the fields of the Prometheus operator's types that we use, named
// as in its published schema (monitoring.coreos.com/v1).
type monitor[Spec any] struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec Spec `json:"spec"`
}

type serviceMonitor struct {
	Endpoints []struct {
		Port     string `json:"port"`
		Path     string `json:"path"`
		Scheme   string `json:"scheme"`
		Interval string `json:"interval"`
	} `json:"endpoints"`
	NamespaceSelector struct {
		MatchNames []string `json:"matchNames"`
	} `json:"namespaceSelector"`
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for,omitempty"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

var monitored = values{"monitoring": values{"serviceMonitor": values{"enabled": true}, "rules": values{"enabled": true}, "dashboard": values{"enabled": true}}}

// ofKind decodes strictly the only document of a kind.
func ofKind[Spec any](t *testing.T, r release, kind string) monitor[Spec] {
	t.Helper()
	for _, d := range documents(mustRender(t, r, monitored)) {
		if !strings.Contains(d, "\nkind: "+kind+"\n") {
			continue
		}
		var m monitor[Spec]
		if err := yaml.UnmarshalStrict([]byte(d), &m); err != nil {
			t.Fatalf("%v in\n%s", err, d)
		}
		if m.APIVersion != "monitoring.coreos.com/v1" || m.Kind != kind || m.Metadata.Name != r.name {
			t.Errorf("got %s %s %s", m.APIVersion, m.Kind, m.Metadata.Name)
		}
		return m
	}
	t.Fatalf("no %s was rendered", kind)
	return monitor[Spec]{}
}

func TestServiceMonitor(t *testing.T) {
	m := ofKind[serviceMonitor](t, usual, "ServiceMonitor").Spec
	if len(m.Endpoints) != 1 || !slices.Equal(m.NamespaceSelector.MatchNames, []string{"mesh"}) {
		t.Fatalf("got %+v", m)
	}
	var read []string
	for _, o := range objects(t, mustRender(t, usual, monitored)) {
		s, ok := o.(*corev1.Service)
		if !ok || !containsAll(s.Labels, m.Selector.MatchLabels) {
			continue
		}
		for _, p := range s.Spec.Ports {
			if p.Name == m.Endpoints[0].Port {
				read = append(read, fmt.Sprint(s.Name, " ", p.Port))
			}
		}
	}
	if want := []string{"ashlar-coordinator 9944", "ashlar-injector 9944"}; !slices.Equal(read, want) {
		t.Errorf("metrics are read of %q, want %q", read, want)
	}
}

// code is what the programs say of their metrics.
type code struct {
	metrics map[string]bool
	words   map[string]bool // every word in quotes: names and values of labels among them
}

func readCode(t *testing.T) code {
	t.Helper()
	c := code{map[string]bool{}, map[string]bool{"true": true}}
	for _, o := range fetch.Outcomes() {
		c.words[string(o)] = true
	}
	for _, role := range []string{apiv1.ReplicaActive, apiv1.ReplicaStandby, apiv1.ReplicaJoining} {
		c.words[role] = true
	}
	name := regexp.MustCompile(`(?:Name: *|\b(?:counter|histogram|gauge)\()"([a-z_]+)"|"ashlar_([a-z_]+)"`)
	subsystem, word := regexp.MustCompile(`Subsystem: *"([a-z]+)"`), regexp.MustCompile(`"([A-Za-z_]+)"`)
	for _, dir := range []string{"../coordinator/internal/api", "../kube/injector", "../kube/stage"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range word.FindAllStringSubmatch(string(b), -1) {
				c.words[m[1]] = true
			}
			if !strings.Contains(string(b), "prometheus") {
				continue
			}
			prefix := "ashlar_"
			if s := subsystem.FindStringSubmatch(string(b)); s != nil {
				prefix += s[1] + "_"
			}
			for _, m := range name.FindAllStringSubmatch(string(b), -1) {
				if m[2] != "" {
					c.metrics["ashlar_"+m[2]] = true
				} else {
					c.metrics[prefix+m[1]] = true
				}
			}
		}
	}
	return c
}

var (
	selectorOf = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}`)
	matcherOf  = regexp.MustCompile(`([a-z]+) *(=~|!~|!=|=) *"([^"]*)"`)
	grouping   = regexp.MustCompile(`by \(([^)]*)\)`)
	suffix     = regexp.MustCompile(`_(bucket|count|sum)$`)
)

// wrong says what of an expression the programs do not have.
func (c code) wrong(expr string) []string {
	var all []string
	found := selectorOf.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		return []string{"no metric is named in " + expr}
	}
	for _, m := range found {
		if m[1] != "up" && !c.metrics[m[1]] && !c.metrics[suffix.ReplaceAllString(m[1], "")] {
			all = append(all, "metric "+m[1])
		}
		for _, matcher := range matcherOf.FindAllStringSubmatch(m[2], -1) {
			label := matcher[1]
			if label == "namespace" || label == "service" {
				continue
			}
			if !c.words[label] {
				all = append(all, "label "+label)
			}
			for value := range strings.SplitSeq(matcher[3], "|") {
				if !c.words[value] {
					all = append(all, "value "+label+"="+value)
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(g[1], ", ") {
			if label != "le" && label != "service" && !c.words[label] {
				all = append(all, "label "+label)
			}
		}
	}
	return all
}

func TestWrongExpressionsAreFound(t *testing.T) {
	c := readCode(t)
	if len(c.metrics) < 15 {
		t.Fatalf("got %d metrics in the code, want at least 15: %v", len(c.metrics), slices.Sorted(maps.Keys(c.metrics)))
	}
	for expr, want := range map[string]string{
		`ashlar_instances_lapsng{stage="drained"} > 0`:            "metric ashlar_instances_lapsng",
		`ashlar_instances_lapsing{stages="drained"} > 0`:          "label stages",
		`ashlar_instances_lapsing{stage="draining"} > 0`:          "value stage=draining",
		`sum by (cod) (ashlar_decisions_total{result="refused"})`: "label cod",
		`vector(1)`: "no metric",
	} {
		if got := strings.Join(c.wrong(expr), "; "); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}

func TestAlerts(t *testing.T) {
	c := readCode(t)
	names := map[string]bool{}
	for _, g := range ofKind[ruleFile](t, release{name: "shop-ashlar", namespace: "mesh"}, "PrometheusRule").Spec.Groups {
		for _, r := range g.Rules {
			if names[r.Alert] || !strings.HasPrefix(r.Alert, "Ashlar") {
				t.Errorf("alert %q: wanted a name of its own", r.Alert)
			}
			names[r.Alert] = true
			for _, w := range c.wrong(r.Expr) {
				t.Errorf("%s: the programs have no %s", r.Alert, w)
			}
			if !strings.Contains(r.Expr, `namespace="mesh"`) || !strings.Contains(r.Expr, `service="shop-ashlar-`) || strings.Contains(fmt.Sprint(r), "$NAME") {
				t.Errorf("%s is not about this release alone: %s", r.Alert, r.Expr)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s: got %v %v, want a severity, and what to do", r.Alert, r.Labels, r.Annotations)
			}
		}
	}
	for name := range names {
		if !slices.ContainsFunc(firing, func(f alertCase) bool { return f.alert == name }) {
			t.Errorf("nothing tries %s", name)
		}
	}
}

// dashboard is as much of Grafana's model as tells what is shown.
type dashboard struct {
	Title  string `json:"title"`
	Panels []struct {
		ID          int    `json:"id"`
		Type        string `json:"type"`
		Title       string `json:"title"`
		Description string `json:"description"`
		Targets     []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
		GridPos struct{ X, Y, W, H int } `json:"gridPos"`
	} `json:"panels"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text := find[*corev1.ConfigMap](t, objects(t, mustRender(t, usual, monitored)), "ashlar-dashboard").Data["ashlar.json"]
	var d dashboard
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboard(t *testing.T) {
	c, d := readCode(t), readDashboard(t)
	ids, shown := map[int]bool{}, map[string]bool{}
	place := regexp.MustCompile(`(namespace|service)=~"\$(namespace|service)"(, )?`)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: wanted an id of its own and a title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: got %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			for _, w := range c.wrong(place.ReplaceAllString(target.Expr, "")) {
				t.Errorf("panel %q: the programs have no %s", p.Title, w)
			}
			for _, m := range selectorOf.FindAllStringSubmatch(target.Expr, -1) {
				shown[m[1]], shown[suffix.ReplaceAllString(m[1], "")] = true, true
			}
		}
	}
	for m := range c.metrics {
		if !shown[m] {
			t.Errorf("%s is on no panel", m)
		}
	}
}

// promtool returns Prometheus' own tool, which CI installs.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus): expressions are only compared with the programs' metrics")
	}
	return path
}

func run(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", filepath.Base(program), args, err, out)
	}
}

func write(t *testing.T, path string, v any) {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPromtoolTakesTheDashboard(t *testing.T) {
	tool, dir := promtool(t), t.TempDir()
	var rules []values
	for _, p := range readDashboard(t).Panels {
		for i, target := range p.Targets {
			rules = append(rules, values{"record": fmt.Sprintf("panel:%d:%d", p.ID, i), "expr": strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")})
		}
	}
	write(t, filepath.Join(dir, "panels.yaml"), values{"groups": []values{{"name": "panels", "rules": rules}}})
	run(t, dir, tool, "check", "rules", "panels.yaml")
}

// alertCase is a series of samples, one each minute, and the alert that fires
// after half an hour: that one alone. None fires in its absence.
type alertCase struct{ alert, series, samples string }

const (
	coordinatorUp = `up{service="ashlar-coordinator"}`
	injectorUp    = `up{service="ashlar-injector"}`
)

var firing = []alertCase{
	{"", coordinatorUp, "1+0x60"},
	{"AshlarCoordinatorAway", coordinatorUp, "0+0x60"},
	{"AshlarNoCoordinatorActive", `ashlar_replica_role{service="ashlar-coordinator",role="active"}`, "0+0x60"},
	{"", `ashlar_replica_role{service="ashlar-coordinator",role="active"}`, "1+0x60"},
	{"AshlarCoordinatorJoins", `ashlar_replica_role{service="ashlar-coordinator",role="joining"}`, "1+0x60"},
	{"", `ashlar_replica_role{service="ashlar-coordinator",role="standby"}`, "1+0x60"},
	{"AshlarStateWentBack", `ashlar_replica_head_sequence{service="ashlar-coordinator",pod="c-0"}`, "7+0x60"},
	{"", `ashlar_replica_head_sequence{service="ashlar-coordinator",pod="c-1"}`, "3+0x60"},
	{"AshlarTakeovers", `ashlar_replica_takeovers_total{service="ashlar-coordinator"}`, "0+1x60"},
	{"", `ashlar_replica_takeovers_total{service="ashlar-coordinator"}`, "1+0x60"},
	{"AshlarInstancesDrained", `ashlar_instances_lapsing{service="ashlar-coordinator",stage="drained"}`, "1+0x60"},
	{"", `ashlar_instances_lapsing{service="ashlar-coordinator",stage="drained"}`, "0+0x60"},
	{"AshlarInstancesDegraded", `ashlar_instances_lapsing{service="ashlar-coordinator",stage="degraded"}`, "2+0x60"},
	{"AshlarRenewalsRefused", `ashlar_decisions_total{service="ashlar-coordinator",purpose="renew",result="refused",code="ATT-012"}`, "0+1x60"},
	{"", `ashlar_decisions_total{service="ashlar-coordinator",purpose="renew",result="accepted",code=""}`, "0+1x60"},
	{"AshlarActivationsRefused", `ashlar_decisions_total{service="ashlar-coordinator",purpose="activate",result="refused",code="ATT-012"}`, "0+1x60"},
	{"AshlarEndorsementsExpire", `ashlar_endorsements_expire_seconds{service="ashlar-coordinator",kind="crl"}`, "3600+0x120"},
	{"", `ashlar_endorsements_expire_seconds{service="ashlar-coordinator",kind="crl"}`, "864000+0x120"},
	{"AshlarEndorsementsNotRenewed", `ashlar_endorsements_fetches_total{service="ashlar-coordinator",outcome="unavailable"}`, "0+1x120"},
	{"", `ashlar_endorsements_fetches_total{service="ashlar-coordinator",outcome="renewed"}`, "0+1x120"},
	{"AshlarCommitsFail", `ashlar_store_commit_seconds_count{service="ashlar-coordinator",result="failed"}`, "0+1x60"},
	{"AshlarCommitsSlow", `ashlar_store_commit_seconds_bucket{service="ashlar-coordinator",result="durable",le="+Inf"}`, "0+100x60"},
	{"AshlarConfigurationRefused", `ashlar_xds_refusals_total{service="ashlar-coordinator",type="listener"}`, "0+1x60"},
	{"AshlarConnectionsRefused", `ashlar_connections_refused_total{service="ashlar-coordinator",port="client"}`, "0+1x60"},
	{"AshlarPanic", `ashlar_panics_total{service="ashlar-coordinator"}`, "0+1x60"},
	{"AshlarSimulation", `ashlar_build_info{service="ashlar-coordinator",simulation="true"}`, "1+0x60"},
	{"", `ashlar_build_info{service="ashlar-coordinator",simulation="false"}`, "1+0x60"},
	{"AshlarInjectorAway", injectorUp, "0+0x60"},
	{"AshlarInjectorUnknown", `ashlar_injector_ca_bundle_checks_total{service="ashlar-injector",result="failed"}`, "0+1x60"},
	{"", `ashlar_injector_ca_bundle_checks_total{service="ashlar-injector",result="ok"}`, "0+1x60"},
	{"AshlarInjectorCertificateEnds", `ashlar_injector_certificate_not_after_seconds{service="ashlar-injector"}`, "3600+0x60"},
	{"", `ashlar_injector_certificate_not_after_seconds{service="ashlar-injector"}`, "36000+0x60"},
	{"AshlarManifestUnknown", `ashlar_injector_manifest_age_seconds{service="ashlar-injector"}`, "0+60x60"},
	{"AshlarManifestUnknown", `ashlar_injector_manifest_age_seconds{service="ashlar-injector"}`, "-1+0x60"},
	{"", `ashlar_injector_manifest_age_seconds{service="ashlar-injector"}`, "5+0x60"},
	{"AshlarPodsRefused", `ashlar_injector_reviews_total{service="ashlar-injector",outcome="refused"}`, "0+1x60"},
	{"", `ashlar_injector_reviews_total{service="ashlar-injector",outcome="injected"}`, "0+1x60"},
	{"AshlarReviewsSlow", `ashlar_injector_review_seconds_bucket{service="ashlar-injector",le="+Inf"}`, "0+100x60"},
	{"AshlarPodsNotAttested", `ashlar_injector_pods{service="ashlar-injector",reason="EvidenceRefused"}`, "1+0x60"},
	{"", `ashlar_injector_pods{service="ashlar-injector",reason="Running"}`, "1+0x60"},
	{"AshlarPodsWait", `ashlar_injector_pods{service="ashlar-injector",reason="WaitingForManifest"}`, "1+0x60"},
	{"AshlarNobodyWritesStages", `ashlar_injector_leader{service="ashlar-injector"}`, "0+0x60"},
}

func TestPromtoolFiresAlerts(t *testing.T) {
	tool, dir := promtool(t), t.TempDir()
	write(t, filepath.Join(dir, "rules.yaml"), ofKind[ruleFile](t, usual, "PrometheusRule").Spec)
	run(t, dir, tool, "check", "rules", "rules.yaml")
	var tests []values
	for _, c := range firing {
		var series []values
		add := func(name, samples string) {
			series = append(series, values{"series": strings.Replace(name, "{", `{namespace="mesh",`, 1), "values": samples})
		}
		add(c.series, c.samples)
		for _, up := range []string{coordinatorUp, injectorUp} {
			if c.series != up {
				add(up, "1+0x120")
			}
		}
		if strings.HasPrefix(c.series, "ashlar_replica_head_sequence") { // beside the active one's
			add(`ashlar_replica_head_sequence{service="ashlar-coordinator",pod="c-9"}`, "5+0x60")
			add(`ashlar_replica_role{service="ashlar-coordinator",pod="c-9",role="active"}`, "1+0x60")
		}
		switch c.alert {
		case "AshlarCommitsSlow":
			add(strings.Replace(c.series, "+Inf", "2.5", 1), "0+100x60")
			add(strings.Replace(c.series, "+Inf", "0.5", 1), "0+90x60")
		case "AshlarReviewsSlow":
			add(strings.Replace(c.series, "+Inf", "10", 1), "0+100x60")
			add(strings.Replace(c.series, "+Inf", "2.5", 1), "0+90x60")
		}
		expect := []values{}
		if c.alert != "" {
			expect = append(expect, values{"labels": fmt.Sprintf(`{alertname=%q}`, c.alert), "value": 1})
		}
		at := "40m"
		if strings.HasSuffix(c.samples, "x120") {
			at = "110m"
		}
		tests = append(tests, values{"name": c.alert + " " + c.series, "interval": "1m", "input_series": series,
			"promql_expr_test": []values{{"expr": `count by (alertname) (ALERTS{alertstate="firing"})`, "eval_time": at, "exp_samples": expect}}})
	}
	write(t, filepath.Join(dir, "tests.yaml"), values{"rule_files": []string{"rules.yaml"}, "evaluation_interval": "1m", "tests": tests})
	run(t, dir, tool, "test", "rules", "tests.yaml")
}
