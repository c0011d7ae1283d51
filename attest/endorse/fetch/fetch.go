// Package fetch gets endorsements from where vendors offer them, keeps them, and
// renews them: Intel's provisioning certification service or a cache of it
// (PCCS), AMD's key distribution service (KDS), folders that somebody carried
// in, and bundles.
//
// It owns every limit on the way: times, sizes, retries, how many requests run
// at once, how many platforms are kept. It keeps a document only if the vendor
// signed it, it is of the platform that was asked for, and it is not older than
// the one it replaces; and it still judges nothing: windows, revocation and
// status are the verdict's, at the time of the verdict. What lies on the disk is
// verified again when it is read.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Source is one place that offers endorsements.
type Source interface {
	// Name is for logs and the status: an address without secrets, a folder.
	Name() string
	// Fetch returns what the source has of the documents that a need is for, as
	// much as it could get together with why the rest is missing; nothing at all
	// for a TEE that it does not serve. What have holds is at hand: a document
	// that never changes may be left out. It honours ctx. Nothing is believed of
	// what it returns.
	Fetch(ctx context.Context, n endorse.Need, have attest.Endorsements) (attest.Endorsements, error)
}

// Defaults and limits.
const (
	DefaultRefresh = 6 * time.Hour   // age at which a set is asked for again
	maxSets        = endorse.MaxSets // kept; the one that was used longest ago goes first
	maxFailed      = 4096            // needs that are not asked for again for a while
	patience       = 2 * time.Second
	fetchTimeout   = 45 * time.Second // of one set, from all sources
	retryAfter     = 30 * time.Second // after a failure, or an incomplete set
	notFoundAfter  = 10 * time.Minute // after every source said that there is none
	unproven       = 64               // burst of sets fetched for evidence that nothing is known of yet
	unprovenRate   = time.Second      // one more for each
)

// Config says where endorsements come from.
type Config struct {
	Sources   []Source         // in order: the first that has a document gives it
	Verifiers attest.Verifiers // say what evidence needs, and what the vendors signed
	Dir       string           // where verified sets are kept; "": in memory only
	Refresh   time.Duration    // DefaultRefresh if zero
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: none
	// Observe is told how each fetch of a set ended; nil: nobody.
	Observe func(Outcome)
}

// Outcome is how a fetch ended. Outcomes are few and fixed: they label metrics.
type Outcome string

// The outcomes.
const (
	Renewed     Outcome = "renewed"     // at least one document is new
	Unchanged   Outcome = "unchanged"   // the sources have what was there already
	Incomplete  Outcome = "incomplete"  // something is still missing
	Refused     Outcome = "refused"     // what came was not signed, not of the platform, or older
	NotFound    Outcome = "not_found"   // no source has it
	Throttled   Outcome = "throttled"   // sources asked for patience
	Unavailable Outcome = "unavailable" // no source answered
)

// Outcomes lists them all.
func Outcomes() []Outcome {
	return []Outcome{Renewed, Unchanged, Incomplete, Refused, NotFound, Throttled, Unavailable}
}

// Store finds, keeps and renews sets of endorsements. It is safe for concurrent
// use. Run renews them in the background.
type Store struct {
	c     Config
	group singleflight.Group

	mu     sync.Mutex // guards what follows
	sets   map[string]*kept
	failed map[string]failure
	tokens float64 // of unproven
	filled time.Time
	used   uint64 // counts uses, for the order in which sets go
	// running are the fetches under way that no caller owns; nil once closed.
	running map[*fetching]bool
	work    sync.WaitGroup // one for each of running
}

type fetching struct{ cancel context.CancelFunc }

// kept is one set. Its fields are guarded by Store.mu; its endorsements are
// immutable.
type kept struct {
	need    endorse.Need
	set     attest.Endorsements
	docs    []endorse.Document
	fetched time.Time    // when sources were last asked with success
	due     time.Time    // when to ask again
	source  string       // of the newest document
	err     string       // why the last fetch gave less than all; "" if it did
	code    problem.Code // of the error of a source behind err, if there is one
	proven  bool         // genuine evidence was made there, or somebody vouched for the need
	used    uint64
}

type failure struct {
	err   error
	until time.Time
}

// New opens a store. Sets in c.Dir that do not verify any more are left alone
// there and not used.
func New(c Config) (*Store, error) {
	if c.Refresh <= 0 {
		c.Refresh = DefaultRefresh
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Outcome) {}
	}
	s := &Store{c: c, sets: map[string]*kept{}, failed: map[string]failure{}, tokens: unproven, filled: c.Now(), running: map[*fetching]bool{}}
	return s, s.load()
}

