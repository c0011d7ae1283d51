package coordinator

import (
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// secretKeeping is what the coordinator has for secrets besides its tables.
type secretKeeping struct {
	keys     *secrets.Keys
	uses     uses
	rotating sync.Mutex // held while secrets are rotated
	watcher  atomic.Pointer[func(marbles map[string]bool)]
	upload   hpke.PrivateKey // what users encrypt values to; made when the coordinator opens
}

func newSecretKeeping(config Config) (*secretKeeping, error) {
	upload, err := apiv1.NewUploadKey()
	if err != nil {
		return nil, fmt.Errorf("making the key for uploads: %w", err)
	}
	return &secretKeeping{keys: secrets.NewKeys(config.Rand), upload: upload}, nil
}

// WatchSecrets has f told, after it is durable, which marbles read a secret that
// has another version now. There is one watcher; f must not block.
func (c *Coordinator) WatchSecrets(f func(marbles map[string]bool)) { c.secret.watcher.Store(&f) }

// secretsChanged tells the watcher who reads the secrets that changed.
func (c *Coordinator) secretsChanged(names ...string) {
	f, m := c.secret.watcher.Load(), c.current.Load().m
	if f == nil || m == nil || len(names) == 0 {
		return
	}
	marbles := map[string]bool{}
	for marble := range m.Marbles {
		for _, name := range m.SecretsOf(marble) {
			if slices.Contains(names, name) {
				marbles[marble] = true
				break
			}
		}
	}
	if len(marbles) > 0 {
		(*f)(marbles)
	}
}

// origin says what an accepted question's marble is and runs on.
func (r *ruling) origin() secrets.Origin {
	mb := r.rev.m.Marbles[r.asked.info.Marble]
	o := secrets.Origin{Marble: r.asked.info.Marble, Instance: r.asked.info.ID, Package: mb.Package, Platform: mb.Platform, TEE: r.asked.evidence.TEE}
	for _, m := range provenanceOf(r.verdict.Claims, r.at).Machines {
		o.Machines = append(o.Machines, m.String())
	}
	return o
}

func (r *ruling) evidenceDigest() attest.Hex {
	digest := r.asked.evidence.Digest()
	return digest[:]
}

// touch is how an instance touches a version of a secret.
func touch(m *manifest.Manifest, r instanceRecord, name string, version uint64) secrets.Touch {
	t := secrets.Touch{Secret: name, Version: version, Origin: r.Origin, Evidence: r.Evidence}
	if m.Secrets[name].Scope == manifest.Instance {
		t.Of = instanceKey(r.Origin.Marble, r.Origin.Instance)
	}
	return t
}

// noteRelease notes in lineage that an instance gets values, and returns them as
// the log names them: "name@version".
func noteRelease(tx *store.Tx, m *manifest.Manifest, r instanceRecord, values map[string]secrets.Value, way string) ([]string, error) {
	names := make([]string, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		names = append(names, fmt.Sprintf("%s@%d", name, v.Version))
		all := []*secrets.Value{&v}
		if v.Previous != nil {
			all = append(all, v.Previous)
		}
		for _, one := range all {
			t := touch(m, r, name, one.Version)
			t.Last, t.Serial, t.NotAfter = r.touchedAt, one.Serial, one.NotAfter
			if _, err := secrets.Note(tx, t, way); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// versions are the newest versions of values, by name.
func versions(values map[string]secrets.Value) map[string]uint64 {
	if len(values) == 0 {
		return nil
	}
	newest := make(map[string]uint64, len(values))
	for name, v := range values {
		newest[name] = v.Version
	}
	return newest
}

// release settles an accepted question's secrets and notes what it touches: its
// leaf and those secrets.
func (c *Coordinator) release(tx *store.Tx, s *settlement) (complete bool, err error) {
	if s.values, complete, err = secrets.Settle(tx, s.request(), s.made); err != nil || !complete {
		return complete, secretError(err, "releasing the secrets of %s", s.asked.info.Marble)
	}
	s.record.Released, s.record.touchedAt = versions(s.values), s.at
	if s.secrets, err = noteRelease(tx, s.rev.m, s.record, s.values, secrets.ByLease); err != nil {
		return false, err
	}
	_, err = secrets.Note(tx, secrets.Touch{Secret: secrets.Leaf, Origin: s.record.Origin, Serial: s.serial, NotAfter: s.end,
		Evidence: s.record.Evidence, Last: s.at}, secrets.ByLease)
	return true, err
}

// secretError keeps a coded error as it is, and codes any other.
func secretError(err error, format string, args ...any) error {
	var coded *problem.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return problem.Because(err, "CRD-037", format, args...)
}

// access is a live instance that wants something of a secret.
type access struct {
	rev    *revision
	peer   Peer
	record instanceRecord
	names  []string
	fetch  bool
}

func (a access) request(c *Coordinator) secrets.Request {
	return secrets.Request{Manifest: a.rev.m, Asker: secrets.Asker{Marble: a.peer.Marble, Instance: a.peer.Instance}, Names: a.names,
		At: c.config.Now(), Fetched: a.fetch}
}

// access begins what a peer asks for, under the manifest in force.
func (c *Coordinator) access(tx *store.Tx, p Peer) (access, error) {
	a := access{rev: c.current.Load(), peer: p}
	if a.rev.m == nil {
		return a, problem.New("CRD-011", "no manifest was set yet")
	}
	if err := c.withheld(p); err != nil {
		return a, err
	}
	var err error
	if a.record, err = renewable(tx, p, c.config.Now()); err != nil {
		return a, err
	}
	a.record.touchedAt = c.config.Now()
	return a, judgedAnew(a.rev, p, a.record)
}

// confirm is access in an Update: what it rests on is still in force.
func (c *Coordinator) confirm(tx *store.Tx, a *access) error {
	if c.moved(tx, a.rev) {
		return errAgain
	}
	if err := c.withheld(a.peer); err != nil {
		return err
	}
	var err error
	a.record, err = renewable(tx, a.peer, c.config.Now())
	a.record.touchedAt = c.config.Now()
	return err
}

// again repeats what a peer asks for while what it rests on changes.
func (c *Coordinator) again(ctx context.Context, do func() error) error {
	done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	for range maxTries {
		if err := do(); !errors.Is(err, errAgain) {
			return err
		}
		c.awaitManifest()
		if err := c.syncIncidents(ctx); err != nil {
			return err
		}
	}
	return problem.New("CRD-018", "it changed %d times", maxTries)
}

// Sent is what a running instance has: the versions of secrets in its lease, nil
// for what its newest leaf came with, and the digest of the manifest that its
// parameters are of; empty where that is not known: then parameters are no reason.
type Sent struct {
	Versions map[string]uint64
	Revision string
}

// Refresh returns a live instance's lease, without certificates, if a secret in
// it has another version, or the manifest in force is another one. It is false if
// nothing changed, and for an older leaf than the newest. CRD-093 says that the
// instance has to offer fresh evidence first.
func (c *Coordinator) Refresh(ctx context.Context, p Peer, sent Sent) (lease Lease, changed bool, err error) {
	err = c.again(ctx, func() (err error) {
		lease, changed, err = c.refresh(ctx, p, sent)
		return err
	})
	if problem.CodeOf(err) == "SEC-003" {
		return Lease{}, false, nil // there will be something to send once it is supplied
	}
	return lease, changed, err
}

func (c *Coordinator) refresh(ctx context.Context, p Peer, has Sent) (Lease, bool, error) {
	var a access
	var missing []secrets.Missing
	var values map[string]secrets.Value
	same, sent := false, has.Versions
	err := c.store.View(ctx, func(tx *store.Tx) error {
		var err error
		if a, err = c.access(tx, p); err != nil {
			return err
		}
		if sent == nil {
			sent = a.record.Released
		}
		a.names = a.rev.m.SecretsOf(p.Marble)
		if p.Serial != a.record.Serial {
			return nil
		}
		same = maps.Equal(sent, secrets.Versions(tx, a.request(c)))
		values, missing, err = secrets.Find(tx, a.request(c))
		return err
	})
	if err != nil || p.Serial != a.record.Serial || same && (has.Revision == "" || has.Revision == a.rev.digest()) {
		return Lease{}, false, err
	}
	if same && len(missing) == 0 { // what it has already needs no record
		return c.leaseOf(a, values), true, nil
	}
	values, err = c.give(ctx, a, missing, func(tx *store.Tx, a access, values map[string]secrets.Value) error {
		names, err := noteRelease(tx, a.rev.m, a.record, values, secrets.ByLease)
		if err != nil {
			return err
		}
		names = slices.DeleteFunc(names, func(n string) bool {
			name, version, _ := strings.Cut(n, "@")
			return fmt.Sprint(sent[name]) == version
		})
		return c.logRelease(tx, a, names, "secrets of a running marble have other versions")
	})
	if err != nil {
		return Lease{}, false, err
	}
	return c.leaseOf(a, values), true, nil
}

// leaseOf is what an instance with a leaf has now, besides the leaf.
func (c *Coordinator) leaseOf(a access, values map[string]secrets.Value) Lease {
	parameters := a.rev.m.Marbles[a.peer.Marble].Parameters
	return Lease{
		Bundle: c.authority.Load().Bundle(), RenewAfter: a.record.RenewAfter, DegradeAt: a.record.DegradeAt, DrainAt: a.record.DrainAt, NotAfter: a.record.NotAfter,
		Secrets: values, Revision: a.rev.digest(), SPIFFEID: authority.SPIFFEID(a.rev.m.TrustDomain, a.peer.Marble), Parameters: &parameters,
	}
}

// give makes what is missing and releases the secrets of an access in one
// Update, in which note writes down what that means.
func (c *Coordinator) give(ctx context.Context, a access, missing []secrets.Missing, note func(*store.Tx, access, map[string]secrets.Value) error) (map[string]secrets.Value, error) {
	req := a.request(c)
	made, err := c.maker.Make(ctx, c.authority.Load(), missing, req.At)
	if err != nil {
		return nil, err
	}
	var values map[string]secrets.Value
	err = c.update(ctx, func(tx *store.Tx) error {
		if err := c.confirm(tx, &a); err != nil {
			return err
		}
		var complete bool
		var err error
		if values, complete, err = secrets.Settle(tx, req, made); err != nil {
			return err
		}
		if !complete {
			return errAgain
		}
		return note(tx, a, values)
	})
	return values, err
}

func (c *Coordinator) logRelease(tx *store.Tx, a access, names []string, text string) error {
	_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.SecretRelease, Subject: a.peer.Marble, Actor: a.peer.Marble, Text: text,
		Decision: a.record.Decision, Evidence: a.record.Evidence,
		Details: map[string]string{"instance": a.peer.Instance, "secrets": strings.Join(names, " ")}})
	return err
}

// FetchSecret gives a live instance a secret that it may read, and makes it if
// nobody has asked for it before. The first time that it gets a version is in
// the log when this returns; later ones are counted. Errors: CRD-033 to CRD-035
// (leaf), SEC-001 to SEC-005.
func (c *Coordinator) FetchSecret(ctx context.Context, p Peer, name string) (value secrets.Value, err error) {
	err = c.again(ctx, func() (err error) {
		value, err = c.fetch(ctx, p, name)
		return err
	})
	return value, c.denied(ctx, p, name, err)
}

func (c *Coordinator) fetch(ctx context.Context, p Peer, name string) (secrets.Value, error) {
	var a access
	var have map[string]secrets.Value
	var missing []secrets.Missing
	known := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		var err error
		if a, err = c.access(tx, p); err != nil {
			return err
		}
		a.names, a.fetch = []string{name}, true
		if have, missing, err = secrets.Find(tx, a.request(c)); err != nil || len(missing) > 0 {
			return err
		}
		known = secrets.Noted(tx, touch(a.rev.m, a.record, name, have[name].Version), secrets.ByFetch)
		return nil
	})
	if err != nil {
		return secrets.Value{}, err
	}
	if known && c.secret.uses.count(useOf(p, name, have[name].Version, secrets.ByFetch), c.config.Now()) {
		return have[name], nil
	}
	values, err := c.give(ctx, a, missing, func(tx *store.Tx, a access, values map[string]secrets.Value) error {
		names, err := noteRelease(tx, a.rev.m, a.record, values, secrets.ByFetch)
		if err != nil {
			return err
		}
		return c.logRelease(tx, a, names, "fetched")
	})
	return values[name], err
}

