package secrets

import (
	"math"
	"strings"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// maxCounters bounds how many counters one secret of scope instance has. They
// outlive their instances: one that could be made to start at zero again would
// protect nothing.
const maxCounters = 100_000

// counters holds how far each counter has come: by "name" of shared ones,
// "name/marble" or "name/marble/instance".
var counters = store.NewTable[uint64]("secrets-counter")

func counterKey(s manifest.Secret, who Asker, name string) string {
	switch s.Scope {
	case manifest.PerRole:
		return name + "/" + who.Marble
	case manifest.Instance:
		return name + "/" + who.Marble + "/" + who.Instance
	}
	return name
}

// Counter returns how far a reader's counter has come: SEC-001, SEC-002, and
// SEC-005 if it is none.
func Counter(tx *store.Tx, m *manifest.Manifest, who Asker, name string) (uint64, error) {
	_, n, err := counter(tx, m, who, name)
	return n, err
}

// Increment raises a reader's counter by one and returns what it is then. It is
// for the caller to wait until that is durable before he tells anybody. SEC-016
// if it cannot be raised.
func Increment(tx *store.Tx, m *manifest.Manifest, who Asker, name string) (uint64, error) {
	key, n, err := counter(tx, m, who, name)
	if err != nil {
		return 0, err
	}
	if n == math.MaxUint64 {
		return 0, problem.New("SEC-016", "counter %s has reached its end", name)
	}
	if n == 0 && strings.Count(key, "/") == 2 {
		had := 0
		for range counters.Prefix(tx, name+"/") {
			had++
		}
		if had >= maxCounters {
			return 0, problem.New("SEC-016", "%d instances have counted with %s", had, name)
		}
	}
	return n + 1, counters.Put(tx, key, n+1)
}

func counter(tx *store.Tx, m *manifest.Manifest, who Asker, name string) (key string, n uint64, err error) {
	s, err := permitted(m, who.Marble, name, reader)
	if err != nil {
		return "", 0, err
	}
	if s.Type != manifest.Counter {
		return "", 0, problem.New("SEC-005", "secret %s is of type %s, no counter", name, s.Type)
	}
	key = counterKey(s, who, name)
	n, _ = counters.Get(tx, key)
	return key, n, nil
}

// updateCounters removes counters whose secret a manifest does not have any
// more, or with another scope, and returns their names.
func updateCounters(tx *store.Tx, next *manifest.Manifest) []string {
	var gone []string
	for key := range counters.All(tx) {
		name, _, _ := strings.Cut(key, "/")
		s, ok := next.Secrets[name]
		if ok && s.Type == manifest.Counter && strings.Count(key, "/") == depth(s.Scope) {
			continue
		}
		counters.Delete(tx, key)
		gone = append(gone, name)
	}
	return gone
}

// depth is how many slashes the keys of a scope have.
func depth(s manifest.Scope) int {
	switch s {
	case manifest.PerRole:
		return 1
	case manifest.Instance:
		return 2
	}
	return 0
}

func describeCounters(tx *store.Tx, m *manifest.Manifest, all map[string]Info) {
	for key := range counters.All(tx) {
		name, _, _ := strings.Cut(key, "/")
		if i, ok := all[name]; ok && m.Secrets[name].Type == manifest.Counter {
			i.Present = true
			i.Values++
			all[name] = i
		}
	}
}
