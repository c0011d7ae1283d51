package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// MaxActions is how many {{ actions }} one template may hold.
const MaxActions = 1000

// MaxFunctions is how many functions one action may apply in a row. Quoting what
// is quoted can double it each time.
const MaxFunctions = 3

// template is a checked template: literal texts and chains of functions over
// one value each. There are no variables, conditions, loops or other
// templates, so its output has a known size and its secrets are known without
// rendering it.
type template struct {
	parts   []part
	secrets []string // that it names, sorted, each once
	binary  bool     // its output may be other than UTF-8
}

type part struct {
	literal string
	field   []string // "Marble", "Chain"; nil for a literal
	calls   []string // functions, in the order of use
}

// templateError says why a template can't be used.
type templateError struct {
	text, suggest string
	unknownSecret string
}

func (e *templateError) Error() string { return e.text }

// valueKind is the type of a template's value.
type valueKind int

const (
	textValue   valueKind = iota // prints as it is
	bytesValue                   // a symmetric or opaque secret: needs hex, base64, base64url, raw or text
	objectValue                  // certificates or a key: pem, and all of those but text
	binaryValue                  // what raw gives
)

// functions are what a template may call: which kinds each takes and what it
// gives.
var functions = map[string]struct {
	takes []valueKind
	gives valueKind
}{
	"pem":       {[]valueKind{objectValue}, textValue},
	"hex":       {[]valueKind{bytesValue, objectValue}, textValue},
	"base64":    {[]valueKind{bytesValue, objectValue}, textValue},
	"base64url": {[]valueKind{bytesValue, objectValue}, textValue},
	"raw":       {[]valueKind{bytesValue, objectValue}, binaryValue},
	"text":      {[]valueKind{bytesValue}, textValue},
	"json":      {[]valueKind{textValue}, textValue},
}

// functionNames are the functions, in the order in which they are offered.
var functionNames = []string{"pem", "hex", "base64", "base64url", "raw", "text", "json"}

var fields = map[string]valueKind{
	"Marble.Name": textValue, "Marble.SPIFFEID": textValue, "Marble.Instance": textValue,
	"Marble.Certificate": objectValue, "Marble.Chain": objectValue, "Marble.PrivateKey": objectValue,
	"Root": objectValue, "Bundle": objectValue,
}

// fieldNames are the fields in words, for suggestions.
const fieldNames = ".Marble.Name, .Marble.SPIFFEID, .Marble.Instance, .Marble.Certificate, .Marble.Chain, .Marble.PrivateKey, .Root, .Bundle, .Secrets.NAME"

