package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

func id(n int) string {
	return "7f2c19ab-0000-4000-8000-" + strings.Repeat("0", 10) + string(rune('0'+n/10)) + string(rune('0'+n%10))
}

func codeOf(err error) problem.Code {
	if e, ok := marblepb.Problem(err); ok {
		return e.Code
	}
	return problem.Code("status " + status.Code(err).String())
}

func TestActivate(t *testing.T) {
	s := newStack(t, stackConfig{})
	early := s.newMarble(t, id(1))
	if _, err := early.activate(t); codeOf(err) != "CRD-011" {
		t.Errorf("before the first manifest: got %v, want CRD-011", err)
	}
	s.set(t, "1h")
	resp, err := s.newMarble(t, id(1)).activate(t)
	if err != nil {
		t.Fatal(err)
	}
	l := resp.GetLease()
	if l.GetSpiffeId() != "spiffe://shop.example/web" || len(l.GetCertificates()) < 2 || len(l.GetBundle()) != 1 || len(l.GetSecrets()["key"].GetValue()) != 32 ||
		resp.GetParameters().GetEnv()["KEY"] == "" {
		t.Errorf("got %+v, want an identity, its secret and its parameters", l.GetSpiffeId())
	}
	other := s.newMarble(t, id(2))
	other.measured.Program = bytes.Repeat([]byte{9}, 32)
	_, err = other.activate(t)
	refusal, ok := marblepb.Problem(err)
	if !ok || refusal.Code != "ATT-012" || len(refusal.Verdict) == 0 || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("tampered program: got %v, want ATT-012 with the verdict", err)
	}
}

func TestEvidenceOfAnotherSessionIsRefused(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	ctx, a, b := context.Background(), s.newMarble(t, id(1)), s.newMarble(t, id(2))
	ch, err := a.rpc.Challenge(ctx, &marblepb.ChallengeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, spki, evidence := a.vouch(t, binding.Activate, ch.GetNonce())
	req := &marblepb.ActivateRequest{Instance: a.instance(), Evidence: evidence, PublicKey: spki, Nonce: ch.GetNonce()}
	if _, err := b.rpc.Activate(ctx, req); codeOf(err) != "CRD-020" {
		t.Errorf("relayed: got %v, want CRD-020", err)
	}
	if _, err := a.rpc.Activate(ctx, req); codeOf(err) != "CRD-022" && codeOf(err) != "CRD-020" && err != nil {
		t.Errorf("after a relay: got %v", err)
	}
	if _, err := a.rpc.Activate(ctx, req); codeOf(err) != "CRD-022" {
		t.Errorf("replayed: got %v, want CRD-022", err)
	}
}

func TestChallengeCarriesAStatement(t *testing.T) {
	s := newStack(t, stackConfig{})
	m := s.newMarble(t, id(1))
	nonce := bytes.Repeat([]byte{5}, 32)
	resp, err := m.rpc.Challenge(context.Background(), &marblepb.ChallengeRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	var st apiv1.Statement
	mustJSON(t, resp.GetStatement(), &st)
	in := client.VerifyInput{Policy: anyProgram(), Verifiers: s.verifiers, Nonce: nonce, TLSKey: st.TLSKey, At: time.Now()}
	if _, err := client.VerifyStatement(st, in); err != nil {
		t.Error(err)
	}
	if _, err := m.rpc.Challenge(context.Background(), &marblepb.ChallengeRequest{Nonce: nonce[1:]}); codeOf(err) != "CRD-119" {
		t.Errorf("short nonce: got %v, want CRD-119", err)
	}
}

func TestMalformedCalls(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	m := s.newMarble(t, id(1))
	ctx := context.Background()
	if _, err := m.rpc.Activate(ctx, &marblepb.ActivateRequest{}); codeOf(err) != "CRD-119" {
		t.Errorf("empty: got %v, want CRD-119", err)
	}
	big := &marblepb.ActivateRequest{Evidence: &marblepb.Evidence{Raw: make([]byte, maxRequest)}}
	if _, err := m.rpc.Activate(ctx, big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too large: got %v, want ResourceExhausted", err)
	}
	stream, err := m.rpc.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); codeOf(err) != "CRD-118" {
		t.Errorf("session without a leaf: got %v, want CRD-118", err)
	}
	for name, bytes := range map[string]string{"garbage": strings.Repeat("\xff\x00", 500), "preface and garbage": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 500),
		"http/1": "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", s.mesh, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = io.WriteString(conn, bytes)
			if _, err := io.Copy(io.Discard, conn); err != nil && err.(net.Error).Timeout() {
				t.Error("the connection was held open")
			}
			if _, err := s.newMarble(t, id(3)).rpc.Challenge(ctx, &marblepb.ChallengeRequest{}); err != nil {
				t.Errorf("the next marble: %v", err)
			}
		})
	}
}

