package daemon

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// behind is what somebody has who reaches below a replica: its etcd, and its key.
func (c *crew) behind(m *mate) (*etcd.Cluster, seal.Key, settings) {
	c.t.Helper()
	s, err := m.config.check()
	if err == nil {
		err = s.enter(c.t.Context())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := seal.Open(c.t.Context(), s.sealPath(), s.sources()...)
	if err != nil {
		c.t.Fatal(err)
	}
	return beside(c.t, m.config.Store), key, s
}

// TestClusterAnotherWrites has another one write, which etcd's lease does not
// tell: the active replica, which has nothing to write itself, answers no longer
// from what it knew, and takes over what was written.
func TestClusterAnotherWrites(t *testing.T) {
	c, alice := newCrew(t, 1), user(t)
	first, _ := c.deploy(alice)
	cluster, key, _ := c.behind(first)
	db, err := store.Open(t.Context(), store.Config{Engine: cluster.Engine(), Key: key, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := coordinator.Claim(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return first.metric("ashlar_replica_takeovers_total") == "2" }, "the active one takes the newer state over")
	first.until("serving", "")
}

// TestClusterAnotherState puts another deployment's state, or rubbish, below an
// active replica.
func TestClusterAnotherState(t *testing.T) {
	for name, replace := range map[string]func(*testing.T, *crew, *etcd.Cluster){
		"STO-004": func(t *testing.T, c *crew, _ *etcd.Cluster) {
			o := c.config(1)
			if err := Init(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		},
		"STO-005": func(t *testing.T, _ *crew, cluster *etcd.Cluster) {
			for _, key := range []string{"rev", "e/" + store.FormatKey, "e/" + store.HeadKey} {
				if _, err := cluster.Client().Put(t.Context(), cluster.Key(key), "\x07"); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, alice := newCrew(t, 2), user(t)
			first, _ := c.deploy(alice)
			cluster, _, _ := c.behind(first)
			for _, part := range []string{"rev", "e/", "v/"} {
				if _, err := cluster.Client().Delete(t.Context(), cluster.Key(part), clientv3.WithPrefix()); err != nil {
					t.Fatal(err)
				}
			}
			replace(t, c, cluster)
			if p := first.until("standby", name); p.Ready {
				t.Errorf("got %+v, want it not to be ready", p)
			}
		})
	}
}

// TestClusterInitKeepsItsKey does not open what an interrupted init sealed, for now:
// it may be the only key of the state that it made.
func TestClusterInitKeepsItsKey(t *testing.T) {
	c := newCrew(t, 2)
	o := c.config(0)
	if err := Init(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(o.State, "seal.json")
	if err := os.Rename(sealed, sealed+unfinished); err != nil {
		t.Fatal(err)
	}
	elsewhere := c.config(1)
	elsewhere.State = o.State
	if err := Init(t.Context(), elsewhere); problem.CodeOf(err) != "STO-001" {
		t.Errorf("got %v, want STO-001", err)
	}
	if err := Init(t.Context(), o); err != nil {
		t.Errorf("where it opens again: %v", err)
	}
	c.run(0).until("waiting for a manifest", "")
}
