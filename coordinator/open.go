package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/authority"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

const (
	exporterSize = 32
	// maxQuotes bounds how much evidence of its own the coordinator makes at
	// once; hardware makes one piece in milliseconds.
	maxQuotes = 8
)

// Coordinator is one deployment's coordinator. It is safe for concurrent use.
type Coordinator struct {
	config  Config
	store   *store.Store
	log     *audit.Log
	signer  *transparency.Signer // of the log
	maker   *secrets.Maker
	nonces  *nonces       // of activations: anybody spends these
	demands *nonces       // of renewals: live instances alone
	joins   *nonces       // of further coordinators: anybody spends these
	quotes  chan struct{} // one token for each quote that is being made
	started time.Time

	stateMu sync.Mutex // guards changes of state
	state   atomic.Int32

	setting   sync.Mutex // held while a manifest is set or a floor raised, until it is published
	current   atomic.Pointer[revision]
	floors    atomic.Pointer[floorsRecord]
	incidents atomic.Pointer[incidents]
	behind    atomic.Pointer[behindRecord] // the state is an older one; nil while that is not known
	unsealed  atomic.Pointer[unsealed]     // sealing failed; nil if it did not
	widened   widened
	marks     marks
	planning  chan struct{} // one token for each plan that is being made
	rotating  sync.Mutex    // held while the mesh CA is rotated
	authority atomic.Pointer[authority.Authority]
	secret    *secretKeeping

	serving   sync.Mutex // guards what follows
	served    *tls.Certificate
	servedFor string // trust domain
	servedBy  *authority.Authority

	live     live
	health   health
	outdated outdated
	refused  atomic.Uint64
	work     sync.WaitGroup // calls that write; Close waits for them
	closing  sync.Mutex     // orders work.Add and Close
}

// Create makes the authority in a new, empty store and opens the coordinator.
// It refuses a store that has one.
func Create(ctx context.Context, s *store.Store, config Config) (*Coordinator, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	a, err := authority.New(config.Now(), config.Rand)
	if err != nil {
		return nil, fmt.Errorf("creating the coordinator: %w", err)
	}
	state, err := a.State()
	if err != nil {
		return nil, fmt.Errorf("creating the coordinator: %w", err)
	}
	seed, err := newLogKey(config.Rand)
	if err != nil {
		return nil, fmt.Errorf("creating the coordinator: %w", err)
	}
	err = s.Update(ctx, func(tx *store.Tx) error {
		if _, exists := keys.Get(tx, keyCA); exists {
			return problem.New("STO-001", "the store holds a coordinator already")
		}
		if err := keys.Put(tx, keyLog, keyRecord{State: seed}); err != nil {
			return err
		}
		return keys.Put(tx, keyCA, keyRecord{State: state.Reveal()})
	})
	if err != nil {
		return nil, err
	}
	return Open(ctx, s, config)
}

// Open opens the coordinator that the store holds. A store without one is
// STO-012: nothing is made up. The store stays the caller's to close, after
// Close.
func Open(ctx context.Context, s *store.Store, config Config) (*Coordinator, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	c := &Coordinator{
		config: config, store: s, log: audit.New(s, config.Rand), maker: secrets.NewMaker(config.Rand),
		quotes: make(chan struct{}, maxQuotes), planning: make(chan struct{}, maxPlans), started: config.Now(), live: newLive(),
	}
	var err error
	if c.secret, err = newSecretKeeping(config); err != nil {
		return nil, err
	}
	if c.nonces, err = newNonces(config.Rand); err != nil {
		return nil, err
	}
	if c.demands, err = newNonces(config.Rand); err != nil {
		return nil, err
	}
	if c.joins, err = newNonces(config.Rand); err != nil {
		return nil, err
	}
	if err := c.load(ctx); err != nil {
		return nil, fmt.Errorf("opening the coordinator: %w", err)
	}
	if err := c.enter(ctx); err != nil {
		return nil, fmt.Errorf("opening the coordinator: %w", err)
	}
	_ = c.reseal(ctx) // it is noted, and tried again by Tick
	if err := c.announce(ctx); err != nil {
		return nil, fmt.Errorf("opening the coordinator: %w", err)
	}
	to := WaitingForManifest
	if c.current.Load().m != nil {
		to = Serving
	}
	return c, c.become(to)
}