type sessionStream = grpc.BidiStreamingClient[marblepb.SessionRequest, marblepb.SessionResponse]

// open opens a session and says hello.
func (m *marble) open(t testing.TB) sessionStream {
	t.Helper()
	return m.openFor(t, 20*time.Second)
}

func (m *marble) openFor(t testing.TB, life time.Duration) sessionStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), life)
	t.Cleanup(cancel)
	stream, err := m.rpc.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hello(t, stream, m.instance())
	return stream
}

// hello may come after the stream's end (io.EOF), which Recv then explains.
func hello(t testing.TB, stream sessionStream, i *marblepb.Instance) {
	t.Helper()
	if err := stream.Send(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Hello{Hello: &marblepb.Hello{Instance: i}}}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func (m *marble) renewal(t testing.TB, nonce []byte) *marblepb.SessionRequest {
	t.Helper()
	_, spki, evidence := m.vouch(t, binding.Renew, nonce)
	return &marblepb.SessionRequest{Message: &marblepb.SessionRequest_Renewal{Renewal: &marblepb.Renewal{Evidence: evidence, PublicKey: spki, Nonce: nonce}}}
}

func member(t testing.TB, s *stack, n int) *marble {
	t.Helper()
	m := s.newMarble(t, id(n))
	if _, err := m.activate(t); err != nil {
		t.Fatal(err)
	}
	return m
}

// A marble that offers nothing by itself is asked past half its leaf's life,
// refused or renewed, and asked again.
func TestSessionDemandsEvidence(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	m := member(t, s, 1)
	s.offset.Store(int64(40 * time.Minute))
	stream := m.open(t)
	demand, err := stream.Recv()
	if err != nil || len(demand.GetDemand().GetNonce()) != 32 {
		t.Fatalf("got %v, %v, want a demand", demand, err)
	}
	m.measured.Program = bytes.Repeat([]byte{9}, 32)
	if err := stream.Send(m.renewal(t, demand.GetDemand().GetNonce())); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	refusal, ok := answer.GetRefusal().Decode()
	if err != nil || !ok || refusal.Code != "ATT-012" {
		t.Fatalf("got %v, %v, want ATT-012", answer, err)
	}
	m.measured.Program = program
	ch, err := m.rpc.Challenge(context.Background(), &marblepb.ChallengeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(m.renewal(t, ch.GetNonce())); err != nil {
		t.Fatal(err)
	}
	answer, err = stream.Recv()
	if err != nil || len(answer.GetLease().GetCertificates()) < 2 {
		t.Fatalf("got %v, %v, want the next lease", answer, err)
	}
	if left := time.UnixMilli(answer.GetLease().GetNotAfterUnixMs()).Sub(s.now()); left < 50*time.Minute {
		t.Errorf("got %s left, want about an hour", left)
	}
}

// Of who attested under other rules evidence is demanded at once. Who meets them
// goes on, who does not keeps its leaf until its time.
func TestRulesThatChangeAreAskedAboutAtOnce(t *testing.T) {
	s := newStack(t, stackConfig{times: Times{Spread: time.Millisecond}})
	s.set(t, "1h")
	m := member(t, s, 1)
	stream := m.open(t)
	c := s.dial(t, s.alice)
	before := c.Verified().Statement.Manifest
	for _, next := range []struct {
		raw  []byte
		want problem.Code
	}{
		{s.manifest("2h"), ""},
		{bytes.Replace(s.manifest("2h"), []byte(attest.Hex(agent).String()), []byte(strings.Repeat("ab", 32)), 1), "ATT-012"},
	} {
		set, err := c.SetManifest(context.Background(), next.raw, before)
		if err != nil {
			t.Fatal(err)
		}
		before = set.Digest
		var demand *marblepb.Demand
		for demand == nil {
			answer, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			demand = answer.GetDemand()
		}
		if !strings.Contains(demand.GetReason(), "other rules") {
			t.Errorf("got the reason %q", demand.GetReason())
		}
		if err := stream.Send(m.renewal(t, demand.GetNonce())); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if refusal, refused := answer.GetRefusal().Decode(); refused != (next.want != "") || refused && refusal.Code != next.want {
			t.Fatalf("got %v, want %q", answer, next.want)
		}
	}
	if st, err := c.Status(context.Background()); err != nil || st.Instances != 1 {
		t.Errorf("got %+v, %v: the leaf in hand counts until its time", st, err)
	}
}

func TestSessionsThatEnd(t *testing.T) {
	s := newStack(t, stackConfig{times: Times{Handshake: 500 * time.Millisecond}})
	s.set(t, "1h")
	m := member(t, s, 1)
	raw := func(t *testing.T) sessionStream {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		t.Cleanup(cancel)
		stream, err := m.rpc.Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	ends := func(t *testing.T, stream sessionStream, want problem.Code) {
		t.Helper()
		for {
			if _, err := stream.Recv(); err != nil {
				if codeOf(err) != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return
			}
		}
	}
	t.Run("no hello", func(t *testing.T) { ends(t, raw(t), "CRD-120") })
	t.Run("hello of another instance", func(t *testing.T) {
		stream := raw(t)
		hello(t, stream, &marblepb.Instance{Marble: "web", Id: id(9)})
		ends(t, stream, "CRD-119")
	})
	t.Run("hello of another marble", func(t *testing.T) {
		stream := raw(t)
		hello(t, stream, &marblepb.Instance{Marble: "db", Id: id(1)})
		ends(t, stream, "CRD-119")
	})
	t.Run("something else first", func(t *testing.T) {
		stream := raw(t)
		if err := stream.Send(&marblepb.SessionRequest{}); err != nil {
			t.Fatal(err)
		}
		ends(t, stream, "CRD-119")
	})
	t.Run("hello twice", func(t *testing.T) {
		stream := m.open(t)
		hello(t, stream, m.instance())
		ends(t, stream, "CRD-119")
	})
	t.Run("flood of reports", func(t *testing.T) {
		stream := m.open(t)
		for range 10 * reportsBurst {
			if stream.Send(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Stage{Stage: &marblepb.StageReport{Stage: "x"}}}) != nil {
				break
			}
		}
		ends(t, stream, "CRD-115")
	})
	t.Run("superseded", func(t *testing.T) {
		old := m.open(t)
		report(t, s, old, "first")
		m.open(t)
		ends(t, old, "CRD-035")
	})
	t.Run("leaf ended", func(t *testing.T) {
		stream := m.open(t)
		report(t, s, stream, "before the end")
		s.offset.Store(int64(2 * time.Hour))
		defer s.offset.Store(0)
		ends(t, m.open(t), "CRD-033")
	})
	t.Run("stop", func(t *testing.T) {
		stream := m.open(t)
		report(t, s, stream, "running")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.marbles.Stop(ctx)
		ends(t, stream, "CRD-003")
	})
}

// report sends a stage and waits until it shows.
func report(t testing.TB, s *stack, stream sessionStream, stage string) {
	t.Helper()
	if err := stream.Send(&marblepb.SessionRequest{Message: &marblepb.SessionRequest_Stage{Stage: &marblepb.StageReport{Stage: stage, Reason: "so\x1b[31m it is"}}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		m, err := s.core.Marble(context.Background(), "web")
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range m.Instances {
			if i.Stage == stage {
				if strings.ContainsRune(i.Reason, '\x1b') {
					t.Errorf("reason %q holds an escape code", i.Reason)
				}
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("stage %q never showed", stage)
}

// A marble whose activation hangs, and one that reads nothing, delay nobody.
func TestStalledMarblesDelayNobody(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	silent := member(t, s, 1)
	stream := silent.open(t) // never reads
	report(t, s, stream, "silent")
	release, stuck := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	hang := func() {
		if first.CompareAndSwap(false, true) {
			close(stuck)
			<-release
		}
	}
	s.endorse.Store(&hang)
	hanging := make(chan error, 1)
	waiting := s.newMarble(t, id(2))
	go func() {
		_, err := waiting.activate(t)
		hanging <- err
	}()
	<-stuck
	for n := 3; n < 8; n++ {
		if _, err := s.newMarble(t, id(n)).activate(t); err != nil {
			t.Errorf("marble %d: %v", n, err)
		}
	}
	close(release)
	if err := <-hanging; err != nil {
		t.Errorf("the one that hung: %v", err)
	}
}

// A running activation is finished when the server stops, and its lease counts.
func TestStopFinishesRunningActivations(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	release, stuck := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hang := func() { once.Do(func() { close(stuck); <-release }) }
	s.endorse.Store(&hang)
	m := s.newMarble(t, id(1))
	ch, err := m.rpc.Challenge(context.Background(), &marblepb.ChallengeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, spki, evidence := m.vouch(t, binding.Activate, ch.GetNonce())
	done := make(chan error, 1)
	go func() {
		_, err := m.rpc.Activate(context.Background(), &marblepb.ActivateRequest{Instance: m.instance(), Evidence: evidence, PublicKey: spki, Nonce: ch.GetNonce()})
		done <- err
	}()
	<-stuck
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.marbles.Stop(ctx)
	}()
	<-s.marbles.stopping
	close(release)
	if err := <-done; err != nil {
		t.Errorf("got %v, want the activation finished", err)
	}
	<-stopped
	if st, err := s.core.Status(context.Background()); err != nil || st.Instances != 1 {
		t.Errorf("got %d instances, %v, want 1", st.Instances, err)
	}
}

func TestPanicsAreContained(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	explode := func() { panic("a defect") }
	s.endorse.Store(&explode)
	m := s.newMarble(t, id(1))
	if _, err := m.activate(t); codeOf(err) != "CRD-001" || strings.Contains(err.Error(), "defect") {
		t.Errorf("got %v, want CRD-001 without the cause", err)
	}
	s.endorse.Store(nil)
	if _, err := s.newMarble(t, id(2)).activate(t); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestParametersKeepWhereReferencesMayStand(t *testing.T) {
	p := parameters(manifest.Parameters{References: manifest.References{
		Env: map[string][]string{"DB_PASSWORD": {"a", "b"}}, Files: map[string][]string{"/etc/db/password": {"c"}}}})
	if got := p.GetReferenceEnv()["DB_PASSWORD"].GetNames(); len(p.GetReferenceEnv()) != 1 || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v, want a and b for DB_PASSWORD", p.GetReferenceEnv())
	}
	if got := p.GetReferenceFiles()["/etc/db/password"].GetNames(); len(p.GetReferenceFiles()) != 1 || !slices.Equal(got, []string{"c"}) {
		t.Errorf("got %v, want c for /etc/db/password", p.GetReferenceFiles())
	}
}
