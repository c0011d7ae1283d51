package marble_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

func config(c *marbletest.Coordinator) marble.Config {
	log := slog.New(slog.DiscardHandler)
	return marble.Config{
		Marble: "web", ID: "7f2c19ab-0000-4000-8000-000000000001", Address: "127.0.0.1", Coordinator: c.Address,
		Trust: marble.Trust{Root: c.CA.Root}, Issuer: &marbletest.Issuer{}, Log: log, Tracker: stage.NewTracker(log, time.Now),
		CallTimeout: 5 * time.Second, Backoff: marble.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond},
	}
}

func run(t *testing.T, cfg marble.Config) *marble.Marble {
	t.Helper()
	m, err := marble.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// await waits for a condition that others bring about.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}

func TestActivation(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{
		Secrets: map[string]*marblepb.Secret{"sessionKey": {Value: []byte{0xab, 0xcd}}},
		Parameters: &marblepb.Parameters{
			Argv:  []string{"web", "--name={{ .Marble.Name }}"},
			Env:   map[string]string{"KEY": "{{ hex .Secrets.sessionKey }}", "ID": "{{ .Marble.SPIFFEID }}"},
			Files: map[string]string{"/run/web.pem": "{{ pem .Marble.Chain }}{{ pem .Marble.PrivateKey }}"},
		},
	})
	m := run(t, config(c))
	lease, _ := m.Lease()
	if lease.SPIFFEID != "spiffe://test.example/web" || lease.TrustDomain() != "test.example" {
		t.Errorf("got %q in %q", lease.SPIFFEID, lease.TrustDomain())
	}
	if got := m.Decision(); got != "web/7f2c" {
		t.Errorf("got decision %q", got)
	}
	r, err := m.Render()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.Argv, " "); got != "web --name=web" {
		t.Errorf("got argv %q", got)
	}
	if got := strings.Join(r.Env, " "); got != "ID=spiffe://test.example/web KEY=abcd" {
		t.Errorf("got env %q", got)
	}
	pair := r.Files["/run/web.pem"]
	if _, err := tls.X509KeyPair(pair, pair); err != nil {
		t.Errorf("rendered key pair: %v", err)
	}
	if got := m.Secrets()["sessionKey"].Bytes(); string(got) != "\xab\xcd" {
		t.Errorf("got secret %x", got)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{
		Secrets:    map[string]*marblepb.Secret{"s": {Value: []byte("top-secret"), PrivateKey: []byte("top-secret")}},
		Parameters: &marblepb.Parameters{Env: map[string]string{"S": "{{ raw .Secrets.s }}"}},
	})
	var logged strings.Builder
	cfg := config(c)
	cfg.Log = slog.New(slog.NewTextHandler(&logged, nil))
	cfg.Tracker = stage.NewTracker(cfg.Log, time.Now)
	m := run(t, cfg)
	lease, _ := m.Lease()
	rendered, err := m.Render()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log.Info("x", "lease", lease, "secrets", m.Secrets(), "rendered", rendered)
	text, _ := json.Marshal(m.Secrets())
	out := fmt.Sprintf("%v %+v %#v %s %v %+v %#v %v %+v %#v %s", lease, lease, lease, lease, m.Secrets(), m.Secrets(), m.Secrets(), rendered, rendered, rendered, text)
	m.Close()
	for _, s := range []string{out, logged.String()} {
		if strings.Contains(s, "top-secret") || strings.Contains(s, fmt.Sprint([]byte("top-secret"))) || strings.Contains(s, fmt.Sprintf("%#v", []byte("top-secret"))) {
			t.Errorf("a secret was printed: %s", s)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	ca := marbletest.NewCA(t)
	good := func() marble.Config {
		return marble.Config{Marble: "web", ID: "1", Coordinator: "127.0.0.1:1", Trust: marble.Trust{Root: ca.Root}, Issuer: &marbletest.Issuer{}}
	}
	for name, spoil := range map[string]func(*marble.Config){
		"no marble":        func(c *marble.Config) { c.Marble = "" },
		"marble as path":   func(c *marble.Config) { c.Marble = "a/b" },
		"no id":            func(c *marble.Config) { c.ID = "" },
		"long id":          func(c *marble.Config) { c.ID = strings.Repeat("a", 65) },
		"no coordinator":   func(c *marble.Config) { c.Coordinator = "" },
		"nobody trusted":   func(c *marble.Config) { c.Trust = marble.Trust{} },
		"no issuer":        func(c *marble.Config) { c.Issuer = nil },
		"many devices":     func(c *marble.Config) { c.Devices = make([]attest.DeviceIssuer, attest.MaxDevices+1) },
		"address":          func(c *marble.Config) { c.Address = "web.example" },
		"loopback address": func(c *marble.Config) { c.Loopback = "localhost" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			spoil(&cfg)
			if _, err := marble.Run(t.Context(), cfg); problem.CodeOf(err) != "MRB-001" {
				t.Errorf("got %v, want MRB-001", err)
			}
		})
	}
}

