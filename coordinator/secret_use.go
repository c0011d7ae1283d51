package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of what is counted between two records.
const (
	maxUses     = 10_000 // instances and secrets that are counted at once
	maxUseBatch = 500    // records that one Update appends
)

// use is something that an instance does with a version of a secret, as it is
// counted.
type use struct {
	marble, instance, secret string
	version                  uint64
	way                      string // an operation, "fetch", or "refused SEC-002"
}

func useOf(p Peer, secret string, version uint64, way string) use {
	return use{marble: p.Marble, instance: p.Instance, secret: secret, version: version, way: way}
}

// uses counts what would be too much for the log, record by record. Counts since
// the last flush are lost with the process; the first use of each is not.
type uses struct {
	mu     sync.Mutex // guards what follows
	counts map[use]uint64
	since  time.Time // of the first
}

// count counts one use. It is false if there is no room: then it has to be
// written down by itself.
func (u *uses) count(one use, at time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.counts == nil {
		u.counts, u.since = map[use]uint64{}, at
	}
	if _, known := u.counts[one]; !known && len(u.counts) >= maxUses {
		return false
	}
	u.counts[one]++
	return true
}

// take returns the counts and begins anew; restore puts back what could not be
// written.
func (u *uses) take() (map[use]uint64, time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	counts, since := u.counts, u.since
	u.counts = nil
	return counts, since
}

func (u *uses) restore(counts map[use]uint64, since time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for one, n := range u.counts {
		counts[one] += n
	}
	u.counts, u.since = counts, since
}

// counted is what uses of one kind, by all instances of a marble, add up to.
type counted struct {
	marble, secret, way string
	version             uint64
}

// flushUses writes the sums: one record for each marble, secret, version and
// operation.
func (c *Coordinator) flushUses(ctx context.Context) error {
	counts, since := c.secret.uses.take()
	sums := map[counted]uint64{}
	for one, n := range counts {
		sums[counted{one.marble, one.secret, one.way, one.version}] += n
	}
	for len(sums) > 0 {
		var written []counted
		err := c.update(ctx, func(tx *store.Tx) error {
			written = written[:0]
			for sum, n := range sums {
				if len(written) == maxUseBatch {
					break
				}
				if err := c.logUse(tx, sum, n, since); err != nil {
					return err
				}
				written = append(written, sum)
			}
			return nil
		})
		if err != nil {
			for one := range counts {
				if _, left := sums[counted{one.marble, one.secret, one.way, one.version}]; !left {
					delete(counts, one)
				}
			}
			c.secret.uses.restore(counts, since)
			return fmt.Errorf("recording uses of secrets: %w", err)
		}
		for _, sum := range written {
			delete(sums, sum)
		}
	}
	return nil
}

func (c *Coordinator) logUse(tx *store.Tx, sum counted, n uint64, since time.Time) error {
	r := audit.Record{Time: c.config.Now(), Kind: audit.SecretUse, Subject: sum.secret, Actor: sum.marble,
		Text:    fmt.Sprintf("%d times %s", n, sum.way),
		Details: map[string]string{"operation": sum.way, "count": fmt.Sprint(n), "since": stamp(since), "version": fmt.Sprint(sum.version)}}
	if sum.version == 0 {
		delete(r.Details, "version")
	}
	_, err := c.log.Append(tx, r)
	return err
}

// UseSecretRequest is a live instance that has something done with a key, or
// reads or raises a counter.
type UseSecretRequest struct {
	Peer       Peer
	Name       string
	Operation  string // "sign", "encrypt", "decrypt", "hmac", "public", "read", "increment"
	Input      []byte // at most 64 KiB
	Associated []byte // at most 4 KiB
	Version    uint64 // 0 is the newest
	Hash       string // "sha256", "sha384", "sha512"
}

// Format prints who and what alone: the input may be a plaintext.
func (r UseSecretRequest) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s with %s for %s", r.Operation, r.Name, r.Peer.Marble) //nolint:errcheck // as fmt itself does
}

// SecretUse is what came of it.
type SecretUse struct {
	Output  []byte
	Version uint64 // that was used
	Count   uint64 // of a counter
}

// Format prints the version alone.
func (u SecretUse) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "version %d", u.Version) } //nolint:errcheck // as fmt itself does

// UseSecret does something with a key that its readers may use. The first use of
// a version by an instance is in the log when this returns; later ones are
// counted. A counter's new value is durable when this returns. Errors: CRD-033
// to CRD-035 (leaf), SEC-001 to SEC-008, SEC-016.
func (c *Coordinator) UseSecret(ctx context.Context, req UseSecretRequest) (used SecretUse, err error) {
	err = c.again(ctx, func() (err error) {
		switch manifest.Operation(req.Operation) {
		case secrets.Counted, secrets.Raise:
			used, err = c.useCounter(ctx, req)
		default:
			used, err = c.useKey(ctx, req)
		}
		return err
	})
	return used, c.denied(ctx, req.Peer, req.Name, err)
}

