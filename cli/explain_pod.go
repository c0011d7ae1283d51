package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// podWord is what precedes a pod's name in `ashlar explain pod NAME`.
const podWord = "pod"

// explainArgs takes one argument, or the word pod and a name.
func explainArgs(c *cobra.Command, args []string) error {
	if len(args) == 2 && args[0] == podWord {
		return nil
	}
	return cobra.ExactArgs(1)(c, args)
}

// completeExplain offers marbles, and after the word pod the pods of the
// namespace.
func (a *app) completeExplain(f *explainFlags) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			names, directive := a.completeMarbles(c, args, prefix)
			return append(names, podWord), directive
		}
		if len(args) > 1 || args[0] != podWord {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionBudget)
		defer cancel()
		cluster, err := kube.Connect(ctx, f.cluster.options())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return cluster.Pods(ctx, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// podStory is a pod's story with what the coordinator says of its instance.
type podStory struct {
	kube.Story
	Stands   *apiv1.Instance `json:"coordinator,omitempty"`
	Decision *apiv1.Decision `json:"decision,omitempty"`
}

func (a *app) explainPod(ctx context.Context, name string, f explainFlags) error {
	c, err := a.connect(ctx, f.cluster)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	story, err := c.Explain(limited, name)
	if err != nil {
		return err
	}
	s := podStory{Story: story}
	if s.Instance == "" || !a.hasTrust() {
		_, err := a.tellPod(s)
		return err
	}
	err = a.withUser(ctx, f.user, func(cl *client.Client) error {
		if err := s.ask(ctx, cl); err != nil {
			return err
		}
		done, err := a.tellPod(s)
		if done || err != nil || s.Decision == nil {
			return err
		}
		return a.explainDecision(ctx, cl, s.Decision.ID, f)
	})
	if err != nil && problem.From(err).Kind() == problem.Unavailable {
		a.p.Notef("what the coordinator says of it is left out: %s\n", problem.From(err).Detail)
		_, err = a.tellPod(s)
	}
	return err
}

// ask adds what the coordinator says: how the instance stands, and its newest
// refusal or else its newest decision.
func (s *podStory) ask(ctx context.Context, cl *client.Client) error {
	m, err := cl.Marble(ctx, s.Marble)
	if err != nil {
		if problem.From(err).Kind() == problem.NotFound {
			return nil // the manifest has changed since the pod was made
		}
		return err
	}
	for i := range m.Instances {
		if m.Instances[i].ID == s.Instance {
			s.Stands = &m.Instances[i]
		}
	}
	decisions, err := cl.Decisions(ctx, s.Marble, listed)
	if err != nil {
		return err
	}
	s.Decision = decisionOf(decisions, s.Instance)
	s.judgeProxy()
	return nil
}

// decisionOf is the newest of an instance: decisions come newest first.
func decisionOf(decisions []apiv1.Decision, instance string) *apiv1.Decision {
	for i := range decisions {
		if decisions[i].Instance == instance {
			return &decisions[i]
		}
	}
	return nil
}

// judgeProxy lets a refusal of Envoy's be the reason where the cluster sees none.
func (s *podStory) judgeProxy() {
	if s.Stands == nil || s.Code != "" && s.Code != "KUB-045" {
		return
	}
	for _, t := range s.Stands.Proxy.Types {
		if t.State == "refused" {
			s.Well, s.Code = false, "CLI-024"
			s.What, s.Why = "its Envoy refused the "+t.Type+" configuration", t.Error
			s.Next = "ashlar marble show " + s.Marble
			return
		}
	}
}

// tellPod prints the story, and reports whether it did so for machines.
func (a *app) tellPod(s podStory) (bool, error) {
	if done, err := a.p.Structured(s); done {
		return true, err
	}
	mark := a.p.Red(term.Bad)
	switch {
	case s.Well:
		mark = a.p.Green(term.OK)
	case s.Code == "":
		mark = a.p.Yellow(term.Warn)
	}
	line := fmt.Sprintf("%s %s (namespace %s): %s", mark, s.Subject, s.Namespace, a.p.Sentence(s.What))
	if s.Code != "" {
		line += "  " + string(s.Code)
	}
	a.p.Printf("%s\n", line)
	if s.Why != "" {
		a.p.Printf("  why: %s\n", a.p.Sentence(s.Why))
	}
	if s.Next != "" && (s.Decision == nil || s.Next != "ashlar explain "+s.Decision.ID) { // which follows
		a.p.Printf("  next: %s\n", s.Next)
	}
	if s.Instance != "" {
		a.p.Printf("  instance %s of marble %s\n", s.Instance, s.Marble)
	}
	return false, nil
}
