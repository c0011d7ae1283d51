//go:build linux

package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// three is a deployment of three replicas on two machines, whose marbles run.
func three(t *testing.T, lease string, amend func(doc map[string]any)) *site {
	t.Helper()
	s := newSite(t, "first", "second")
	s.three(lease, amend)
	return s
}

func (s *site) three(lease string, amend func(doc map[string]any)) {
	s.t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		s.replica(name, s.machines[i%2])
	}
	s.replicas[0].init()
	for _, r := range s.replicas {
		r.start()
	}
	s.set(s.manifest(lease, amend))
	s.settled(2)
	s.marbles()
	s.shell.Must(0, "verify", "--policy", s.policyFile())
}

// roles are what the replicas say of themselves, by name.
func (s *site) roles(c *client.Client) (map[string]apiv1.Replica, error) {
	st, err := c.Status(s.t.Context())
	all := map[string]apiv1.Replica{}
	for _, r := range st.Replicas {
		all[r.Name] = r
	}
	return all, err
}

// settled waits until one replica is active and n are standbys, and returns the
// active one.
func (s *site) settled(n int) *replica {
	s.t.Helper()
	c := s.connect()
	var active *replica
	drive.Eventually(s.t, patience, func() string {
		all, err := s.roles(c)
		if err != nil {
			return err.Error()
		}
		count := map[string]int{}
		for _, r := range all {
			if count[r.Role]++; r.Role == apiv1.ReplicaActive {
				active = s.named(r.Name)
			}
		}
		if count[apiv1.ReplicaActive] != 1 || count[apiv1.ReplicaStandby] != n || len(all) != n+1 {
			return fmt.Sprintf("the replicas are %+v, want one active and %d standbys", all, n)
		}
		return ""
	})
	return active
}

func (s *site) named(name string) *replica {
	s.t.Helper()
	i := slices.IndexFunc(s.replicas, func(r *replica) bool { return r.name == name })
	if i < 0 {
		s.t.Fatalf("there is no replica %q", name)
	}
	return s.replicas[i]
}

// history is the log as somebody has read it: what comes later has to go on from
// there.
type history struct {
	s       *site
	records []apiv1.AuditRecord
	root    string // of the deployment
}

func (s *site) history() *history {
	s.t.Helper()
	h := &history{s: s}
	h.goesOn()
	return h
}

// mark is where the history ends now.
func (h *history) mark() int {
	h.goesOn()
	return len(h.records)
}

// goesOn reads the log: it begins with what was read before, and no leaf was
// issued twice. It returns what is new.
func (h *history) goesOn() []apiv1.AuditRecord {
	t := h.s.t
	t.Helper()
	c := h.s.connect()
	if root := fmt.Sprintf("%x", c.Verified().Statement.Root); h.root != "" && root != h.root {
		t.Errorf("the root is %s, want %s as before", root, h.root)
	} else {
		h.root = root
	}
	now := drive.Audit(t, c)
	if len(now) < len(h.records) {
		t.Fatalf("the log has %d records, want the %d that were read before, and more", len(now), len(h.records))
	}
	for i, r := range h.records {
		if now[i].Hash.String() != r.Hash.String() {
			t.Fatalf("record %d has hash %s, want %s as before: the log has forked", i, now[i].Hash, r.Hash)
		}
	}
	fresh := now[len(h.records):]
	h.records = now
	h.once()
	h.s.verifies()
	return fresh
}

// verifies has an operator verify the coordinator, who holds it to what was seen
// before. Where one replica does not answer, another try reaches the next.
func (s *site) verifies() {
	s.t.Helper()
	drive.Eventually(s.t, patience, func() string {
		got := s.shell.Run("verify")
		if got.Code != 0 && got.Code != problem.Unavailable.ExitCode() {
			s.t.Fatalf("ashlar verify: got exit %d, want 0\n%s%s", got.Code, got.Stdout, got.Stderr)
		}
		if got.Code != 0 {
			return got.Stderr
		}
		return ""
	})
}

// once checks that no serial number and no decision counts twice.
func (h *history) once() {
	h.s.t.Helper()
	seen := map[string]uint64{}
	for _, r := range h.records {
		e, err := transparency.ParseEntry(r.Entry)
		if err != nil {
			h.s.t.Fatalf("record %d: %v", r.Seq, err)
		}
		if !issues(e.Kind) {
			continue
		}
		for _, id := range []string{e.Details["serial"], e.Decision} {
			if first, twice := seen[id]; twice && id != "" {
				h.s.t.Errorf("records %d and %d are both of %s", first, r.Seq, id)
			}
			seen[id] = r.Seq
		}
	}
}

// issues reports whether records of a kind give something out.
func issues(kind string) bool {
	return kind == "activationAccepted" || kind == "renewalAccepted" || kind == "replicaAccepted"
}

// count counts records by kind.
func count(records []apiv1.AuditRecord) map[string]int {
	kinds := map[string]int{}
	for _, r := range records {
		kinds[r.Kind]++
	}
	return kinds
}

// subjects are those of the records of a kind.
func subjects(records []apiv1.AuditRecord, kind string) string {
	var all []string
	for _, r := range records {
		if r.Kind == kind {
			all = append(all, r.Subject)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}
