package api

import (
	"crypto/sha256"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Endorsements is where the coordinator keeps what the vendors say. It is safe
// for concurrent use.
type Endorsements interface {
	States() []fetch.State
	Endings() []fetch.Ending
	Export() *endorse.Bundle
	// Import takes what holds, as fetch.Store does.
	Import(*endorse.Bundle) []fetch.Imported
}

// endorsements shows hardware ids, so only to users.
func (s *clientAPI) endorsements(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := s.authenticated(r); err != nil {
		return err
	}
	marks := s.c.Marks()
	out := apiv1.Endorsements{Sets: []apiv1.EndorsementSet{}, Ending: []apiv1.EndingDocument{}, Marks: marks.Documents, Clock: marks.Clock}
	if out.Marks == nil {
		out.Marks = map[string]endorse.Mark{}
	}
	for _, st := range s.stored.States() {
		out.Sets = append(out.Sets, apiv1.EndorsementSet{Key: st.Key, Need: st.Need, Digest: st.Digest[:], Documents: st.Documents,
			Missing: st.Missing, Source: st.Source, Fetched: st.Fetched, Error: st.Error})
	}
	for _, e := range s.stored.Endings() {
		out.Ending = append(out.Ending, apiv1.EndingDocument{Key: e.Key, Document: e.Document})
	}
	return answer(w, out)
}

func (s *clientAPI) exportEndorsements(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := s.authenticated(r); err != nil {
		return err
	}
	raw, err := s.stored.Export().Export()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, http.StatusOK, raw)
	return nil
}

func (s *clientAPI) importEndorsements(w http.ResponseWriter, r *http.Request) error {
	user, err := s.mayReceive(r, endorse.MaxBundle)
	if err == nil {
		err = s.c.MayManageEndorsements(user)
	}
	if err != nil {
		unwanted(w, r)
		return err
	}
	raw, err := s.read(w, r, endorse.MaxBundle)
	if err != nil {
		return err
	}
	if raw == nil {
		return problem.New("CRD-113", "wanted at most %d bytes", endorse.MaxBundle)
	}
	b, err := endorse.Import(raw)
	if err != nil {
		return err
	}
	out, err := s.imported(r, user, b, sha256.Sum256(raw))
	if err != nil {
		return err
	}
	return answer(w, out)
}

// imported takes a bundle, and puts into the log that it did.
func (s *clientAPI) imported(r *http.Request, user *coordinator.Principal, b *endorse.Bundle, digest [32]byte) (apiv1.ImportedEndorsements, error) {
	out := apiv1.ImportedEndorsements{Sets: []apiv1.ImportedSet{}}
	taken, refused := 0, 0
	for _, one := range s.stored.Import(b) {
		set := apiv1.ImportedSet{Key: one.Need.Key(), Changed: one.Changed}
		if one.Err != nil {
			set.Reason = one.Err.Error()
			refused++
		}
		if one.Changed {
			taken++
		}
		out.Sets = append(out.Sets, set)
	}
	return out, s.c.RecordImport(r.Context(), user, digest, taken, refused)
}

// endorsementKinds are the values of the label kind.
var endorsementKinds = map[string]string{attest.KindTCBInfo: "tcbInfo", attest.KindQEIdentity: "qeIdentity", attest.KindPCKCRL: "pckCRL",
	attest.KindRootCRL: "rootCRL", attest.KindVCEK: "vcek", attest.KindVLEK: "vlek", attest.KindAMDChain: "chain", attest.KindAMDCRL: "crl"}

// endorsementMetrics collects how long endorsements still count, and how often
// fetching them ended how.
type endorsementMetrics struct {
	expire, fetches *prometheus.Desc
	states          func() []fetch.State
	outcomes        func() map[fetch.Outcome]uint64
	now             func() time.Time
}

// WatchEndorsements publishes how long the document of each kind that ends first
// still counts, and the outcomes of fetches.
func (m *Metrics) WatchEndorsements(states func() []fetch.State, outcomes func() map[fetch.Outcome]uint64, now func() time.Time) {
	m.registry.MustRegister(endorsementMetrics{states: states, outcomes: outcomes, now: now,
		expire:  prometheus.NewDesc("ashlar_endorsements_expire_seconds", "Seconds until the first document of a kind ends; negative after that.", []string{"kind"}, nil),
		fetches: prometheus.NewDesc("ashlar_endorsements_fetches_total", "Fetches of a set of endorsements by outcome.", []string{"outcome"}, nil)})
}

// Describe implements prometheus.Collector.
func (m endorsementMetrics) Describe(c chan<- *prometheus.Desc) {
	c <- m.expire
	c <- m.fetches
}

// Collect implements prometheus.Collector.
func (m endorsementMetrics) Collect(c chan<- prometheus.Metric) {
	first := map[string]float64{}
	for _, st := range m.states() {
		for _, d := range st.Documents {
			kind, ok := endorsementKinds[d.Kind]
			if !ok || d.Error != "" {
				continue
			}
			left := d.NextUpdate.Sub(m.now()).Seconds()
			if known, ok := first[kind]; !ok || left < known {
				first[kind] = left
			}
		}
	}
	for kind, left := range first {
		c <- prometheus.MustNewConstMetric(m.expire, prometheus.GaugeValue, left, kind)
	}
	for outcome, n := range m.outcomes() {
		c <- prometheus.MustNewConstMetric(m.fetches, prometheus.CounterValue, float64(n), string(outcome))
	}
}
