package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
	"github.com/ashlar-mesh/ashlar/marble/reference"
)

type secretRefFlags struct {
	form, manifest, marble     string
	variable, file             string // where it is to stand
	kubernetes, key, namespace string // of a Kubernetes Secret
}

func (a *app) secretRefCmd() *cobra.Command {
	var f secretRefFlags
	var forms []string
	for _, form := range reference.Forms {
		forms = append(forms, string(form))
	}
	c := &cobra.Command{Use: "ref NAME", Short: "Print a reference that stands for a secret where the host keeps it",
		Example: "  ashlar secret ref dbPassword --env DB_PASSWORD\n  ashlar secret ref token --kubernetes api --key token | kubectl apply -f -\n" +
			"  ashlar secret ref tls --as cert --manifest manifest.json",
		Long: `A marble puts the secret where the reference stands: as the whole value of a
variable, or the whole content of a file. Only in places that the manifest lists
in parameters.references: what to add is said on standard error. A reference is
not secret.

With --kubernetes and --key it prints a Kubernetes Secret that holds the
reference. The name is held against --manifest, or against the manifest in force
if there is a verified coordinator.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.secretRef(c.Context(), args[0], f) }}
	c.Flags().StringVar(&f.form, "as", string(reference.Raw), "how the secret is written there: "+strings.Join(forms, "|"))
	c.Flags().StringVar(&f.manifest, "manifest", "", "manifest FILE to hold the name against (default: the one in force)")
	c.Flags().StringVar(&f.marble, "marble", "", "marble that is to have it (default: its readers)")
	c.Flags().StringVar(&f.variable, "env", "", "variable in which it is to stand")
	c.Flags().StringVar(&f.file, "path", "", "file in which it is to stand, by its absolute path")
	c.Flags().StringVar(&f.kubernetes, "kubernetes", "", "name of a Kubernetes Secret to print")
	c.Flags().StringVar(&f.key, "key", "", "its key that holds the reference")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "its namespace; none is written if left out")
	_ = c.RegisterFlagCompletionFunc("manifest", completeJSON)
	_ = c.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// Names that Kubernetes takes: of a Secret (RFC 1123), and of its keys.
var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	keyName    = regexp.MustCompile(`^[-._A-Za-z0-9]{1,253}$`)
)

func (f secretRefFlags) check() error {
	switch {
	case (f.kubernetes == "") != (f.key == ""):
		return usage("a Kubernetes Secret needs both --kubernetes and --key")
	case f.kubernetes != "" && !objectName.MatchString(f.kubernetes):
		return usage("--kubernetes %q: a Secret's name is lower-case letters, digits, dots and dashes", f.kubernetes)
	case f.kubernetes != "" && (!keyName.MatchString(f.key) || strings.HasPrefix(f.key, "..") || f.key == "."):
		return usage("--key %q: a key of a Secret is letters, digits, dots, dashes and underscores", f.key)
	case f.namespace != "" && f.kubernetes == "":
		return usage("--namespace goes with --kubernetes")
	case f.namespace != "" && !objectName.MatchString(f.namespace):
		return usage("--namespace %q: a namespace is lower-case letters, digits and dashes", f.namespace)
	case f.file != "" && !strings.HasPrefix(f.file, "/"):
		return usage("--path %q: an absolute path is wanted", f.file)
	}
	return nil
}

// kubeSecret is a Secret of Kubernetes, as far as it is printed.
type kubeSecret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	StringData map[string]string `json:"stringData"`
}

func (f secretRefFlags) object(ref reference.Reference) *kubeSecret {
	if f.kubernetes == "" {
		return nil
	}
	s := &kubeSecret{APIVersion: "v1", Kind: "Secret", Metadata: map[string]string{"name": f.kubernetes}, StringData: map[string]string{f.key: ref.String()}}
	if f.namespace != "" {
		s.Metadata["namespace"] = f.namespace
	}
	return s
}

// yaml writes the Secret; strings are quoted as JSON, which is YAML.
func (s *kubeSecret) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %q\n", s.APIVersion, s.Kind, s.Metadata["name"])
	if n := s.Metadata["namespace"]; n != "" {
		fmt.Fprintf(&b, "  namespace: %q\n", n)
	}
	b.WriteString("stringData:\n")
	for key, ref := range s.StringData {
		fmt.Fprintf(&b, "  %q: %q\n", key, ref)
	}
	return b.String()
}

func (a *app) secretRef(ctx context.Context, name string, f secretRefFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	form, err := reference.ParseForm(f.form)
	if err != nil {
		return err
	}
	ref, err := reference.Parse(reference.Reference{Secret: name, Form: form}.String())
	if err != nil {
		return err
	}
	m, err := a.referred(ctx, f.manifest)
	if err != nil {
		return err
	}
	var marbles []string
	if m != nil {
		if marbles, err = holders(m, ref, f.marble); err != nil {
			return err
		}
	}
	places, object := f.places(name), f.object(ref)
	if done, err := a.p.Structured(struct {
		Reference  string              `json:"reference"`
		References manifest.References `json:"references"`
		Marbles    []string            `json:"marbles,omitempty"` // that may have it
		Kubernetes *kubeSecret         `json:"kubernetes,omitempty"`
	}{ref.String(), places, marbles, object}); done {
		return err
	}
	text := ref.String() + "\n"
	if object != nil {
		text = object.yaml()
	}
	if _, err := a.p.Out.Write([]byte(text)); err != nil {
		return problem.Because(err, "CLI-003", "writing the reference")
	}
	a.noteReference(m, marbles, name, places)
	return nil
}

// referred is the manifest that a name is held against; nil is none.
func (a *app) referred(ctx context.Context, file string) (*manifest.Manifest, error) {
	switch {
	case file != "":
		return a.parseManifest(file)
	case a.hasTrust():
		return a.inForce(ctx)
	}
	return nil, nil
}

// holders returns the marbles that a reference can be resolved in, given that it
// fits its secret.
func holders(m *manifest.Manifest, ref reference.Reference, marble string) ([]string, error) {
	s, known := m.Secrets[ref.Secret]
	if !known {
		e := problem.New("MAN-034", "there is no secret %q", ref.Secret)
		var names []string
		for other := range m.Secrets {
			names = append(names, other)
		}
		slices.Sort(names)
		if best := nearest.Word(ref.Secret, names); best != "" {
			e.Detail += fmt.Sprintf(": did you mean %q?", best)
		}
		return nil, e
	}
	if !s.Exported() {
		return nil, problem.New("MAN-101", "secret %s stays with the coordinator: it is a counter, or its key is for use only", ref.Secret)
	}
	if err := ref.Fits(s); err != nil {
		return nil, err
	}
	switch {
	case marble == "":
		return slices.Sorted(slices.Values(s.Readers)), nil
	case !slices.Contains(s.Readers, marble):
		return nil, problem.New("MAN-100", "%s is none of the readers of %s, which are %s", marble, ref.Secret, strings.Join(s.Readers, ", "))
	}
	return []string{marble}, nil
}

// places are what the manifest has to list.
func (f secretRefFlags) places(name string) manifest.References {
	var r manifest.References
	if f.variable != "" {
		r.Env = map[string][]string{f.variable: {name}}
	}
	if f.file != "" {
		r.Files = map[string][]string{f.file: {name}}
	}
	if f.variable == "" && f.file == "" {
		r.Env = map[string][]string{"VARIABLE": {name}}
		r.Files = map[string][]string{"/PATH/OF/FILE": {name}}
	}
	return r
}

// noteReference says what the manifest needs for it.
func (a *app) noteReference(m *manifest.Manifest, marbles []string, name string, places manifest.References) {
	line, err := json.Marshal(places)
	if err != nil { // strings alone
		return
	}
	if m == nil {
		a.p.Notef("! the name was not checked: give --manifest FILE, or verify a coordinator\n")
		marbles = []string{"NAME"}
	}
	for _, marble := range marbles {
		if missing(m, marble, name, places) {
			a.p.Notef("  marbles.%s.parameters has to list the place: \"references\": %s\n", marble, line)
		} else {
			a.p.Notef("  marbles.%s.parameters lists the place already\n", marble)
		}
	}
}

// missing reports whether a marble does not list one of the places for a secret.
func missing(m *manifest.Manifest, marble, name string, places manifest.References) bool {
	if m == nil {
		return true
	}
	listed := m.Marbles[marble].Parameters.References
	lacks := func(want, have map[string][]string) bool {
		for place := range want {
			if !slices.Contains(have[place], name) {
				return true
			}
		}
		return false
	}
	return lacks(places.Env, listed.Env) || lacks(places.Files, listed.Files)
}
