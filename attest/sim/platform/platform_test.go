package platform

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/dcap"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sgx"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/tdx"
)

func newPlatform(t testing.TB, c Config) *Platform {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func verifiers(t testing.TB, p *Platform) attest.Verifiers {
	t.Helper()
	vs, err := sim.NewVerifiers(p.Root())
	if err != nil {
		t.Fatal(err)
	}
	return attest.NewVerifiers(vs...)
}

func digest(s string) attest.Hex {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

var measured = Measurement{
	Program: digest("program"), Agent: digest("agent"), Files: map[string]attest.Hex{"app.py": digest("script")},
}

func reference() attest.Policy {
	return attest.Policy{PackageName: "web", PlatformName: "default", Package: attest.Package{Sim: &attest.SimReference{
		Program: []attest.Hex{measured.Program}, Agent: []attest.Hex{measured.Agent}, Files: measured.Files,
	}}}
}

func judge(t *testing.T, p *Platform, tee attest.TEE, want attest.Binding, policy attest.Policy) attest.Verdict {
	t.Helper()
	e, err := p.NewInsecureIssuer(tee, measured).Issue(t.Context(), attest.Bind([]byte("claims")))
	if err != nil {
		t.Fatal(err)
	}
	en, err := p.Endorse(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return attest.Judge(verifiers(t, p), e, want, en, policy, p.now())
}

// failed returns the codes of failed steps, each once, in order.
func failed(v attest.Verdict) string {
	var codes []string
	for _, s := range v.Failed() {
		if len(codes) == 0 || codes[len(codes)-1] != s.Code {
			codes = append(codes, s.Code)
		}
	}
	return strings.Join(codes, " ")
}

func TestGoodBehaviourIsAccepted(t *testing.T) {
	p := newPlatform(t, Config{})
	for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		t.Run(string(tee), func(t *testing.T) {
			v := judge(t, p, tee, attest.Bind([]byte("claims")), reference())
			if !v.OK() || !v.Genuine || v.TCBStatus != attest.UpToDate || v.Debug || v.Claims.TEE != tee {
				t.Errorf("got %s genuine=%v status=%q debug=%v tee=%q, want accepted\n%+v", v.Verdict, v.Genuine, v.TCBStatus, v.Debug, v.Claims.TEE, v.Failed())
			}
			if !v.Claims.TCB.RevocationChecked {
				t.Error("revocation was not checked")
			}
		})
	}
}

// TestMisbehaviourIsRefused provokes each refusal; it must fail at its own
// step first, and besides only at what follows from that (a status is not known
// without a signature, revocation not checked without a CRL).
func TestMisbehaviourIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		m    Misbehaviour
		want string
	}{
		{"debug", Misbehaviour{Debug: true}, attest.CodeDebug},
		{"other binding", Misbehaviour{OtherBinding: true}, attest.CodeBinding},
		{"bad signature", Misbehaviour{BadSignature: true}, attest.CodeQuoteSignature + " " + attest.CodeTCBStatus},
		{"revoked", Misbehaviour{RevokedPCK: true}, attest.CodeRevoked},
		{"out of date", Misbehaviour{TCBStatus: attest.OutOfDate}, attest.CodeTCBStatus},
		{"status revoked", Misbehaviour{TCBStatus: attest.Revoked}, attest.CodeTCBStatus},
		{"stale", Misbehaviour{StaleEndorsements: true}, attest.CodeWindow + " " + attest.CodeCRLWindow + " " + attest.CodeNoRevocation},
		{"future", Misbehaviour{FutureEndorsements: true}, attest.CodeWindow + " " + attest.CodeCRLWindow + " " + attest.CodeNoRevocation},
		{"late CRL", Misbehaviour{LateCRL: true}, attest.CodeCRLWindow + " " + attest.CodeNoRevocation},
		{"TCB recovery", Misbehaviour{EvaluationNumber: 21, TCBStatus: attest.OutOfDate}, attest.CodeTCBStatus},
	} {
		for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
			t.Run(c.name+" "+string(tee), func(t *testing.T) {
				p := newPlatform(t, Config{})
				p.Misbehave(c.m)
				v := judge(t, p, tee, attest.Bind([]byte("claims")), reference())
				if v.OK() || failed(v) != c.want {
					t.Errorf("got %s at %q, want refused at %q\n%+v", v.Verdict, failed(v), c.want, v.Failed())
				}
				p.Misbehave(Misbehaviour{})
				if v := judge(t, p, tee, attest.Bind([]byte("claims")), reference()); !v.OK() {
					t.Errorf("got refused at %q after it behaved again", failed(v))
				}
			})
		}
	}
}

