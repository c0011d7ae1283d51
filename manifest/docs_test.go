package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	docsFile  = "../docs/manifest.md"
	docsBegin = "<!-- fields: made from manifest/schema.json by UPDATE_DOCS=1 go test ./manifest -->\n"
	docsEnd   = "<!-- end of fields -->"
)

// schemaNode is a schema as the reference shows it.
type schemaNode struct {
	Ref         string                `json:"$ref"`
	Description string                `json:"description"`
	Type        string                `json:"type"`
	Properties  map[string]schemaNode `json:"properties"`
	Required    []string              `json:"required"`
	Items       *schemaNode           `json:"items"`
	Names       *schemaNode           `json:"propertyNames"`
	Extra       json.RawMessage       `json:"additionalProperties"`
	Enum        []any                 `json:"enum"`
	Const       any                   `json:"const"`
	Default     any                   `json:"default"`
	Examples    []any                 `json:"examples"`
	Minimum     *int                  `json:"minimum"`
	Maximum     *int                  `json:"maximum"`
	MinItems    int                   `json:"minItems"`
	MaxItems    int                   `json:"maxItems"`
	MaxProps    int                   `json:"maxProperties"`
	MaxLength   int                   `json:"maxLength"`
	Defs        map[string]schemaNode `json:"$defs"`
}

// TestReferenceIsCurrent keeps the fields in docs/manifest.md equal to the
// schema. UPDATE_DOCS=1 writes them.
func TestReferenceIsCurrent(t *testing.T) {
	var root schemaNode
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	table(&b, "The document", root, root.Defs)
	for _, s := range []struct{ title, def string }{
		{"packages.NAME", "package"}, {"packages.NAME.sgx", "sgxReference"}, {"packages.NAME.sgx.attributes", "bits16"}, {"packages.NAME.sgx.miscSelect", "bits4"},
		{"packages.NAME.tdx", "tdxReference"}, {"packages.NAME.tdx.tdAttributes, .xfam, packages.NAME.snp.guestPolicy, platforms.NAME.snp.platformInfo", "bits8"},
		{"packages.NAME.tdx.events.REGISTER[]", "tdxEvent"}, {"packages.NAME.snp", "snpReference"}, {"packages.NAME.azure", "azureReference"},
		{"packages.NAME.tpm", "tpmReference"}, {"packages.NAME.azure.events.REGISTER[], packages.NAME.tpm.events.REGISTER[]", "tpmEvent"},
		{"packages.NAME.plugins.TEE", "registerReference"}, {"packages.NAME.devices.NAME", "deviceReference"}, {"packages.NAME.devices.NAME.nvidia", "gpuReference"},
		{"packages.NAME.sim", "simReference"},
		{"platforms.NAME", "platform"}, {"platforms.NAME.sgx, .sim", "dcapPlatform"}, {"platforms.NAME.tdx", "tdxPlatform"}, {"platforms.NAME.sgx.grace, .tdx.grace, .sim.grace", "dcapGrace"},
		{"platforms.NAME.snp", "snpPlatform"}, {"platforms.NAME.snp.minTCB, .minLaunchTCB", "snpFloors"},
		{"platforms.NAME.snp.minTCB.Milan, .Genoa, .Turin", "snpTCB"}, {"platforms.NAME.snp.grace", "snpGrace"}, {"platforms.NAME.tpm", "tpmPlatform"},
		{"platforms.NAME.endorsements", "endorsementRules"}, {"platforms.NAME.endorsements.maxAgeByKind", "ageRules"},
		{"marbles.NAME", "marble"}, {"marbles.NAME.serves.PORT", "servedPort"}, {"marbles.NAME.calls[]", "call"}, {"marbles.NAME.parameters", "parameters"},
		{"marbles.NAME.parameters.references", "references"}, {"marbles.NAME.parameters.reload", "reload"}, {"marbles.NAME.renewal", "renewal"},
		{"secrets.NAME", "secret"}, {"secrets.NAME.rotation", "rotation"}, {"users.NAME", "user"}, {"roles.NAME", "role"}, {"tests[]", "test"},
		{"recovery", "recovery"}, {"coordinators", "coordinators"}, {"ca", "ca"}, {"witnesses.NAME", "witness"},
	} {
		table(&b, "`"+s.title+"`", root.Defs[s.def], root.Defs)
	}
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the fields", docsFile)
	}
	want := before + docsBegin + "\n" + b.String() + docsEnd + after
	if string(raw) == want {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s is not what the schema says; run UPDATE_DOCS=1 go test ./manifest", docsFile)
	}
	if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReferenceExamplesAreValid parses the documents that the reference shows,
