package mesh

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// shopView is web → cart (http, some routes) → db (tcp), and admin, whom nobody
// calls.
func shopView() *coordinator.View {
	return &coordinator.View{
		Revision: "aa", TrustDomain: "shop.example",
		Manifest: &manifest.Manifest{Version: 1, TrustDomain: "shop.example", Marbles: map[string]manifest.Marble{
			"web": {
				Serves: map[string]manifest.Port{"http": {Port: 8080, Protocol: manifest.HTTP}},
				Calls:  []manifest.Call{{Marble: "cart", Port: "http", Listen: 9001, Routes: []string{"GET /items/*", "POST /order"}}},
			},
			"cart": {
				Lease:  attest.Duration(30 * time.Minute),
				Serves: map[string]manifest.Port{"http": {Port: 8081, Protocol: manifest.HTTP}},
				Calls:  []manifest.Call{{Marble: "db", Port: "sql", Listen: 5432}},
			},
			"db":    {Serves: map[string]manifest.Port{"sql": {Port: 5432, Protocol: manifest.TCP}}},
			"admin": {Serves: map[string]manifest.Port{"http": {Port: 8082, Protocol: manifest.HTTP}}},
		}},
		Instances: []coordinator.ViewInstance{
			{Marble: "admin", ID: "a1", Address: "127.0.77.4"},
			{Marble: "cart", ID: "c1", Address: "127.0.77.2"},
			{Marble: "cart", ID: "c2", Address: "127.0.77.12", Loopback: "127.0.78.12"},
			{Marble: "db", ID: "d1", Address: "127.0.77.3"},
			{Marble: "web", ID: "w1", Address: "127.0.77.1"},
		},
	}
}

func mustCompile(t testing.TB, v *coordinator.View, marble, id string) *Resources {
	t.Helper()
	r, err := compileOne(v, marble, id)
	if err != nil {
		t.Fatalf("compiling %s/%s: %v", marble, id, err)
	}
	return r
}

// compileOne returns the resources of one instance, which the view has.
func compileOne(v *coordinator.View, marble, id string) (*Resources, error) {
	i := slices.IndexFunc(v.Instances, func(in coordinator.ViewInstance) bool { return in.Marble == marble && in.ID == id })
	return newCompiler(v).instance(v.Instances[i])
}

func TestCompileIsScopedToEdges(t *testing.T) {
	for _, tc := range []struct {
		marble, id string
		want       [kinds][]string
	}{
		{"web", "w1", [kinds][]string{{"in/http", "in/http/h2", "out/cart/http"}, {"out/cart/http"}, {"in/http", "out/cart/http"}, {"in/http"}}},
		{"cart", "c1", [kinds][]string{{"in/http", "in/http/h2", "out/db/sql"}, {"out/db/sql"}, {"in/http", "out/db/sql"}, {"in/http"}}},
		{"db", "d1", [kinds][]string{{"in/sql"}, nil, {"in/sql"}, nil}},
		{"admin", "a1", [kinds][]string{{"in/http", "in/http/h2"}, nil, {"in/http"}, {"in/http"}}},
	} {
		t.Run(tc.marble, func(t *testing.T) {
			r := mustCompile(t, shopView(), tc.marble, tc.id)
			for k := range kinds {
				if d := cmp.Diff(tc.want[k], r[k].Names()); d != "" {
					t.Errorf("%ss (-want +got):\n%s", k, d)
				}
			}
		})
	}
}

