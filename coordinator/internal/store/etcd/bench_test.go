package etcd

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/etcdtest"
)

// BenchmarkClusterCommit commits a record and a log record of 1 KiB each: raw is
// what etcd itself takes for as many bytes under one comparison, without the
// engine and its layout.
func BenchmarkClusterCommit(b *testing.B) {
	text := string(bytes.Repeat([]byte{'x'}, 1000))
	for _, members := range []int{1, 3} {
		server := etcdtest.Start(b, members)
		b.Run(fmt.Sprint(members, " members/raw"), func(b *testing.B) {
			c := dial(b, server)
			rev := int64(0)
			for b.Loop() {
				resp, err := c.client.Txn(b.Context()).If(clientv3.Compare(clientv3.ModRevision(c.Key("h")), "=", rev)).
					Then(clientv3.OpPut(c.Key("h"), text[:300]), clientv3.OpPut(c.Key("r"), text), clientv3.OpPut(c.Key("l"), text)).Commit()
				if err != nil || !resp.Succeeded {
					b.Fatal(err)
				}
				rev = resp.Header.Revision
			}
		})
		b.Run(fmt.Sprint(members, " members/store"), func(b *testing.B) {
			s := storetest.Create(b, dial(b, server).Engine())
			for i := 0; b.Loop(); i++ {
				if err := s.Update(context.Background(), func(tx *store.Tx) error {
					if _, err := storetest.Events.Append(tx, []byte(text)); err != nil {
						return err
					}
					return storetest.Values.Put(tx, fmt.Sprint(i%1000), storetest.Value{Text: text})
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkClusterLoad opens a state with 10,000 records of 1 KiB.
func BenchmarkClusterLoad(b *testing.B) {
	text := string(bytes.Repeat([]byte{'x'}, 1000))
	c := dial(b, etcdtest.Start(b, 1))
	s := storetest.Create(b, c.Engine())
	for from := range 10 {
		if err := s.Update(context.Background(), func(tx *store.Tx) error {
			for i := range 1000 {
				if err := storetest.Values.Put(tx, fmt.Sprint(from, "/", i), storetest.Value{Text: text}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		other, err := store.Open(b.Context(), store.Config{Engine: c.Engine(), Key: storetest.Key(b)})
		if err != nil {
			b.Fatal(err)
		}
		if err := other.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