func TestRefusalKeepsTheVerdict(t *testing.T) {
	refusal := problem.New("ATT-012", "sgx.uniqueID: wanted aa, got bb")
	refusal.Verdict = json.RawMessage(`{"tee":"sim:sgx"}`)
	c := marbletest.Start(t, marbletest.Behaviour{Activated: func(*marblepb.ActivateRequest) error { return refusal }})
	cfg := config(c)
	_, err := marble.Run(t.Context(), cfg)
	e := problem.From(err)
	if e.Code != "ATT-012" || string(e.Verdict) != `{"tee":"sim:sgx"}` || e.Kind().ExitCode() != 3 {
		t.Errorf("got %+v", e)
	}
	if s, _ := cfg.Tracker.Current(); s.Stage != stage.Refused || s.Code != "ATT-012" {
		t.Errorf("got stage %+v, want refused", s)
	}
	if a, _ := c.Counts(); a != 0 {
		t.Errorf("got %d activations, want 0", a)
	}
}

func TestKeepsTryingWhileUnavailable(t *testing.T) {
	for _, code := range []problem.Code{"CRD-011", "CRD-003", "CRD-018", "CRD-020"} {
		t.Run(string(code), func(t *testing.T) {
			release := make(chan struct{})
			c := marbletest.Start(t, marbletest.Behaviour{Activated: func(*marblepb.ActivateRequest) error {
				select {
				case <-release:
					return nil
				default:
					return problem.New(code, "not yet")
				}
			}})
			cfg := config(c)
			go func() {
				want := stage.Attesting
				if code == "CRD-011" {
					want = stage.WaitingForManifest
				}
				for {
					s, changed := cfg.Tracker.Current()
					if s.Stage == want && s.Code == string(code) && !s.NextRetry.IsZero() {
						close(release)
						return
					}
					<-changed
				}
			}()
			run(t, cfg)
		})
	}
}

func TestGivesUpWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := marbletest.Start(t, marbletest.Behaviour{})
	cfg := config(c)
	cfg.Coordinator = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			s, changed := cfg.Tracker.Current()
			if s.Code == "MRB-004" {
				cancel()
				return
			}
			<-changed
		}
	}()
	if _, err := marble.Run(ctx, cfg); problem.CodeOf(err) != "MRB-024" {
		t.Errorf("got %v, want MRB-024", err)
	}
}

