package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// policyName is the policy's file in the trust directory, beside what the
// client package keeps there.
const policyName = "policy.json"

// maxFile bounds every file that a command reads, in bytes.
const maxFile = 8 << 20

// readFile reads a file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) { return a.readUpTo(name, maxFile) }

// readUpTo is readFile for another limit.
func (a *app) readUpTo(name string, limit int64) ([]byte, error) {
	if name == "-" {
		return readAll(a.in, "standard input", limit)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, problem.Because(err, "CLI-003", "reading %s", name)
	}
	defer f.Close()
	return readAll(f, name, limit)
}

func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, problem.Because(err, "CLI-003", "reading %s", name)
	}
	if int64(len(b)) > limit {
		return nil, problem.New("CLI-003", "%s is larger than %d bytes", name, limit)
	}
	return b, nil
}

// trustInput is what a coordinator is judged by.
type trustInput struct {
	raw       []byte // the policy file, to be kept
	policy    attest.Policy
	verifiers attest.Verifiers
	log       client.Witnessing // what the file demands of the log's witnesses
}

// loadPolicy reads a policy file and makes the verifiers that it allows.
func (a *app) loadPolicy(name string) (trustInput, error) {
	raw, err := a.readFile(name)
	if err != nil {
		return trustInput{}, err
	}
	return a.parsePolicy(raw, name)
}

// parsePolicy is loadPolicy for what was read already; name is for messages.
func (a *app) parsePolicy(raw []byte, name string) (trustInput, error) {
	file, diags := manifest.ParsePolicyFile(raw)
	if err := diags.Err(); err != nil {
		diags.Render(a.p.Err, name, a.p.Color)
		return trustInput{}, err
	}
	in := trustInput{raw: raw, policy: file.Policy(), verifiers: hardware.Verifiers()}
	var err error
	if in.log, err = witnessingOf(file.Log); err != nil {
		return trustInput{}, err
	}
	if file.Simulated() {
		a.p.Simulation = true
		if err := addSimulation(in.verifiers, []byte(file.SimulationRoot)); err != nil {
			return trustInput{}, err
		}
	}
	return in, nil
}

// addSimulation adds the verifiers of the software TEE under a root.
func addSimulation(v attest.Verifiers, rootPEM []byte) error {
	root, err := evidence.ParseRoot(rootPEM)
	if err != nil {
		return err
	}
	return sim.AddVerifiers(v, root)
}

// userFlags are the client certificate of a manifest user.
type userFlags struct{ cert, key string }

func (u *userFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&u.cert, "cert", os.Getenv("ASHLAR_CERT"), "your certificate as a manifest user, PEM ($ASHLAR_CERT)")
	c.Flags().StringVar(&u.key, "key", os.Getenv("ASHLAR_KEY"), "its private key, PEM ($ASHLAR_KEY)")
}

func (u userFlags) load() (*tls.Certificate, error) {
	if u.cert == "" && u.key == "" {
		return nil, nil
	}
	if u.cert == "" || u.key == "" {
		return nil, usage("a user needs both --cert and --key")
	}
	cert, err := tls.LoadX509KeyPair(u.cert, u.key)
	if err != nil {
		return nil, problem.Because(err, "CLI-003", "reading your certificate")
	}
	return &cert, nil
}

// dial verifies the coordinator of the trust directory again and connects to
// it. What it shows is remembered.
func (a *app) dial(ctx context.Context, user *tls.Certificate) (*client.Client, error) {
	trust, err := client.LoadTrust(a.trust)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New("CLI-008", "%s holds no verified coordinator", a.trust)
	}
	if err != nil {
		return nil, err
	}
	in, err := a.loadPolicy(filepath.Join(a.trust, policyName))
	if err != nil {
		return nil, err
	}
	addr := a.address
	if addr == "" {
		addr = trust.Address
	}
	if a.verbose {
		a.p.Notef("verifying %s against %s\n", addr, filepath.Join(a.trust, policyName))
	}
	c, err := client.Dial(ctx, addr, client.Options{Policy: in.policy, Verifiers: in.verifiers,
		Remembered: &trust.Remembered, Witnessing: in.log, Certificate: user, Timeout: a.timeout})
	if err != nil {
		return nil, upgraded(err, addr)
	}
	if err := client.WriteTrust(a.trust, c.Verified()); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// upgraded adds to a refusal of a coordinator's software what to do if that is
// as it should be. Other refusals say themselves who mends them.
func upgraded(err error, addr string) error {
	var refusal *problem.Error
	if errors.As(err, &refusal) && refusal.Code == "CRD-100" && strings.Contains(refusal.Detail, attest.CodeMeasurement) {
		return refusal.WithNext("if it was upgraded on purpose: ashlar verify %s --policy NEW.json", addr)
	}
	return err
}

// hasTrust reports whether the trust directory holds a verified coordinator.
func (a *app) hasTrust() bool {
	_, err := client.LoadTrust(a.trust)
	return err == nil
}

// withDial runs f with a verified connection, as the user whom the environment
// names, if any.
func (a *app) withDial(ctx context.Context, f func(*client.Client) error) error {
	return a.withUser(ctx, userFlags{cert: os.Getenv("ASHLAR_CERT"), key: os.Getenv("ASHLAR_KEY")}, f)
}

// withUser runs f with a verified connection, as a user if one is named.
func (a *app) withUser(ctx context.Context, u userFlags, f func(*client.Client) error) error {
	user, err := u.load()
	if err != nil {
		return err
	}
	cl, err := a.dial(ctx, user)
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}

// keepPolicy writes the policy into the trust directory.
func (a *app) keepPolicy(raw []byte) error {
	if err := durable.WriteFile(filepath.Join(a.trust, policyName), raw, 0o644); err != nil {
		return problem.Because(err, "CLI-003", "keeping the policy")
	}
	return nil
}
