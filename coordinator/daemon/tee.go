package daemon

import (
	"context"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// verifiers returns those of the hardware vendors, and those of the simulation
// only under the root that the configuration names.
func (s *settings) verifiers() (attest.Verifiers, error) {
	all := hardware.Verifiers()
	if s.simRoot != nil {
		simulated, err := sim.NewVerifiers(s.simRoot)
		if err != nil {
			return nil, invalid("sim-root", "%v", err)
		}
		for _, v := range simulated {
			all[v.TEE()] = v
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

func (s *settings) issuer() (attest.Issuer, error) {
	return sim.NewIssuer(sim.Config{Socket: s.SimSocket, Shape: s.TEE})
}

// source returns where the state's key is sealed to.
func (s *settings) source() seal.Source {
	client := sim.Client{Socket: s.SimSocket}
	return seal.Platform(string(s.TEE), s.Seal, func(ctx context.Context, policy string) ([]byte, error) {
		key, err := client.SealKey(ctx, sim.SealPolicy(policy))
		if err != nil {
			return nil, err
		}
		return key[:], nil
	})
}

// endorser finds simulated endorsements at the platform, and the vendors' in
// the folder.
func (s *settings) endorser(verifiers attest.Verifiers) coordinator.Endorser {
	simulated := newRefresher(sim.Client{Socket: s.SimSocket}.Endorsements, s.Now, s.Log)
	vendors := &folder{root: s.Endorsements, verifiers: verifiers, now: s.Now}
	return func(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
		if e.TEE.Simulated() {
			return simulated.get(ctx, e.TEE)
		}
		return vendors.get(e)
	}
}