// compile checks a template. With secrets nil it takes any secret's name and
// both shapes of secret.
func compile(text string, secrets map[string]Secret) (*template, *templateError) {
	if !strings.Contains(text, "{{") {
		return &template{parts: []part{{literal: text}}}, nil
	}
	trees := make(map[string]*parse.Tree)
	t := parse.New("template")
	t.Mode = parse.SkipFuncCheck
	tree, err := t.Parse(text, "", "", trees)
	if err != nil {
		return nil, &templateError{text: "the template does not parse: " + strings.TrimPrefix(err.Error(), "template: template:")}
	}
	if len(trees) > 1 {
		return nil, &templateError{text: "a template can't define others"}
	}
	out := new(template)
	if tree.Root == nil {
		return out, nil
	}
	if len(tree.Root.Nodes) > 2*MaxActions {
		return nil, &templateError{text: fmt.Sprintf("the template has more than %d actions", MaxActions)}
	}
	for _, n := range tree.Root.Nodes {
		p, err := compileNode(n)
		if err == nil {
			err = out.add(p, secrets)
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(out.secrets)
	out.secrets = slices.Compact(out.secrets)
	return out, nil
}

func compileNode(n parse.Node) (part, *templateError) {
	switch n := n.(type) {
	case *parse.TextNode:
		return part{literal: string(n.Text)}, nil
	case *parse.CommentNode:
		return part{}, nil
	case *parse.ActionNode:
		return compilePipe(n.Pipe)
	}
	word := strings.Fields(strings.Trim(n.String(), "{-} "))
	if len(word) == 0 {
		return part{}, &templateError{text: "the template holds an action that is not offered"}
	}
	return part{}, &templateError{text: fmt.Sprintf("templates have no %q; they hold text and values only", clip(word[0]))}
}

// compilePipe reads "f .A.B | g": functions of one value.
func compilePipe(pipe *parse.PipeNode) (part, *templateError) {
	if len(pipe.Decl) > 0 {
		return part{}, &templateError{text: "templates have no variables"}
	}
	if len(pipe.Cmds) > MaxFunctions {
		return part{}, &templateError{text: fmt.Sprintf("more than %d functions in a row", MaxFunctions)}
	}
	var p part
	for i, cmd := range pipe.Cmds {
		args := cmd.Args
		if name, ok := args[0].(*parse.IdentifierNode); ok {
			if _, known := functions[name.Ident]; !known {
				return part{}, &templateError{text: fmt.Sprintf("there is no function %q", clip(name.Ident)), suggest: "use one of " + strings.Join(functionNames, ", ")}
			}
			args = args[1:]
			p.calls = append(p.calls, name.Ident)
		}
		if i > 0 {
			if len(args) > 0 {
				return part{}, &templateError{text: fmt.Sprintf("after | stands a function alone, not %q", clip(cmd.String()))}
			}
			continue
		}
		if len(args) != 1 {
			return part{}, &templateError{text: fmt.Sprintf("%q needs exactly one value", clip(cmd.String())), suggest: "write for example {{ hex .Secrets.sessionKey }}"}
		}
		field, ok := args[0].(*parse.FieldNode)
		if !ok {
			return part{}, &templateError{text: fmt.Sprintf("%q is no value that templates have", clip(args[0].String())), suggest: "use one of " + fieldNames}
		}
		p.field = field.Ident
	}
	return p, nil
}

// add checks the types of one part and appends it.
func (t *template) add(p part, secrets map[string]Secret) *templateError {
	t.parts = append(t.parts, p)
	if p.field == nil {
		return nil
	}
	kinds, err := t.kinds(p.field, secrets)
	if err != nil {
		return err
	}
	name := "." + strings.Join(p.field, ".")
	for _, call := range p.calls {
		f := functions[call]
		if !slices.ContainsFunc(f.takes, func(k valueKind) bool { return slices.Contains(kinds, k) }) {
			return &templateError{text: fmt.Sprintf("%s does not fit %s", call, name), suggest: fits(kinds)}
		}
		kinds = []valueKind{f.gives}
	}
	if slices.Contains(kinds, bytesValue) || slices.Contains(kinds, objectValue) {
		return &templateError{text: name + " is not text and needs a function", suggest: fits(kinds)}
	}
	t.binary = t.binary || kinds[0] == binaryValue
	return nil
}

func fits(kinds []valueKind) string {
	var names []string
	for _, name := range functionNames {
		if slices.ContainsFunc(functions[name].takes, func(k valueKind) bool { return slices.Contains(kinds, k) }) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "use " + strings.Join(names, ", ")
}

// kinds returns what a field may be, and notes a secret.
func (t *template) kinds(field []string, secrets map[string]Secret) ([]valueKind, *templateError) {
	name := strings.Join(field, ".")
	if kind, ok := fields[name]; ok {
		return []valueKind{kind}, nil
	}
	if field[0] != "Secrets" || len(field) < 2 || len(field) > 4 {
		return nil, &templateError{text: fmt.Sprintf("there is no value %s", strconv.Quote("."+clip(name))), suggest: "use one of " + fieldNames}
	}
	secret, known := secrets[field[1]]
	if secrets != nil && !known {
		return nil, &templateError{text: fmt.Sprintf("there is no secret %q", clip(field[1])), unknownSecret: field[1]}
	}
	t.secrets = append(t.secrets, field[1])
	part, _ := secretPart(field)
	kind, known := secretKinds[part]
	switch {
	case !known:
		return nil, &templateError{text: fmt.Sprintf("a secret has no %q", clip(part)), suggest: "secrets have PrivateKey, PublicKey, Certificate, Chain, Version and Previous"}
	case secrets == nil || secret.Type == "" || slices.Contains(secretParts(secret), part):
		return []valueKind{kind}, nil
	}
	return nil, noPart(field[1], part, secret)
}

// secretPart returns which part of a secret a field names, "" for its bytes, and
// whether it is that of the version before.
func secretPart(field []string) (part string, previous bool) {
	rest := field[2:]
	if len(rest) > 0 && rest[0] == "Previous" {
		previous, rest = true, rest[1:]
	}
	return strings.Join(rest, "."), previous
}

// secretKinds are what templates may name of secrets.
var secretKinds = map[string]valueKind{
	"": bytesValue, "PrivateKey": objectValue, "PublicKey": objectValue, "Certificate": objectValue, "Chain": objectValue, "Version": textValue,
}

// secretParts are the parts that a secret has: of a use-only key, none that is secret.
func secretParts(s Secret) []string {
	switch {
	case s.Type == Counter, s.Type == Symmetric && len(s.Operations) > 0:
		return nil
	case s.Type == Opaque, s.Type == Symmetric:
		return []string{"", "Version"}
	}
	all := []string{"PublicKey", "Version"}
	if s.Type.Certified() {
		all = append([]string{"Certificate", "Chain"}, all...)
	}
	if len(s.Operations) == 0 {
		all = append(all, "PrivateKey")
	}
	return all
}

// noPart says why a template cannot have a part of a secret, and what it can.
func noPart(name, part string, s Secret) *templateError {
	e := &templateError{text: fmt.Sprintf("secret %q is %s and has no %s", name, s.Type, part)}
	switch {
	case s.Type == Counter:
		e.text, e.suggest = fmt.Sprintf("secret %q is a counter, and no template holds one", name), "ask for it through the agent's socket"
		return e
	case len(s.Operations) > 0 && (s.Type == Symmetric || part == "" || part == "PrivateKey"):
		e.text, e.suggest = fmt.Sprintf("secret %q is use-only: no reader ever gets the key", name), "use it through the agent's socket, or remove operations"
		return e
	case part == "":
		e.text = fmt.Sprintf("secret %q has parts: name one", name)
	}
	var can []string
	for _, p := range secretParts(s) {
		can = append(can, strings.TrimSuffix(".Secrets."+name+"."+p, "."))
	}
	e.suggest = "write " + strings.Join(can, " or ")
	return e
}
