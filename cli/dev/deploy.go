package dev

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// startCoordinator creates the state if there is none, starts the coordinator,
// and writes the policy that a client judges it by.
func (d *Deployment) startCoordinator(ctx context.Context) error {
	program, err := sim.FileDigest(d.coordBinary())
	if err != nil {
		return err
	}
	root, err := os.ReadFile(d.simRoot())
	if err != nil {
		return err
	}
	policy, err := json.MarshalIndent(map[string]any{"tee": "sim", "simulationRoot": string(root),
		"package": map[string]any{"sim": map[string]any{"program": []attest.Hex{program}, "agent": []attest.Hex{program}}}}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.PolicyFile(), append(policy, '\n'), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(d.file("state")); err != nil {
		if err := d.initState(ctx); err != nil {
			return err
		}
	}
	return d.StartCoordinator(ctx)
}

func (d *Deployment) teeArgs() []string {
	return []string{"--state", d.file("state"), "--tee", string(attest.SimSGX), "--sim-socket", d.socket(), "--sim-root", d.simRoot()}
}

func (d *Deployment) initState(ctx context.Context) error {
	p, err := d.spawner.start(d.LogDir(), spec{name: "coordinator-init", path: d.coordBinary(), args: append([]string{"init"}, d.teeArgs()...)})
	if err != nil {
		return err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		p.Stop()
		return err
	}
	if code != 0 {
		return problem.New("CLI-014", "ashlar-coordinator init ended with exit code %d: %s", code, d.lastWords(p.Name)).WithNext("%s", d.showLog(p.Name))
	}
	return nil
}

// SpawnCoordinator starts the coordinator on the state that exists, without
// waiting for it.
func (d *Deployment) SpawnCoordinator() error {
	path, args := d.CoordinatorCommand()
	p, err := d.spawner.start(d.LogDir(), spec{name: "coordinator", path: path, args: args})
	if err == nil {
		d.coord = p
	}
	return err
}

// StartCoordinator starts the coordinator and waits until it answers.
func (d *Deployment) StartCoordinator(ctx context.Context) error {
	if err := d.SpawnCoordinator(); err != nil {
		return err
	}
	return d.await(ctx, d.coord, func(ctx context.Context) error {
		c, err := d.Dial(ctx, false)
		if err != nil {
			return err
		}
		c.Close()
		return nil
	})
}

// Coordinator is the coordinator's process.
func (d *Deployment) Coordinator() *Process { return d.coord }

// Dial verifies the coordinator as an outside client does, or as alice.
func (d *Deployment) Dial(ctx context.Context, asAlice bool) (*client.Client, error) {
	raw, err := os.ReadFile(d.PolicyFile())
	if err != nil {
		return nil, err
	}
	file, diags := manifest.ParsePolicyFile(raw)
	if err := diags.Err(); err != nil {
		return nil, err
	}
	root, err := evidence.ParseRoot([]byte(file.SimulationRoot))
	if err != nil {
		return nil, err
	}
	o := client.Options{Policy: file.Policy(), Timeout: 30 * time.Second, Verifiers: hardware.Verifiers()}
	if err := sim.AddVerifiers(o.Verifiers, root); err != nil {
		return nil, err
	}
	if asAlice {
		cert, err := tls.LoadX509KeyPair(d.CertFile(), d.KeyFile())
		if err != nil {
			return nil, err
		}
		o.Certificate = &cert
	}
	return client.Dial(ctx, d.Client, o)
}

// SetManifest measures the shop's programs and sets the manifest, as alice; on
// a state that has this very manifest already it changes nothing.
func (d *Deployment) SetManifest(ctx context.Context) (apiv1.SetResult, error) {
	cert, err := d.alice()
	if err != nil {
		return apiv1.SetResult{}, err
	}
	raw, err := d.writeManifest(d.Services, string(cert))
	if err != nil {
		return apiv1.SetResult{}, err
	}
	if _, diags := manifest.Parse(raw); diags.Err() != nil {
		diags.Render(os.Stderr, d.ManifestFile(), false)
		return apiv1.SetResult{}, diags.Err()
	}
	c, err := d.Dial(ctx, true)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	defer c.Close()
	return c.SetManifest(ctx, raw, c.Verified().Statement.Manifest)
}

// alice returns the operator's certificate, made at the first call.
func (d *Deployment) alice() ([]byte, error) {
	if b, err := os.ReadFile(d.CertFile()); err == nil {
		return b, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(d.KeyFile(), keyPEM, 0o600); err != nil {
		return nil, err
	}
	cert := encodeCertificate(der)
	return cert, os.WriteFile(d.CertFile(), cert, 0o644)
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// StartMarble starts one service under ashlar-marble.
func (d *Deployment) StartMarble(s Service) error {
	p, err := d.startAs(s, s.Name, nil)
	if err == nil {
		d.marbles[s.Name] = p
	}
	return err
}

// startAs starts a program that says it is a marble. out gets what it prints,
// besides its log; it may be nil.
func (d *Deployment) startAs(s Service, marble string, out io.Writer) (*Process, error) {
	args := []string{"run", "--envoy", d.Envoy, "--dir", filepath.Join(d.work, s.Name), "--ready-addr", s.Ready}
	for _, m := range s.Measure {
		args = append(args, "--measure", m)
	}
	args = append(append(args, "--", s.Program), s.Args...)
	return d.spawner.start(d.LogDir(), spec{name: s.Name, path: d.marbleBinary(), args: args, output: out, env: []string{
		"ASHLAR_MARBLE=" + marble, "ASHLAR_COORDINATOR=" + d.Mesh, "ASHLAR_COORDINATOR_POLICY=" + d.PolicyFile(),
		"ASHLAR_UUID=" + d.instanceID(s.Name), "ASHLAR_IP=" + s.IP, "ASHLAR_TEE=" + string(s.TEE), "ASHLAR_SIM_SOCKET=" + d.socket()}})
}

// instanceID is the same at every start of a service here, so that it takes its
// own place again instead of a second one beside the lease that still runs.
func (d *Deployment) instanceID(service string) string {
	h := sha256.Sum256([]byte(d.Dir + "\x00" + service))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // RFC 9562: version 8
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Marble returns the process of a service, nil if it was not started.
func (d *Deployment) Marble(name string) *Process { return d.marbles[name] }

// StartMarbles starts every service and waits until all are ready.
func (d *Deployment) StartMarbles(ctx context.Context) error {
	for _, s := range d.Services {
		if err := d.StartMarble(s); err != nil {
			return err
		}
	}
	for _, s := range d.Services {
		if err := d.AwaitMarble(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// AwaitMarble waits until a service's readiness probe says yes.
func (d *Deployment) AwaitMarble(ctx context.Context, s Service) error {
	return d.await(ctx, d.marbles[s.Name], func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Ready+"/ready", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", body)
		}
		return nil
	})
}

// Watch reports processes that end until ctx does. A service that ends is
// reported and the others go on; without the coordinator or the platform the
// deployment is over.
func (d *Deployment) Watch(ctx context.Context) error {
	ended := make(chan *Process)
	var watchers sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer watchers.Wait()
	defer cancel()
	watched := []*Process{d.coord, d.platform}
	for _, p := range d.marbles {
		watched = append(watched, p)
	}
	for _, p := range watched {
		watchers.Go(func() {
			select {
			case <-p.Done():
				select {
				case ended <- p:
				case <-ctx.Done():
				}
			case <-ctx.Done():
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-ended:
			if p == d.coord || p == d.platform {
				return problem.New("CLI-014", "%s ended; the end of its log:\n%s", p.Name, d.tail(p.Name))
			}
			d.Say("! %s ended: %s", p.Name, d.showLog(p.Name))
		}
	}
}
