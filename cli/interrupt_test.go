//go:build unix

package cli

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What fails because of a signal says so, and not that something is missing.
func TestInterruptedSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGTERM) // caught: the command has asked already
		var b [1]byte
		for err == nil {
			_, err = conn.Read(b[:])
		}
	}()
	policy := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"tee": "sgx", "package": {"sgx": {"signerID": "`+strings.Repeat("ab", 32)+`", "productID": 1, "minSecurityVersion": 1}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := Main([]string{"verify", l.Addr().String(), "--policy", policy, "--trust", t.TempDir(), "--timeout", "20s"}, strings.NewReader(""), &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "interrupted  CLI-005") || out.Len() != 0 {
		t.Errorf("got exit %d, %q, %q; want 1, CLI-005", code, out.String(), errs.String())
	}
}
