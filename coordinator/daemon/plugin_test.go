package daemon

import (
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type plugin attest.TEE

func (p plugin) TEE() attest.TEE { return attest.TEE(p) }
func (plugin) Verify(attest.Evidence, attest.Endorsements, time.Time) (attest.Claims, []attest.Step) {
	return attest.Claims{}, nil
}

func TestPlugins(t *testing.T) {
	s := settings{Config: Config{Plugins: []attest.Verifier{plugin(attest.CCA)}}}
	all, err := s.verifiers()
	if err != nil || all[attest.CCA] == nil || all[attest.SGX] == nil {
		t.Errorf("got %d verifiers, %v; want the vendors' and the plug-in's", len(all), err)
	}
	s.Plugins = []attest.Verifier{plugin(attest.SNP)}
	if _, err := s.verifiers(); problem.CodeOf(err) != "CRD-130" {
		t.Errorf("in place of a vendor's: got %v, want CRD-130", err)
	}
}
