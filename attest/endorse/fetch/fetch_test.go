package fetch_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/attesttest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/hardware"
	"github.com/ashlar-mesh/ashlar/attest/sim/services"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// world is the vendors' services, a clock, and a store that asks the services.
type world struct {
	t       *testing.T
	service *attesttest.Vendors
	store   *fetch.Store

	mu   sync.Mutex
	now  time.Time
	seen []fetch.Outcome
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// pause lets the time pass at once.
func (w *world) pause(ctx context.Context, d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
	return ctx.Err() == nil
}

func (w *world) outcomes() []fetch.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.seen
	w.seen = nil
	return out
}

func newWorld(t *testing.T, at time.Time, sets ...attest.Endorsements) *world {
	w := &world{t: t, now: at, service: attesttest.NewVendors(t, sets...)}
	w.open("")
	return w
}

func (w *world) pccs(suffix string) fetch.Source {
	w.t.Helper()
	p, err := fetch.NewPCCS(fetch.ClientConfig{URL: w.service.URL + suffix, Now: w.clock, Pause: w.pause})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// open makes a new store, as after a restart.
func (w *world) open(dir string, sources ...fetch.Source) {
	w.t.Helper()
	if sources == nil {
		kds, err := fetch.NewKDS(fetch.ClientConfig{URL: w.service.URL, Now: w.clock, Pause: w.pause})
		if err != nil {
			w.t.Fatal(err)
		}
		sources = []fetch.Source{w.pccs(""), kds}
	}
	var err error
	w.store, err = fetch.New(fetch.Config{Sources: sources, Verifiers: hardware.Verifiers(), Dir: dir, Now: w.clock,
		Observe: func(o fetch.Outcome) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, o)
		}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) endorse(e attest.Evidence) attest.Endorsements {
	w.t.Helper()
	en, err := w.store.Endorse(w.t.Context(), e)
	if err != nil {
		w.t.Fatal(err)
	}
	return en
}

const tdxSet = "tdx/phala-v4-b0c0"

var hardwareVerifiers = hardware.Verifiers()

// TestRealEvidence fetches the captured collateral of real machines over HTTP and
// judges their evidence with it: the verdict is that of the captured set.
func TestRealEvidence(t *testing.T) {
	n := 0
	for _, s := range attesttest.All(t) {
		if !s.Genuine || s.Root != nil || len(s.Endorsements.Items()) == 0 || s.Evidence.TEE == attest.NVIDIA {
			continue
		}
		if _, vlek := s.Endorsements.Get(attest.KindVLEK); vlek {
			continue // AMD gives it to nobody but the provider
		}
		n++
		t.Run(s.Name, func(t *testing.T) {
			for _, f := range []services.Fault{{}, {OldHeaders: true}, {UpperFMSPC: true}, {Document: "pckCRL", Encoding: "hex"}, {Document: "rootCRL", Encoding: "hex"},
				{Document: "pckCRL", Encoding: "pem"}, {FormChains: true}} {
				w := newWorld(t, s.At(), s.Endorsements)
				w.service.Script(f)
				got := w.endorse(s.Evidence)
				v, want := hardware.Verifiers()[s.Evidence.TEE], needOf(t, s).Only(s.Endorsements)
				_, steps := v.Verify(s.Evidence, got, s.At())
				_, direct := v.Verify(s.Evidence, want, s.At())
				if len(steps) != len(direct) {
					t.Fatalf("%+v: got %d steps, want %d", f, len(steps), len(direct))
				}
				for i := range steps {
					if steps[i] != direct[i] {
						t.Errorf("%+v: got step %+v, want %+v", f, steps[i], direct[i])
					}
				}
			}
		})
	}
	if n < 15 {
		t.Errorf("got %d sets, want all that have endorsements", n)
	}
}

// TestBaseAddress accepts the forms that operators give.
func TestBaseAddress(t *testing.T) {
	s := attesttest.Load(t, "sgx/automata-v3-606a-eval17")
	eighteen := attesttest.Load(t, "sgx/automata-v3-606a-eval18").Endorsements
	w := newWorld(t, s.At(), s.Endorsements, eighteen)
	for suffix, number := range map[string]uint64{"": 17, "/": 17, "/sgx/certification/v4/": 17, "?update=standard": 17, "?update=early": 18, "?tcbEvaluationDataNumber=18": 18} {
		w.open("", w.pccs(suffix))
		for _, d := range endorse.Describe(w.endorse(s.Evidence)) {
			if d.Kind == attest.KindTCBInfo && d.Number != number {
				t.Errorf("%q: got evaluation number %d, want %d", suffix, d.Number, number)
			}
		}
	}
	for _, bad := range []string{"", "pccs:8081", "ftp://x", "https://user:pass@x", "https://x?a=b", "https://x?update=early&tcbEvaluationDataNumber=1", "https://x#y"} {
		if _, err := fetch.NewPCCS(fetch.ClientConfig{URL: bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := fetch.NewKDS(fetch.ClientConfig{URL: "https://x?a=b"}); err == nil {
		t.Error("a KDS with a query was accepted")
	}
}

// TestFaultsOnFirstUse has a service fail in each way before anything is at hand.
func TestFaultsOnFirstUse(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	for name, c := range map[string]struct {
		fault    services.Fault
		code     problem.Code // "" if the set comes
		requests int          // for the TCB info
		outcome  fetch.Outcome
	}{
		"twice 500":        {services.Fault{Document: "tcbInfo", Times: 2, Status: 500}, "", 3, fetch.Renewed},
		"twice 429":        {services.Fault{Document: "tcbInfo", Times: 2, Status: 429, RetryAfter: 1}, "", 3, fetch.Renewed},
		"cut once":         {services.Fault{Document: "tcbInfo", Times: 1, Truncate: true}, "", 2, fetch.Renewed},
		"always 500":       {services.Fault{Status: 500}, "ATT-064", 4, fetch.Unavailable},
		"always cut":       {services.Fault{Truncate: true}, "ATT-064", 4, fetch.Unavailable},
		"throttled long":   {services.Fault{Status: 429, RetryAfter: 3600}, "ATT-066", 1, fetch.Throttled},
		"not there":        {services.Fault{Status: 404}, "ATT-067", 2, fetch.NotFound},
		"not permitted":    {services.Fault{Status: 401}, "ATT-065", 1, fetch.Unavailable},
		"without an end":   {services.Fault{Huge: true}, "ATT-065", 1, fetch.Unavailable},
		"without a chain":  {services.Fault{Document: "tcbInfo", NoChain: true}, "", 1, fetch.Incomplete},
		"a damaged CRL":    {services.Fault{Document: "pckCRL", Damage: true}, "", 1, fetch.Incomplete},
		"one is not there": {services.Fault{Document: "rootCRL", Status: 404}, "", 1, fetch.Incomplete},
		"all damaged":      {services.Fault{Damage: true}, "ATT-065", 1, fetch.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s.At(), s.Endorsements)
			w.open("", w.pccs(""))
			w.service.Script(c.fault)
			_, err := w.store.Endorse(t.Context(), s.Evidence)
			if got := problem.CodeOf(err); got != c.code {
				t.Errorf("got %v, want code %q", err, c.code)
			}
			if got := w.service.Requests("tcbInfo"); got != c.requests {
				t.Errorf("got %d requests for the TCB info, want %d", got, c.requests)
			}
			if got := w.outcomes(); len(got) != 1 || got[0] != c.outcome {
				t.Errorf("got outcomes %v, want %s", got, c.outcome)
			}
		})
	}
}

// TestFailureIsRemembered asks a service that has nothing once, not for each
// piece of evidence, and again after a while.
func TestFailureIsRemembered(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	w := newWorld(t, s.At(), s.Endorsements)
	w.open("", w.pccs(""))
	w.service.Script(services.Fault{Status: 404})
	for range 5 {
		if _, err := w.store.Endorse(t.Context(), s.Evidence); problem.CodeOf(err) != "ATT-067" {
			t.Fatalf("got %v, want ATT-067", err)
		}
	}
	asked := w.service.Requests("")
	if asked > 5 { // four documents, one of them in both letter cases
		t.Errorf("got %d requests, want one round", asked)
	}
	w.service.Script()
	w.pass(11 * time.Minute)
	if got := w.endorse(s.Evidence); len(got.Items()) != 4 {
		t.Errorf("got %d documents after a while, want 4", len(got.Items()))
	}
}

// TestLastGoodSetServes keeps answering while the source is down, forged, or
// older, and asks no more often than it should.
func TestLastGoodSetServes(t *testing.T) {
	s, stale := attesttest.Load(t, "sgx/automata-v3-606a-eval19"), attesttest.Load(t, "sgx/automata-v3-606a-eval17")
	for name, spoil := range map[string]func(w *world){
		"down":    func(w *world) { w.service.Script(services.Fault{Status: 500}) },
		"forged":  func(w *world) { w.service.Script(services.Fault{Damage: true}) },
		"older":   func(w *world) { w.service.Serve(stale.Endorsements) },
		"nothing": func(w *world) { w.service.Serve() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s.At(), s.Endorsements)
			w.open("", w.pccs(""))
			good := w.endorse(s.Evidence)
			asked := w.service.Requests("")
			w.pass(time.Hour)
			if w.endorse(s.Evidence); w.service.Requests("") != asked {
				t.Error("a fresh set was asked for again")
			}
			spoil(w)
			w.pass(fetch.DefaultRefresh)
			got := w.endorse(s.Evidence)
			if w.service.Requests("") == asked {
				t.Error("a set that is due was not asked for")
			}
			for _, it := range good.Items() {
				if now, _ := got.Get(it.Kind); it.Kind != attest.KindPCKCRL && it.Kind != attest.KindRootCRL && string(now.Body) != string(it.Body) {
					t.Errorf("%s was replaced", it.Kind)
				}
			}
			if st := w.store.States(); len(st) != 1 || st[0].Error == "" {
				t.Errorf("got %+v, want the reason in the status", st)
			}
		})
	}
}

