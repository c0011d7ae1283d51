package coordinator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// Coordinator is one deployment's coordinator. It is safe for concurrent use.
type Coordinator struct{}

var errUnfinished = errors.New("body being written")

func (c *Coordinator) Close() error { return errUnfinished }
func (c *Coordinator) Attest(ctx context.Context, nonce, tlsKey []byte) (apiv1.Statement, error) {
	return apiv1.Statement{}, errUnfinished
}
func (c *Coordinator) ServerCertificate() (*tls.Certificate, error) { return nil, errUnfinished }
func (c *Coordinator) Roots() *x509.CertPool                        { return nil }
func (c *Coordinator) Bundle() [][]byte                             { return nil }
func (c *Coordinator) Manifest(ctx context.Context) (apiv1.Manifest, error) {
	return apiv1.Manifest{}, errUnfinished
}
func (c *Coordinator) SetManifest(ctx context.Context, req SetManifestRequest) (apiv1.SetResult, error) {
	return apiv1.SetResult{}, errUnfinished
}
func (c *Coordinator) Authenticate(certs []*x509.Certificate) (*Principal, error) {
	return nil, errUnfinished
}
func (c *Coordinator) Challenge(ctx context.Context, s Session) ([]byte, error) {
	return nil, errUnfinished
}
func (c *Coordinator) Activate(ctx context.Context, req ActivateRequest) (Activation, error) {
	return Activation{}, errUnfinished
}
func (c *Coordinator) Renew(ctx context.Context, req RenewRequest) (Lease, error) {
	return Lease{}, errUnfinished
}
func (c *Coordinator) Identify(cert *x509.Certificate) (Peer, error) { return Peer{}, errUnfinished }
func (c *Coordinator) NewDemand(ctx context.Context, p Peer, s Session) ([]byte, error) {
	return nil, errUnfinished
}
func (c *Coordinator) Report(ctx context.Context, p Peer, stage, reason string) {}
func (c *Coordinator) Disconnected(p Peer)                                      {}
func (c *Coordinator) ProxyEvent(e ProxyEvent)                                  {}
func (c *Coordinator) Status(ctx context.Context) (apiv1.Status, error) {
	return apiv1.Status{}, errUnfinished
}
func (c *Coordinator) Marbles(ctx context.Context, after string, limit int) (apiv1.Marbles, error) {
	return apiv1.Marbles{}, errUnfinished
}
func (c *Coordinator) Marble(ctx context.Context, name string) (apiv1.Marble, error) {
	return apiv1.Marble{}, errUnfinished
}
func (c *Coordinator) Decisions(ctx context.Context, marble string, limit int) ([]apiv1.Decision, error) {
	return nil, errUnfinished
}
func (c *Coordinator) Decision(ctx context.Context, id string) (apiv1.Decision, error) {
	return apiv1.Decision{}, errUnfinished
}
func (c *Coordinator) Audit(ctx context.Context, from uint64, limit int) (apiv1.Audit, error) {
	return apiv1.Audit{}, errUnfinished
}
func (c *Coordinator) View(ctx context.Context) (*View, error) { return nil, errUnfinished }
func (c *Coordinator) Ready() (ok bool, stage, reason string)  { return false, "", "" }
func (c *Coordinator) Tick(ctx context.Context) error          { return errUnfinished }
