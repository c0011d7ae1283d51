package cli

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/daemon"
)

// TestGovernanceScripts runs scripts against a coordinator of their own, which
// this process is: testdata/governance/*.txt. Alice, bob and carol have keys of
// three types; one.json is the first manifest and wants two of them.
func TestGovernanceScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/governance", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			addr, policy, err := startCoordinator(e)
			if err != nil {
				return err
			}
			e.Setenv("ADDR", addr)
			users, err := writeUsers(e.WorkDir, "alice", "bob", "carol")
			if err != nil {
				return err
			}
			for name, document := range map[string]any{"policy.json": policy, "one.json": governedBy(users, false), "two.json": governedBy(users, true)} {
				raw, err := json.MarshalIndent(document, "", "  ")
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), raw, 0o600); err != nil {
					return err
				}
			}
			return nil
		}})
}

// startCoordinator runs a simulated machine and a coordinator until the script
// ends. It returns its address and the policy that it meets.
func startCoordinator(e *testscript.Env) (addr string, policy any, err error) {
	dir, err := os.MkdirTemp("", "ashlar") // a socket's path is short
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	machine, unplug := context.WithCancel(context.Background())
	var running, wg sync.WaitGroup
	e.Defer(func() {
		cancel()
		running.Wait()
		unplug() // the machine goes after the coordinator
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	p, err := platform.New(platform.Config{})
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "platform.sock"))
	if err != nil {
		return "", nil, err
	}
	wg.Go(func() { _ = p.Serve(machine, l) })
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), p.RootPEM(), 0o600); err != nil {
		return "", nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	self, err := sim.FileDigest(exe)
	if err != nil {
		return "", nil, err
	}
	ready, ended := make(chan daemon.Addresses, 1), make(chan error, 1)
	c := daemon.Config{State: filepath.Join(dir, "state"), TEE: attest.SimSGX, SimSocket: filepath.Join(dir, "platform.sock"), SimRoot: filepath.Join(dir, "root.pem"),
		ClientAddr: "127.0.0.1:0", MeshAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0", Ready: func(a daemon.Addresses) { ready <- a }}
	if err := daemon.Init(ctx, c); err != nil {
		return "", nil, err
	}
	running.Go(func() { ended <- daemon.Run(ctx, c) })
	select {
	case a := <-ready:
		addr = a.Client
	case err := <-ended:
		return "", nil, err
	}
	return addr, map[string]any{"tee": "sim", "package": map[string]any{"sim": map[string]any{"program": []attest.Hex{self}}}, "simulationRoot": string(p.RootPEM())}, nil
}

// writeUsers makes a certificate and a key for each, and returns the users of a
// manifest.
func writeUsers(dir string, names ...string) (map[string]any, error) {
	users := map[string]any{}
	for i, name := range names {
		key, err := newKey(i)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name+".pem"), cert, 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
			return nil, err
		}
		users[name] = map[string]any{"certificate": string(cert), "roles": []string{"operator"}}
	}
	return users, nil
}

func newKey(i int) (key crypto.Signer, err error) {
	switch i {
	case 0:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case 1:
		_, key, err = ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return rsa.GenerateKey(rand.Reader, 2048)
}

// governedBy is a manifest that two of its users may replace. The next one has
// another lease and no legacyKey.
func governedBy(users map[string]any, next bool) map[string]any {
	lease, secrets := "1h", map[string]any{"legacyKey": map[string]any{"type": "symmetric", "readers": []string{"web"}}}
	if next {
		lease, secrets = "2h", map[string]any{}
	}
	return map[string]any{"version": 1, "trustDomain": "shop.example",
		"packages": map[string]any{"web": map[string]any{"sim": map[string]any{"program": []attest.Hex{make([]byte, 32)}}}},
		"marbles":  map[string]any{"web": map[string]any{"package": "web", "lease": lease}},
		"secrets":  secrets, "users": users, "roles": map[string]any{"operator": map[string]any{"actions": []string{"updateManifest", "revoke:*"}}},
		"approvals": map[string]any{"updateManifest": 2, "revoke:marbles/*": 2}}
}