func (c *Coordinator) useKey(ctx context.Context, req UseSecretRequest) (SecretUse, error) {
	usage := secrets.Usage{Name: req.Name, Operation: manifest.Operation(req.Operation), Input: req.Input, Associated: req.Associated,
		Version: req.Version, Hash: req.Hash}
	var a access
	var grasp secrets.Grasp
	var missing *secrets.Missing
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		if a, err = c.access(tx, req.Peer); err != nil {
			return err
		}
		grasp, missing, err = secrets.Grip(tx, a.request(c), usage)
		return err
	})
	if err != nil {
		return SecretUse{}, err
	}
	if missing != nil {
		if err := c.makeFor(ctx, a, *missing); err != nil {
			return SecretUse{}, err
		}
		return SecretUse{}, errAgain
	}
	output, version, err := c.secret.keys.Do(ctx, grasp)
	if err != nil || usage.Operation == secrets.Public {
		return SecretUse{Output: output, Version: version}, err
	}
	return SecretUse{Output: output, Version: version}, c.noteUse(ctx, a, use{req.Peer.Marble, req.Peer.Instance, req.Name, version, req.Operation})
}

// makeFor makes the first version of a key that nobody has used yet.
func (c *Coordinator) makeFor(ctx context.Context, a access, missing secrets.Missing) error {
	at := c.config.Now()
	made, err := c.maker.Make(ctx, c.authority.Load(), []secrets.Missing{missing}, at)
	if err != nil {
		return err
	}
	return c.update(ctx, func(tx *store.Tx) error {
		if err := c.confirm(tx, &a); err != nil {
			return err
		}
		_, err := secrets.Rotate(tx, []secrets.Missing{missing}, made, at)
		return err
	})
}

// noteUse counts a use, or writes down the first that an instance makes of a
// version.
func (c *Coordinator) noteUse(ctx context.Context, a access, one use) error {
	t := touch(a.rev.m, a.record, one.secret, one.version)
	t.Last = a.record.touchedAt
	known := false
	err := c.store.View(ctx, func(tx *store.Tx) error {
		known = secrets.Noted(tx, t, secrets.ByUse)
		_, err := c.access(tx, a.peer) // it may have waited long for its turn
		return err
	})
	if err != nil || known && c.secret.uses.count(one, t.Last) {
		return err
	}
	return c.update(ctx, func(tx *store.Tx) error {
		if err := c.confirm(tx, &a); err != nil {
			return err
		}
		if _, err := secrets.Note(tx, t, secrets.ByUse); err != nil {
			return err
		}
		_, err := c.log.Append(tx, audit.Record{Time: t.Last, Kind: audit.SecretUse, Subject: one.secret, Actor: one.marble, Text: "first use: " + one.way,
			Decision: a.record.Decision, Evidence: a.record.Evidence,
			Details: map[string]string{"instance": one.instance, "version": fmt.Sprint(one.version), "operation": one.way}})
		return err
	})
}

func (c *Coordinator) useCounter(ctx context.Context, req UseSecretRequest) (SecretUse, error) {
	var a access
	var n uint64
	who := secrets.Asker{Marble: req.Peer.Marble, Instance: req.Peer.Instance}
	err := c.store.View(ctx, func(tx *store.Tx) (err error) {
		if a, err = c.access(tx, req.Peer); err != nil {
			return err
		}
		n, err = secrets.Counter(tx, a.rev.m, who, req.Name)
		return err
	})
	if err != nil || manifest.Operation(req.Operation) == secrets.Counted {
		return SecretUse{Count: n}, err
	}
	err = c.update(ctx, func(tx *store.Tx) (err error) {
		if err = c.confirm(tx, &a); err != nil {
			return err
		}
		n, err = secrets.Increment(tx, a.rev.m, who, req.Name)
		return err
	})
	if err != nil {
		return SecretUse{}, err
	}
	return SecretUse{Count: n}, c.noteUse(ctx, a, useOf(req.Peer, req.Name, 0, req.Operation))
}

// denied records that an instance asked for what it may not have: the first
// time by itself, and what follows as a sum. It returns the refusal.
func (c *Coordinator) denied(ctx context.Context, p Peer, name string, refusal error) error {
	code := problem.CodeOf(refusal)
	switch code {
	case "SEC-001", "SEC-002", "SEC-004", "SEC-005":
	default:
		return refusal
	}
	one := useOf(p, clip(name, 64), 0, "refused "+string(code))
	if code == "SEC-001" {
		one.secret = "" // a name that the caller made up
	}
	if !c.secret.uses.first(one, c.config.Now()) {
		return refusal
	}
	err := c.update(ctx, func(tx *store.Tx) error {
		_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.SecretRefused, Subject: clip(name, 64), Actor: p.Marble, Code: string(code),
			Text: problem.From(refusal).Detail, Details: map[string]string{"instance": p.Instance}})
		return err
	})
	if err != nil {
		return errors.Join(refusal, err)
	}
	return refusal
}

// first counts one use and reports whether it is the first since the last flush.
func (u *uses) first(one use, at time.Time) bool {
	if !u.count(one, at) {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.counts[one] == 1
}
