package kube

import (
	"bytes"
	"cmp"
	"io/fs"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Chart is a Helm chart.
type Chart struct{ chart *chart.Chart }

// LoadChart reads the chart whose folder is root of files. app, if it is not
// empty, is the version of the programs that it installs.
func LoadChart(files fs.FS, root, app string) (*Chart, error) {
	var loaded []*loader.BufferedFile
	err := fs.WalkDir(files, root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		loaded = append(loaded, &loader.BufferedFile{Name: strings.TrimPrefix(path, root+"/"), Data: data})
		return err
	})
	if err != nil {
		return nil, problem.Because(err, "KUB-018", "reading it")
	}
	c, err := loader.LoadFiles(loaded)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, problem.Because(err, "KUB-018", "loading it")
	}
	if app != "" {
		c.Metadata.AppVersion = app
	}
	return &Chart{c}, nil
}

// Version is the chart's own.
func (c *Chart) Version() string { return c.chart.Metadata.Version }

// App is the version of the programs that it installs.
func (c *Chart) App() string { return c.chart.Metadata.AppVersion }

// KubeVersion is what the chart wants of a cluster's version.
func (c *Chart) KubeVersion() string { return c.chart.Metadata.KubeVersion }

// Target names a release.
type Target struct{ Name, Namespace string }

// PolicyValue is the value with the text of the policy that marbles judge the
// coordinator by.
const PolicyValue = "policy"

// newestKube is the version of Kubernetes that the chart is tested with.
const newestKube = "v1.37.2"

// Render renders the chart without a cluster. kubeVersion is the cluster's that
// it is for; the newest that is known if empty. It returns YAML documents.
func Render(c *Chart, t Target, v Values, kubeVersion string) (string, error) {
	values, err := v.merged()
	if err != nil {
		return "", err
	}
	values = c.until(values, v.Until)
	if err := c.checkValues(values); err != nil {
		return "", err
	}
	version, err := chartutil.ParseKubeVersion(cmp.Or(kubeVersion, newestKube))
	if err != nil {
		return "", problem.Because(err, "KUB-005", "--kube-version %s", kubeVersion)
	}
	rel, err := c.render(t, values, circumstances{kube: *version})
	if err != nil {
		return "", err
	}
	out := rel.Manifest
	for _, h := range rel.Hooks {
		out += "---\n# Source: " + h.Path + "\n" + h.Manifest + "\n"
	}
	return out, nil
}

// circumstances are what templates may ask for.
type circumstances struct {
	kube    chartutil.KubeVersion
	apis    chartutil.VersionSet // beside those of Kubernetes itself
	upgrade bool
}

// render renders the chart without asking a cluster.
func (c *Chart) render(t Target, values map[string]any, at circumstances) (*release.Release, error) {
	in := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	in.ClientOnly, in.DryRun, in.DryRunOption, in.Replace, in.IsUpgrade = true, true, "client", true, at.upgrade
	in.ReleaseName, in.Namespace, in.IncludeCRDs = t.Name, t.Namespace, true
	in.KubeVersion, in.APIVersions = &at.kube, at.apis
	rel, err := in.Run(c.chart, values)
	if err != nil {
		if refused := unsuited(err.Error()); refused != nil {
			return nil, refused
		}
		return nil, problem.Because(err, "KUB-018", "rendering it")
	}
	return rel, nil
}

// exactly refuses to apply what was not shown before.
type exactly string

func (e exactly) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	if rendered.String() != string(e) {
		return nil, problem.New("KUB-016", "the chart gives other objects now than those that were shown").WithNext("look at the change again: repeat the command")
	}
	return rendered, nil
}

// unsuited gives what the chart refuses its code: what a template refuses is a
// value, what the chart demands of the version is the cluster's. It is nil for
// any other failure.
func unsuited(text string) error {
	switch {
	case strings.Contains(text, "incompatible with Kubernetes"):
		return problem.New("KUB-014", "%s", text)
	case strings.Contains(text, "execution error at"), strings.Contains(text, "error calling"):
		return problem.New("KUB-005", "%s", refusal(text))
	}
	return nil
}

// refusal is what a template said with fail or required, on one line and without
// the way there.
func refusal(text string) string {
	return strings.ReplaceAll(strings.Replace(failMessage(text), "\n- ", ": ", 1), "\n- ", "; ")
}

func failMessage(text string) string {
	if i := strings.LastIndex(text, "error calling fail: "); i >= 0 {
		return text[i+len("error calling fail: "):]
	}
	if _, after, ok := strings.Cut(text, "execution error at ("); ok {
		if _, said, ok := strings.Cut(after, "): "); ok {
			return said
		}
	}
	return text
}
