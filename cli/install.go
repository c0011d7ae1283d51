package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/charts"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// valueFlags are the values of a release.
type valueFlags struct {
	files, set, setString, setFile []string
	policy                         string
}

func (f *valueFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVarP(&f.files, "values", "f", nil, "YAML file of values, - for standard input; later ones win")
	c.Flags().StringArrayVar(&f.set, "set", nil, "one value: key.of.it=VALUE")
	c.Flags().StringArrayVar(&f.setString, "set-string", nil, "one value that is text, whatever it looks like")
	c.Flags().StringArrayVar(&f.setFile, "set-file", nil, "one value, the content of a file: key=FILE")
	c.Flags().StringVar(&f.policy, "policy", "", "what the coordinator must be, a policy file: to verify it by, and for marbles to judge it by")
}

// given reports whether any of them was.
func (f valueFlags) given() bool {
	return len(f.files)+len(f.set)+len(f.setString)+len(f.setFile) > 0 || f.policy != ""
}

// values reads what the flags name.
func (a *app) values(f valueFlags) (kube.Values, error) {
	v := kube.Values{Set: f.set, SetString: f.setString, SetFile: f.setFile, Read: a.readFile, Until: a.p.Now().Add(creationLimit)}
	for _, name := range f.files {
		raw, err := a.readFile(name)
		if err != nil {
			return v, err
		}
		v.Documents = append(v.Documents, kube.Document{Name: name, Data: raw})
	}
	if f.policy != "" {
		in, err := a.loadPolicy(f.policy)
		if err != nil {
			return v, err
		}
		text, err := json.Marshal(map[string]string{kube.PolicyValue: string(in.raw)})
		if err != nil {
			return v, fmt.Errorf("encoding the policy: %w", err)
		}
		v.Documents = append(v.Documents, kube.Document{Name: f.policy, Data: text})
	}
	return v, nil
}

// creationLimit is how long after the command a new deployment's state may still
// be made: images have to be pulled before.
const creationLimit = time.Hour

// releaseFlags say which release, and how its coordinator is reached and waited
// for.
type releaseFlags struct {
	cluster    clusterFlags
	release    string
	wait       time.Duration
	skipVerify bool
	dryRun     bool
}

func (f *releaseFlags) register(c *cobra.Command) {
	f.cluster.namespace = "ashlar"
	f.cluster.register(c, "namespace of the release")
	c.Flags().StringVar(&f.release, "release", "ashlar", "name of the release")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would change, as the API server sees it, and change nothing")
}

// registerWait adds the flags of commands that end with a running coordinator.
func (f *releaseFlags) registerWait(c *cobra.Command) {
	f.register(c)
	c.Flags().DurationVar(&f.wait, "wait", 5*time.Minute, "how long the workloads may take; 0 waits and verifies not")
	c.Flags().BoolVar(&f.skipVerify, "skip-verify", false, "do not verify the coordinator, and say so")
}

func (f *releaseFlags) target() kube.Target {
	return kube.Target{Name: f.release, Namespace: f.cluster.namespace}
}

type installFlags struct {
	releaseFlags
	valueFlags
	createNamespace, render bool
	kubeVersion             string
}

