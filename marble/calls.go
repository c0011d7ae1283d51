package marble

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// What is kept of secrets that were fetched.
const (
	freshTime = 5 * time.Second
	maxFresh  = 256
)

// calls has the connection over which a running marble asks about secrets, and
// what it fetched a moment ago.
type calls struct {
	dialing sync.Mutex // held while link is opened

	mu    sync.Mutex // guards what follows; never held while calling
	lease *Lease     // that link and fresh are of
	link  *link
	older *link // under the leaf before, for what is still running over it
	fresh map[string]fetched
}

type fetched struct {
	secret Secret
	until  time.Time
}

func (c *calls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retire()
	c.retire()
}

// retire gives the connection in use up, and ends the one before. The caller
// holds mu.
func (c *calls) retire() {
	if c.older != nil {
		c.older.close()
	}
	c.older, c.link = c.link, nil
}

// reset forgets what was fetched under another lease, and gives the connection
// up if that had another leaf. The caller holds mu.
func (c *calls) reset(lease *Lease) {
	if c.lease != nil && !c.lease.Chain[0].Equal(lease.Chain[0]) {
		c.retire()
	}
	c.lease, c.fresh = lease, map[string]fetched{}
}

// caller returns a connection under the lease in hand: the one in use if it
// still stands, so that nothing is sent twice.
func (m *Marble) caller(ctx context.Context) (marblepb.MarbleClient, *Lease, error) {
	lease, err := m.inForce()
	if err != nil {
		return nil, nil, err
	}
	if l := m.calls.standing(lease); l != nil {
		return l.client, lease, nil
	}
	m.calls.dialing.Lock()
	defer m.calls.dialing.Unlock()
	if l := m.calls.standing(lease); l != nil { // another was faster
		return l.client, lease, nil
	}
	l, err := m.dial(ctx, lease, lease.Bundle)
	if err != nil {
		return nil, nil, err
	}
	l.rpc.Connect()
	m.calls.use(lease, l)
	return l.client, lease, nil
}

// standing returns the connection of a lease, if it has not ended.
func (c *calls) standing(lease *Lease) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease != lease {
		c.reset(lease)
	}
	if c.link == nil {
		return nil
	}
	switch c.link.rpc.GetState() {
	case connectivity.Ready, connectivity.Connecting:
		return c.link
	}
	return nil
}

// use makes l the connection in place of one that has ended.
func (c *calls) use(lease *Lease, l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease != lease {
		c.reset(lease)
	}
	c.retire()
	c.link = l
}

func (c *calls) recall(lease *Lease, name string, at time.Time) (Secret, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.fresh[name]
	return f.secret, ok && c.lease == lease && at.Before(f.until)
}

func (c *calls) keep(lease *Lease, name string, s Secret, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease != lease {
		return
	}
	if len(c.fresh) >= maxFresh {
		clear(c.fresh)
	}
	c.fresh[name] = fetched{s, at.Add(freshTime)}
}

// Secret asks the coordinator for a secret that the marble may read, under a live
// lease: MRB-021 and MRB-032 without one. What was fetched is kept for 5 s, and
// not beyond the lease or its next version in it.
func (m *Marble) Secret(ctx context.Context, name string) (Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	if lease, err := m.inForce(); err != nil {
		return Secret{}, err
	} else if s, ok := m.calls.recall(lease, name, m.cfg.Now()); ok {
		return s, nil
	}
	client, lease, err := m.caller(ctx)
	if err != nil {
		return Secret{}, err
	}
	resp, err := client.Fetch(ctx, &marblepb.FetchRequest{Name: name})
	if err != nil {
		return Secret{}, m.callError(err, "fetching secret "+short(name))
	}
	if resp.GetSecret() == nil {
		return Secret{}, problem.New("MRB-009", "secret %.64q is empty", name)
	}
	s := readSecret(resp.GetSecret())
	m.calls.keep(lease, name, s, m.cfg.Now())
	return s, nil
}

// Use is something to do with a key that stays where it is, or with a counter.
type Use struct {
	Secret     string
	Operation  string // "sign", "encrypt", "decrypt", "hmac", "public", "read", "increment"
	Input      []byte // at most 64 KiB
	Associated []byte // encrypt, decrypt: what is authenticated with it, at most 4 KiB
	Version    uint64 // 0 is the newest
	Hash       string // sign with RSA, ECDSA: "sha256" if empty, "sha384", "sha512"
}

// Used is the outcome.
type Used struct {
	Output  []byte // signature, ciphertext, plaintext, MAC, or PKIX DER of the public key
	Version uint64 // that was used
	Count   uint64 // of a counter
}

// Use has the coordinator do it, under a live lease. A call whose answer was
// lost is not made again: a counter may have been raised.
func (m *Marble) Use(ctx context.Context, u Use) (Used, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	client, _, err := m.caller(ctx)
	if err != nil {
		return Used{}, err
	}
	resp, err := client.Use(ctx, &marblepb.UseRequest{Name: u.Secret, Operation: u.Operation, Input: u.Input, Associated: u.Associated, Version: u.Version, Hash: u.Hash})
	if err != nil {
		return Used{}, m.callError(err, u.Operation+" with secret "+short(u.Secret))
	}
	return Used{Output: resp.GetOutput(), Version: resp.GetVersion(), Count: resp.GetCount()}, nil
}

// Sign has the coordinator sign a message with a key of the marble's.
func (m *Marble) Sign(ctx context.Context, secret string, message []byte) ([]byte, error) {
	used, err := m.Use(ctx, Use{Secret: secret, Operation: "sign", Input: message})
	return used.Output, err
}

// Deposit gives an opaque secret that the marble may write a new version, and
// returns its number.
func (m *Marble) Deposit(ctx context.Context, secret string, value []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout())
	defer cancel()
	client, _, err := m.caller(ctx)
	if err != nil {
		return 0, err
	}
	resp, err := client.Deposit(ctx, &marblepb.DepositRequest{Name: secret, Value: value})
	if err != nil {
		return 0, m.callError(err, "depositing secret "+short(secret))
	}
	return resp.GetVersion(), nil
}
