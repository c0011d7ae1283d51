package fetch

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// merger puts what sources give into a set, document by document.
type merger struct {
	store *Store
	need  endorse.Need
	now   time.Time

	set     attest.Endorsements
	docs    []endorse.Document // of set
	source  string             // of the newest document
	changed bool
	refused bool
}

// take adds the documents of a source that hold: signed by the vendor, of the
// platform, and no step back from what the set has. The error says why others
// were left out.
func (m *merger) take(got attest.Endorsements, source string) error {
	got = m.need.Only(got)
	if len(got.Items()) == 0 || got.Digest() == m.set.Digest() { // what is at hand was looked at before
		return nil
	}
	all := attest.NewEndorsements(append(slices.Clone(m.set.Items()), got.Items()...)...)
	unsigned := m.unsigned(all)
	docs := map[string]endorse.Document{}
	for _, d := range endorse.Describe(got) {
		docs[d.Kind] = d
	}
	var errs []error
	items := slices.Clone(m.set.Items())
	for _, it := range got.Items() {
		d := docs[it.Kind]
		err := unsigned[it.Kind]
		if err == nil {
			err = m.need.Fits(d)
		}
		if err == nil {
			err = m.back(d)
		}
		if err != nil {
			m.refused = true
			errs = append(errs, err)
			continue
		}
		items = append(items, it)
	}
	next := attest.NewEndorsements(items...)
	if len(items) > 0 && next.Digest() != m.set.Digest() {
		m.set, m.docs, m.source, m.changed = next, endorse.Describe(next), source, true
	}
	return errors.Join(errs...)
}

// unsigned says of each kind of document why the vendor did not sign it.
func (m *merger) unsigned(en attest.Endorsements) map[string]error {
	out := map[string]error{}
	verifier, ok := m.store.c.Verifiers[m.need.TEE].(endorse.DocumentVerifier)
	if !ok {
		for _, it := range en.Items() {
			out[it.Kind] = fmt.Errorf("%s: nobody here can verify documents of %s", it.Kind, m.need.TEE)
		}
		return out
	}
	for _, step := range verifier.VerifyDocuments(en) {
		if !step.OK && out[step.Source] == nil {
			out[step.Source] = fmt.Errorf("%s: %s", step.Source, step.Got)
		}
	}
	return out
}

// back says why a document that holds would be a step back from the one that is
// there: older, or not valid now where the other one is.
func (m *merger) back(d endorse.Document) error {
	for _, old := range m.docs {
		if old.Kind != d.Kind || old.Identity != d.Identity {
			continue
		}
		if valid(old, m.now) && !valid(d, m.now) {
			return fmt.Errorf("%s: not valid now, and the one at hand is", d.Kind)
		}
		if d.Older(old) && (valid(old, m.now) || !valid(d, m.now)) {
			return fmt.Errorf("%s: older than the one at hand", d.Kind)
		}
	}
	return nil
}

func valid(d endorse.Document, now time.Time) bool {
	return !now.Before(d.Issued) && !now.After(d.NextUpdate)
}

// outcome sums a fetch up.
func (m *merger) outcome(err error) Outcome {
	switch {
	case m.changed && len(m.need.Missing(m.set)) == 0:
		return Renewed
	case m.changed:
		return Incomplete
	case m.refused:
		return Refused
	case err == nil:
		return Unchanged
	}
	switch code(err) {
	case "ATT-066":
		return Throttled
	case "ATT-067":
		return NotFound
	}
	return Unavailable
}

// code is the code of what an error of several sources is about: not found only
// if each said so.
func code(err error) problem.Code {
	found := map[problem.Code]bool{}
	collect(err, found)
	for _, c := range []problem.Code{"ATT-066", "ATT-064", "ATT-065", "ATT-067"} {
		if found[c] {
			return c
		}
	}
	return "ATT-064"
}

func collect(err error, found map[problem.Code]bool) {
	switch e := err.(type) { //nolint:errorlint // walks the whole tree by itself
	case nil:
	case *problem.Error:
		found[e.Code] = true
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			collect(one, found)
		}
	case interface{ Unwrap() error }:
		collect(e.Unwrap(), found)
	}
}