func TestStalledCoordinator(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := marbletest.Start(t, marbletest.Behaviour{Challenge: func(context.Context) error { <-t.Context().Done(); return context.Canceled }})
	for name, address := range map[string]string{"TLS": l.Addr().String(), "call": silent.Address} {
		t.Run(name, func(t *testing.T) {
			cfg := config(silent)
			cfg.Coordinator, cfg.CallTimeout = address, 30*time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for {
					s, changed := cfg.Tracker.Current()
					if s.Code == "MRB-004" {
						cancel()
						return
					}
					<-changed
				}
			}()
			if _, err := marble.Run(ctx, cfg); problem.CodeOf(err) != "MRB-024" {
				t.Errorf("got %v, want MRB-024 after MRB-004", err)
			}
		})
	}
}

func TestOnlyTheCoordinatorIsTrusted(t *testing.T) {
	other := marbletest.NewCA(t)
	server, both := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for _, c := range []struct {
		name string
		cert func(*marbletest.CA) tls.Certificate
		ok   bool
	}{
		{"coordinator", func(ca *marbletest.CA) tls.Certificate { return ca.Serving(t) }, true},
		{"coordinator before the first manifest", func(ca *marbletest.CA) tls.Certificate { return ca.ServingAs(t, "", server) }, true},
		{"another root", func(*marbletest.CA) tls.Certificate { return other.Serving(t) }, false},
		{"a marble's leaf", func(ca *marbletest.CA) tls.Certificate { return ca.Identity(t, "cart") }, false},
		{"a marble called coordinator", func(ca *marbletest.CA) tls.Certificate { return ca.Identity(t, "coordinator") }, false},
		{"a secret's certificate", func(ca *marbletest.CA) tls.Certificate { return ca.ServingAs(t, "", server, both) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := false
			coordinator := marbletest.Start(t, marbletest.Behaviour{Challenge: func(context.Context) error { asked = true; return nil }})
			coordinator.Serve(c.cert(coordinator.CA))
			m, err := marble.Run(t.Context(), config(coordinator))
			if m != nil {
				m.Close()
			}
			if c.ok != (err == nil) || !c.ok && problem.CodeOf(err) != "MRB-005" {
				t.Errorf("got %v, want trusted %v", err, c.ok)
			}
			if coordinator.Stop(); asked && !c.ok {
				t.Error("something was sent to it")
			}
		})
	}
}

func TestMalformedLeases(t *testing.T) {
	foreign := marbletest.NewCA(t)
	for name, spoil := range map[string]func(*marblepb.Lease){
		"no certificates":      func(l *marblepb.Lease) { l.Certificates = nil },
		"no bundle":            func(l *marblepb.Lease) { l.Bundle = nil },
		"garbage leaf":         func(l *marblepb.Lease) { l.Certificates[0] = []byte{0x30, 0x82, 0xff} },
		"garbage bundle":       func(l *marblepb.Lease) { l.Bundle = [][]byte{{1}} },
		"long chain":           func(l *marblepb.Lease) { l.Certificates = append(l.Certificates, make([][]byte, 8)...) },
		"foreign bundle":       func(l *marblepb.Lease) { l.Bundle = [][]byte{foreign.Root.Raw} },
		"chain cut":            func(l *marblepb.Lease) { l.Certificates = l.Certificates[:1] },
		"leaf of another key":  func(l *marblepb.Lease) { l.Certificates[0] = foreign.Identity(t, "web").Certificate[0] },
		"other SPIFFE ID":      func(l *marblepb.Lease) { l.SpiffeId = "spiffe://test.example/cart" },
		"other trust domain":   func(l *marblepb.Lease) { l.SpiffeId = "spiffe://evil.example/web" },
		"no SPIFFE ID":         func(l *marblepb.Lease) { l.SpiffeId = "" },
		"ended":                func(l *marblepb.Lease) { l.NotAfterUnixMs = 1 },
		"longer than its leaf": func(l *marblepb.Lease) { l.NotAfterUnixMs += 10_000 },
		"renewal after end":    func(l *marblepb.Lease) { l.RenewAfterUnixMs = l.NotAfterUnixMs },
	} {
		t.Run(name, func(t *testing.T) {
			c := marbletest.Start(t, marbletest.Behaviour{Lease: spoil})
			m, err := marble.Run(t.Context(), config(c))
			if problem.CodeOf(err) != "MRB-009" {
				t.Errorf("got %v, want MRB-009", err)
			}
			if m != nil {
				m.Close()
			}
		})
	}
}

