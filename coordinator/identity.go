package coordinator

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// servingLife is how long a serving certificate counts; half-way it is
// replaced.
const servingLife = 24 * time.Hour

// Attest returns what the coordinator says of itself, with evidence that was
// made for this nonce (32 bytes) and for the key (PKIX DER) of the connection
// that the answer travels over. Nothing of it is kept for the next caller.
// Errors: CRD-002, CRD-004 and CRD-005.
func (c *Coordinator) Attest(ctx context.Context, nonce, tlsKey []byte) (apiv1.Statement, error) {
	if err := c.open(ctx); err != nil {
		return apiv1.Statement{}, err
	}
	if len(nonce) != apiv1.NonceSize || len(tlsKey) == 0 {
		return apiv1.Statement{}, problem.New("CRD-002", "wanted a nonce of %d bytes and the key of the connection, got %d and %d bytes", apiv1.NonceSize, len(nonce), len(tlsKey))
	}
	a := c.authority.Load()
	s := apiv1.Statement{Root: a.Root(), RootSteps: a.RootSteps(), TLSKey: bytes.Clone(tlsKey), Time: c.config.Now().UTC()}
	rev, at, floors, err := c.consistent(ctx)
	if err != nil {
		return s, err
	}
	if s.Floors, err = floors.document(); err != nil {
		return s, err
	}
	signed, err := c.sign(at)
	if err != nil {
		return s, err
	}
	s.TrustDomain, s.Manifest, s.Revision = rev.trustDomain(), rev.record.Digest, rev.record.Number
	s.Checkpoint, s.LogKey, s.UploadKey = string(signed), c.LogKey(), c.secret.upload.PublicKey().Bytes()
	epoch, err := c.epoch(ctx)
	if err == nil {
		s.Epoch, err = epoch.document()
	}
	if err != nil {
		return s, err
	}
	if s.BreakGlass, err = c.incidents.Load().document(); err != nil {
		return s, err
	}
	claims := bound(s, nonce)
	s.ClaimsBuffer = claims.Encode()
	if s.Evidence, err = c.quote(ctx, claims.Binding()); err != nil {
		return s, err
	}
	s.Endorsements, err = c.config.Endorse(ctx, s.Evidence)
	var coded *problem.Error
	if err != nil && !errors.As(err, &coded) {
		err = problem.Because(err, "CRD-004", "looking for the coordinator's own endorsements")
	}
	return s, err
}

// bound are the claims that a statement's evidence has to bind.
func bound(s apiv1.Statement, nonce []byte) binding.Claims {
	digest := func(part []byte) []byte {
		if part == nil {
			return nil
		}
		sum := sha256.Sum256(part)
		return sum[:]
	}
	return binding.Claims{
		Purpose: binding.Coordinator, PublicKey: binding.KeyHash(s.TLSKey), Nonce: nonce, Root: digest(s.Root), Manifest: s.Manifest,
		Checkpoint: digest([]byte(s.Checkpoint)), Log: digest([]byte(s.LogKey)), Floors: digest(s.Floors), Epoch: digest(s.Epoch),
		BreakGlass: digest(s.BreakGlass), Upload: digest(s.UploadKey),
	}
}

// quote asks the hardware, for at most maxQuotes callers at once.
func (c *Coordinator) quote(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	select {
	case c.quotes <- struct{}{}:
	case <-ctx.Done():
		return attest.Evidence{}, problem.Because(ctx.Err(), "CRD-007", "waiting behind %d others for evidence", maxQuotes)
	}
	defer func() { <-c.quotes }()
	e, err := c.config.Issuer.Issue(ctx, b)
	if err != nil {
		return e, problem.Because(err, "CRD-005", "asking the %s", c.config.Issuer.TEE())
	}
	return e, nil
}

// consistent returns the revision and the floors in force with a checkpoint of
// the log that covers them and none after them.
func (c *Coordinator) consistent(ctx context.Context) (rev *revision, at audit.Checkpoint, floors floorsRecord, err error) {
	for range maxTries {
		var head revisionRecord
		err = c.store.View(ctx, func(tx *store.Tx) error {
			head, _ = heads.Get(tx, keyCurrent)
			floors, _ = floorsTable.Get(tx, keyCurrent)
			at, err = c.log.Checkpoint(tx)
			return err
		})
		if rev = c.current.Load(); err != nil || rev.record.Number == head.Number {
			return rev, at, floors, err
		}
		c.awaitManifest()
	}
	return nil, at, floors, problem.New("CRD-018", "it changed %d times", maxTries)
}

// awaitManifest waits until a manifest that is being set is published: whoever
// sets one holds c.setting until then.
func (c *Coordinator) awaitManifest() {
	c.setting.Lock()
	defer c.setting.Unlock()
}

// Roots returns the trust anchors of leaves and of the serving certificate.
func (c *Coordinator) Roots() *x509.CertPool { return c.authority.Load().Roots() }

// Bundle returns the trust anchors, DER. They must not be changed.
func (c *Coordinator) Bundle() [][]byte { return c.authority.Load().Bundle() }

// ServerCertificate returns the certificate of the coordinator's listeners,
// with the mesh CA after it. Its key is made here and stays in memory. It is
// replaced at half of its life, when the trust domain becomes known, and when a
// CA is replaced.
func (c *Coordinator) ServerCertificate() (*tls.Certificate, error) {
	c.serving.Lock()
	defer c.serving.Unlock()
	domain, now, a := c.current.Load().trustDomain(), c.config.Now(), c.authority.Load()
	if s := c.served; s != nil && c.servedFor == domain && c.servedBy == a && !now.Before(s.Leaf.NotBefore) &&
		s.Leaf.NotAfter.Sub(now) > s.Leaf.NotAfter.Sub(s.Leaf.NotBefore)/2 {
		return s, nil
	}
	s, err := c.newServerCertificate(a, domain, now)
	if err != nil {
		return nil, problem.Because(err, "CRD-006", "issuing the serving certificate")
	}
	c.served, c.servedFor, c.servedBy = s, domain, a
	return s, nil
}

func (c *Coordinator) newServerCertificate(a *authority.Authority, domain string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), c.config.Rand)
	if err != nil {
		return nil, fmt.Errorf("making the key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	token, err := a.PrepareServing(authority.ServingRequest{
		TrustDomain: domain, Names: c.config.ServerNames, PublicKey: spki, NotAfter: now.Add(servingLife),
	}, now)
	if err != nil {
		return nil, err
	}
	issued, err := a.Issue(token)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: issued.Certificates, PrivateKey: key, Leaf: issued.Leaf}, nil
}