// Endorse returns the endorsements to judge a piece of evidence with: at once
// where a set is at hand, else after asking the sources. Many askers of one set
// wait for one fetch. A source that is down is no error while a set is at hand;
// evidence that names no platform, or whose own signatures do not hold, gets
// nothing, and the verdict says why. Errors are ATT-064 to ATT-067.
func (s *Store) Endorse(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	verifier := s.c.Verifiers[e.TEE]
	if verifier == nil || len(e.Raw) == 0 || len(e.Raw) > attest.MaxEvidence {
		return attest.Endorsements{}, nil
	}
	n, ok := s.identify(verifier, e)
	if !ok {
		return attest.Endorsements{}, nil
	}
	set, fresh, err := s.lookup(n)
	if err != nil {
		return set, err
	}
	if fresh {
		s.prove(n, verifier, e, set)
		return set, nil
	}
	if len(set.Items()) == 0 {
		if _, steps := verifier.Verify(e, attest.Endorsements{}, s.c.Now()); !promising(steps) {
			return attest.Endorsements{}, nil
		}
	}
	if set, err = s.wait(ctx, n, set, n.TEE == attest.SNP && !s.proven(n)); err == nil {
		s.prove(n, verifier, e, set)
	}
	return set, err
}

// prove notes that a chip of SEV-SNP is one that makes evidence for us: only
// then is its certificate kept on the disk, and before others in memory.
func (s *Store) prove(n endorse.Need, verifier attest.Verifier, e attest.Evidence, set attest.Endorsements) {
	if s.proven(n) {
		return
	}
	if _, steps := verifier.Verify(e, set, s.c.Now()); !promising(steps) || !signed(steps) {
		return
	}
	s.mu.Lock()
	k := s.sets[n.Key()]
	if k == nil {
		s.mu.Unlock()
		return
	}
	k.proven = true
	m := merger{need: k.need, set: k.set}
	s.mu.Unlock()
	s.save(m)
}

// proven reports whether the set of a need is at hand and proven.
func (s *Store) proven(n endorse.Need) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sets[n.Key()]
	return k != nil && k.proven
}

// identify tells what evidence needs, as cheaply as its verifier can.
func (s *Store) identify(verifier attest.Verifier, e attest.Evidence) (endorse.Need, bool) {
	var claims attest.Claims
	if quick, ok := verifier.(endorse.Identifier); ok {
		claims = quick.Identify(e)
	} else {
		claims, _ = verifier.Verify(e, attest.Endorsements{}, s.c.Now())
	}
	claims.TEE = e.TEE
	n, ok := endorse.NeedOf(claims)
	return n, ok && n.Check() == nil
}

// Get is Endorse for a need that the caller vouches for.
func (s *Store) Get(ctx context.Context, n endorse.Need) (attest.Endorsements, error) {
	if err := n.Check(); err != nil {
		return attest.Endorsements{}, problem.Because(err, "ATT-068", "asking for endorsements")
	}
	set, fresh, err := s.lookup(n)
	if fresh || err != nil {
		return set, err
	}
	return s.wait(ctx, n, set, false)
}

// lookup returns the set at hand, and whether there is no need to ask for a
// newer one; or why it is not to be asked for now.
func (s *Store) lookup(n endorse.Need) (attest.Endorsements, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.c.Now()
	if k := s.sets[n.Key()]; k != nil {
		s.used++
		k.used = s.used
		return k.set, !s.due(k, now) || len(s.c.Sources) == 0, nil
	}
	if f, ok := s.failed[n.Key()]; ok && now.Before(f.until) && f.until.Sub(now) <= notFoundAfter {
		return attest.Endorsements{}, false, f.err
	}
	return attest.Endorsements{}, false, nil
}

// due says whether it is time to ask for a set again. A time that is too far
// ahead was noted by a clock that has been put back since.
func (s *Store) due(k *kept, at time.Time) bool {
	return !at.Before(k.due) || k.due.Sub(at) > s.c.Refresh
}

// signed says whether a key that the vendor vouches for signed the evidence; it
// does not where the certificate of the key is missing.
func signed(steps []attest.Step) bool {
	return slices.ContainsFunc(steps, func(s attest.Step) bool { return s.Code == attest.CodeQuoteSignature && s.OK })
}

// promising says whether the evidence is complete and signed by a platform that
// its vendor knows, as far as that shows without endorsements.
func promising(steps []attest.Step) bool {
	for _, step := range steps {
		switch step.Code {
		case attest.CodeFormat, attest.CodeVersion, attest.CodeCertData, attest.CodeChain, attest.CodeCertExtension, attest.CodeQESignature,
			attest.CodeQEBinding, attest.CodeQuoteSignature:
			if !step.OK {
				return false
			}
		}
	}
	return true
}