// TestOlderNeverReplaces also after the document at hand has ended.
func TestOlderNeverReplaces(t *testing.T) {
	newer, older := attesttest.Load(t, "sgx/automata-v3-606a-eval19"), attesttest.Load(t, "sgx/automata-v3-606a-eval17")
	w := newWorld(t, newer.At(), newer.Endorsements)
	w.open("", w.pccs(""))
	w.endorse(newer.Evidence)
	w.service.Serve(older.Endorsements)
	w.pass(365 * 24 * time.Hour)
	for _, d := range endorse.Describe(w.endorse(newer.Evidence)) {
		if d.Kind == attest.KindTCBInfo && d.Number != 19 {
			t.Errorf("got evaluation number %d, want 19", d.Number)
		}
	}
}

// TestNewerReplaces takes over what is newer, document by document.
func TestNewerReplaces(t *testing.T) {
	old, recovered := attesttest.Load(t, "sgx/automata-v3-606a-eval17"), attesttest.Load(t, "sgx/automata-v3-606a-eval19")
	for name, due := range map[string]func(w *world){
		"in time":  func(w *world) { w.pass(fetch.DefaultRefresh) },
		"in doubt": func(w *world) { w.pass(time.Minute); w.store.Doubt() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, old.At(), old.Endorsements)
			w.open("", w.pccs(""))
			w.endorse(old.Evidence)
			w.service.Serve(recovered.Endorsements) // a TCB recovery
			due(w)
			for _, d := range endorse.Describe(w.endorse(old.Evidence)) {
				if d.Kind == attest.KindTCBInfo && d.Number != 19 {
					t.Errorf("got evaluation number %d, want 19", d.Number)
				}
			}
		})
	}
}

