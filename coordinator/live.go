package coordinator

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// Bounds of what instances and proxies report.
const (
	maxReason     = 1 << 10 // bytes
	maxProxyError = 2 << 10 // bytes
	maxProxyNames = 32
	maxAttention  = 32 // of refused marbles and of refusing proxies, each
	refusalPause  = 10 * time.Second
)

// proxyTypes are the resource types that a proxy reports about, in the order in
// which they are shown.
var proxyTypes = []string{"cluster", "endpoint", "listener", "route"}

// live is what the coordinator knows besides its durable state: where the
// leaves of live instances are looked up by serial, and what instances and
// their proxies last reported. It has entries for live instances and for
// marbles of the manifest alone, so it is bounded by them.
type live struct {
	mu       sync.RWMutex // guards all fields
	serials  map[string]leafOf
	runs     map[string]*run            // by instance key
	proxies  int                        // connected ones
	refusals map[string]*apiv1.Decision // newest per marble, while newer than its acceptance
	recent   []string                   // marbles in refusals, newest last, at most maxAttention
	refusing []string                   // instance keys whose proxy refuses, newest last, at most maxAttention
	lapsing  lapsing
}

// leafOf says whose leaf a serial number is of.
type leafOf struct {
	key      string
	notAfter time.Time
}

// run is what one instance reported.
type run struct {
	serial, previous string
	begun            string // serial that times is of
	times            lapse
	phase            phase // as far as it was noticed
	stage, reason    string
	refused          time.Time // when a refusal was last recorded
	proxy            apiv1.Proxy
	provenances      []provenance
	connected        string // serial that the proxy's stream was opened under; streams outlive leaves
}

func newLive() live {
	return live{serials: map[string]leafOf{}, runs: map[string]*run{}, refusals: map[string]*apiv1.Decision{}, lapsing: newLapsing()}
}

// put takes a durable instance record in: its serials count from now on, and
// those that it had before and lost do not. The caller holds mu.
func (l *live) put(key string, r instanceRecord) {
	old := l.runs[key]
	if old == nil {
		old = &run{stage: "attested"}
		l.runs[key] = old
	}
	delete(l.serials, old.serial)
	delete(l.serials, old.previous)
	old.serial, old.previous, old.provenances = r.Serial, r.Previous, r.Provenances
	l.serials[r.Serial] = leafOf{key, r.NotAfter}
	l.begin(key, old, r)
	if r.Leaving {
		old.stage = stageStopping
		l.lapsing.leaving[key] = struct{}{}
	}
	if r.Previous != "" {
		l.serials[r.Previous] = leafOf{key, r.PreviousNotAfter}
	}
}

// sync takes in what the store holds of an instance now, so that the order in
// which commits are noticed does not matter.
func (l *live) sync(ctx context.Context, s *store.Store, key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.View(ctx, func(tx *store.Tx) error {
		if r, ok := instances.Get(tx, key); ok {
			l.put(key, r)
		} else {
			l.drop(key)
		}
		return nil
	})
}

// drop forgets an instance. The caller holds mu.
func (l *live) drop(key string) {
	r := l.runs[key]
	if r == nil {
		return
	}
	delete(l.serials, r.serial)
	delete(l.serials, r.previous)
	l.forget(key, r)
	l.disconnect(r)
	l.refusing = without(l.refusing, key)
	delete(l.runs, key)
}

func (l *live) find(serial string) (leafOf, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	leaf, ok := l.serials[serial]
	return leaf, ok
}

// keepMarbles forgets refusals of marbles that the manifest no longer has.
func (l *live) keepMarbles(rev *revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.refusals {
		if !rev.judges(name) {
			delete(l.refusals, name)
			l.recent = without(l.recent, name)
		}
	}
	for name := range l.lapsing.cuts {
		if _, ok := rev.m.Marbles[name]; !ok {
			l.forgetCut(name)
		}
	}
}

// refuse remembers the newest refusal of a marble; accept forgets it.
func (l *live) refuse(d *apiv1.Decision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals[d.Marble] = d
	l.recent = newest(l.recent, d.Marble)
}

func (l *live) accept(marble string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetCut(marble)
	if _, ok := l.refusals[marble]; ok {
		delete(l.refusals, marble)
		l.recent = without(l.recent, marble)
	}
}

func (l *live) refusal(marble string) *apiv1.Decision {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.refusals[marble]
}

// report returns a copy of what an instance reported.
func (l *live) report(key string) run {
	l.mu.RLock()
	defer l.mu.RUnlock()
	r := l.runs[key]
	if r == nil {
		return run{proxy: apiv1.Proxy{Types: []apiv1.ProxyType{}}}
	}
	c := *r
	c.proxy.Types = append([]apiv1.ProxyType{}, r.proxy.Types...)
	return c
}

// attention returns what is refused and what refuses, newest first.
func (l *live) attention() (refused []*apiv1.Decision, refusing []apiv1.Attention, proxies int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, name := range slices.Backward(l.recent) {
		refused = append(refused, l.refusals[name])
	}
	for _, key := range slices.Backward(l.refusing) {
		for _, t := range l.runs[key].proxy.Types {
			if stuck(t) {
				refusing = append(refusing, apiv1.Attention{Code: "CRD-060", Subject: "proxy " + short(key), Text: t.Type + " " + t.State + ": " + t.Error, Since: t.At})
			}
		}
	}
	return refused, refusing, l.proxies
}

// mayRecord says whether a refused renewal of a live instance is recorded, and
// notes that it is.
func (l *live) mayRecord(key string, at time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runs[key]
	if r == nil || at.Sub(r.refused) < refusalPause && !at.Before(r.refused) {
		return false
	}
	r.refused = at
	return true
}