func TestCompileIsStable(t *testing.T) {
	first := mustCompile(t, shopView(), "cart", "c2")
	for range 20 {
		again := mustCompile(t, shopView(), "cart", "c2")
		for k := range kinds {
			for name, r := range first[k] {
				if got := again[k][name]; got.Version != r.Version || string(got.Resource.Value) != string(r.Resource.Value) {
					t.Fatalf("%s %q: got version %s, want %s", k, name, got.Version, r.Version)
				}
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	edit := func(marble string, f func(*manifest.Marble)) func(*coordinator.View) {
		return func(v *coordinator.View) {
			m := v.Manifest.Marbles[marble]
			f(&m)
			v.Manifest.Marbles[marble] = m
		}
	}
	at := func(address, loopback string) func(*coordinator.View) {
		return func(v *coordinator.View) { v.Instances[1].Address, v.Instances[1].Loopback = address, loopback }
	}
	for _, tc := range []struct {
		name string
		edit func(*coordinator.View)
		code problem.Code
		text string
	}{
		{"no manifest", func(v *coordinator.View) { v.Manifest = nil }, "MSH-010", "no marble"},
		{"callee is not there", edit("cart", func(m *manifest.Marble) { m.Calls[0].Marble = "dB" }), "MSH-010", "dB"},
		{"port is not there", edit("cart", func(m *manifest.Marble) { m.Calls[0].Port = "x" }), "MSH-010", "no port"},
		{"same call twice", edit("cart", func(m *manifest.Marble) { m.Calls = append(m.Calls, m.Calls[0]) }), "MSH-011", "twice"},
		{"two calls on one port", edit("cart", func(m *manifest.Marble) {
			m.Calls = append(m.Calls, manifest.Call{Marble: "admin", Port: "http", Listen: 5432})
		}), "MSH-011", "both want 127.0.0.1 port 5432"},
		{"call on the program's own port", edit("cart", func(m *manifest.Marble) { m.Calls[0].Listen = 8081 }), "MSH-011", "listens on 8081"},
		{"unknown protocol", edit("cart", func(m *manifest.Marble) { m.Serves["http"] = manifest.Port{Port: 1, Protocol: "quic"} }), "MSH-011", "quic"},
		{"bad route", edit("web", func(m *manifest.Marble) { m.Calls[0].Routes = []string{"GET items"} }), "MSH-013", "GET items"},
		{"address is a name", at("cart.example", ""), "MSH-012", "cart.example"},
		{"address is a pipe", at("/run/agent.sock", ""), "MSH-012", "agent.sock"},
		{"address is everywhere", at("0.0.0.0", ""), "MSH-012", "0.0.0.0"},
		{"address is a group", at("224.0.0.1", ""), "MSH-012", "224"},
		{"loopback is none", at("127.0.77.2", "10.0.0.1"), "MSH-012", "loopback"},
		{"loopback is everywhere", at("127.0.77.2", "0.0.0.0"), "MSH-012", "loopback"},
		{"one address for both", at("127.0.0.1", ""), "MSH-012", "both want"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := shopView()
			tc.edit(v)
			_, err := compileOne(v, "cart", "c1")
			if problem.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %s with %q", err, tc.code, tc.text)
			}
		})
	}
}

// A bad address of one instance must not be handed to its callers.
func TestEndpointsLeaveBadAddressesOut(t *testing.T) {
	v := shopView()
	v.Instances[1].Address = "0.0.0.0"
	eds := mustCompile(t, v, "web", "w1")[Endpoint]["out/cart/http"]
	if s := string(eds.Resource.Value); strings.Contains(s, "0.0.0.0") || !strings.Contains(s, "127.0.77.12") {
		t.Errorf("got endpoints %q, want only 127.0.77.12", s)
	}
}

func downstreamTLS(t *testing.T, r *Resources, name string) *tls.DownstreamTlsContext {
	t.Helper()
	l := new(listener.Listener)
	if err := r[Listener][name].Resource.UnmarshalTo(l); err != nil {
		t.Fatal(err)
	}
	ctx := new(tls.DownstreamTlsContext)
	if err := l.FilterChains[0].TransportSocket.GetTypedConfig().UnmarshalTo(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func TestInboundPinsItsCallers(t *testing.T) {
	for _, tc := range []struct{ marble, id, listener, want string }{
		{"cart", "c1", "in/http", "spiffe://shop.example/web"},
		{"db", "d1", "in/sql", "spiffe://shop.example/cart"},
		{"admin", "a1", "in/http", nobody},
	} {
		t.Run(tc.marble, func(t *testing.T) {
			ctx := downstreamTLS(t, mustCompile(t, shopView(), tc.marble, tc.id), tc.listener)
			if !ctx.RequireClientCertificate.GetValue() || !ctx.DisableStatefulSessionResumption || !ctx.GetDisableStatelessSessionResumption() {
				t.Errorf("got %v, want client certificates and no resumption", ctx)
			}
			sans := ctx.CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext.MatchTypedSubjectAltNames
			if len(sans) != 1 || sans[0].SanType != tls.SubjectAltNameMatcher_URI || sans[0].Matcher.GetExact() != tc.want {
				t.Errorf("got %v, want exactly %s", sans, tc.want)
			}
		})
	}
}

func TestNoCallerMeansNobody(t *testing.T) {
	rc := new(route.RouteConfiguration)
	if err := mustCompile(t, shopView(), "admin", "a1")[Route]["in/http"].Resource.UnmarshalTo(rc); err != nil {
		t.Fatal(err)
	}
	gate := new(httprbac.RBACPerRoute)
	if err := rc.VirtualHosts[0].TypedPerFilterConfig[rbacFilter].UnmarshalTo(gate); err != nil {
		t.Fatal(err)
	}
	if rules := gate.GetRbac().GetRules(); rules == nil || len(rules.Policies) != 0 || rules.Action != 0 {
		t.Errorf("got rules %v, want rules that allow nobody", rules)
	}
}

func TestRoutePermission(t *testing.T) {
	for r, ok := range map[string]bool{
		"GET /items/*": true, "* /": true, "POST /order": true, "GET /*": true,
		"": false, "GET": false, "get /x": false, "GET x": false, "GET /a/*/b": false, "GET /a?b": false,
		"GET  /a": false, "GET /a b": false, "** /a": false, "GET /" + strings.Repeat("a", 600): false,
	} {
		t.Run(fmt.Sprintf("%.20q", r), func(t *testing.T) {
			p, err := routePermission(r)
			if (err == nil) != ok {
				t.Fatalf("got %v, %v; want ok %v", p, err, ok)
			}
			if ok {
				if err := p.ValidateAll(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// check must notice what would leave a proxy half configured.
func TestCheckFindsWhatIsMissing(t *testing.T) {
	for _, tc := range []struct {
		name string
		kind Kind
		drop string
	}{
		{"cluster of a listener", Cluster, "out/db/sql"},
		{"cluster of a route", Cluster, "in/http/h2"},
		{"endpoints of a cluster", Endpoint, "out/db/sql"},
		{"routes of a listener", Route, "in/http"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := mustCompile(t, shopView(), "cart", "c1")
			delete(r[tc.kind], tc.drop)
			if err := check(r); problem.CodeOf(err) != "MSH-011" || !strings.Contains(err.Error(), tc.drop) {
				t.Errorf("got %v, want MSH-011 about %q", err, tc.drop)
			}
		})
	}
}