func (c Config) check() error {
	for _, m := range []struct {
		name    string
		missing bool
	}{{"Issuer", c.Issuer == nil}, {"Verifiers", len(c.Verifiers) == 0}, {"Endorse", c.Endorse == nil}, {"Now", c.Now == nil}, {"Rand", c.Rand == nil}} {
		if m.missing {
			return errors.New("coordinator: Config." + m.name + " is missing")
		}
	}
	return nil
}

// load reads authority, manifest, floors, marks and instances.
func (c *Coordinator) load(ctx context.Context) error {
	var head revisionRecord
	err := c.store.View(ctx, func(tx *store.Tx) error {
		k, ok := keys.Get(tx, keyCA)
		if !ok {
			return problem.New("STO-012", "the store holds no coordinator")
		}
		a, err := authority.Restore(k.State, c.config.Rand)
		if err != nil {
			return err
		}
		c.authority.Store(a)
		if c.signer, err = logSigner(tx); err != nil {
			return err
		}
		head, _ = heads.Get(tx, keyCurrent)
		for key, r := range instances.All(tx) {
			c.live.put(key, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rev, err := c.readRevision(ctx, head)
	if err != nil {
		return err
	}
	c.current.Store(rev)
	if err := errors.Join(c.loadFloors(ctx), c.loadIncidents(ctx), c.marks.load(ctx, c.store)); err != nil {
		return err
	}
	return c.loadRefusals(ctx)
}

// announce logs that the coordinator opened its state.
func (c *Coordinator) announce(ctx context.Context) error {
	return c.update(ctx, func(tx *store.Tx) error {
		details := map[string]string{"version": c.config.Version, "tee": string(c.config.Issuer.TEE()), "head": store.HeadOf(tx).String()}
		if c.config.Replica != "" {
			details["replica"] = c.config.Replica
		}
		_, err := c.log.Append(tx, audit.Record{Time: c.config.Now(), Kind: audit.Start, Subject: "coordinator", Text: "opened its state", Details: details})
		return err
	})
}

// open refuses work of a coordinator that is not, or not any more, open.
func (c *Coordinator) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return problem.Because(err, "CRD-003", "the request ended before it was looked at")
	}
	if s := c.State(); s != WaitingForManifest && s != Serving {
		return problem.New("CRD-003", "the coordinator is %s", s)
	}
	return nil
}

// begin lets one call write, unless the coordinator is closing; done ends it.
func (c *Coordinator) begin(ctx context.Context) (done func(), err error) {
	c.closing.Lock()
	defer c.closing.Unlock()
	if err := errors.Join(c.open(ctx), c.refuseBehind()); err != nil {
		return nil, problem.From(err)
	}
	c.work.Add(1)
	return c.work.Done, nil
}

// Close refuses new calls, waits for those that write, and records what the
// audit log has only counted. It does not close the store.
func (c *Coordinator) Close() error {
	c.closing.Lock()
	err := c.become(Stopping)
	c.closing.Unlock()
	c.work.Wait()
	return errors.Join(err, c.flushUses(context.Background()), c.log.Flush(context.Background(), c.config.Now(), true))
}

// Ready reports whether requests can be answered, and where the coordinator
// stands. One that waits for its first manifest is ready: to be set one.
func (c *Coordinator) Ready() (ok bool, stage, reason string) {
	if b := c.behind.Load(); b != nil {
		return false, "behind", b.Text
	}
	switch s := c.State(); s {
	case Serving:
		return true, s.String(), ""
	case WaitingForManifest:
		return true, s.String(), "ashlar manifest set"
	default:
		return false, s.String(), ""
	}
}

func (c *Coordinator) changed() {
	if c.config.Changed != nil {
		c.config.Changed()
	}
}
