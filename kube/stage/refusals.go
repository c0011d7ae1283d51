package stage

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const (
	refusalsEvery   = 3 * time.Second
	refusalsTimeout = 5 * time.Second
	maxRefusals     = 10_000 // that are remembered
)

// refusals remembers what the coordinator refused, by the pod that asked: of
// each marble it tells the newest alone. It is safe for concurrent use.
type refusals struct {
	Config
	wanted atomic.Bool // some pod is not in the mesh

	mu    sync.Mutex // guards byPod
	byPod map[types.UID]*apiv1.Decision
}

func newRefusals(c Config) *refusals {
	return &refusals{Config: c, byPod: map[types.UID]*apiv1.Decision{}}
}

// want says that somebody would like to know.
func (r *refusals) want() { r.wanted.Store(true) }

// of returns the refusal that stands of a pod, nil if there is none.
func (r *refusals) of(pod types.UID) *apiv1.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byPod[pod]
}

// run asks the coordinator until ctx ends, while somebody wants to know.
func (r *refusals) run(ctx context.Context) {
	tick := time.NewTicker(refusalsEvery)
	defer tick.Stop()
	for away := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !r.wanted.Swap(false) {
			continue
		}
		err := r.look(ctx)
		if (err != nil) != away {
			away = err != nil
			r.Log.Info("asking the coordinator for refusals", "error", err)
		}
	}
}

func (r *refusals) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refusalsTimeout)
	defer cancel()
	marbles, err := r.Marbles(ctx)
	if err != nil {
		return err
	}
	r.learn(marbles)
	return nil
}

// learn notes new refusals, and forgets those of pods that were accepted since.
// A renewal that is refused is told by the pod itself, which runs.
func (r *refusals) learn(marbles []apiv1.Marble) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range marbles {
		for _, i := range m.Instances {
			if d := r.byPod[types.UID(i.ID)]; d != nil && i.AttestedAt.After(d.Time) {
				delete(r.byPod, types.UID(i.ID))
			}
		}
		if d := m.LastRefusal; d != nil && d.Purpose == "activate" && len(r.byPod) < maxRefusals {
			r.byPod[types.UID(d.Instance)] = d
		}
	}
}

// forget drops the refusals of pods that are gone.
func (r *refusals) forget(there map[types.UID]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pod := range r.byPod {
		if !there[pod] {
			delete(r.byPod, pod)
		}
	}
}
