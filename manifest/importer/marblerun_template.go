package importer

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"text/template/parse"
	"unicode/utf8"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// file converts a file or a variable: a string, or an object with Data, Encoding
// and NoTemplates.
func (im *marbleRunImport) file(v value, inFile bool) converted {
	if v.is(jsonpos.String) {
		return im.template(v.text(), inFile)
	}
	data := v.get("Data").text()
	switch strings.ToLower(v.get("Encoding").text()) {
	case "", "string":
	case "base64":
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return converted{why: "Data is not what Encoding says"}
		}
		data = string(b)
	case "hex":
		b, err := hex.DecodeString(data)
		if err != nil {
			return converted{why: "Data is not what Encoding says"}
		}
		data = string(b)
	default:
		return converted{why: "Encoding is none of string, base64 and hex"}
	}
	if !utf8.ValidString(data) {
		return converted{why: "parameters are text in UTF-8: bring binary content in the image"}
	}
	if v.get("NoTemplates").flag() {
		return literal(data)
	}
	return im.template(data, inFile)
}

// template converts text with actions. Each action must be one function over one
// value.
func (im *marbleRunImport) template(text string, inFile bool) converted {
	if !strings.Contains(text, "{{") {
		return literal(text)
	}
	trees := map[string]*parse.Tree{}
	t := parse.New("template")
	t.Mode = parse.SkipFuncCheck
	tree, err := t.Parse(text, "", "", trees)
	if err != nil || len(trees) > 1 {
		return converted{why: "the template does not parse, or defines others"}
	}
	var out converted
	if tree.Root == nil {
		return out
	}
	for _, n := range tree.Root.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			out = out.append(literal(string(n.Text)))
		case *parse.CommentNode:
		case *parse.ActionNode:
			out = out.append(im.action(n.Pipe, inFile))
		default:
			return converted{why: "templates have values only, no conditions and loops"}
		}
	}
	return out
}

// action converts "f .A.B" and ".A.B | f".
func (im *marbleRunImport) action(pipe *parse.PipeNode, inFile bool) converted {
	const shape = "an action is one function over one value"
	function := ""
	var operand parse.Node
	for i, cmd := range pipe.Cmds {
		args := cmd.Args
		if id, ok := args[0].(*parse.IdentifierNode); ok && id.Ident != "index" {
			if function != "" {
				return converted{why: shape}
			}
			function, args = id.Ident, args[1:]
		}
		switch {
		case i == 0 && len(args) == 1:
			operand = args[0]
		case i == 0 && len(args) > 1:
			operand = &parse.PipeNode{Cmds: []*parse.CommandNode{{Args: args}}}
		case len(args) > 0:
			return converted{why: shape}
		}
	}
	path, ok := fieldPath(operand)
	if !ok || len(pipe.Decl) > 0 || len(path) == 0 {
		return converted{why: shape}
	}
	return im.reference(function, path, inFile)
}

// fieldPath reads .A.B, (index .Secrets "a").B and (.A).B.
func fieldPath(n parse.Node) ([]string, bool) {
	switch n := n.(type) {
	case *parse.FieldNode:
		return n.Ident, true
	case *parse.ChainNode:
		path, ok := fieldPath(n.Node)
		return append(append([]string(nil), path...), n.Field...), ok
	case *parse.PipeNode:
		if len(n.Cmds) != 1 || len(n.Decl) > 0 {
			return nil, false
		}
		args := n.Cmds[0].Args
		if len(args) == 1 {
			return fieldPath(args[0])
		}
		id, ok := args[0].(*parse.IdentifierNode)
		if !ok || id.Ident != "index" {
			return nil, false
		}
		path, ok := fieldPath(args[1])
		path = append([]string(nil), path...)
		for _, a := range args[2:] {
			s, isText := a.(*parse.StringNode)
			if !isText {
				return nil, false
			}
			path = append(path, s.Text)
		}
		return path, ok
	}
	return nil, false
}

// predefined are values that every marble has, by their path in the source.
var predefined = map[string]string{
	"MarbleRun.RootCA.Cert": ".Bundle", "MarbleRun.CoordinatorRoot.Cert": ".Root", "MarbleRun.CoordinatorIntermediate.Cert": ".Bundle",
	"MarbleRun.MarbleCert.Cert": ".Marble.Certificate", "MarbleRun.MarbleCert.Private": ".Marble.PrivateKey",
}

// reference converts one value under one function.
func (im *marbleRunImport) reference(function string, path []string, inFile bool) converted {
	if got, ok := predefined[strings.Join(path, ".")]; ok {
		return render(function, got, false, inFile)
	}
	previous := len(path) > 2 && path[0] == "Previous"
	if previous {
		path = path[1:]
	}
	if len(path) < 2 || len(path) > 3 || path[0] != "Secrets" {
		return converted{why: "templates have no such value: " + strings.Join(path[:min(2, len(path))], ".")}
	}
	k, ok := im.book.kept[path[1]]
	if !ok {
		if why := im.book.why[path[1]]; why != "" {
			return converted{why: why}
		}
		return converted{why: "Secrets has no entry for it"}
	}
	part := ""
	if len(path) == 3 {
		part = path[2]
	}
	name := ".Secrets." + k.name
	if previous {
		name += ".Previous"
	}
	bytes := k.secret.Type == manifest.Symmetric || k.secret.Type == manifest.Opaque
	switch {
	case bytes && (part == "" || part == "Private" || part == "Public"):
	case !bytes && part == "Cert":
		name += ".Certificate"
	case !bytes && part == "Private":
		name += ".PrivateKey"
	case !bytes && (part == "Public" || part == "" && function != "pem"):
		name += ".PublicKey"
	default:
		return converted{why: "types and sizes are no values of templates"}
	}
	c := render(function, name, bytes, inFile)
	c.uses = []string{path[1]}
	if previous {
		c.remark = "empty until the first rotation, and after the overlap; there it was the current value"
	}
	return c
}

// render writes an action. In PEM a certificate comes with its chain: there the
// anchor signed it directly, here an intermediate stands between.
func render(function, name string, bytes, inFile bool) converted {
	switch {
	case function == "pem" && strings.HasSuffix(name, ".Certificate"):
		return converted{text: "{{ pem " + strings.TrimSuffix(name, "Certificate") + "Chain }}"}
	case function == "string" && bytes:
		return converted{text: "{{ text " + name + " }}"}
	case function == "pem" && !bytes, function == "hex", function == "base64", function == "raw" && inFile:
		return converted{text: "{{ " + function + " " + name + " }}"}
	case function == "pem":
		return converted{why: "random bytes are no PEM block: use hex or base64"}
	}
	return converted{why: "the function does not fit the value here"}
}
