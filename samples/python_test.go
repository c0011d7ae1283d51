package samples

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// TestPythonServesItsCallerAlone starts Gramine's sample, with the files that its
// marble would write, and calls it as web, as another marble, and as nobody.
func TestPythonServesItsCallerAlone(t *testing.T) {
	ca, folder := marbletest.NewCA(t), t.TempDir()
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cart.pem", identityPEM(t, ca, "cart"))
	write("roots.pem", ca.RootPEM())
	write("caller", []byte("spiffe://"+marbletest.TrustDomain+"/web"))
	cmd := exec.Command("python3", "gramine/cart.py")
	cmd.Env = append(os.Environ(), "CART_FOLDER="+folder, "CART_PORT=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	port, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("it said %q, %v", line, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.RootPEM())
	get := func(certificates ...tls.Certificate) (string, error) {
		verify := func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool(s.PeerCertificates[1:]), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		}
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: verify, Certificates: certificates}}}
		resp, err := client.Get("https://127.0.0.1:" + port + "/items")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if body, err := get(ca.Identity(t, "web")); err != nil || !strings.Contains(body, "lamp") {
		t.Errorf("web: got %q, %v, want the items", body, err)
	}
	if body, err := get(ca.Identity(t, "other")); err == nil {
		t.Errorf("another marble: got %q, want a refusal", body)
	}
	if body, err := get(marbletest.NewCA(t).Identity(t, "web")); err == nil {
		t.Errorf("another deployment's web: got %q, want a refusal", body)
	}
	if body, err := get(); err == nil {
		t.Errorf("nobody: got %q, want a refusal", body)
	}
}

func pool(certificates []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certificates {
		p.AddCert(c)
	}
	return p
}

// identityPEM is what {{ pem .Marble.Chain }}{{ pem .Marble.PrivateKey }} gives.
func identityPEM(t *testing.T, ca *marbletest.CA, marble string) []byte {
	t.Helper()
	identity := ca.Identity(t, marble)
	key, err := x509.MarshalPKCS8PrivateKey(identity.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, der := range identity.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
}
