package fetch

import "context"

// Reach asks once for a document that is of no one machine: whether the service
// answers from here, not whether what it says is genuine.
func (p *PCCS) Reach(ctx context.Context) error {
	u := p.client.base.JoinPath("sgx/certification/v4/qe/identity")
	u.RawQuery = p.query.Encode()
	_, _, err := p.client.once(ctx, u.String())
	return err
}

// Reach asks once for a document that is of no one machine: whether the service
// answers from here, not whether what it says is genuine.
func (k *KDS) Reach(ctx context.Context) error {
	_, _, err := k.client.once(ctx, k.client.base.JoinPath("vcek/v1/Milan/cert_chain").String())
	return err
}