// with whole values in place of those cut short.
func TestReferenceExamplesAreValid(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	full := strings.NewReplacer("0ab2…", strings.Repeat("0a", 32), "91c4…", strings.Repeat("91", 48), "5c3f…", strings.Repeat("5c", 32))
	blocks := strings.Split(string(raw), "```json\n")
	if len(blocks) != 3 {
		t.Fatalf("got %d examples, want 2", len(blocks)-1)
	}
	for i, block := range blocks[1:] {
		text, _, _ := strings.Cut(block, "```")
		var ds Diagnostics
		if i == 0 {
			_, ds = Parse([]byte(full.Replace(text)))
		} else {
			_, ds = ParsePolicyFile([]byte(full.Replace(text)))
		}
		if ds.HasErrors() {
			t.Errorf("example %d: %v", i, ds)
		}
	}
}

func table(b *strings.Builder, title string, s schemaNode, defs map[string]schemaNode) {
	fmt.Fprintf(b, "### %s\n\n%s\n\n| field | value | limits | default | meaning |\n|---|---|---|---|---|\n", title, s.Description)
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		if !strings.HasPrefix(name, "$") {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y string) int {
		rx, ry := slices.Contains(s.Required, x), slices.Contains(s.Required, y)
		if rx != ry {
			return map[bool]int{true: -1, false: 1}[rx]
		}
		return strings.Compare(x, y)
	})
	for _, name := range names {
		p := s.Properties[name]
		target := p.resolve(defs)
		def := "–"
		switch {
		case slices.Contains(s.Required, name):
			def = "required"
		case p.Default != nil:
			def = fmt.Sprintf("`%v`", p.Default)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", name, target.kind(defs), target.limits(defs), def, strings.ReplaceAll(p.meaning(target), "|", "\\|"))
	}
	b.WriteString("\n")
}

func (s schemaNode) resolve(defs map[string]schemaNode) schemaNode {
	if s.Ref == "" {
		return s
	}
	return defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
}

func (s schemaNode) meaning(target schemaNode) string {
	text, examples := s.Description, s.Examples
	if text == "" {
		text = target.Description
	}
	if len(examples) == 0 {
		examples = target.Examples
	}
	if len(examples) == 0 || len(target.Properties) > 0 {
		return text
	}
	example, err := json.Marshal(examples[0])
	if err != nil || len(example) > 80 {
		return text
	}
	return text + " Example: `" + string(example) + "`"
}

func (s schemaNode) kind(defs map[string]schemaNode) string {
	switch {
	case s.Const != nil:
		return fmt.Sprintf("%v", s.Const)
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, e := range s.Enum {
			words[i] = fmt.Sprintf("`%v`", e)
		}
		return strings.Join(words, ", ")
	case s.Items != nil:
		return "list of " + s.Items.resolve(defs).kind(defs)
	case s.Names != nil:
		return "object by name"
	}
	return s.Type
}

func (s schemaNode) limits(defs map[string]schemaNode) string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if s.Minimum != nil {
		add("%d to %d", *s.Minimum, *s.Maximum)
	}
	if s.MaxLength > 0 {
		add("%d characters", s.MaxLength)
	}
	if s.MaxItems > 0 {
		add("%d to %d items", s.MinItems, s.MaxItems)
	}
	if s.MaxProps > 0 {
		add("%d entries", s.MaxProps)
	}
	var extra schemaNode
	if s.Names != nil && json.Unmarshal(s.Extra, &extra) == nil && extra.MaxLength > 0 {
		add("%d characters each", extra.MaxLength)
	}
	if s.Items != nil {
		if item := s.Items.resolve(defs); item.MaxLength > 0 {
			add("%d characters each", item.MaxLength)
		}
	}
	if len(all) == 0 {
		return "–"
	}
	return strings.Join(all, ", ")
}