// stage notes what an instance says of itself, if it lives. It reports whether
// that is new: that it is stopping, so that it gets no new requests.
func (l *live) stage(p Peer, stage, reason string) (leaves bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := instanceKey(p.Marble, p.Instance)
	r := l.runs[key]
	if r == nil || !r.has(p.Serial) {
		return false
	}
	_, leaving := l.lapsing.leaving[key]
	if leaving && stage == stageDisconnected {
		return false
	}
	r.stage, r.reason = clip(stage, 64), clip(reason, maxReason)
	if stage != stageStopping || leaving {
		return false
	}
	l.lapsing.leaving[key] = struct{}{}
	l.lapsing.overdue = without(l.lapsing.overdue, key)
	return true
}

func (r *run) has(serial string) bool {
	return serial != "" && (serial == r.serial || serial == r.previous)
}

func (l *live) disconnect(r *run) {
	if r.proxy.Connected {
		r.proxy.Connected = false
		l.proxies--
	}
}

// event notes what a proxy did.
func (l *live) event(e ProxyEvent, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := instanceKey(e.Peer.Marble, e.Peer.Instance)
	r := l.runs[key]
	if r == nil {
		return
	}
	switch {
	case e.Connected == nil:
	case *e.Connected:
		l.disconnect(r)
		r.proxy.Connected, r.connected = true, e.Peer.Serial
		l.proxies++
	case r.connected == e.Peer.Serial:
		l.disconnect(r)
	}
	if slices.Contains(proxyTypes, e.Type) {
		r.proxyType(e, at)
	} else if e.Connected == nil {
		r.unchanged(e, at)
	}
	l.refusing = without(l.refusing, key)
	if slices.ContainsFunc(r.proxy.Types, stuck) {
		l.refusing = newest(l.refusing, key)
	}
}

// stuck reports whether a proxy did not take what it was sent, or was not sent
// it because it is not consistent.
func stuck(t apiv1.ProxyType) bool { return t.State == "refused" || t.State == "withheld" }

// proxyType notes the state of one resource type, and the revision if every
// type was taken at it.
func (r *run) proxyType(e ProxyEvent, at time.Time) {
	t := apiv1.ProxyType{Type: e.Type, State: clip(e.State, 16), Error: clip(e.Error, maxProxyError), At: at.UTC()}
	for i, n := range e.Names {
		if i == maxProxyNames {
			break
		}
		t.Names = append(t.Names, clip(n, 256))
	}
	i := slices.IndexFunc(r.proxy.Types, func(o apiv1.ProxyType) bool { return o.Type == e.Type })
	if i < 0 {
		r.proxy.Types = append(r.proxy.Types, t)
		slices.SortFunc(r.proxy.Types, func(a, b apiv1.ProxyType) int {
			return slices.Index(proxyTypes, a.Type) - slices.Index(proxyTypes, b.Type)
		})
	} else {
		r.proxy.Types[i] = t
	}
	r.taken(e.Revision)
}

// unchanged notes that the proxy lacks nothing of a revision. After a restart of
// the coordinator that is the first that is known of it.
func (r *run) unchanged(e ProxyEvent, at time.Time) {
	if len(r.proxy.Types) > 0 {
		r.taken(e.Revision)
		return
	}
	for _, t := range []string{"cluster", "listener"} { // that every proxy has
		r.proxyType(ProxyEvent{Type: t, State: "applied", Revision: e.Revision}, at)
	}
}

// taken notes a revision that the proxy has whole, if it took all that it was
// sent.
func (r *run) taken(revision string) {
	for _, o := range r.proxy.Types {
		if o.State != "applied" {
			return
		}
	}
	if revision != "" {
		r.proxy.Revision = clip(revision, 128)
	}
}

// Report notes what an instance says of its stage. It is kept in memory, for as
// long as the instance lives. One that says that it is stopping gets no new
// requests, also from a coordinator that starts anew.
func (c *Coordinator) Report(ctx context.Context, p Peer, stage, reason string) {
	if !c.live.stage(p, stage, reason) {
		return
	}
	c.changed()
	done, err := c.begin(ctx)
	if err != nil {
		return
	}
	defer done()
	// It may be gone before this is stored. A store that fails is shown as such.
	_ = c.update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		key := instanceKey(p.Marble, p.Instance)
		r, ok := instances.Get(tx, key)
		if !ok || p.Serial != r.Serial && p.Serial != r.Previous {
			return nil
		}
		r.Leaving = true
		return instances.Put(tx, key, r)
	})
}

// Disconnected notes that an instance's session has ended.
func (c *Coordinator) Disconnected(p Peer) { c.live.stage(p, stageDisconnected, "its session ended") }

// ProxyEvent notes what the proxy of an instance did.
func (c *Coordinator) ProxyEvent(e ProxyEvent) { c.live.event(e, c.config.Now()) }

func without(list []string, s string) []string {
	return slices.DeleteFunc(list, func(o string) bool { return o == s })
}

// newest puts s last in a list of at most maxAttention.
func newest(list []string, s string) []string {
	list = append(without(list, s), s)
	if len(list) > maxAttention {
		list = slices.Delete(list, 0, len(list)-maxAttention)
	}
	return list
}

// clip cuts s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

func marbleOf(key string) string {
	marble, _, _ := strings.Cut(key, "/")
	return marble
}

// short returns marble/instance with the instance cut to 8 characters.
func short(key string) string {
	marble, id, _ := strings.Cut(key, "/")
	return marble + "/" + clip(id, 8)
}
