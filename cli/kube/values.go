package kube

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Values are the values of a release as somebody gives them: documents, and on
// top of them single ones in Helm's syntax (a.b[0]=c).
type Values struct {
	Documents []Document
	Set       []string // KEY=VALUE, the value read as YAML would
	SetString []string // KEY=VALUE, always text
	SetFile   []string // KEY=FILE
	// Read returns the content of a file of SetFile.
	Read func(name string) ([]byte, error)
	// Until is when a new deployment's state may be made at the latest, where the
	// values do not say: after that a volume that is empty was lost.
	Until time.Time
}

// Document is a YAML document of values.
type Document struct {
	Name string // in messages
	Data []byte
}

// merged is what the values say together: later ones win. KUB-005 names what
// cannot be read.
func (v Values) merged() (map[string]any, error) {
	all := map[string]any{}
	for _, d := range v.Documents {
		one := map[string]any{}
		// Numbers stay as they are written, as Helm reads them.
		keep := func(dec *json.Decoder) *json.Decoder { dec.UseNumber(); return dec }
		if err := yaml.UnmarshalStrict(d.Data, &one, keep); err != nil {
			return nil, problem.Because(err, "KUB-005", "%s", d.Name)
		}
		all = overlay(all, one)
	}
	for _, s := range v.Set {
		if err := strvals.ParseInto(s, all); err != nil {
			return nil, problem.Because(err, "KUB-005", "--set %s", s)
		}
	}
	for _, s := range v.SetString {
		if err := strvals.ParseIntoString(s, all); err != nil {
			return nil, problem.Because(err, "KUB-005", "--set-string %s", s)
		}
	}
	for _, s := range v.SetFile {
		read := func(name []rune) (any, error) {
			b, err := v.Read(string(name))
			return string(b), err
		}
		if err := strvals.ParseIntoFile(s, all, read); err != nil {
			var coded *problem.Error
			if errors.As(err, &coded) {
				return nil, coded
			}
			return nil, problem.Because(err, "KUB-005", "--set-file %s", s)
		}
	}
	return all, nil
}

// createUntil is the chart's value that says until when a state may be made.
var createUntil = []string{"coordinator", "state", "createUntil"}

// until is values with the time until which a state may be made, if the chart
// asks for one and they have none.
func (c *Chart) until(values map[string]any, t time.Time) map[string]any {
	if t.IsZero() {
		return values
	}
	return c.creating(values, t.UTC().Format(time.RFC3339))
}

// never is values by which no state is made, likewise.
func (c *Chart) never(values map[string]any) map[string]any { return c.creating(values, "never") }

func (c *Chart) creating(values map[string]any, when string) map[string]any {
	if object(c.chart.Values).field(createUntil...) == nil || object(values).text(createUntil...) != "" {
		return values
	}
	added := map[string]any{createUntil[2]: when}
	return overlay(values, map[string]any{createUntil[0]: map[string]any{createUntil[1]: added}})
}

// overlay is base with the values of top: objects are merged, all else replaced.
func overlay(base, top map[string]any) map[string]any {
	out := maps.Clone(base)
	for k, v := range top {
		under, ok := out[k].(map[string]any)
		over, also := v.(map[string]any)
		if ok && also {
			v = overlay(under, over)
		}
		out[k] = v
	}
	return out
}

// checkValues holds values against the chart's schema.
func (c *Chart) checkValues(values map[string]any) error {
	all, err := chartutil.CoalesceValues(c.chart, values)
	if err != nil {
		return problem.Because(err, "KUB-005", "values")
	}
	if err := chartutil.ValidateAgainstSchema(c.chart, all); err != nil {
		return c.invalid(err)
	}
	return nil
}

var (
	complaint = regexp.MustCompile(`^\s*- at '([^']*)': (.*)$`)
	unknown   = regexp.MustCompile(`^additional propert(?:y|ies) (.*) not allowed$`)
	quoted    = regexp.MustCompile(`'([^']*)'`)
)

// invalid says in one line what the schema found, each with its path.
func (c *Chart) invalid(err error) error {
	var said []string
	next := ""
	lines := strings.Split(err.Error(), "\n")
	slices.Sort(lines) // the schema's library has no order
	for _, line := range lines {
		m := complaint.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		path := strings.ReplaceAll(strings.TrimPrefix(m[1], "/"), "/", ".")
		if u := unknown.FindStringSubmatch(m[2]); u != nil {
			for _, name := range quoted.FindAllStringSubmatch(u[1], -1) {
				full := strings.TrimPrefix(path+"."+name[1], ".")
				said = append(said, full+": there is no such value")
				if best := nearest.Word(name[1], c.keys(path)); best != "" && next == "" {
					next = "did you mean " + strings.TrimPrefix(path+"."+best, ".") + "?"
				}
			}
			continue
		}
		if path == "" {
			path = "values"
		}
		said = append(said, path+": "+m[2])
	}
	if len(said) == 0 {
		return problem.Because(err, "KUB-005", "values")
	}
	e := problem.New("KUB-005", "%s", strings.Join(said, "; "))
	if next != "" {
		e = e.WithNext("%s", next)
	}
	return e
}

// keys are what the schema allows at a path.
func (c *Chart) keys(path string) []string {
	var at struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	schema := json.RawMessage(c.chart.Schema)
	for _, key := range append(strings.Split(path, "."), "") {
		at.Properties = nil
		if json.Unmarshal(schema, &at) != nil {
			return nil
		}
		if key == "" {
			break
		}
		schema = at.Properties[key]
	}
	return slices.Sorted(maps.Keys(at.Properties))
}