// TestManyAskersOneFetch never stampedes: everybody waits for the same requests.
func TestManyAskersOneFetch(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	w := newWorld(t, s.At(), s.Endorsements)
	w.open("", w.pccs(""))
	var all sync.WaitGroup
	var wrong atomic.Int32
	for range 100 {
		all.Go(func() {
			if en, err := w.store.Endorse(t.Context(), s.Evidence); err != nil || len(en.Items()) != 4 {
				wrong.Add(1)
			}
		})
	}
	all.Wait()
	if wrong.Load() > 0 || w.service.Requests("") != 4 {
		t.Errorf("got %d failures and %d requests, want 0 and 4", wrong.Load(), w.service.Requests(""))
	}
}

// TestSharedDocuments asks once for what several platforms have in common.
func TestSharedDocuments(t *testing.T) {
	a, b := attesttest.Load(t, "tdx/alibaba-v5-90c0"), attesttest.Load(t, tdxSet)
	w := newWorld(t, b.At(), a.Endorsements, b.Endorsements)
	w.open("", w.pccs(""))
	w.endorse(a.Evidence)
	w.endorse(b.Evidence)
	if got := w.service.Requests("rootCRL"); got != 1 {
		t.Errorf("got %d requests for the root's CRL, want 1", got)
	}
}

