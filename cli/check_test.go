package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

var checkedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func wantFinding(t *testing.T, f check.Finding, want string) {
	t.Helper()
	if got := strings.TrimSpace(fmt.Sprintf("%s %s %s", f.State, f.Code, f.Text)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if f.State != check.Passed && f.Next == "" {
		t.Errorf("%q has no next step", f.Text)
	}
}

// proxied is a marble with one instance for each list of states of its proxy's
// types, told ago.
func proxied(name string, ago time.Duration, states ...[]string) apiv1.Marble {
	m := apiv1.Marble{Name: name}
	for i, types := range states {
		in := apiv1.Instance{ID: fmt.Sprintf("%08d-rest", i), Stage: "running", Proxy: apiv1.Proxy{Connected: types != nil}}
		for _, s := range types {
			in.Proxy.Types = append(in.Proxy.Types, apiv1.ProxyType{State: s, At: checkedAt.Add(-ago)})
		}
		m.Instances = append(m.Instances, in)
	}
	return m
}

func TestReplicaFindings(t *testing.T) {
	of := func(roles ...string) []apiv1.Replica {
		var all []apiv1.Replica
		for i, role := range roles {
			role, reason, _ := strings.Cut(role, ": ")
			all = append(all, apiv1.Replica{Name: fmt.Sprint("m", i+1), Role: role, Reason: reason})
		}
		return all
	}
	for _, c := range []struct {
		replicas []apiv1.Replica
		want     string // "" finds nothing
	}{
		{nil, ""},
		{of("active", "standby"), "passed  1 coordinator stands by to take over"},
		{of("active", "standby", "standby"), "passed  2 coordinators stand by to take over"},
		{of("active"), "warning CLI-095 no coordinator stands by that could take over from the active one"},
		{of("active", "standby: the state went back"), "warning CLI-095 no coordinator stands by that could take over from the active one"},
		{of("active", "standby", "joining"), "warning CLI-095 1 coordinator stands by; without the key of the state: m3"},
	} {
		found := replicaFindings(c.replicas)
		if c.want == "" {
			if len(found) > 0 {
				t.Errorf("got %v of one that has its state for itself, want nothing", found)
			}
			continue
		}
		if len(found) != 1 {
			t.Fatalf("got %v, want one finding", found)
		}
		wantFinding(t, found[0], c.want)
	}
}

func TestEnvoyFinding(t *testing.T) {
	for _, c := range []struct {
		marbles []apiv1.Marble
		want    string
	}{
		{[]apiv1.Marble{proxied("web", time.Hour, []string{"applied", "applied"}, []string{"applied"})}, "passed  2 Envoys are in step"},
		{[]apiv1.Marble{proxied("web", time.Hour, []string{"applied", "refused"}, []string{"sent"}), proxied("pay", 0, []string{"applied"})},
			"failed CLI-024 1 of 3 Envoys refused their configuration: web/00000000"},
		{[]apiv1.Marble{proxied("web", 2*time.Minute, []string{"applied", "sent"})}, "warning CLI-024 1 of 1 Envoys have not taken their configuration for 60 s: web/00000000"},
		{[]apiv1.Marble{proxied("web", time.Second, []string{"applied", "sent"}, []string{"applied"})}, "passed  1 of 2 Envoys are in step, the others are being told"},
		{[]apiv1.Marble{proxied("ego", 0, nil)}, "passed  0 Envoys are in step"},
	} {
		wantFinding(t, envoyFinding(c.marbles, checkedAt), c.want)
	}
}

func TestRunningFinding(t *testing.T) {
	two := proxied("web", 0, []string{}, []string{})
	wantFinding(t, runningFinding([]apiv1.Marble{two, {Name: "pay"}}), "warning CLI-025 1 of 2 marbles do not run: pay")
	wantFinding(t, runningFinding([]apiv1.Marble{two}), "passed  1 marble runs with 2 instances")
	two.Instances[0].Stage, two.Instances[1].Stage = disconnected, drained
	wantFinding(t, runningFinding([]apiv1.Marble{two}), "warning CLI-025 1 of 1 marbles do not run: web")
}

func TestLeafFinding(t *testing.T) {
	leaf := func(age, left, degrade time.Duration) apiv1.Marble {
		i := apiv1.Instance{ID: "7f2c19ab-rest", AttestedAt: checkedAt.Add(-age), NotAfter: checkedAt.Add(left)}
		if degrade != 0 {
			i.DegradeAt = checkedAt.Add(degrade)
		}
		return apiv1.Marble{Name: "web", Instances: []apiv1.Instance{i}}
	}
	for _, c := range []struct {
		marble apiv1.Marble
		want   string
	}{
		{leaf(10*time.Minute, 50*time.Minute, 0), "passed  1 leaf is renewed in time; the first would end in 50 min"},
		{leaf(56*time.Minute, 4*time.Minute, 0), "warning CRD-090 1 of 1 leaves near their end without a renewal: web/7f2c19ab"},
		{leaf(40*time.Minute, 20*time.Minute, -time.Second), "warning CRD-090 1 of 1 leaves near their end without a renewal: web/7f2c19ab"},
		{leaf(57*time.Minute, 3*time.Minute, time.Minute), "passed  1 leaf is renewed in time; the first would end in 3 min"},
		{apiv1.Marble{Name: "web"}, "passed  no instance has a leaf"},
	} {
		wantFinding(t, leafFinding([]apiv1.Marble{c.marble}, checkedAt), c.want)
	}
}

func TestAgesOfTheCAs(t *testing.T) {
	root := func(age, left time.Duration) []byte {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: checkedAt.Add(-age), NotAfter: checkedAt.Add(left)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	const day = 24 * time.Hour
	wantFinding(t, rootFinding(root(3*day, 400*day), checkedAt), "passed  the root certificate is 3 d old and lasts 400 d more")
	wantFinding(t, rootFinding(root(300*day, 20*day), checkedAt), "warning CLI-023 the root certificate ends in 20 d")
	if f := rootFinding([]byte("no certificate"), checkedAt); f.State != check.Failed {
		t.Errorf("got %+v, want a failure", f)
	}
	wantFinding(t, caFinding(apiv1.CA{NotAfter: checkedAt.Add(6 * day)}, checkedAt), "passed  the mesh CA lasts 6 days more")
	wantFinding(t, caFinding(apiv1.CA{NotAfter: checkedAt.Add(90 * time.Minute)}, checkedAt), "warning CLI-023 the mesh CA ends in 1h30m0s")
}

func TestServiceFinding(t *testing.T) {
	for _, c := range []struct {
		address string
		err     error
		want    string
	}{
		{"https://pccs.example:8081", nil, "passed  PCCS answers at https://pccs.example:8081 (asked from this machine)"},
		{"https://pccs.example:8081", problem.New("ATT-067", "no"), "warning KUB-033 PCCS answers at https://pccs.example:8081, but has nothing yet (asked from this machine)"},
		{"https://pccs.mesh.svc:8081", problem.New("ATT-064", "no such host"), "warning KUB-033 PCCS at https://pccs.mesh.svc:8081 does not answer this machine: the name is one of the cluster's"},
		{"https://pccs.example:8081", problem.New("ATT-064", "connection refused"), "failed KUB-033 no PCCS answers at https://pccs.example:8081 (asked from this machine): connection refused"},
		{"ftp://x", errors.New("wanted an address"), "failed KUB-033 no PCCS answers at ftp://x (asked from this machine): wanted an address"},
	} {
		wantFinding(t, serviceFinding(c.address, "PCCS", c.err), c.want)
	}
}

func TestFieldOf(t *testing.T) {
	m, diags := manifest.Parse([]byte(`{"version": 1, "trustDomain": "shop.example",
"packages": {
  "web": {"sim": {"program": ["` + strings.Repeat("ab", 32) + `"]}}},
"marbles": {"web": {"package": "web"}}}`))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"packages.web": "packages.web (m.json:3)", "packages.gone": "packages.gone"} {
		if got := fieldOf(m, "m.json", path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// TestPodStory adds to a pod's story what the coordinator says of its instance.
func TestPodStory(t *testing.T) {
	decisions := []apiv1.Decision{{ID: "web/3", Instance: "other"}, {ID: "web/2", Instance: "u-1"}, {ID: "web/1", Instance: "u-1"}}
	if d := decisionOf(decisions, "u-1"); d == nil || d.ID != "web/2" {
		t.Errorf("got %+v, want the newest of this instance", d)
	}
	if d := decisionOf(decisions, "u-2"); d != nil {
		t.Errorf("got %+v, want none", d)
	}
	refused := &apiv1.Instance{ID: "u-1", Proxy: apiv1.Proxy{Types: []apiv1.ProxyType{{Type: "cluster", State: "applied"}, {Type: "listener", State: "refused", Error: "no filter chain"}}}}
	for _, c := range []struct {
		name   string
		code   problem.Code
		stands *apiv1.Instance
		want   problem.Code
	}{
		{"all is well but for Envoy", "", refused, "CLI-024"},
		{"not ready because of Envoy", "KUB-045", refused, "CLI-024"},
		{"something before it", "ATT-012", refused, "ATT-012"},
		{"no instance", "", nil, ""},
		{"Envoy is content", "KUB-045", &apiv1.Instance{Proxy: apiv1.Proxy{Types: refused.Proxy.Types[:1]}}, "KUB-045"},
	} {
		s := podStory{Story: kube.Story{Marble: "web", Code: c.code, Well: c.code == ""}, Stands: c.stands}
		s.judgeProxy()
		if s.Code != c.want || s.Code == "CLI-024" && (s.Well || s.Why != "no filter chain") {
			t.Errorf("%s: got %+v, want code %q", c.name, s.Story, c.want)
		}
	}
}
