package daemon

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/pki"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// verifiers returns those of the hardware vendors, and those of the simulation
// only under the root that the configuration names.
func (s *settings) verifiers() (attest.Verifiers, error) {
	all := hardware.Verifiers()
	if s.TPMRoots != "" {
		v, err := tpmVerifier(s.TPMRoots)
		if err != nil {
			return nil, invalid("tpm-roots", "%v", err)
		}
		all[v.TEE()] = v
	}
	if s.simRoot != nil {
		if err := sim.AddVerifiers(all, s.simRoot); err != nil {
			return nil, invalid("sim-root", "%v", err)
		}
	}
	for _, v := range s.Plugins {
		if _, known := all[v.TEE()]; known {
			return nil, problem.New("CRD-130", "a plug-in for %q, which is verified anyway", v.TEE())
		}
		all[v.TEE()] = v
	}
	return all, nil
}

// tpmVerifier returns the verifier of TPMs under the CAs in a file.
func tpmVerifier(path string) (attest.Verifier, error) {
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	roots, err := pki.ParseCertificates(b)
	if err != nil {
		return nil, err
	}
	return tpm.New(tpm.Config{Roots: roots})
}

// enter finds the TEE that this process runs in and its sealing key. A
// simulation has to be named.
func (s *settings) enter(ctx context.Context) (err error) {
	if s.TEE.Simulated() {
		client := sim.Client{Socket: s.SimSocket}
		s.sealKey = func(ctx context.Context, policy string, info []byte) (key, newInfo []byte, err error) {
			k, newInfo, err := client.SealKeyAt(ctx, sim.SealPolicy(policy), info)
			return k[:], newInfo, err
		}
		if s.issuer, err = sim.NewIssuer(sim.Config{Socket: s.SimSocket, Shape: s.TEE}); err != nil {
			return invalid("tee", "%v", err)
		}
		return nil
	}
	if s.issuer, err = issuer.Open(ctx, *s.Machine, s.TEE); err != nil {
		return err
	}
	s.TEE = s.issuer.TEE()
	sealer, err := issuer.SealerOf(s.issuer)
	if err != nil {
		return err
	}
	s.sealKey = func(ctx context.Context, policy string, info []byte) (key, newInfo []byte, err error) {
		return sealer.SealKey(ctx, issuer.SealPolicy(policy), info)
	}
	s.Log.Info("TEE", "tee", string(s.TEE), "seal", s.Seal)
	return nil
}