// admit says whether a set may be fetched for evidence of which nothing is
// proven: a report of SEV-SNP is one until the chip's certificate is there.
func (s *Store) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.c.Now()
	if gained := now.Sub(s.filled); gained > 0 {
		s.tokens = min(unproven, s.tokens+float64(gained)/float64(unprovenRate))
	}
	s.filled = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// wait asks the sources, with everybody else who wants the set. Whoever has a
// set already does not wait long for a newer one.
func (s *Store) wait(ctx context.Context, n endorse.Need, old attest.Endorsements, unproven bool) (attest.Endorsements, error) {
	fetched := s.group.DoChan(n.Key(), func() (any, error) {
		if unproven && !s.admit() {
			return attest.Endorsements{}, problem.New("ATT-066", "too many chips at once that nothing is known of; %s waits", n.Key())
		}
		ctx, end := s.begin(ctx)
		defer end()
		return s.renew(ctx, n)
	})
	var enough <-chan time.Time
	if len(old.Items()) > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		enough = t.C
	}
	select {
	case got := <-fetched:
		if got.Err != nil && len(old.Items()) > 0 {
			return old, nil
		}
		set, _ := got.Val.(attest.Endorsements)
		return set, got.Err
	case <-enough:
		return old, nil
	case <-ctx.Done():
		return old, ctx.Err()
	}
}

// fetchFrom asks a source within its share of the time that is left for it and
// those after it, so that one that hangs leaves the others theirs.
func fetchFrom(ctx context.Context, source Source, left int, n endorse.Need, have attest.Endorsements) (attest.Endorsements, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	return source.Fetch(ctx, n, have)
}

// begin returns the context of a fetch, and what has to be called at its end. It
// is not the asker's context, since others wait for the same answer: Close ends
// it.
func (s *Store) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		cancel()
		return ctx, func() {}
	}
	f := &fetching{cancel}
	s.running[f] = true
	s.work.Add(1)
	return ctx, func() {
		cancel()
		s.mu.Lock()
		delete(s.running, f)
		s.mu.Unlock()
		s.work.Done()
	}
}

// Close ends the fetches under way and waits for them. What is at hand stays so.
func (s *Store) Close() {
	s.mu.Lock()
	for f := range s.running {
		f.cancel()
	}
	s.running = nil
	s.mu.Unlock()
	s.work.Wait()
}

// renew asks the sources for a need and keeps what holds. It returns the set as
// it is then; an error only if there is none.
func (s *Store) renew(ctx context.Context, n endorse.Need) (attest.Endorsements, error) {
	s.mu.Lock()
	m := merger{store: s, need: n, now: s.c.Now()}
	if k := s.sets[n.Key()]; k != nil {
		m.set, m.docs = k.set, k.docs
	}
	s.mu.Unlock()
	var errs []error
	for i, source := range s.c.Sources {
		got, err := fetchFrom(ctx, source, len(s.c.Sources)-i, n, m.set)
		if len(got.Items()) == 0 && err == nil {
			continue
		}
		refused := m.take(got, source.Name())
		if refused != nil {
			errs = append(errs, problem.Because(refused, "ATT-065", "%s", source.Name()))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", source.Name(), err))
		}
		if err == nil && refused == nil && len(n.Missing(m.set)) == 0 {
			errs = nil // this source gave everything: what others lacked does not matter
			break
		}
	}
	err := errors.Join(errs...)
	if len(s.c.Sources) == 0 {
		err = problem.New("ATT-067", "no source of endorsements is configured").WithNext("%s", "start with --pccs, --kds or --endorsements, or ashlar endorsements import FILE")
	}
	return s.settle(m, err)
}

// keys lists the proven sets that are due at a time, ordered. Of others nobody
// but a stranger may have use: they are asked for again when they are used.
func (s *Store) keys(at time.Time) []endorse.Need {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []endorse.Need
	for _, key := range slices.Sorted(maps.Keys(s.sets)) {
		if k := s.sets[key]; k.proven && s.due(k, at) {
			all = append(all, k.need)
		}
	}
	return all
}

// Doubt makes every set due: somebody else may have judged by newer documents.
func (s *Store) Doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.sets {
		k.due = s.c.Now()
	}
}

// Run renews sets that are due, one after the other, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	t := time.NewTicker(min(time.Minute, s.c.Refresh))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.RenewDue(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// RenewDue asks the sources for every set that is due.
func (s *Store) RenewDue(ctx context.Context) {
	if len(s.c.Sources) == 0 {
		return
	}
	for _, n := range s.keys(s.c.Now()) {
		if ctx.Err() != nil {
			return
		}
		_, _, _ = s.group.Do(n.Key(), func() (any, error) { // the error is in the status
			ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
			defer cancel()
			return s.renew(ctx, n)
		})
	}
}