// DepositSecret gives an opaque secret the value that a live instance made, as
// its next version, and returns that. Errors: CRD-033 to CRD-035 (leaf),
// SEC-001, SEC-002, SEC-008, SEC-014.
func (c *Coordinator) DepositSecret(ctx context.Context, p Peer, name string, value []byte) (version uint64, err error) {
	var put secrets.Rotated
	err = c.again(ctx, func() error {
		var a access
		err := c.store.View(ctx, func(tx *store.Tx) (err error) {
			if a, err = c.access(tx, p); err != nil {
				return err
			}
			return secrets.MayDeposit(a.rev.m, p.Marble, name)
		})
		if err != nil {
			return err
		}
		return c.update(ctx, func(tx *store.Tx) error {
			if err := c.confirm(tx, &a); err != nil {
				return err
			}
			put, err = secrets.Put(tx, a.rev.m, secrets.Supply{Name: name, Value: value, By: "marble " + instanceKey(p.Marble, p.Instance), At: c.config.Now()})
			if err != nil {
				return err
			}
			return c.logDeposit(tx, a, put)
		})
	})
	if err != nil {
		return 0, c.denied(ctx, p, name, err)
	}
	c.secretsChanged(name)
	return put.Version, nil
}

func (c *Coordinator) logDeposit(tx *store.Tx, a access, put secrets.Rotated) error {
	t := touch(a.rev.m, a.record, put.Name, put.Version)
	t.Last = a.record.touchedAt
	if _, err := secrets.Note(tx, t, secrets.ByDeposit); err != nil {
		return err
	}
	_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.SecretDeposit, Subject: put.Name, Actor: a.peer.Marble, Decision: a.record.Decision,
		Evidence: a.record.Evidence, Text: fmt.Sprintf("a marble supplied version %d", put.Version),
		Details: map[string]string{"instance": a.peer.Instance, "version": fmt.Sprint(put.Version), "until": until(put)}})
	return err
}
