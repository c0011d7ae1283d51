package etcd

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

var prefixes atomic.Int64

// dial connects to a prefix of its own.
func dial(t testing.TB, server *etcdtest.Cluster) *Cluster {
	t.Helper()
	return dialAt(t, server.Location(fmt.Sprint("test", prefixes.Add(1))))
}

func dialAt(t testing.TB, location string) *Cluster {
	t.Helper()
	l, err := ParseLocation(location)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClusterConformance(t *testing.T) {
	server := etcdtest.Start(t, 1)
	storetest.Run(t, func(t *testing.T) storetest.Medium {
		c := dial(t, server)
		return func() store.Engine { return c.Engine() }
	})
}
