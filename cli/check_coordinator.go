package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// deployment is what checks of one find out for the next.
type deployment struct {
	now     func() time.Time
	client  *client.Client
	status  apiv1.Status
	marbles []apiv1.Marble
}

func (d *deployment) close() {
	if d.client != nil {
		d.client.Close()
	}
}

func (a *app) coordinatorChecks(d *deployment) []check.Check {
	return []check.Check{
		{Category: "coordinator", Name: "its evidence meets the policy", Fatal: true, Run: func(ctx context.Context) check.Finding {
			c, err := a.dial(ctx, nil)
			if err != nil {
				return check.FromError(err)
			}
			d.client = c
			v := c.Verified()
			return check.Pass("evidence meets the policy: %s, %s", v.Verdict.TEE, v.Verdict.TCBStatus)
		}},
		{Category: "coordinator", Name: "clocks agree", Run: func(context.Context) check.Finding {
			v := d.client.Verified()
			skew := v.At.Sub(v.Statement.Time).Abs()
			if skew > check.MaxSkew {
				return check.Warn("CLI-021", "the coordinator's clock differs from this one by %s", skew.Round(time.Second))
			}
			return check.Pass("clocks differ by %d ms", skew.Milliseconds())
		}},
		{Category: "coordinator", Name: "it serves a manifest", Fatal: true, Run: func(ctx context.Context) check.Finding {
			s, err := d.client.Status(ctx)
			if err != nil {
				return check.FromError(err)
			}
			d.status = s
			if s.Revision == 0 {
				return check.Fail("CLI-022", "no manifest is set: %s", s.State)
			}
			return check.Pass("serves manifest %.8s, revision %d", s.Manifest.String(), s.Revision)
		}},
		{Category: "coordinator", Name: "another one can take over", Each: func(context.Context) []check.Finding { return replicaFindings(d.status.Replicas) }},
		{Category: "coordinator", Name: "the CAs last", Each: func(context.Context) []check.Finding {
			return []check.Finding{rootFinding(d.client.Verified().Statement.Root, d.now()), caFinding(d.status.CA, d.now())}
		}},
	}
}

// replicaFindings says whether a coordinator stands by, where several share the
// state.
func replicaFindings(replicas []apiv1.Replica) []check.Finding {
	if len(replicas) == 0 {
		return nil
	}
	var joining []string
	ready := 0
	for _, r := range replicas {
		switch {
		case r.Role == apiv1.ReplicaJoining:
			joining = append(joining, r.Name)
		case r.Role == apiv1.ReplicaStandby && r.Reason == "":
			ready++
		}
	}
	switch {
	case ready == 0:
		return []check.Finding{check.Warn("CLI-095", "no coordinator stands by that could take over from the active one")}
	case len(joining) > 0:
		return []check.Finding{check.Warn("CLI-095", "%s by; without the key of the state: %s", check.Count(ready, "coordinator stands", "coordinators stand"), check.Few(joining))}
	}
	return []check.Finding{check.Pass("%s by to take over", check.Count(ready, "coordinator stands", "coordinators stand"))}
}

// rootFinding says how old the root is that clients pin, and how long it lasts.
func rootFinding(der []byte, now time.Time) check.Finding {
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return check.Fail("CLI-023", "the root certificate cannot be read: %s", err)
	}
	age, left := now.Sub(root.NotBefore), root.NotAfter.Sub(now)
	if left < 30*24*time.Hour {
		return check.Warn("CLI-023", "the root certificate ends in %s", term.Span(left)).WithNext("ashlar ca rotate --help")
	}
	return check.Pass("the root certificate is %s old and lasts %s more", term.Span(age), term.Span(left))
}

func caFinding(ca apiv1.CA, now time.Time) check.Finding {
	left := ca.NotAfter.Sub(now)
	if left < 24*time.Hour {
		return check.Warn("CLI-023", "the mesh CA ends in %s", left.Round(time.Minute))
	}
	return check.Pass("the mesh CA lasts %d days more", int(left.Hours()/24))
}