func TestOversizeAnswer(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{Secrets: map[string]*marblepb.Secret{"s": {Value: make([]byte, marblepb.MaxMessage)}}})
	if _, err := marble.Run(t.Context(), config(c)); problem.CodeOf(err) != "MRB-010" {
		t.Errorf("got %v, want MRB-010", err)
	}
}

func TestRenderErrors(t *testing.T) {
	for name, p := range map[string]*marblepb.Parameters{
		"unknown secret":    {Env: map[string]string{"A": "{{ hex .Secrets.none }}"}},
		"unknown function":  {Files: map[string]string{"/a": "{{ exec .Marble.Name }}"}},
		"malformed":         {Argv: []string{"{{ hex"}},
		"zero byte in env":  {Env: map[string]string{"A": "{{ raw .Secrets.zero }}"}},
		"zero byte in argv": {Argv: []string{"{{ raw .Secrets.zero }}"}},
		"no name":           {Env: map[string]string{"A=B": "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := marbletest.Start(t, marbletest.Behaviour{Parameters: p, Secrets: map[string]*marblepb.Secret{"zero": {Value: []byte{0}}}})
			m := run(t, config(c))
			if _, err := m.Render(); problem.CodeOf(err) != "MRB-011" {
				t.Errorf("got %v, want MRB-011", err)
			}
		})
	}
}

func TestNoEvidence(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	cfg := config(c)
	failures := 3
	cfg.Issuer = &marbletest.Issuer{Fault: func() error {
		if failures--; failures >= 0 {
			return errors.New("quoting service is away")
		}
		return nil
	}}
	run(t, cfg)
	if failures != -1 {
		t.Errorf("evidence was asked for %d times, want 4", 3-failures)
	}
	cfg = config(c)
	cfg.Issuer = &marbletest.Issuer{Fault: func() error { return problem.New("MRB-002", "not readable") }}
	if _, err := marble.Run(t.Context(), cfg); problem.CodeOf(err) != "MRB-002" {
		t.Errorf("got %v, want MRB-002 at once", err)
	}
}

func TestTLSBetweenMarbles(t *testing.T) {
	c := marbletest.Start(t, marbletest.Behaviour{})
	cfg := config(c)
	web := run(t, cfg)
	cfg = config(c)
	cfg.Marble = "cart"
	cart := run(t, cfg)
	for _, tc := range []struct {
		name           string
		server, client *tls.Config
		ok             bool
	}{
		{"as agreed", cart.ServerTLS("web"), web.ClientTLS("cart"), true},
		{"whole SPIFFE ID", cart.ServerTLS("spiffe://test.example/web"), web.ClientTLS("spiffe://test.example/cart"), true},
		{"another caller", cart.ServerTLS("pay"), web.ClientTLS("cart"), false},
		{"another callee", cart.ServerTLS("web"), web.ClientTLS("pay"), false},
		{"nobody may call", cart.ServerTLS(), web.ClientTLS("cart"), false},
		{"prefix is no name", cart.ServerTLS("we"), web.ClientTLS("cart"), false},
		{"plain TLS client", cart.ServerTLS("web"), &tls.Config{InsecureSkipVerify: true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := exchange(t, tc.server, tc.client); (err == nil) != tc.ok {
				t.Errorf("got %v, want success %v", err, tc.ok)
			}
		})
	}
}

// exchange sends one byte each way.
func exchange(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_, err = io.CopyN(conn, conn, 1)
		served <- err
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		_, err = conn.Write([]byte{1})
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		conn.Close()
	}
	if serverErr := <-served; err == nil {
		err = serverErr
	}
	return err
}
