package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// setVault puts a manifest in force whose marble web has secrets of all kinds.
func (s *stack) setVault(t testing.TB) {
	t.Helper()
	var m map[string]any
	mustJSON(t, s.manifest("1h"), &m)
	m["secrets"] = map[string]any{
		"key":    map[string]any{"type": "symmetric", "readers": []string{"web"}, "rotation": map[string]any{"overlap": "10m"}},
		"token":  map[string]any{"type": "opaque", "readers": []string{"web"}, "depositors": []string{"web"}},
		"signer": map[string]any{"type": "ecdsa", "operations": []string{"sign"}, "readers": []string{"web"}},
		"count":  map[string]any{"type": "counter", "readers": []string{"web"}},
		"other":  map[string]any{"type": "symmetric", "readers": []string{"db"}},
	}
	m["roles"] = map[string]any{"operator": map[string]any{"actions": []string{"updateManifest", "writeSecret:*", "readSecret:*", "rotateSecret:*"}}}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.dial(t, nil).SetManifest(context.Background(), raw, nil); err != nil {
		t.Fatal(err)
	}
}

func TestUsersHandleSecrets(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setVault(t)
	c, ctx := s.dial(t, s.alice), t.Context()
	set, err := c.SetSecret(ctx, "token", []byte("hunter2"), 0)
	if err != nil || set.Version != 1 {
		t.Fatalf("got %+v, %v", set, err)
	}
	if _, err := c.SetSecret(ctx, "token", []byte("hunter3"), 0); problem.CodeOf(err) != "SEC-011" {
		t.Errorf("over another version: got %v, want SEC-011", err)
	}
	got, version, err := c.RevealSecret(ctx, "token", "")
	if err != nil || version != 1 || string(got.Value) != "hunter2" {
		t.Errorf("version %d, %v", version, err)
	}
	if _, err := c.RotateSecret(ctx, "key", ""); problem.CodeOf(err) != "SEC-017" {
		t.Errorf("a key that nobody has asked for: got %v, want SEC-017", err)
	}
	m := member(t, s, 1)
	if r, err := c.RotateSecret(ctx, "key", ""); err != nil || r.Version != 2 || r.Values != 1 || r.Until.IsZero() {
		t.Errorf("got %+v, %v", r, err)
	}
	names := func(user *client.Client, after string, limit int) (list []string, next string, err error) {
		page, err := user.Secrets(ctx, after, limit)
		for _, one := range page.Secrets {
			list = append(list, fmt.Sprintf("%s:%d", one.Name, one.Version))
		}
		return list, page.Next, err
	}
	if list, next, err := names(c, "", 3); err != nil || next != "other" || !slices.Equal(list, []string{"count:0", "key:2", "other:0"}) {
		t.Errorf("got %v, %q, %v", list, next, err)
	}
	if list, next, err := names(c, "other", 3); err != nil || next != "" || !slices.Equal(list, []string{"signer:0", "token:1"}) {
		t.Errorf("got %v, %q, %v", list, next, err)
	}
	if _, _, err := names(s.dial(t, nil), "", 3); problem.CodeOf(err) != "CRD-015" {
		t.Errorf("nobody: got %v, want CRD-015", err)
	}
	v, err := m.rpc.Fetch(ctx, &marblepb.FetchRequest{Name: "token"})
	if err != nil || string(v.GetSecret().GetValue()) != "hunter2" {
		t.Errorf("the marble got version %d, %v", v.GetSecret().GetVersion(), err)
	}
}

