package injector

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/transparency"
)

const (
	askTimeout = 3 * time.Second // of the coordinator, within the webhook's own
	// askAgain bounds how often the coordinator is asked, however many pods come.
	askAgain   = 500 * time.Millisecond
	maxMarbles = 10_000 // that are read of the coordinator's list
)

// Manifests says what the coordinator has in force. It is safe for concurrent
// use.
type Manifests interface {
	// Manifest returns the manifest in force, asked for at most age ago. Where the
	// coordinator does not answer it is the last one that was seen, and says so;
	// where none was seen the error is KUB-075, KUB-076 or KUB-077.
	Manifest(ctx context.Context, age time.Duration) (Seen, error)
}

// Seen is a manifest that was in force.
type Seen struct {
	Manifest *manifest.Manifest
	Revision int
	At       time.Time // when it was known to be in force
	Trouble  error     // why it could not be asked for since; nil if it was
}

// coordinator is what is asked of a verified connection; a *client.Client.
type coordinator interface {
	Status(context.Context) (apiv1.Status, error)
	Manifest(context.Context) (apiv1.Manifest, error)
	Marbles(ctx context.Context, after string, limit int) (apiv1.Marbles, error)
	Close()
}

// Source asks one coordinator, which it verifies against the policy. It
// remembers the newest state seen, as every client does.
type Source struct {
	dial    func(context.Context) (coordinator, error)
	now     func() time.Time
	timeout time.Duration // of one answer

	asking     token       // who has it asks for the manifest
	connecting token       // who has it uses
	client     coordinator // nil before the first connection

	mu    sync.Mutex // guards what follows
	seen  Seen       // without a manifest: none was seen
	asked time.Time  // when the coordinator was asked last, with whatever outcome
}

// NewSource returns a source that connects to addr when it is first asked.
func NewSource(addr string, policy []byte, now func() time.Time) (*Source, error) {
	o, err := trust(policy)
	if err != nil {
		return nil, err
	}
	o.Now, o.Timeout = now, askTimeout
	return newSource(func(ctx context.Context) (coordinator, error) {
		c, err := client.Dial(ctx, addr, o)
		if err != nil {
			return nil, err
		}
		return c, nil
	}, now), nil
}

func newSource(dial func(context.Context) (coordinator, error), now func() time.Time) *Source {
	return &Source{dial: dial, now: now, timeout: askTimeout, asking: newToken(), connecting: newToken()}
}

// trust makes of a policy file what a coordinator is judged by.
func trust(raw []byte) (client.Options, error) {
	file, diags := manifest.ParsePolicyFile(raw)
	if err := diags.Err(); err != nil {
		return client.Options{}, problem.Because(err, "KUB-071", "the setting policy")
	}
	o := client.Options{Policy: file.Policy(), Verifiers: hardware.Verifiers()}
	if file.Simulated() {
		root, err := evidence.ParseRoot([]byte(file.SimulationRoot))
		if err != nil {
			return o, problem.Because(err, "KUB-071", "the setting policy: its simulation root")
		}
		if err := sim.AddVerifiers(o.Verifiers, root); err != nil {
			return o, err
		}
	}
	keys, err := transparency.ParseWitnessKeys(file.Log.Witnesses)
	if err != nil {
		return o, problem.Because(err, "KUB-071", "the setting policy: its witnesses")
	}
	o.Witnessing = client.Witnessing{Keys: keys, AtLeast: cmp.Or(file.Log.AtLeast, len(keys)), Within: time.Duration(file.Log.Within)}
	return o, nil
}

// Close closes the connections. Nobody may be asking.
func (s *Source) Close() {
	if s.client != nil {
		s.client.Close()
	}
}

// Manifest implements Manifests.
func (s *Source) Manifest(ctx context.Context, age time.Duration) (Seen, error) {
	came := s.now()
	if seen, fresh := s.known(came.Add(-max(age, askAgain))); fresh {
		return seen.judge()
	}
	// Others wait for the answer too: it does not end with who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if err := s.asking.take(ctx); err != nil {
		seen, _ := s.known(came)
		seen.Trouble = err
		return seen.judge()
	}
	defer s.asking.put()
	if seen, fresh := s.known(came.Add(-askAgain)); fresh { // somebody asked while we waited
		return seen.judge()
	}
	seen, _ := s.known(came)
	m, err := s.ask(ctx, seen)
	switch {
	case err != nil:
		seen.Trouble = err
	default:
		seen = m
	}
	s.mu.Lock()
	s.seen, s.asked = seen, s.now()
	s.mu.Unlock()
	return seen.judge()
}

// known returns what was seen, and whether the coordinator was asked since then.
func (s *Source) known(since time.Time) (Seen, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, !s.asked.IsZero() && !s.asked.Before(since)
}

// judge makes the error of what holds no manifest.
func (s Seen) judge() (Seen, error) {
	switch {
	case s.Manifest != nil:
		return s, nil
	case s.Trouble == nil:
		return s, problem.New("KUB-075", "the coordinator has no manifest yet")
	case problem.From(s.Trouble).Kind() == problem.Refused:
		return s, problem.Because(s.Trouble, "KUB-077", "the coordinator is not the one that the policy names")
	default:
		return s, problem.Because(s.Trouble, "KUB-076", "the coordinator cannot be asked for its manifest")
	}
}

// ask returns what is in force now. The whole manifest is read only where it is
// another one.
func (s *Source) ask(ctx context.Context, last Seen) (Seen, error) {
	c, err := s.connected(ctx)
	if err != nil {
		return Seen{}, err
	}
	st, err := c.Status(ctx)
	switch {
	case err != nil:
		return Seen{}, err
	case len(st.Manifest) == 0:
		return Seen{At: s.now()}, nil
	case last.Manifest != nil && string(st.Manifest) == string(digest(last.Manifest)):
		return Seen{Manifest: last.Manifest, Revision: st.Revision, At: s.now()}, nil
	}
	got, err := c.Manifest(ctx)
	if err != nil {
		return Seen{}, err
	}
	m, diags := manifest.Parse(got.Raw)
	if err := diags.Err(); err != nil {
		return Seen{}, problem.Because(err, "KUB-080", "manifest revision %d", got.Revision)
	}
	return Seen{Manifest: m, Revision: got.Revision, At: s.now()}, nil
}

func digest(m *manifest.Manifest) []byte {
	d := m.Digest()
	return d[:]
}

// Marbles returns the roles of the manifest with their live instances and newest
// refusals, as the coordinator shows them to anybody.
func (s *Source) Marbles(ctx context.Context) ([]apiv1.Marble, error) {
	c, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	var all []apiv1.Marble
	for after := ""; ; {
		page, err := c.Marbles(ctx, after, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Marbles...)
		if page.Next == "" || page.Next == after || len(all) > maxMarbles {
			return all, nil
		}
		after = page.Next
	}
}

// connected returns the verified connection.
func (s *Source) connected(ctx context.Context) (coordinator, error) {
	if err := s.connecting.take(ctx); err != nil {
		return nil, err
	}
	defer s.connecting.put()
	if s.client != nil {
		return s.client, nil
	}
	c, err := s.dial(ctx)
	if err == nil {
		s.client = c
	}
	return c, err
}

// token is a lock that nobody waits for longer than a context lasts.
type token chan struct{}

func newToken() token {
	t := make(token, 1)
	t.put()
	return t
}

func (t token) take(ctx context.Context) error {
	select {
	case <-t:
		return nil
	case <-ctx.Done():
		return problem.Because(ctx.Err(), "CRD-106", "the coordinator")
	}
}

func (t token) put() { t <- struct{}{} }
