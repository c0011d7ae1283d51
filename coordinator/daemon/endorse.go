package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	simulatedFor = 5 * time.Second  // how long the simulated vendor's word is not asked for again
	folderFor    = 30 * time.Second // how long folders are not read again, where they are the only source
	fetchedDir   = "fetched"        // below --endorsements: what was fetched or imported
	maxEndings   = 8                // and as many sets that could not be renewed, of which the status warns
	warnEvery    = time.Hour
)

// endorsements are what evidence is judged with: of hardware from the vendors'
// services and from folders, of the simulation from its platform. Their stores
// are apart, so that no simulated vendor is asked about hardware.
type endorsements struct {
	hardware, simulated *fetch.Store
	log                 *slog.Logger
	counts              map[fetch.Outcome]*atomic.Uint64 // never modified
}

// openEndorsements opens the stores that the flags describe.
func (s *settings) openEndorsements(verifiers attest.Verifiers) (*endorsements, error) {
	e := &endorsements{log: s.Log, counts: map[fetch.Outcome]*atomic.Uint64{}}
	for _, o := range fetch.Outcomes() {
		e.counts[o] = new(atomic.Uint64)
	}
	config := fetch.Config{Verifiers: verifiers, Now: s.Now, Log: s.Log, Observe: func(o fetch.Outcome) { e.counts[o].Add(1) }}
	simulated := config
	simulated.Refresh = simulatedFor
	config.Refresh = folderFor
	for _, address := range s.PCCS {
		pccs, err := fetch.NewPCCS(fetch.ClientConfig{URL: address, Now: s.Now})
		if err != nil {
			return nil, invalid("pccs", "%v", err)
		}
		config.Sources, config.Refresh = append(config.Sources, pccs), fetch.DefaultRefresh
		if s.simulated() {
			// Apart: what is simulated may change its mind at any moment.
			if pccs, err = fetch.NewPCCS(fetch.ClientConfig{URL: address, Now: s.Now, Share: time.Second}); err != nil {
				return nil, invalid("pccs", "%v", err)
			}
			simulated.Sources = append(simulated.Sources, pccs)
		}
	}
	for _, address := range s.KDS {
		kds, err := fetch.NewKDS(fetch.ClientConfig{URL: address, Now: s.Now})
		if err != nil {
			return nil, invalid("kds", "%v", err)
		}
		config.Sources = append(config.Sources, kds)
		config.Refresh = fetch.DefaultRefresh
	}
	if s.Endorsements != "" {
		config.Sources = append(config.Sources, fetch.Folder{Root: s.Endorsements})
		config.Dir = filepath.Join(s.Endorsements, fetchedDir)
	}
	if len(simulated.Sources) == 0 {
		simulated.Sources = []fetch.Source{platformSource{sim.Client{Socket: s.SimSocket}}}
	}
	var err error
	if e.hardware, err = fetch.New(config); err != nil {
		return nil, invalid("endorsements", "%v", err)
	}
	e.simulated, err = fetch.New(simulated)
	return e, err
}

// platformSource asks the simulation platform by its socket.
type platformSource struct{ client sim.Client }

// Name implements fetch.Source.
func (p platformSource) Name() string { return "simulation platform" }

// Fetch implements fetch.Source.
func (p platformSource) Fetch(ctx context.Context, n endorse.Need, _ attest.Endorsements) (attest.Endorsements, error) {
	if !n.TEE.Simulated() {
		return attest.Endorsements{}, nil
	}
	en, err := p.client.Endorsements(ctx, n.TEE)
	if err != nil {
		err = problem.Because(err, "ATT-064", "asking the simulation platform")
	}
	return en, err
}

// of is the store for evidence of a TEE.
func (e *endorsements) of(tee attest.TEE) *fetch.Store {
	if tee.Simulated() {
		return e.simulated
	}
	return e.hardware
}

// endorse is the coordinator's Endorser.
func (e *endorsements) endorse(ctx context.Context, evidence attest.Evidence) (attest.Endorsements, error) {
	en, err := e.of(evidence.TEE).Endorse(ctx, evidence)
	if problem.CodeOf(err) != "" {
		// Whoever asks to join reads it: what was asked of whom is in the log.
		why := problem.From(err)
		what, _, _ := strings.Cut(why.Detail, ": ")
		err = problem.New("CRD-133", "%s: %s (%s)", what, problem.Lookup(why.Code).Title, why.Code)
	}
	return en, err
}

