package client

import (
	"bytes"
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
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
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