// TestSecretRequestsAreReadStrictly sends what no client of ours would.
func TestSecretRequestsAreReadStrictly(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setVault(t)
	for _, c := range []struct {
		name, method, path, ifMatch, body string
		code                              problem.Code
	}{
		{"no If-Match", "PUT", "/v1/secrets/token", "", `{"sealed":"AAAA"}`, "SEC-012"},
		{"a word", "PUT", "/v1/secrets/token", `"newest"`, `{"sealed":"AAAA"}`, "CRD-110"},
		{"without quotes", "PUT", "/v1/secrets/token", `0`, `{"sealed":"AAAA"}`, "CRD-110"},
		{"a zero too many", "PUT", "/v1/secrets/token", `"00"`, `{"sealed":"AAAA"}`, "CRD-110"},
		{"negative", "PUT", "/v1/secrets/token", `"-1"`, `{"sealed":"AAAA"}`, "CRD-110"},
		{"not sealed", "PUT", "/v1/secrets/token", `"0"`, `{"sealed":"AAAA"}`, "SEC-013"},
		{"in clear", "PUT", "/v1/secrets/token", `"0"`, `{"value":"AAAA"}`, "CRD-110"},
		{"empty", "PUT", "/v1/secrets/token", `"0"`, ``, "CRD-114"},
		{"too large", "PUT", "/v1/secrets/token", `"0"`, `{"sealed":"` + strings.Repeat("A", maxUpload) + `"}`, "CRD-113"},
		{"a parameter", "PUT", "/v1/secrets/token?force=1", `"0"`, `{"sealed":"AAAA"}`, "CRD-110"},
		{"no key", "POST", "/v1/secrets/key/reveal", "", `{}`, "SEC-017"},
		{"two documents", "POST", "/v1/secrets/key/reveal", "", `{}{}`, "CRD-110"},
		{"of a name that nobody has", "POST", "/v1/secrets/nothing/rotate", "", `{}`, "SEC-001"},
		{"a method", "DELETE", "/v1/secrets/key", "", ``, "CRD-112"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+s.client+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if c.ifMatch != "" {
				req.Header.Set("If-Match", c.ifMatch)
			}
			resp, err := browse(t, true, s.alice).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var p problem.Error
			mustJSON(t, body, &p)
			if p.Code != c.code {
				t.Errorf("got %s, want %s", body, c.code)
			}
		})
	}
}

func TestMarblesUseAndDeposit(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setVault(t)
	stranger := s.newMarble(t, id(9))
	ctx := t.Context()
	for name, call := range map[string]func(marblepb.MarbleClient) error{
		"fetch": func(c marblepb.MarbleClient) error {
			_, err := c.Fetch(ctx, &marblepb.FetchRequest{Name: "key"})
			return err
		},
		"use": func(c marblepb.MarbleClient) error {
			_, err := c.Use(ctx, &marblepb.UseRequest{Name: "signer", Operation: "sign"})
			return err
		},
		"deposit": func(c marblepb.MarbleClient) error {
			_, err := c.Deposit(ctx, &marblepb.DepositRequest{Name: "token", Value: []byte("x")})
			return err
		},
	} {
		if err := call(stranger.rpc); codeOf(err) != "CRD-118" {
			t.Errorf("%s without a leaf: got %v, want CRD-118", name, err)
		}
	}
	m := member(t, s, 1)
	public, err := m.rpc.Use(ctx, &marblepb.UseRequest{Name: "signer", Operation: "public"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(public.GetOutput())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := m.rpc.Use(ctx, &marblepb.UseRequest{Name: "signer", Operation: "sign", Input: []byte("hello")})
	digest := sha256.Sum256([]byte("hello"))
	if err != nil || !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], sig.GetOutput()) || sig.GetVersion() != 1 {
		t.Errorf("version %d, %v: the signature does not verify", sig.GetVersion(), err)
	}
	for want := uint64(1); want <= 3; want++ {
		if n, err := m.rpc.Use(ctx, &marblepb.UseRequest{Name: "count", Operation: "increment"}); err != nil || n.GetCount() != want {
			t.Errorf("got %d, %v, want %d", n.GetCount(), err, want)
		}
	}
	if v, err := m.rpc.Deposit(ctx, &marblepb.DepositRequest{Name: "token", Value: []byte("made here")}); err != nil || v.GetVersion() != 1 {
		t.Errorf("got %d, %v", v.GetVersion(), err)
	}
	if _, err := m.rpc.Fetch(ctx, &marblepb.FetchRequest{Name: "other"}); codeOf(err) != "SEC-002" {
		t.Errorf("another marble's secret: got %v, want SEC-002", err)
	}
	if _, err := m.rpc.Fetch(ctx, &marblepb.FetchRequest{Name: "signer"}); codeOf(err) != "SEC-004" {
		t.Errorf("a use-only key: got %v, want SEC-004", err)
	}
	busy := false
	for range 3 * depositsBurst {
		_, err := m.rpc.Deposit(ctx, &marblepb.DepositRequest{Name: "token", Value: []byte("again")})
		busy = busy || codeOf(err) == "SEC-009"
	}
	if !busy {
		t.Error("deposits have no rate")
	}
	if _, err := member(t, s, 2).rpc.Deposit(ctx, &marblepb.DepositRequest{Name: "token", Value: []byte("x")}); err != nil {
		t.Errorf("another instance: %v", err)
	}
}

