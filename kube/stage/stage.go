// Package stage writes how far each marble's pod has come into its condition
// ashlar.dev/attested and into events, so that a pod says "waiting for manifest"
// or "evidence refused" in place of a hang.
//
// It owns that condition and nothing else of a pod. It asks pods and the
// coordinator, believes neither beyond a sentence of bounded length, and decides
// nothing about trust: the condition is a display, and what it says is no
// evidence. One replica of those that run it writes at a time.
package stage

import (
	"context"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Config is what Run needs. All of it must be set but what says otherwise.
type Config struct {
	Cluster          kubernetes.Interface
	Namespace, Lease string // of the Lease that the writing replica holds
	Name             string // of this replica
	Port             int32  // where marbles answer GET /ready
	Coordinator      string // as injected pods have it; pods that have another one are another mesh's
	// Marbles returns the coordinator's roles with instances and refusals.
	Marbles func(context.Context) ([]apiv1.Marble, error)
	Now     func() time.Time
	Log     *slog.Logger
	Leading func(bool)           // told when this replica begins and ends to write; may be nil
	Count   func(map[string]int) // told how many pods there are of each reason, every few seconds; may be nil
}

// Run writes conditions while this replica holds the Lease, until ctx ends. It
// waits for all that it started.
func Run(ctx context.Context, c Config) error {
	if c.Leading == nil {
		c.Leading = func(bool) {}
	}
	if c.Count == nil {
		c.Count = func(map[string]int) {}
	}
	for ctx.Err() == nil {
		if err := c.term(ctx); err != nil {
			return err
		}
	}
	return nil
}

// term waits for the Lease, and leads as long as it lasts.
func (c Config) term(ctx context.Context) error {
	started, ended := make(chan context.Context, 1), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Lease},
			Client:     c.Cluster.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.Name},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true, // two that write for a moment write the same
		Name:            c.Lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { started <- ctx },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	go func() {
		defer close(ended)
		elector.Run(ctx)
	}()
	select {
	case leading := <-started:
		c.Log.Info("writing the conditions of pods")
		c.Leading(true)
		newController(c).run(leading)
		c.Leading(false)
	case <-ended:
	}
	<-ended
	return nil
}