func TestPolicyRefusals(t *testing.T) {
	p := newPlatform(t, Config{})
	change := func(f func(*attest.SimReference)) attest.Policy {
		pol := reference()
		f(pol.Package.Sim)
		return pol
	}
	for _, c := range []struct {
		name   string
		policy attest.Policy
		bind   string
		field  string
	}{
		{"other program", change(func(r *attest.SimReference) { r.Program = []attest.Hex{digest("x")} }), "claims", "sim.program"},
		{"other agent", change(func(r *attest.SimReference) { r.Agent = []attest.Hex{digest("x")} }), "claims", "sim.agent"},
		{"other file", change(func(r *attest.SimReference) { r.Files = map[string]attest.Hex{"app.py": digest("x")} }), "claims", "sim.files"},
		{"replayed or relayed", reference(), "other claims", "reportData"},
		{"no policy", attest.Policy{}, "claims", "sim"},
	} {
		for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
			t.Run(c.name+" "+string(tee), func(t *testing.T) {
				v := judge(t, p, tee, attest.Bind([]byte(c.bind)), c.policy)
				if v.OK() || !v.Genuine || len(v.Failed()) == 0 {
					t.Fatalf("got %s genuine=%v, want genuine but refused", v.Verdict, v.Genuine)
				}
				var fields []string
				for _, s := range v.Failed() {
					fields = append(fields, s.Field)
				}
				if fmt.Sprint(fields) != "["+c.field+"]" {
					t.Errorf("got failed fields %v, want only %s", fields, c.field)
				}
			})
		}
	}
}

// TestRootsDoNotMix: production verifiers refuse simulated evidence under its
// own name and under a false one, and the simulation refuses Intel's root.
func TestRootsDoNotMix(t *testing.T) {
	p, other := newPlatform(t, Config{}), newPlatform(t, Config{})
	production := attest.NewVerifiers(intelVerifiers(t)...)
	for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		e, err := p.NewInsecureIssuer(tee, measured).Issue(t.Context(), attest.Binding{})
		if err != nil {
			t.Fatal(err)
		}
		en, err := p.Endorsements(tee)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			vs   attest.Verifiers
			tee  attest.TEE
			want string
		}{
			"production":                  {production, tee, attest.CodeNoVerifier},
			"production under false name": {production, tee.Shape(), attest.CodeChain},
			"another platform":            {verifiers(t, other), tee, attest.CodeChain},
		} {
			e := attest.Evidence{TEE: c.tee, Raw: e.Raw}
			v := attest.Judge(c.vs, e, attest.Binding{}, en, reference(), p.now())
			if v.OK() || v.Genuine || !strings.HasPrefix(failed(v), c.want) {
				t.Errorf("%s, %s: got %s genuine=%v at %q, want refused at %s", name, tee, v.Verdict, v.Genuine, failed(v), c.want)
			}
		}
	}
	if _, err := sim.NewVerifiers(dcap.IntelRoot()); err == nil {
		t.Error("the simulation took Intel's root")
	}
	if _, err := sim.NewVerifiers(nil); err == nil {
		t.Error("the simulation took no root at all")
	}
}

func TestPersistence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "platform")
	first := newPlatform(t, Config{Dir: dir})
	again := newPlatform(t, Config{Dir: dir})
	if !bytes.Equal(first.Root().Raw, again.Root().Raw) || !bytes.Equal(first.pki.sealSecret, again.pki.sealSecret) {
		t.Error("the platform is another one after a restart")
	}
	info, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("got mode %o of the keys, want 600", got)
	}
	pem, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil || !bytes.Equal(pem, first.RootPEM()) {
		t.Errorf("root.pem is not the root: %v", err)
	}

	t.Run("lost state", func(t *testing.T) {
		if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Dir: dir}); err == nil {
			t.Error("a new platform took the place of a lost one")
		}
	})
	t.Run("damaged state", func(t *testing.T) {
		for _, content := range []string{"", "{}", `{"version":1}`, "\x00"} {
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := New(Config{Dir: dir}); err == nil {
				t.Errorf("took %q for a platform", content)
			}
		}
	})
	t.Run("foreign folder", func(t *testing.T) {
		other := t.TempDir()
		if err := os.WriteFile(filepath.Join(other, "thesis.txt"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Dir: other}); err == nil {
			t.Error("made a platform between somebody's files")
		}
	})
}

