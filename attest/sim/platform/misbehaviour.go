package platform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
)

// Misbehaviour is what the platform is told to do wrong, so that refusals can
// be provoked. The zero value behaves. It is set by Misbehave, or by the file
// misbehaviour.json in the platform's folder, which is read on each request;
// what the file says comes on top of what Misbehave said.
type Misbehaviour struct {
	Debug              bool             `json:"debug,omitempty"`              // quotes are of a debug enclave or guest
	OtherBinding       bool             `json:"otherBinding,omitempty"`       // quotes carry other report data
	BadSignature       bool             `json:"badSignature,omitempty"`       // quotes' signatures do not hold
	RevokedPCK         bool             `json:"revokedPCK,omitempty"`         // the CRL lists the platform
	TCBStatus          attest.TCBStatus `json:"tcbStatus,omitempty"`          // of the platform's TCB level
	Advisories         []string         `json:"advisories,omitempty"`         // of the platform's TCB level
	StaleEndorsements  bool             `json:"staleEndorsements,omitempty"`  // all ended an hour ago
	FutureEndorsements bool             `json:"futureEndorsements,omitempty"` // all begin in an hour
	LateCRL            bool             `json:"lateCRL,omitempty"`            // the CRLs ended an hour ago, nothing else
	EvaluationNumber   int              `json:"evaluationNumber,omitempty"`   // of TCB info and QE identity; a TCB recovery raises it
	Services           []services.Fault `json:"services,omitempty"`           // of the PCCS that Services returns
	Throttled          bool             `json:"throttled,omitempty"`          // every request is answered "busy"
	Delay              attest.Duration  `json:"delay,omitempty"`              // every request is answered that late, at most 30 s
	CPUSVN             int              `json:"cpuSVN,omitempty"`             // security version that sealing keys rest on; an update of the firmware raises it
	ProgramSVN         int              `json:"programSVN,omitempty"`         // the same of the program, for the policy product
	Signer             string           `json:"signer,omitempty"`             // of the program: another gets other keys
}

// Misbehave sets what the platform does wrong from now on.
func (p *Platform) Misbehave(m Misbehaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.misbehaviour = m
}

// current returns what to do wrong now. A file that cannot be understood is an
// error rather than good behaviour.
func (p *Platform) current() (Misbehaviour, error) {
	p.mu.Lock()
	m := p.misbehaviour
	p.mu.Unlock()
	if p.dir == "" {
		return m, nil
	}
	raw, err := os.ReadFile(filepath.Join(p.dir, misbehaviourFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("reading %s: %w", misbehaviourFile, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, fmt.Errorf("reading %s: %w", misbehaviourFile, err)
	}
	return m, nil
}

// Services returns a PCCS that serves what the simulated vendor says, under the
// addresses of Intel's service.
func (p *Platform) Services() *services.Service {
	return services.New(services.Config{
		Sets: func() ([]attest.Endorsements, error) {
			var sets []attest.Endorsements
			for _, tee := range []attest.TEE{attest.SimSGX, attest.SimTDX} {
				set, err := p.Endorsements(tee)
				if err != nil {
					return nil, err
				}
				sets = append(sets, set)
			}
			return sets, nil
		},
		Faults: func() ([]services.Fault, error) {
			m, err := p.current()
			return m.Services, err
		},
	})
}