func (a *app) installCmd() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "install",
		Short: "Install coordinator and injector in a Kubernetes cluster",
		Example: "  ashlar install --policy policy.json -f values.yaml\n" +
			"  ashlar install --policy policy.json --render > ashlar.yaml",
		Long: `Installs the Helm chart that this command was built with: looks first whether
the cluster can run it and you may make what it has, says while it waits why a
workload is not ready, and verifies the coordinator's evidence at the end,
through the API server unless --address says how the client API is reached
from here. What it finds is kept in the trust directory, as ashlar verify
does.

--render prints the YAML and asks no cluster. --policy is the policy that the
coordinator is verified by, and the chart's value policy, by which marbles
judge it. If the evidence does not meet it, the release stays and the exit
code is 3.

The state of a new deployment may be made within an hour; a volume that is
empty later was lost. Where a volume of an earlier release is there, its state
is used.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.render {
				return a.renderChart(f)
			}
			if c.Flags().Changed("kube-version") {
				return usage("--kube-version goes with --render: a cluster says its own")
			}
			return a.install(c.Context(), f)
		},
	}
	f.registerWait(c)
	f.valueFlags.register(c)
	c.Flags().BoolVar(&f.createNamespace, "create-namespace", true, "make the namespace if it is not there")
	c.Flags().BoolVar(&f.render, "render", false, "print the YAML and touch nothing")
	c.Flags().StringVar(&f.kubeVersion, "kube-version", "", "the cluster's version that --render is for")
	return c
}

// chart is the one that the command was built with.
func chart() (*kube.Chart, error) {
	version := Version
	if version == "devel" {
		version = "" // as the chart says
	}
	return kube.LoadChart(charts.Ashlar, "ashlar", version)
}

// given is the chart with the values that the flags name.
func (a *app) given(f valueFlags) (*kube.Chart, kube.Values, error) {
	v, err := a.values(f)
	if err != nil {
		return nil, v, err
	}
	ch, err := chart()
	return ch, v, err
}

func (a *app) renderChart(f installFlags) error {
	ch, v, err := a.given(f.valueFlags)
	if err != nil {
		return err
	}
	manifest, err := kube.Render(ch, f.target(), v, f.kubeVersion)
	if err != nil {
		return err
	}
	if a.p.Format != term.JSON {
		// Not through the printer: this goes into kubectl apply, not to a reader.
		_, err := fmt.Fprint(a.p.Out, manifest)
		return err
	}
	docs := []any{}
	for _, text := range strings.Split("\n"+manifest, "\n---\n") {
		var doc any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			return problem.Because(err, "KUB-018", "a document that it gives is no YAML")
		}
		if doc != nil {
			docs = append(docs, doc)
		}
	}
	_, err = a.p.Structured(docs)
	return err
}

// planLimit bounds what is asked of a cluster before anything is changed.
const planLimit = 2 * time.Minute

func (a *app) install(ctx context.Context, f installFlags) error {
	ch, v, err := a.given(f.valueFlags)
	if err != nil {
		return err
	}
	cluster, err := a.connect(ctx, f.cluster)
	if err != nil {
		return err
	}
	planning, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	p, err := cluster.PlanInstall(planning, ch, f.target(), v)
	if err != nil {
		return err
	}
	if p.Create && !f.createNamespace {
		return usage("there is no namespace %s", p.Namespace).WithNext("kubectl create namespace %s, or leave --create-namespace=false out", p.Namespace)
	}
	if err := a.judgeable(p, f.releaseFlags); err != nil {
		return err
	}
	a.p.Notef("%s %s: chart %s with ashlar %s, into namespace %s of %s (%s)\n", verbing(p.Verb), p.Name, p.Chart, p.App, p.Namespace, cluster.Server, cluster.Version)
	for _, claim := range p.Kept {
		a.p.Notef("  %s volume claim %s of an earlier release is there: its state is used\n", a.p.Yellow(term.Warn), claim)
	}
	a.showNotes(p)
	if f.dryRun {
		return a.rehearsed(p)
	}
	rel, err := cluster.Apply(ctx, p)
	if err != nil {
		return err
	}
	return a.settle(ctx, cluster, settling{p, rel, f.releaseFlags})
}

// rehearsed shows a change that is not made.
func (a *app) rehearsed(p *kube.Plan) error {
	if done, err := a.p.Structured(p); done {
		return err
	}
	a.showChanges(p.Changes)
	a.p.Printf("dry run: nothing was changed\n")
	return nil
}

// showNotes says what is to be known of a change before it is made.
func (a *app) showNotes(p *kube.Plan) {
	for _, n := range p.Notes {
		a.p.Notef("  %s %s\n", a.p.Yellow(term.Warn), n)
	}
}

func verbing(verb string) string {
	return map[string]string{"install": "installing", "upgrade": "upgrading", "rollback": "rolling back"}[verb]
}

// judgeable says before anything is changed that there is something to verify
// the coordinator by.
func (a *app) judgeable(p *kube.Plan, f releaseFlags) error {
	if f.skipVerify || f.wait == 0 {
		return nil
	}
	if p.Policy == "" {
		e := usage("what should the coordinator be? Without a policy nobody can verify it, neither you nor the marbles")
		if p.Verb == "rollback" {
			return e.WithNext("revision %d has none: --skip-verify goes back without", p.To)
		}
		return e.WithNext("pass --policy FILE, or --skip-verify to do without")
	}
	_, err := a.parsePolicy([]byte(p.Policy), "the value policy")
	return err
}

// maxLines is how many fields of one changed object are shown, unless the output
// is wide.
const maxLines = 12

// showChanges lists what happens to objects. Objects of which labels alone change
// are counted: each carries the chart's version.
func (a *app) showChanges(changes []kube.Change) {
	marks := map[string]string{kube.Added: a.p.Green("+"), kube.Removed: a.p.Red("-"), kube.Changed: "~"}
	relabelled := 0
	for _, c := range changes {
		label := func(f kube.Field) bool { return strings.HasPrefix(f.Path, "metadata.labels") }
		if c.Action == kube.Changed && !slices.ContainsFunc(c.Fields, func(f kube.Field) bool { return !label(f) }) && a.p.Format != term.Wide {
			relabelled++
			continue
		}
		a.p.Printf("  %s %s\n", marks[c.Action], c.Object)
		for i, f := range c.Fields {
			if i == maxLines && a.p.Format != term.Wide {
				a.p.Printf("      and %d fields more (-o wide)\n", len(c.Fields)-i)
				break
			}
			a.p.Printf("      %s: %s → %s\n", f.Path, a.valueText(f.From), a.valueText(f.To))
		}
	}
	if relabelled > 0 {
		a.p.Printf("  ~ labels of %d objects more\n", relabelled)
	}
	if len(changes) == 0 {
		a.p.Printf("nothing changes\n")
	}
}

// valueText is a value of a field on one line.
func (a *app) valueText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 60 && a.p.Format != term.Wide {
		s = string(r[:59]) + "…"
	}
	if s == "" {
		return "none"
	}
	return s
}
