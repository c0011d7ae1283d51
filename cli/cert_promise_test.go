package cli

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// TestCertInspectVerifiesThePromise shows the promise of the log in a leaf, and
// verifies it with the log's key and with another's.
func TestCertInspectVerifiesThePromise(t *testing.T) {
	signer := func(name string) *transparency.Signer {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s, err := transparency.NewSigner(key, name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	log, other := signer("ashlar-log/one"), signer("ashlar-log/two")
	file := func(p transparency.Promise) string {
		t.Helper()
		value, err := apiv1.LeafFacts{TEE: attest.SGX, Log: p}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour), ExtraExtensions: []pkix.Extension{{Id: apiv1.LeafOID, Value: value}}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "leaf.pem")
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := log.Promise(4711, [32]byte{1})
	moved := good
	moved.Index++
	changed := good
	changed.Leaf[0]++
	for _, c := range []struct {
		name, file, key string
		want            string
		code            int
	}{
		{"not verified", file(good), "", "entry 4711, leaf hash 01000000: promised, not verified", 0},
		{"given", file(good), log.VerifierKey(), "promised by ashlar-log/one", 0},
		{"of another log", file(good), other.VerifierKey(), "NOT promised by ashlar-log/two", 3},
		{"of another entry", file(moved), log.VerifierKey(), "NOT promised by ashlar-log/one", 3},
		{"of other bytes", file(changed), log.VerifierKey(), "NOT promised by ashlar-log/one", 3},
		{"no key", file(good), "ashlar-log/one", "LOG-003", 6},
	} {
		args := []string{"cert", "inspect", c.file}
		if c.key != "" {
			args = append(args, "--log-key", c.key)
		}
		stdout, stderr, code := run(t, args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("%s: got code %d, %s%s, want %d and %q", c.name, code, stdout, stderr, c.code, c.want)
		}
	}
	stdout, _, code := run(t, "cert", "inspect", file(good), "--log-key", log.VerifierKey(), "-o", "json")
	if code != 0 || !strings.Contains(stdout, `"entry": 4711`) || !strings.Contains(stdout, `"ok": true`) {
		t.Errorf("as JSON: got code %d, %s", code, stdout)
	}
}