// Machines of one vendor are told apart, and one root verifies them all.
func TestVendor(t *testing.T) {
	dir := t.TempDir()
	config := Config{Dir: filepath.Join(dir, "second"), Vendor: filepath.Join(dir, "first")}
	if _, err := New(config); err == nil {
		t.Error("made a machine of a vendor that is not there")
	}
	first := newPlatform(t, Config{Dir: config.Vendor})
	second := newPlatform(t, config)
	if !bytes.Equal(first.Root().Raw, second.Root().Raw) {
		t.Error("the machines have different roots")
	}
	if bytes.Equal(first.pki.sealSecret, second.pki.sealSecret) || first.pki.pck.key.Equal(second.pki.pck.key) {
		t.Error("two machines have the same keys")
	}
	var ppids []string
	for _, p := range []*Platform{first, second, newPlatform(t, config)} {
		e, err := p.NewInsecureIssuer(attest.SimSGX, measured).Issue(t.Context(), attest.Bind([]byte("claims")))
		if err != nil {
			t.Fatal(err)
		}
		en, err := first.Endorsements(attest.SimSGX) // the vendor's word counts for all of them
		if err != nil {
			t.Fatal(err)
		}
		v := attest.Judge(verifiers(t, first), e, attest.Bind([]byte("claims")), en, reference(), p.now())
		if !v.OK() {
			t.Errorf("got refused at %q, want accepted under the vendor's root", failed(v))
		}
		ppids = append(ppids, v.Claims.TCB.PPID.String())
	}
	if ppids[0] == ppids[1] || ppids[1] != ppids[2] {
		t.Errorf("got PPIDs %v, want the second machine's apart, and the same after a restart", ppids)
	}
}

func TestMisbehaviourFile(t *testing.T) {
	p := newPlatform(t, Config{Dir: filepath.Join(t.TempDir(), "platform")})
	path := filepath.Join(p.dir, misbehaviourFile)
	if err := os.WriteFile(path, []byte(`{"debug":true,"delay":"1ms"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := judge(t, p, attest.SimSGX, attest.Bind([]byte("claims")), reference()); !v.Debug {
		t.Error("the order to set the debug bit was not obeyed")
	}
	if err := os.WriteFile(path, []byte(`{"debugg":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.NewInsecureIssuer(attest.SimSGX, measured).Issue(t.Context(), attest.Binding{}); err == nil {
		t.Error("an order that cannot be understood was taken for good behaviour")
	}
}

func TestEndorsementsAreStable(t *testing.T) {
	now := time.Now()
	p := newPlatform(t, Config{Now: func() time.Time { return now }})
	get := func() [32]byte {
		en, err := p.Endorsements(attest.SimTDX)
		if err != nil {
			t.Fatal(err)
		}
		return en.Digest()
	}
	first := get()
	now = now.Add(reissueAfter - time.Second)
	if get() != first {
		t.Error("endorsements changed within 12 hours")
	}
	now = now.Add(2 * time.Second)
	if get() == first {
		t.Error("endorsements did not change after 12 hours")
	}
	// What is told after a lie is not older than the lie.
	var newest endorse.Marks
	for _, m := range []Misbehaviour{{}, {RevokedPCK: true}, {}, {TCBStatus: attest.OutOfDate}, {}} {
		p.Misbehave(m)
		now = now.Add(time.Second)
		en, err := p.Endorsements(attest.SimTDX)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range newest.Check(en) {
			if !s.OK {
				t.Errorf("%+v: %s is %s, want %s", m, s.Source, s.Got, s.Want)
			}
		}
		newest, _ = newest.Raise(en)
	}
}

// TestServices serves the simulated vendor's word as Intel's service would, and
// fails by script.
func TestServices(t *testing.T) {
	p := newPlatform(t, Config{Dir: filepath.Join(t.TempDir(), "platform")})
	server := httptest.NewServer(p.Services())
	defer server.Close()
	source, err := fetch.NewPCCS(fetch.ClientConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
		store, err := fetch.New(fetch.Config{Sources: []fetch.Source{source}, Verifiers: verifiers(t, p)})
		if err != nil {
			t.Fatal(err)
		}
		e, err := p.NewInsecureIssuer(tee, measured).Issue(t.Context(), attest.Bind([]byte("claims")))
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.Endorsements(tee)
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.Endorse(t.Context(), e)
		ours, _ := want.Get(attest.KindTCBInfo)
		if it, _ := got.Get(attest.KindTCBInfo); err != nil || len(got.Items()) != 4 || !bytes.Equal(it.Body, ours.Body) {
			t.Errorf("%s: got %d documents, %v, want those of the platform", tee, len(got.Items()), err)
		}
	}
	order := `{"services": [{"document": "tcbInfo", "status": 404}]}`
	if err := os.WriteFile(filepath.Join(p.dir, misbehaviourFile), []byte(order), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := server.Client().Get(server.URL + "/sgx/certification/v4/tcb?fmspc=" + hex.EncodeToString(fmspc))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("told to fail: got %s, want 404", r.Status)
	}
}

func BenchmarkQuote(b *testing.B) {
	p := newPlatform(b, Config{})
	issuer := p.NewInsecureIssuer(attest.SimSGX, measured)
	for b.Loop() {
		if _, err := issuer.Issue(context.Background(), attest.Binding{}); err != nil {
			b.Fatal(err)
		}
	}
}

func intelVerifiers(t *testing.T) []attest.Verifier {
	t.Helper()
	return []attest.Verifier{sgx.NewVerifier(), tdx.NewVerifier()}
}