// pushed waits for a lease without certificates whose key has a version.
func pushed(t testing.TB, stream sessionStream, version uint64) *marblepb.Lease {
	t.Helper()
	for {
		answer, err := stream.Recv()
		if err != nil {
			t.Errorf("waiting for version %d: %v", version, err)
			return nil
		}
		lease := answer.GetLease()
		if lease == nil || len(lease.GetCertificates()) > 0 {
			t.Errorf("got %v, want a lease without certificates", answer)
			return nil
		}
		if lease.GetSecrets()["key"].GetVersion() >= version {
			return lease
		}
	}
}

// TestRotationsReachRunningMarbles rotates while sessions run: each gets the
// newest version, and sessions that were busy need not get every one.
func TestRotationsReachRunningMarbles(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setVault(t)
	c := s.dial(t, s.alice)
	const sessions, rotations = 20, 10
	streams := make([]sessionStream, sessions)
	for i := range streams {
		streams[i] = member(t, s, i).open(t)
	}
	// Each session is joined once it has answered.
	for i, stream := range streams {
		report(t, s, stream, fmt.Sprint("stage-", i))
	}
	var wg sync.WaitGroup
	for _, stream := range streams {
		wg.Go(func() {
			lease := pushed(t, stream, rotations+1)
			if lease == nil {
				return
			}
			key := lease.GetSecrets()["key"]
			if key.GetPrevious().GetVersion() != rotations || bytes.Equal(key.GetValue(), key.GetPrevious().GetValue()) || lease.GetRevision() == "" ||
				len(lease.GetBundle()) == 0 || lease.GetRenewAfterUnixMs() >= lease.GetNotAfterUnixMs() {
				t.Errorf("got version %d after %d", key.GetVersion(), key.GetPrevious().GetVersion())
			}
		})
	}
	for range rotations {
		if _, err := c.RotateSecret(t.Context(), "key", ""); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// TestASessionBeginsWithWhatItMissed rotates between the lease and its session.
func TestASessionBeginsWithWhatItMissed(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.setVault(t)
	m := member(t, s, 1)
	if _, err := s.dial(t, s.alice).RotateSecret(t.Context(), "key", ""); err != nil {
		t.Fatal(err)
	}
	pushed(t, m.open(t), 2)
}

// BenchmarkPush measures from the command to the last of 1,000 sessions.
func BenchmarkPush(b *testing.B) {
	s := newStack(b, stackConfig{connections: 4000})
	s.setVault(b)
	c := s.dial(b, s.alice)
	const sessions = 1000
	streams := make([]sessionStream, sessions)
	for i := range streams {
		m := s.newMarble(b, fmt.Sprintf("7f2c19ab-0000-4000-8000-%012d", i))
		if _, err := m.activate(b); err != nil {
			b.Fatal(err)
		}
		streams[i] = m.openFor(b, time.Hour)
	}
	report(b, s, streams[sessions-1], "joined")
	version := uint64(1)
	for b.Loop() {
		version++
		began := time.Now()
		if _, err := c.RotateSecret(b.Context(), "key", ""); err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, stream := range streams {
			wg.Go(func() { pushed(b, stream, version) })
		}
		wg.Wait()
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/1000-sessions")
	}
}

// BenchmarkMarbleUse measures what a marble waits for, over TLS and with a
// durable store: a signature, and a raised counter.
func BenchmarkMarbleUse(b *testing.B) {
	for name, req := range map[string]*marblepb.UseRequest{
		"sign":      {Name: "signer", Operation: "sign", Input: make([]byte, 256)},
		"public":    {Name: "signer", Operation: "public"},
		"increment": {Name: "count", Operation: "increment"},
	} {
		b.Run(name, func(b *testing.B) {
			s := newStack(b, stackConfig{})
			s.setVault(b)
			s.marbles.secrets.uses = newRate(1e9, 1e9, s.now)
			m := member(b, s, 1)
			for b.Loop() {
				if _, err := m.rpc.Use(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
