package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
)

// lookEvery is how often the revision is looked at besides: a watch that is
// silent may have been lost.
const lookEvery = time.Second

// Watch tells when the state changed: at least one value comes after each commit,
// and commits that follow quickly share one. The first comes at once. The channel
// is closed when ctx ends, which the caller waits for. A cluster that does not
// answer is silent until it does again.
func (c *Cluster) Watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	go func() {
		defer close(changed)
		for ctx.Err() == nil {
			c.watch(ctx, changed)
		}
	}()
	return changed
}

// watch follows one watch of etcd until that ends.
func (c *Cluster) watch(ctx context.Context, changed chan<- struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.client.Watch(clientv3.WithRequireLeader(ctx), c.Key(revName))
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last store.Rev // that was told
	for {
		select {
		case <-ctx.Done():
			return
		case resp, ok := <-events:
			if !ok || resp.Err() != nil {
				sleep(ctx, retryAfter)
				return
			}
			for _, ev := range resp.Events {
				last = store.Rev(ev.Kv.GetModRevision())
			}
			if len(resp.Events) == 0 {
				continue
			}
		case <-ticker.C:
			rev, err := c.Revision(ctx)
			if err != nil || rev == last {
				continue
			}
			last = rev
		}
		select {
		case changed <- struct{}{}:
		default: // it has not been taken yet
		}
	}
}

// Revision returns the revision of the newest commit; 0 if there is none.
func (c *Cluster) Revision(ctx context.Context) (store.Rev, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	resp, err := c.client.Get(ctx, c.Key(revName))
	if err != nil {
		return 0, c.coded(err, "looking for the revision of the state")
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return store.Rev(resp.Kvs[0].GetModRevision()), nil
}
