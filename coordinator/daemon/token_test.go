//go:build cgo

package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// withToken gives a configuration a token of SoftHSM. away takes the token away,
// and puts it back.
func withToken(t *testing.T, m *machine, c *Config) (away func(bool)) {
	t.Helper()
	dir := t.TempDir()
	tokens, conf, pin := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	for path, text := range map[string]string{conf: "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n", pin: "4711-secret\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "ashlar", "--so-pin", "8150-officer", "--pin", "4711-secret").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	c.SealSource = "pkcs11:module=/usr/lib/softhsm/libsofthsm2.so,token=ashlar,key=state,pin-file=" + pin
	return func(gone bool) {
		t.Helper()
		from, to := tokens+".aside", tokens
		if gone {
			from, to = tokens, tokens+".aside"
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		if gone {
			if err := os.Mkdir(tokens, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTokenIsNeededToo(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	alice := newMember(t, "alice")
	c := m.config()
	away := withToken(t, m, &c)
	addr, stop, set := deployed(t, m, c, "", 1, alice)
	if text := files(t, c.State)["seal.json"]; !strings.Contains(text, `"source": "sim:sgx:product+pkcs11:ashlar:state"`) || strings.Contains(text, "4711") {
		t.Errorf("seal.json is %s", text)
	}
	cl, err := m.dial(addr.Client, "", alice.cert)
	if err != nil {
		t.Fatal(err)
	}
	away(true) // while it runs: what is open stays open, and nothing is sealed without it
	if _, err := cl.SetManifest(t.Context(), recoverable(t, "unique", "1h", 1, alice), set.Digest, risks...); problem.CodeOf(err) != "REC-042" {
		t.Errorf("another mode without the token: got %v, want REC-042", err)
	}
	cl.Close()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, _, stop = waits(t, c) // the token is missing
	if err := stop(); err != nil {
		t.Error(err)
	}
	away(false)
	bare := c
	bare.SealSource = ""
	_, _, stop = waits(t, bare) // the TEE alone
	if err := stop(); err != nil {
		t.Error(err)
	}
	elsewhere := moved(m, other)
	elsewhere.SealSource = c.SealSource
	_, _, stop = waits(t, elsewhere) // the token alone
	if err := stop(); err != nil {
		t.Error(err)
	}
	_, stop = run(t, c)
	if err := stop(); err != nil {
		t.Error(err)
	}
	away(true)
	waiting, ready, stop := waits(t, c)
	if p, err := give(t, m.session(t, waiting.Client, apiv1.PurposeRecover), alice); err != nil || !p.Done {
		t.Fatalf("the holders without the token: got %+v, %v", p, err)
	}
	ready()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTokenAlone(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	alice := newMember(t, "alice")
	c := m.config()
	withToken(t, m, &c)
	c.Seal = "none"
	_, stop, _ := deployed(t, m, c, "none", 0, alice)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	elsewhere := moved(m, other)
	elsewhere.SealSource, elsewhere.Seal = c.SealSource, "none"
	_, stop = run(t, elsewhere) // whoever has the token opens it
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestTokenIsAdded gives the flag to a state that has none.
func TestTokenIsAdded(t *testing.T) {
	m := newMachine(t)
	c := m.config()
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	withToken(t, m, &c)
	spec := c
	spec.State = filepath.Join(m.dir, "elsewhere")
	if err := Init(t.Context(), spec); err != nil { // makes the key
		t.Fatal(err)
	}
	_, stop := run(t, c)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if text := files(t, c.State)["seal.json"]; !strings.Contains(text, "+pkcs11:ashlar:state") {
		t.Errorf("seal.json is %s, want it sealed by both", text)
	}
}
