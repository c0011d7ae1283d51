package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func openKeeper(t testing.TB, dir string, source seal.Source) *recovery.Keeper {
	t.Helper()
	path := filepath.Join(dir, bolt.SealFile)
	key, err := seal.Open(t.Context(), path, source)
	if err != nil {
		t.Fatal(err)
	}
	k, err := recovery.Open(t.Context(), recovery.Config{Files: recovery.Folder(dir), SealPath: path, Key: key, Random: rand.Reader, Now: time.Now,
		Source: func(manifest.SealMode) seal.Source { return source }}, recovery.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// setAdmitting puts a manifest in force that admits coordinators with the measurement
// of the one that runs.
func (s *stack) setAdmitting(t testing.TB) {
	t.Helper()
	var m map[string]any
	mustJSON(t, s.manifest("1h"), &m)
	sum := attest.Hex(program).String()
	m["packages"].(map[string]any)["coordinator"] = map[string]any{"sim": map[string]any{"program": []string{sum}, "agent": []string{sum}}}
	m["coordinators"] = map[string]any{"package": "coordinator"}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.dial(t, nil).SetManifest(context.Background(), raw, nil); err != nil {
		t.Fatal(err)
	}
}

// joiner asks for the key, as a coordinator with this measurement.
func (s *stack) joiner(measured platform.Measurement) client.JoinOptions {
	return client.JoinOptions{Name: "ashlar-1", Issue: s.platform.NewInsecureIssuer(attest.SimSGX, measured).Issue}
}

var thisSoftware = platform.Measurement{Program: program, Agent: program}

// TestCoordinatorJoins takes the key over real TLS, opens the state that it is of,
// and judges who gave it.
func TestCoordinatorJoins(t *testing.T) {
	s := newStack(t, stackConfig{keeps: true})
	_, err := client.JoinReplica(t.Context(), s.client, s.joiner(thisSoftware))
	if problem.CodeOf(err) != "REP-020" {
		t.Errorf("before the first manifest: got %v, want REP-020", err)
	}
	s.setAdmitting(t)
	for _, way := range []struct{ name, addr string }{{"directly", s.client}, {"through a standby", passOn(t, s.client)}} {
		t.Run(way.name, func(t *testing.T) {
			got, err := client.JoinReplica(t.Context(), way.addr, s.joiner(thisSoftware))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Key.Reveal(), s.keeper.Key.Reveal()) {
				t.Fatal("the key is not that of the state")
			}
			st, err := coordinator.Inspect(t.Context(), s.store)
			if err != nil {
				t.Fatal(err)
			}
			g := coordinator.Giver{Statement: got.Statement, Nonce: got.Nonce, TLSKey: got.TLSKey}
			if err := st.JudgeGiver(t.Context(), s.store, s.verifiers, g, s.now()); err != nil {
				t.Errorf("judging the giver: %v", err)
			}
			g.TLSKey = []byte("another")
			if err := st.JudgeGiver(t.Context(), s.store, s.verifiers, g, s.now()); problem.CodeOf(err) != "REP-030" {
				t.Errorf("a giver at another connection: got %v, want REP-030", err)
			}
			d, err := s.dial(t, nil).Decision(t.Context(), got.Decision)
			if err != nil || !d.Accepted || d.Marble != "coordinators" || d.Instance != "ashlar-1" || d.Purpose != "replica" {
				t.Errorf("got decision %+v, %v", d, err)
			}
		})
	}
	_, err = client.JoinReplica(t.Context(), s.client, s.joiner(platform.Measurement{Program: agent, Agent: program}))
	p := problem.From(err)
	if p.Code != "REP-021" || !strings.HasPrefix(p.Instance, "coordinators/") || !strings.Contains(p.Detail, "ATT-012") {
		t.Fatalf("other software: got %v, want REP-021 for ATT-012 with its decision", err)
	}
	d, err := s.dial(t, s.alice).Decision(t.Context(), p.Instance)
	if err != nil || d.Accepted || d.Code != "ATT-012" || len(d.Verdict.Failed()) == 0 {
		t.Errorf("the refusal: got %+v, %v", d, err)
	}
}

// passOn listens and passes connections on byte by byte, as a standby does.
func passOn(t testing.TB, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	pass := func(in net.Conn) {
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
		_, _ = io.Copy(in, out)
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { pass(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// TestJoiningRequestsThatAreRefused sends what is none.
func TestJoiningRequestsThatAreRefused(t *testing.T) {
	s := newStack(t, stackConfig{keeps: true})
	s.setAdmitting(t)
	s.offset.Store(int64(time.Minute)) // and the rate begins anew with each request
	nonce := strings.Repeat("00", 32)
	const challenge, admit = "/v1/replicas/challenge", "/v1/replicas"
	for _, c := range []struct {
		name, method, path, body, kind string
		status                         int
		code                           problem.Code
	}{
		{"no body", "POST", challenge, "", "application/json", 415, "CRD-114"},
		{"another type", "POST", challenge, `{}`, "text/plain", 415, "CRD-114"},
		{"no JSON", "POST", challenge, `x`, "application/json", 400, "CRD-110"},
		{"unknown member", "POST", challenge, `{"nonse":""}`, "application/json", 400, "CRD-110"},
		{"two documents", "POST", challenge, `{"nonce":"` + nonce + `"}{}`, "application/json", 400, "CRD-110"},
		{"short nonce", "POST", challenge, `{"nonce":"00"}`, "application/json", 400, "CRD-002"},
		{"large question", "POST", challenge, `{"nonce":"` + strings.Repeat("00", 600) + `"}`, "application/json", 413, "CRD-113"},
		{"a question as GET", "GET", challenge, "", "", 405, "CRD-112"},
		{"a list", "GET", admit, "", "", 405, "CRD-112"},
		{"parameter", "POST", admit + "?x=1", `{}`, "application/json", 400, "CRD-110"},
		{"empty request", "POST", admit, `{}`, "application/json", 400, "REP-024"},
		{"made-up nonce", "POST", admit, `{"name":"x","publicKey":"` + strings.Repeat("A", 43) + `=","nonce":"` + nonce + `"}`, "application/json", 403, "CRD-020"},
		{"large request", "POST", admit, `{"claimsBuffer":"` + strings.Repeat("A", maxJoining) + `"}`, "application/json", 413, "CRD-113"},
	} {
		for _, h2 := range []bool{false, true} {
			s.offset.Add(int64(time.Minute))
			status, p := post(t, browse(t, h2, nil), c.method, "https://"+s.client+c.path, c.kind, c.body)
			if status != c.status || p.Code != c.code {
				t.Errorf("%s (HTTP/2 %t): got %d %s %q, want %d %s", c.name, h2, status, p.Code, p.Detail, c.status, c.code)
			}
		}
	}
}

func post(t testing.TB, c *http.Client, method, url, kind, body string) (int, problem.Error) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p problem.Error
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, p
}

// TestChallengeOfAnotherConnection takes a challenge over one connection and answers
// it over another one.
func TestChallengeOfAnotherConnection(t *testing.T) {
	s := newStack(t, stackConfig{keeps: true})
	s.setAdmitting(t)
	question, _ := json.Marshal(apiv1.ReplicaQuestion{Nonce: bytes.Repeat([]byte{1}, 32)})
	resp, err := browse(t, true, nil).Post("https://"+s.client+"/v1/replicas/challenge", "application/json", bytes.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var c apiv1.ReplicaChallenge
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || len(c.Nonce) != 32 || c.Statement.Evidence.Raw == nil {
		t.Fatalf("got nonce %s, %v", c.Nonce, err)
	}
	key, err := apiv1.NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	claims := binding.Claims{Purpose: binding.Replica, PublicKey: binding.KeyHashX25519(key.PublicKey().Bytes()), Nonce: c.Nonce, Exporter: bytes.Repeat([]byte{2}, 32)}
	req := apiv1.ReplicaRequest{Name: "x", PublicKey: key.PublicKey().Bytes(), Nonce: c.Nonce, ClaimsBuffer: claims.Encode()}
	if req.Evidence, err = s.joiner(thisSoftware).Issue(t.Context(), claims.Binding()); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(req)
	if _, p := post(t, browse(t, true, nil), "POST", "https://"+s.client+"/v1/replicas", "application/json", string(body)); p.Code != "CRD-020" {
		t.Errorf("over another connection: got %s %q, want CRD-020", p.Code, p.Detail)
	}
}

// TestJoiningIsBounded asks too often, and while too many are judged.
func TestJoiningIsBounded(t *testing.T) {
	s := newStack(t, stackConfig{keeps: true})
	s.setAdmitting(t)
	waiting, release := make(chan struct{}, maxJoins), make(chan struct{})
	hold := func() { waiting <- struct{}{}; <-release }
	var joining sync.WaitGroup
	judged := make(chan error, maxJoins)
	for range maxJoins {
		o := s.joiner(thisSoftware)
		issue := o.Issue
		o.Issue = func(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
			e, err := issue(ctx, b)
			s.endorse.Store(&hold) // from here on, it is the judging that asks for endorsements
			return e, err
		}
		joining.Go(func() {
			_, err := client.JoinReplica(t.Context(), s.client, o)
			judged <- err
		})
		<-waiting
		s.endorse.Store(nil)
	}
	_, err := client.JoinReplica(t.Context(), s.client, s.joiner(thisSoftware))
	if problem.CodeOf(err) != "CRD-115" {
		t.Errorf("one more than are judged at once: got %v, want CRD-115", err)
	}
	close(release)
	joining.Wait()
	for range maxJoins {
		if err := <-judged; err != nil {
			t.Errorf("one that was judged: %v", err)
		}
	}
	for n := 0; err == nil || n == 0; n++ {
		if _, err = client.JoinReplica(t.Context(), s.client, s.joiner(thisSoftware)); n > joinBurst {
			t.Fatalf("%d asked from one address, and none was refused", n)
		}
	}
	if problem.CodeOf(err) != "CRD-115" {
		t.Errorf("too often: got %v, want CRD-115", err)
	}
}
