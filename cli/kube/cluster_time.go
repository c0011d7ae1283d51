package kube

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
)

// serverFinding compares this machine's clock with the API server's. The server
// says its time in whole seconds, sometime between sent and received.
func serverFinding(sent, received, server time.Time) check.Finding {
	middle := sent.Add(received.Sub(sent) / 2)
	skew := middle.Sub(server.Add(500 * time.Millisecond)).Abs()
	slack := time.Second/2 + received.Sub(sent)/2
	if skew > check.MaxSkew {
		return check.Warn("KUB-032", "the API server's clock differs from this one by %s", skew.Round(time.Second))
	}
	return check.Pass("the API server's clock differs from this one by at most %.1f s", (skew + slack).Seconds())
}

// leaseSpan is how old the lease of a healthy node may be: the kubelet renews it
// every ten seconds by the node's own clock.
const leaseSpan = 40 * time.Second

// leaseFinding compares the nodes' clocks with the API server's by the times
// that they write into their leases.
func leaseFinding(leases []coordinationv1.Lease, now time.Time) check.Finding {
	var ahead, late []string
	var furthest time.Duration
	read := 0
	for _, l := range leases {
		if l.Spec.RenewTime == nil {
			continue
		}
		read++
		switch d := l.Spec.RenewTime.Sub(now); {
		case d > check.MaxSkew:
			ahead = append(ahead, l.Name)
			furthest = max(furthest, d)
		case d < -leaseSpan:
			late = append(late, l.Name)
		}
	}
	switch {
	case len(ahead) > 0:
		return check.Warn("KUB-032", "clocks of nodes are up to %s ahead of the API server's: %s", furthest.Round(time.Second), check.Few(ahead))
	case len(late) > 0:
		return check.Warn("KUB-032", "nodes have not reported for %s, or their clocks are behind: %s", leaseSpan, check.Few(late)).
			WithNext("kubectl get nodes; synchronise their clocks (NTP)")
	case read == 0:
		return check.Pass("no node reports a time")
	}
	return check.Pass("the clocks of %s agree with the API server's", check.Count(read, "node", "nodes"))
}
