package cli

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// settling is a release that was applied and is not known to be good yet.
type settling struct {
	plan    *kube.Plan
	release kube.Release
	flags   releaseFlags
}

// settle waits for what was applied, verifies the coordinator, and says what
// comes next.
func (a *app) settle(ctx context.Context, cluster *kube.Cluster, s settling) error {
	v, err := a.settled(ctx, cluster, s)
	if err != nil {
		return err
	}
	return a.showSettled(s, v)
}

// settled waits and verifies. It returns nil where that was not asked for.
func (a *app) settled(ctx context.Context, cluster *kube.Cluster, s settling) (*established, error) {
	if s.flags.wait == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.flags.wait)
	defer cancel()
	if err := cluster.Wait(ctx, s.plan, a.progress()); err != nil {
		return nil, err
	}
	if s.flags.skipVerify {
		return nil, nil
	}
	v, err := a.verifyRelease(ctx, cluster, s)
	if err != nil {
		return nil, unverifiedRelease(err, s)
	}
	return &v, nil
}

// progress shows each workload whenever it changes.
func (a *app) progress() func([]kube.Workload) {
	shown := map[string]string{}
	return func(all []kube.Workload) {
		for _, w := range all {
			line := w.String()
			if shown[w.Name] == line {
				continue
			}
			shown[w.Name] = line
			mark := " "
			if w.Done {
				mark = a.p.Green(term.OK)
			}
			a.p.Note("  " + mark + " " + line + "\n")
		}
	}
}

// retryEvery is how often a coordinator is asked that does not answer yet: a load
// balancer or a name may take a while.
const retryEvery = 2 * time.Second

// verifyRelease judges the coordinator of a release by the policy that marbles
// judge it by.
func (a *app) verifyRelease(ctx context.Context, cluster *kube.Cluster, s settling) (established, error) {
	in, err := a.parsePolicy([]byte(s.plan.Policy), "the value policy")
	if err != nil {
		return established{}, err
	}
	o, err := a.demands(in, verifyFlags{})
	if err != nil {
		return established{}, err
	}
	trust, err := client.LoadTrust(a.trust)
	switch {
	case err == nil:
		o.Remembered = &trust.Remembered
	case !errors.Is(err, fs.ErrNotExist):
		return established{}, err
	}
	addr := a.address
	if addr == "" {
		way, err := cluster.Forward(s.plan)
		if err != nil {
			return established{}, err
		}
		addr, o.DialContext = way.Address(), way.DialContext
	}
	for {
		v, err := a.attested(ctx, addr, in, o, verifyFlags{})
		if err == nil || problem.From(err).Kind() != problem.Unavailable {
			return v, err
		}
		if !pause.For(ctx, retryEvery) {
			return v, err
		}
	}
}

// unverifiedRelease says that a release stays whose coordinator was not verified.
func unverifiedRelease(err error, s settling) error {
	remove := "ashlar uninstall --namespace " + s.plan.Namespace + " --release " + s.plan.Name + " removes it"
	cause := problem.From(err)
	said := "release " + s.plan.Name + " stays"
	switch {
	case cause.Code == "CRD-103" || cause.Code == "CRD-104":
		return problem.Because(err, "KUB-011", "%s", said).
			WithNext("if this is another deployment than the one that the trust directory remembers: --trust DIR. %s", remove)
	case cause.Kind() == problem.Unavailable:
		return problem.Because(err, "KUB-012", "%s", said).WithNext("%s; %s", cause.Next, remove)
	}
	return problem.Because(err, "KUB-011", "%s", said).WithNext("%s; %s", cause.Next, remove)
}

// showSettled says what is there now, and what to do with it.
func (a *app) showSettled(s settling, v *established) error {
	doc := struct {
		Release  kube.Release      `json:"release"`
		Changes  []kube.Change     `json:"changes"`
		Verified *verifiedDocument `json:"verified"` // null where it was not asked for
		Warning  problem.Code      `json:"warning,omitempty"`
	}{Release: s.release, Changes: s.plan.Changes}
	if v != nil {
		d := a.documentOf(*v)
		doc.Verified = &d
	} else {
		doc.Warning = "KUB-019"
	}
	if done, err := a.p.Structured(doc); done {
		return err
	}
	if v != nil {
		a.showVerified(*v, verifyFlags{})
	}
	a.p.Printf("%s release %s in namespace %s: revision %d, ashlar %s\n", a.p.Green(term.OK), s.release.Name, s.release.Namespace, s.release.Revision, s.release.App)
	reach := "kubectl -n " + s.plan.Namespace + " port-forward service/" + s.plan.Service() + " 4433"
	if v == nil {
		a.p.Notef("%s the coordinator was NOT verified: nothing says that it is what you think  KUB-019\n", a.p.Yellow(term.Warn))
		a.p.Notef("next: %s\n      ashlar verify localhost:4433 --policy FILE, before anything is trusted to it\n", reach)
		return nil
	}
	addr := " --address " + a.address
	if a.address == "" {
		a.p.Notef("next: %s\n", reach)
		addr = " --address localhost:4433"
	}
	if len(v.Statement.Manifest) == 0 {
		a.p.Notef("next: ashlar manifest set FILE%s\n", addr)
		return nil
	}
	a.p.Notef("next: ashlar status%s\n", addr)
	return nil
}
