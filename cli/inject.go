package cli

import (
	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

type injectFlags struct {
	files                       []string
	manifest, settings, profile string
}

func (a *app) injectCmd() *cobra.Command {
	var f injectFlags
	c := &cobra.Command{Use: "inject -f FILE --manifest FILE", Short: "Show what the injector makes of Kubernetes YAML",
		Example: "  ashlar inject -f web.yaml --manifest manifest.json\n  ashlar inject -f k8s/ --manifest manifest.json --profile kata-qemu-snp",
		Long: `Does to labelled pods, and to those of Deployments, StatefulSets, DaemonSets,
Jobs, CronJobs and whatever else has a template, what the injector would do when
they are created, and prints the YAML. What it would refuse is refused, all at
once. Works offline, and changes no file.

Where the coordinator is, its policy and the image come from --settings, the
injector's own. Without it they are placeholders, which is good for looking and
no good for applying:

  kubectl get configmap ashlar-injector -n ashlar \
    -o jsonpath='{.data.settings\.json}'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.inject(f) }}
	c.Flags().StringArrayVarP(&f.files, "file", "f", nil, "file, folder, or - for standard input (repeatable)")
	c.Flags().StringVar(&f.manifest, "manifest", "", "manifest that names the marbles")
	c.Flags().StringVar(&f.settings, "settings", "", "settings of the injector, JSON")
	c.Flags().StringVar(&f.profile, "profile", "", "profile of pods that name none")
	return c
}

func (a *app) inject(f injectFlags) error {
	if len(f.files) == 0 || f.manifest == "" {
		return usage("inject needs -f and --manifest").WithNext("ashlar inject -f web.yaml --manifest manifest.json")
	}
	m, err := a.parseManifest(f.manifest)
	if err != nil {
		return err
	}
	settings, err := a.injectorSettings(f.settings)
	if err != nil {
		return err
	}
	sources, err := a.sources(f.files)
	if err != nil {
		return err
	}
	preview := inject.Preview{Manifest: m, Settings: settings, Profile: f.profile}
	var all struct {
		Objects []inject.Object `json:"objects"`
		YAML    string          `json:"yaml"`
	}
	var errs []error
	for i, s := range sources {
		text, objects, err := preview.File(s.Name, s.Data)
		errs = append(errs, err)
		if i > 0 {
			all.YAML += "---\n"
		}
		all.YAML += string(text)
		all.Objects = append(all.Objects, objects...)
	}
	if refused := inject.Refusals(errs...); len(refused) > 0 {
		return a.injectRefused(refused)
	}
	if done, err := a.p.Structured(all); done {
		return err
	}
	a.p.Raw(all.YAML)
	a.injectReport(all.Objects, f.settings == "")
	return nil
}

// injectRefused lists all that is wrong.
func (a *app) injectRefused(all []*problem.Error) error {
	if len(all) == 1 {
		return all[0]
	}
	for _, e := range all {
		a.p.Notef("%s %s: %s\n    next: %s\n", a.p.Red(term.Bad), e.Code, e.Detail, e.Next)
	}
	return problem.New("KUB-050", "%d things are wrong", len(all))
}

// injectorSettings reads the injector's settings, or makes some up to look at.
func (a *app) injectorSettings(name string) (inject.Settings, error) {
	if name == "" {
		return inject.Placeholders(), nil
	}
	raw, err := a.readUpTo(name, inject.MaxSettings)
	if err != nil {
		return inject.Settings{}, err
	}
	return inject.ParseFile(raw)
}

// injectReport says on standard error what was done.
func (a *app) injectReport(objects []inject.Object, placeholders bool) {
	for _, o := range objects {
		a.p.Notef("%s: %s is marble %s, profile %s\n", o.File, o.Object, o.Marble, o.Profile)
		for _, w := range o.Warnings {
			a.p.Note("  ! " + w + "\n")
		}
	}
	switch {
	case len(objects) == 0:
		a.p.Notef("no pod has the label %s: nothing is changed\n", inject.Label)
	case placeholders:
		a.p.Notef("the coordinator, its policy and the image are placeholders: give --settings\n")
	}
}