// TestOnlyGenuineEvidenceIsFetchedFor lets nobody make the store ask for
// platforms of his choice.
func TestOnlyGenuineEvidenceIsFetchedFor(t *testing.T) {
	for _, name := range []string{"tdx/neg-tampered-mrtd", "tdx/neg-tampered-qe-authdata", "sgx/neg-tampered-attkey", "sgx/neg-truncated"} {
		s := attesttest.Load(t, name)
		w := newWorld(t, s.At(), s.Endorsements)
		if got := w.endorse(s.Evidence); len(got.Items()) != 0 || w.service.Requests("") != 0 {
			t.Errorf("%s: got %d documents with %d requests, want none", name, len(got.Items()), w.service.Requests(""))
		}
	}
	s := attesttest.Load(t, "snp/msft-milan-v3-vcek")
	w := newWorld(t, s.At())
	codes := map[problem.Code]int{}
	for i := range 200 {
		e := attest.Evidence{TEE: attest.SNP, Raw: append([]byte{}, s.Evidence.Raw...)}
		e.Raw[0x1a0], e.Raw[0x1a1] = byte(i), byte(i>>8) // CHIP_ID
		_, err := w.store.Endorse(t.Context(), e)
		codes[problem.CodeOf(err)]++
	}
	if codes["ATT-067"] == 0 || codes["ATT-067"] > 80 || codes["ATT-066"] == 0 {
		t.Errorf("got %v, want at most 80 chips asked for and the others told to wait", codes)
	}
}

func TestOddEvidence(t *testing.T) {
	w := newWorld(t, time.Now())
	for _, e := range []attest.Evidence{{}, {TEE: "../.."}, {TEE: attest.SGX}, {TEE: attest.SGX, Raw: make([]byte, attest.MaxEvidence+1)}, {TEE: attest.SNP, Raw: make([]byte, 1184)}} {
		if got := w.endorse(e); len(got.Items()) != 0 {
			t.Errorf("%s: got %d documents, want none", e.TEE, len(got.Items()))
		}
	}
	if _, err := w.store.Get(t.Context(), endorse.Need{}); problem.CodeOf(err) != "ATT-068" {
		t.Errorf("no need: got %v, want ATT-068", err)
	}
	w.store, _ = fetch.New(fetch.Config{Verifiers: hardware.Verifiers(), Now: w.clock})
	s := attesttest.Load(t, tdxSet)
	if _, err := w.store.Endorse(t.Context(), s.Evidence); problem.CodeOf(err) != "ATT-067" {
		t.Errorf("no sources: got %v, want ATT-067", err)
	}
}

// TestClose ends a fetch that is under way, and gives none after it.
func TestClose(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	w := newWorld(t, s.At(), s.Endorsements)
	w.open("", w.pccs(""))
	w.service.Script(services.Fault{Delay: attest.Duration(time.Minute)})
	done := make(chan error)
	go func() {
		_, err := w.store.Endorse(t.Context(), s.Evidence)
		done <- err
	}()
	for w.service.Requests("") == 0 {
		runtime.Gosched()
	}
	w.store.Close()
	if err := <-done; problem.CodeOf(err) != "ATT-064" {
		t.Errorf("while it was closed: got %v, want ATT-064", err)
	}
	w.pass(time.Hour)
	if _, err := w.store.Endorse(t.Context(), s.Evidence); problem.CodeOf(err) != "ATT-064" {
		t.Errorf("after it: got %v, want ATT-064", err)
	}
	w.store.Close()
}

// TestSeveralSources asks the next source for what the one before has not, or
// has wrong, and not if that has all.
func TestSeveralSources(t *testing.T) {
	s := attesttest.Load(t, tdxSet)
	for name, c := range map[string]struct {
		first    services.Fault
		requests int // of the second source
	}{
		"all there":           {services.Fault{}, 0},
		"one is missing":      {services.Fault{Document: "pckCRL", Status: 404}, 4},
		"one is forged":       {services.Fault{Document: "tcbInfo", Damage: true}, 4},
		"the first throttles": {services.Fault{Status: 429, RetryAfter: 3600}, 4},
	} {
		a, b := newWorld(t, s.At(), s.Endorsements), newWorld(t, s.At(), s.Endorsements)
		a.service.Script(c.first)
		a.open("", a.pccs(""), b.pccs(""))
		if got := a.endorse(s.Evidence); got.Digest() != s.Endorsements.Digest() {
			t.Errorf("%s: got %d documents, want the whole set", name, len(got.Items()))
		}
		if got := b.service.Requests(""); got != c.requests {
			t.Errorf("%s: got %d requests to the second source, want %d", name, got, c.requests)
		}
	}
}
