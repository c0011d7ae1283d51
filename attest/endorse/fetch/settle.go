package fetch

import (
	"maps"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// settle keeps the outcome of a fetch.
func (s *Store) settle(m merger, err error) (attest.Endorsements, error) {
	outcome := m.outcome(err)
	s.c.Observe(outcome)
	key, now := m.need.Key(), s.c.Now()
	s.mu.Lock()
	if len(m.set.Items()) == 0 {
		if err == nil {
			err = problem.New("ATT-067", "no source has documents")
		}
		err = problem.Because(err, code(err), "endorsements of %s", key)
		wait := retryAfter
		if outcome == NotFound {
			wait = notFoundAfter
		}
		s.fail(key, failure{err, now.Add(wait)})
		s.mu.Unlock()
		s.c.Log.Warn("endorsements cannot be had", "of", key, "error", err)
		return attest.Endorsements{}, err
	}
	k := s.keep(m, now)
	k.due, k.err = s.next(m, err, now)
	k.code = ""
	if err != nil {
		k.code = code(err)
	}
	if k.err == "" {
		k.fetched = now
	}
	proven := k.proven
	s.mu.Unlock()
	if err != nil {
		s.c.Log.Warn("endorsements could not be renewed in full", "of", key, "error", err)
	}
	if m.changed {
		digest := m.set.Digest()
		s.c.Log.Info("endorsements changed", "of", key, "from", m.source, "set", attest.Hex(digest[:]).String())
		if proven {
			s.save(m)
		}
	}
	return m.set, nil
}

// next says when to ask again, and why what is at hand is not all: soon if
// something is missing or not valid now, and well before anything ends.
func (s *Store) next(m merger, err error, now time.Time) (due time.Time, why string) {
	soon := now.Add(min(retryAfter, s.c.Refresh))
	if err != nil {
		return soon, err.Error()
	}
	if missing := m.need.Missing(m.set); len(missing) > 0 {
		return soon, "no " + strings.Join(missing, ", ")
	}
	due = now.Add(s.c.Refresh)
	for _, d := range m.docs {
		if !valid(d, now) {
			return soon, d.Kind + " is not valid now"
		}
		if half := now.Add(d.NextUpdate.Sub(now) / 2); half.Before(due) {
			due = half
		}
	}
	if due.Before(soon) {
		due = soon
	}
	return due, ""
}

// keep puts a set in its place. The caller holds mu.
func (s *Store) keep(m merger, now time.Time) *kept {
	key := m.need.Key()
	delete(s.failed, key)
	k := s.sets[key]
	if k == nil {
		if len(s.sets) >= maxSets {
			s.evict()
		}
		k = &kept{need: m.need, proven: m.need.TEE != attest.SNP}
		s.sets[key] = k
	}
	if m.need.Product != "" {
		k.need.Product = m.need.Product
	}
	s.used++
	k.used, k.set, k.docs = s.used, m.set, m.docs
	if m.source != "" {
		k.source = m.source
	}
	if k.fetched.IsZero() {
		k.fetched = now
	}
	return k
}

// evict forgets the set that was used longest ago, of those that nothing proves
// if there is one. The caller holds mu.
func (s *Store) evict() {
	var oldest *kept
	for _, k := range s.sets {
		if oldest == nil || k.proven != oldest.proven && !k.proven || k.proven == oldest.proven && k.used < oldest.used {
			oldest = k
		}
	}
	delete(s.sets, oldest.need.Key())
	s.discard(oldest.need)
}

// fail remembers that a need is not to be asked for for a while. The caller
// holds mu.
func (s *Store) fail(key string, f failure) {
	if len(s.failed) >= maxFailed {
		now := s.c.Now()
		maps.DeleteFunc(s.failed, func(_ string, f failure) bool { return !now.Before(f.until) })
	}
	if len(s.failed) >= maxFailed {
		clear(s.failed)
	}
	s.failed[key] = f
}
