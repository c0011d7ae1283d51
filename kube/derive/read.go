package derive

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
	goyaml "sigs.k8s.io/yaml/goyaml.v3"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Limits of what is read.
const (
	MaxFile      = 8 << 20  // bytes of a file
	MaxTotal     = 64 << 20 // of all
	maxDocument  = 1 << 20  // bytes of a YAML document, and of what its aliases make of it: etcd takes no more
	maxDepth     = 64
	maxValues    = 100_000
	maxDocuments = 10_000
	maxWorkloads = 1_000
	maxLists     = 3 // lists within lists
)

// Source is the content of a file.
type Source struct {
	Name string
	Data []byte
}

// Read reads Kubernetes objects: YAML or JSON, several documents in a file,
// Lists. Objects that mean nothing to a manifest are noted in the report. The
// error is a *problem.Error: KUB-090 for what cannot be read, KUB-091 for what is
// too large, KUB-094 for a NetworkPolicy with a field that is unknown. It holds
// no text of the source but names of fields.
func Read(sources []Source) (*Cluster, error) {
	c := newCluster()
	total := 0
	for _, s := range sources {
		if total += len(s.Data); len(s.Data) > MaxFile || total > MaxTotal {
			return nil, problem.New("KUB-091", "%s: at most %d bytes are read of a file and %d of all", s.Name, MaxFile, MaxTotal)
		}
		if _, twice := c.order[s.Name]; twice {
			continue
		}
		c.order[s.Name] = len(c.order)
		if err := c.file(s); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// file reads each document of a file.
func (c *Cluster) file(s Source) error {
	next := yamlDocuments(s.Data)
	if bytes.HasPrefix(bytes.TrimLeft(s.Data, " \t\r\n"), []byte("{")) {
		next = jsonDocuments(s.Data)
	}
	for n := 1; ; n++ {
		at := Place{File: s.Name, Document: n}
		raw, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return problem.New("KUB-090", "%s: %s", at, err)
		case raw == nil:
			continue
		}
		if err := c.raw(at, raw, 0); err != nil {
			return err
		}
	}
}

// jsonDocuments returns the values of a JSON file one by one.
func jsonDocuments(data []byte) func() (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	return func() (json.RawMessage, error) {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("it is no JSON from byte %d on", dec.InputOffset())
		} else if err != nil {
			return nil, io.EOF
		}
		return raw, nil
	}
}

// yamlDocuments returns the documents of a YAML file as JSON; nil for one that
// is empty.
func yamlDocuments(data []byte) func() (json.RawMessage, error) {
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	return func() (json.RawMessage, error) {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		} else if err != nil {
			return nil, errors.New("text stands behind a line that separates documents")
		}
		return asJSON(doc)
	}
}

var yamlLine = regexp.MustCompile(`line [0-9]+`)

func asJSON(doc []byte) (json.RawMessage, error) {
	if len(doc) > maxDocument {
		return nil, fmt.Errorf("the document has more than %d bytes", maxDocument)
	}
	var root, second goyaml.Node
	dec := goyaml.NewDecoder(bytes.NewReader(doc))
	if err := dec.Decode(&root); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlFault(err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the document's end")
	}
	e := expansion{sizes: map[*goyaml.Node]int{}, open: map[*goyaml.Node]bool{}}
	if e.size(&root, 0) > maxDocument {
		return nil, fmt.Errorf("the document is nested too deeply, or its aliases make more than %d bytes of it", maxDocument)
	}
	raw, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return nil, yamlFault(err)
	}
	if bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	return raw, nil
}

// yamlFault says where YAML is malformed, without its text.
func yamlFault(err error) error {
	switch line := yamlLine.FindString(err.Error()); {
	case strings.Contains(err.Error(), "already set in map"), strings.Contains(err.Error(), "already defined"):
		return fmt.Errorf("a key is there twice in one object: %s", line)
	case line != "":
		return fmt.Errorf("it is no YAML: %s", line)
	}
	return errors.New("it is no YAML")
}

// expansion counts what the aliases of a document make of it.
type expansion struct {
	sizes map[*goyaml.Node]int
	open  map[*goyaml.Node]bool // on the way to the node that is counted
}

// size returns the bytes of a node with its aliases replaced, or something
// larger than maxDocument.
func (e *expansion) size(n *goyaml.Node, depth int) int {
	if depth > maxDepth || e.open[n] {
		return maxDocument + 1
	}
	if n.Kind == goyaml.AliasNode {
		return e.size(n.Alias, depth+1)
	}
	if size, known := e.sizes[n]; known {
		return size
	}
	e.open[n] = true
	defer delete(e.open, n)
	size := len(n.Value) + 1
	for _, child := range n.Content {
		if size += e.size(child, depth+1); size > maxDocument {
			size = maxDocument + 1
			break
		}
	}
	e.sizes[n] = size
	return size
}

// raw reads one object, or each item of a List.
func (c *Cluster) raw(at Place, raw json.RawMessage, lists int) error {
	if c.documents++; c.documents > maxDocuments {
		return problem.New("KUB-091", "%s: there are more than %d objects", at, maxDocuments)
	}
	if lists == 0 {
		limits := jsonpos.Limits{Depth: maxDepth, Values: maxValues * 10}
		if _, faults := jsonpos.Parse(raw, limits); len(faults) > 0 {
			return problem.New("KUB-090", "%s: it is no JSON that is taken: not in UTF-8, a key is there twice in one object, or it is nested deeper than %d", at, maxDepth)
		}
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.APIVersion == "" || head.Kind == "" {
		return problem.New("KUB-090", "%s: it is no Kubernetes object: apiVersion and kind are missing", at)
	}
	if head.Kind != "List" {
		return c.object(at, head.APIVersion, head.Kind, raw)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil || lists >= maxLists {
		return problem.New("KUB-090", "%s: the List cannot be read", at)
	}
	for i, item := range list.Items {
		if err := c.raw(at.at("items[%d]", i), item, lists+1); err != nil {
			return err
		}
	}
	return nil
}
