package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
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
	maxEndings   = 8                // of which the status warns
	warnEvery    = time.Hour
)

// endorsements are what evidence is judged with: of hardware from the vendors'
// services and from folders, of the simulation from its platform. Their stores
// are apart, so that no simulated vendor is asked about hardware.
type endorsements struct {
	*fetch.Store // of hardware
	simulated    *fetch.Store
	log          *slog.Logger
	counts       map[fetch.Outcome]*atomic.Uint64 // never modified
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
		config.Sources, simulated.Sources = append(config.Sources, pccs), append(simulated.Sources, pccs)
		config.Refresh = fetch.DefaultRefresh
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
	if e.Store, err = fetch.New(config); err != nil {
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

// endorse is the coordinator's Endorser.
func (e *endorsements) endorse(ctx context.Context, evidence attest.Evidence) (attest.Endorsements, error) {
	store := e.Store
	if evidence.TEE.Simulated() {
		store = e.simulated
	}
	en, err := store.Endorse(ctx, evidence)
	if err != nil {
		err = problem.Because(err, "CRD-133", "endorsements for evidence of %s", evidence.TEE)
	}
	return en, err
}

// run renews the vendors' documents before they end, and warns of those that it
// could not renew.
func (e *endorsements) run(ctx context.Context) {
	warn := time.NewTicker(warnEvery)
	defer warn.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Run(ctx)
	}()
	for {
		select {
		case <-warn.C:
			for _, end := range e.Endings() {
				e.log.Warn("endorsements end and were not renewed", "of", end.Key, "document", end.Document.Identity, "end", end.Document.NextUpdate)
			}
		case <-done:
			return
		}
	}
}

// warnings are what the status shows of endorsements.
func (e *endorsements) warnings() []apiv1.Attention {
	var all []apiv1.Attention
	ends := e.Endings()
	for i, end := range ends {
		if i == maxEndings {
			all = append(all, attention("CRD-136", "endorsements", fmt.Sprintf("%d more documents end soon", len(ends)-i), end.Document.NextUpdate))
			break
		}
		text := fmt.Sprintf("%s ends at %s", end.Document.Identity, end.Document.NextUpdate.Format(time.RFC3339))
		all = append(all, attention("CRD-136", "endorsements "+end.Key, text, end.Document.Issued))
	}
	failing := 0
	for _, st := range e.States() {
		if st.Error == "" {
			continue
		}
		if failing++; failing <= maxEndings {
			all = append(all, attention("CRD-137", "endorsements "+st.Key, st.Error, st.Fetched))
		}
	}
	return all
}

func attention(code problem.Code, subject, text string, since time.Time) apiv1.Attention {
	return apiv1.Attention{Code: string(code), Subject: subject, Text: text, Next: problem.Lookup(code).Next, Since: since}
}

// Outcomes returns how fetches ended, for metrics.
func (e *endorsements) Outcomes() map[fetch.Outcome]uint64 {
	out := map[fetch.Outcome]uint64{}
	for o, n := range e.counts {
		out[o] = n.Load()
	}
	return out
}