func deploymentChecks(d *deployment) []check.Check {
	return []check.Check{
		{Category: "deployment", Name: "every marble runs", Fatal: true, Run: func(ctx context.Context) check.Finding {
			for after := ""; ; {
				page, err := d.client.Marbles(ctx, after, 0)
				if err != nil {
					return check.FromError(err)
				}
				d.marbles = append(d.marbles, page.Marbles...)
				if after = page.Next; after == "" {
					return runningFinding(d.marbles)
				}
			}
		}},
		{Category: "deployment", Name: "every Envoy is in step", Run: func(context.Context) check.Finding { return envoyFinding(d.marbles, d.now()) }},
		{Category: "deployment", Name: "leaves are renewed in time", Run: func(context.Context) check.Finding { return leafFinding(d.marbles, d.now()) }},
		{Category: "deployment", Name: "nothing needs attention", Run: func(context.Context) check.Finding {
			if len(d.status.Attention) == 0 {
				return check.Pass("nothing needs attention")
			}
			first := d.status.Attention[0]
			f := check.Warn(problem.Code(first.Code), "needs attention: %s: %s%s", first.Subject, first.Text, more(len(d.status.Attention)-1))
			f.Next = "ashlar status"
			return f
		}},
	}
}

func runningFinding(marbles []apiv1.Marble) check.Finding {
	var idle []string
	instances := 0
	for _, m := range marbles {
		n := running(m)
		instances += n
		if n == 0 {
			idle = append(idle, m.Name)
		}
	}
	if len(idle) > 0 {
		return check.Warn("CLI-025", "%d of %d marbles do not run: %s", len(idle), len(marbles), check.Few(idle))
	}
	return check.Pass("%s with %s", check.Count(len(marbles), "marble runs", "marbles run"), check.Count(instances, "instance", "instances"))
}

// appliedWithin is how long an Envoy may take for a configuration before it is
// worth a word.
const appliedWithin = time.Minute

// envoyFinding counts the proxies that have taken what they were sent.
func envoyFinding(marbles []apiv1.Marble, now time.Time) check.Finding {
	var refused, late []string
	proxies, waiting := 0, 0
	for _, m := range marbles {
		for _, i := range m.Instances {
			if !i.Proxy.Connected {
				continue
			}
			proxies++
			state := "applied"
			for _, t := range i.Proxy.Types {
				switch {
				case t.State == "refused":
					state = "refused"
				case t.State == "sent" && state == "applied" && now.Sub(t.At) > appliedWithin:
					state = "late"
				case t.State == "sent" && state == "applied":
					state = "sent"
				}
			}
			name := fmt.Sprintf("%s/%.8s", m.Name, i.ID)
			switch state {
			case "refused":
				refused = append(refused, name)
			case "late":
				late = append(late, name)
			case "sent":
				waiting++
			}
		}
	}
	switch {
	case len(refused) > 0:
		return check.Fail("CLI-024", "%d of %d Envoys refused their configuration: %s", len(refused), proxies, check.Few(refused))
	case len(late) > 0:
		return check.Warn("CLI-024", "%d of %d Envoys have not taken their configuration for %s: %s", len(late), proxies, term.Span(appliedWithin), check.Few(late))
	case waiting > 0:
		return check.Pass("%d of %d Envoys are in step, the others are being told", proxies-waiting, proxies)
	}
	return check.Pass("%s in step", check.Count(proxies, "Envoy is", "Envoys are"))
}

// leafFinding names instances whose leaf nears its end without a renewal.
func leafFinding(marbles []apiv1.Marble, now time.Time) check.Finding {
	var overdue []string
	leaves := 0
	var first time.Time
	for _, m := range marbles {
		for _, i := range m.Instances {
			leaves++
			if first.IsZero() || i.NotAfter.Before(first) {
				first = i.NotAfter
			}
			due := i.NotAfter.Add(-i.NotAfter.Sub(i.AttestedAt) / 10)
			if !i.DegradeAt.IsZero() {
				due = i.DegradeAt
			}
			if now.After(due) {
				overdue = append(overdue, fmt.Sprintf("%s/%.8s", m.Name, i.ID))
			}
		}
	}
	switch {
	case len(overdue) > 0:
		return check.Warn("CRD-090", "%d of %d leaves near their end without a renewal: %s", len(overdue), leaves, check.Few(overdue))
	case leaves == 0:
		return check.Pass("no instance has a leaf")
	}
	return check.Pass("%s renewed in time; the first would end in %s", check.Count(leaves, "leaf is", "leaves are"), term.Span(first.Sub(now)))
}
