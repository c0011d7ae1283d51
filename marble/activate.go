package marble

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math"
	"sync"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// activate trades evidence for a first lease, over one connection. enter learns
// the stages.
func (m *Marble) activate(ctx context.Context, enter func(stage.Status)) error {
	enter(stage.Status{Stage: stage.Connecting, Reason: m.cfg.Coordinator})
	l, err := m.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, 2*m.timeout())
	defer cancel()
	enter(stage.Status{Stage: stage.Attesting})
	offer, err := m.vouch(ctx, l, binding.Activate, nil)
	if err != nil {
		return err
	}
	call, cancelCall := context.WithTimeout(ctx, m.timeout())
	defer cancelCall()
	resp, err := l.client.Activate(call, &marblepb.ActivateRequest{
		Instance: m.instance(), Evidence: offer.evidence, PublicKey: offer.public, Nonce: offer.nonce,
	})
	if err != nil {
		return m.callError(err, "activating")
	}
	return m.accept(resp, offer.key)
}

// accept checks an activation and takes its lease.
func (m *Marble) accept(resp *marblepb.ActivateResponse, key *ecdsa.PrivateKey) error {
	m.mu.Lock()
	roots := m.roots
	m.mu.Unlock()
	lease, err := newLease(resp.GetLease(), expectation{marble: m.cfg.Marble, key: key, roots: roots, now: m.cfg.Now()})
	if err != nil {
		return err
	}
	parameters, err := readParameters(resp.GetParameters())
	if err != nil {
		return err
	}
	serves, err := ports(resp.GetServes())
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.serves = serves
	m.parameters = parameters
	m.decision = short(resp.GetDecision())
	m.mu.Unlock()
	m.swap(lease)
	return nil
}

// maxServes bounds the ports of one marble, as the manifest's schema does.
const maxServes = 32

func ports(list []uint32) ([]uint16, error) {
	if len(list) > maxServes {
		return nil, problem.New("MRB-009", "%d served ports, wanted at most %d", len(list), maxServes)
	}
	out := make([]uint16, len(list))
	for i, p := range list {
		if p == 0 || p > math.MaxUint16 {
			return nil, problem.New("MRB-009", "served port %d, wanted 1 to %d", p, math.MaxUint16)
		}
		out[i] = uint16(p)
	}
	return out, nil
}

func (m *Marble) instance() *marblepb.Instance {
	return &marblepb.Instance{Marble: m.cfg.Marble, Id: m.cfg.ID, Address: m.cfg.Address, Loopback: m.cfg.Loopback}
}

// offer is a new key and the evidence for it.
type offer struct {
	key      *ecdsa.PrivateKey
	public   []byte // PKIX DER
	nonce    []byte
	evidence *marblepb.Evidence
}

// vouch makes a key and has the TEE vouch for it, on this connection, for this
// purpose, under the nonce, which it asks for if nil.
func (m *Marble) vouch(ctx context.Context, l *link, purpose binding.Purpose, nonce []byte) (*offer, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	if nonce == nil {
		resp, err := l.client.Challenge(ctx, &marblepb.ChallengeRequest{})
		if err != nil {
			return nil, m.callError(err, "asking for a nonce")
		}
		nonce = resp.GetNonce()
	}
	if len(nonce) != binding.NonceSize {
		return nil, problem.New("MRB-009", "nonce of %d bytes, wanted %d", len(nonce), binding.NonceSize)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, problem.Because(err, "MRB-007", "making a key")
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, problem.Because(err, "MRB-007", "encoding the public key")
	}
	exporter, err := l.exporter()
	if err != nil {
		return nil, problem.Because(err, "MRB-004", "exporting from the TLS session")
	}
	claims := binding.Claims{Purpose: purpose, PublicKey: binding.KeyHash(public), Nonce: nonce, Exporter: exporter}
	evidence, err := m.evidence(ctx, claims)
	if err != nil {
		return nil, err
	}
	return &offer{key: key, public: public, nonce: nonce, evidence: evidence}, nil
}

// evidence has the devices answer the verifier's nonce, and the TEE vouch for
// the claims and for what the devices said.
func (m *Marble) evidence(ctx context.Context, claims binding.Claims) (*marblepb.Evidence, error) {
	devices, err := m.devices(ctx, binding.DeviceNonce(claims.Nonce, claims.PublicKey))
	if err != nil {
		return nil, err
	}
	claims.Devices = binding.Devices(devices)
	buffer := claims.Encode()
	tee := m.cfg.Issuer.TEE()
	e, err := m.cfg.Issuer.Issue(ctx, attest.Bind(buffer))
	if err != nil {
		return nil, evidenceError(err, tee)
	}
	if len(e.Raw) == 0 || len(e.Raw) > attest.MaxEvidence {
		return nil, problem.New("MRB-007", "%s gave evidence of %d bytes, wanted 1 to %d", tee, len(e.Raw), attest.MaxEvidence)
	}
	if len(e.EventLog) > attest.MaxEventLog {
		return nil, problem.New("MRB-007", "%s gave an event log of %d bytes, limit %d", tee, len(e.EventLog), attest.MaxEventLog)
	}
	out := &marblepb.Evidence{Tee: string(e.TEE), Raw: e.Raw, ClaimsBuffer: buffer, EventLog: e.EventLog}
	for _, d := range devices {
		out.Devices = append(out.Devices, &marblepb.Device{Name: d.Name, Tee: string(d.TEE), Raw: d.Raw})
	}
	return out, nil
}

// devices asks each device of the configuration, all at once: a GPU may take
// seconds.
func (m *Marble) devices(ctx context.Context, nonce [32]byte) ([]attest.Device, error) {
	devices, errs := make([]attest.Device, len(m.cfg.Devices)), make([]error, len(m.cfg.Devices))
	var asked sync.WaitGroup
	for i, issuer := range m.cfg.Devices {
		asked.Go(func() { devices[i], errs[i] = issuer.IssueDevice(ctx, nonce) })
	}
	asked.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, deviceError(err)
		}
		if d := devices[i]; len(d.Raw) == 0 || len(d.Raw) > attest.MaxEvidence || d.Name == "" {
			return nil, problem.New("MRB-028", "device %q gave evidence of %d bytes, wanted 1 to %d", d.Name, len(d.Raw), attest.MaxEvidence)
		}
	}
	return devices, nil
}

// deviceError keeps a device's own code.
func deviceError(err error) error {
	var coded *problem.Error
	if errors.As(err, &coded) {
		return coded
	}
	return problem.Because(err, "MRB-028", "asking a device for evidence")
}

// evidenceError keeps a code that says that trying again is no use.
func evidenceError(err error, tee attest.TEE) error {
	var coded *problem.Error
	if errors.As(err, &coded) && !retryable(coded) {
		return coded
	}
	return problem.Because(err, "MRB-007", "asking %s for evidence", tee)
}