// learn takes the set that a piece of evidence was judged with, maybe by another
// replica. What is older than the set at hand stays unused.
func (e *endorsements) learn(evidence attest.Evidence, en attest.Endorsements) {
	if err := e.of(evidence.TEE).Learn(evidence, en); err != nil {
		e.log.Debug("endorsements in the state are not used", "error", err)
	}
}

// run renews the vendors' documents before they end, and warns of those that it
// could not renew.
func (e *endorsements) run(ctx context.Context) {
	warn := time.NewTicker(warnEvery)
	defer warn.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.hardware.Run(ctx)
	}()
	for {
		select {
		case <-warn.C:
			for _, end := range e.hardware.Endings() {
				e.log.Warn("endorsements end and were not renewed", "of", end.Key, "document", end.Document.Identity, "end", end.Document.NextUpdate)
			}
		case <-done:
			return
		}
	}
}

// warnings are what the status shows of endorsements, to anybody: neither what
// names a machine nor a source.
func (e *endorsements) warnings() []apiv1.Attention {
	var all []apiv1.Attention
	ends := e.Endings()
	for i, end := range ends {
		if i == maxEndings {
			all = append(all, attention(problem.New("CRD-136", "%d more documents end soon", len(ends)-i), "", end.Document.Issued))
			break
		}
		why := problem.New("CRD-136", "%s ends at %s", end.Document.Kind, end.Document.NextUpdate.Format(time.RFC3339))
		all = append(all, attention(why, platformOf(end.Key), end.Document.Issued))
	}
	failing := 0
	for _, st := range e.States() {
		if st.Error == "" || failing == maxEndings {
			continue
		}
		failing++
		why := st.Error
		if st.Code != "" {
			why = fmt.Sprintf("%s (%s)", problem.Lookup(st.Code).Title, st.Code)
		}
		all = append(all, attention(problem.New("CRD-137", "%s", why), platformOf(st.Key), st.Fetched))
	}
	return all
}

// platformOf names the kind of platform that a set is of: of AMD's, which are of
// one chip, no more than that.
func platformOf(key string) string {
	if strings.HasPrefix(key, string(attest.SNP)+"/") {
		return string(attest.SNP)
	}
	return key
}

// attention is about the endorsements of a platform; "" stands for several.
func attention(p *problem.Error, platform string, since time.Time) apiv1.Attention {
	return apiv1.Attention{Code: string(p.Code), Subject: strings.TrimSpace("endorsements " + platform), Text: p.Detail, Next: p.Next, Since: since}
}

// Outcomes returns how fetches ended, for metrics.
func (e *endorsements) Outcomes() map[fetch.Outcome]uint64 {
	out := map[fetch.Outcome]uint64{}
	for o, n := range e.counts {
		out[o] = n.Load()
	}
	return out
}

// doubt has all documents asked for again when they are needed next. Decisions
// refuse what is older than any rested on, and another replica may have had newer.
func (e *endorsements) doubt() {
	e.hardware.Doubt()
	e.simulated.Doubt()
}

// close ends the fetches under way.
func (e *endorsements) close() {
	e.hardware.Close()
	e.simulated.Close()
}

// States lists all sets, those of the simulation last.
func (e *endorsements) States() []fetch.State {
	return append(e.hardware.States(), e.simulated.States()...)
}

// Endings lists the documents that end soon.
func (e *endorsements) Endings() []fetch.Ending {
	return append(e.hardware.Endings(), e.simulated.Endings()...)
}

// Export returns all sets.
func (e *endorsements) Export() *endorse.Bundle {
	b := e.hardware.Export()
	for _, set := range e.simulated.Export().Sets() {
		_ = b.Put(set) // one that finds no place any more is fetched again
	}
	return b
}

// Import takes what holds of a bundle.
func (e *endorsements) Import(b *endorse.Bundle) []fetch.Imported {
	var hardware, simulated endorse.Bundle
	for _, set := range b.Sets() {
		into := &hardware
		if set.Need.TEE.Simulated() {
			into = &simulated
		}
		_ = into.Put(set) // the bundle has as many sets as fit
	}
	return append(e.hardware.Import(&hardware), e.simulated.Import(&simulated)...)
}
