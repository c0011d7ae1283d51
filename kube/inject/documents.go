package inject

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of a file of objects.
const (
	maxObjectFile = 8 << 20 // bytes
	maxObjects    = 10_000
	maxLists      = 3 // lists within lists
)

// Object is an object whose pods become marbles.
type Object struct {
	File     string   `json:"file"`
	Document int      `json:"document"` // of the file, from 1
	Object   string   `json:"object"`   // "Deployment web"
	Marble   string   `json:"marble"`
	Profile  string   `json:"profile"`
	Warnings []string `json:"warnings,omitempty"`
}

// Preview is what the webhook would do to the pods of objects, without a cluster.
type Preview struct {
	Manifest *manifest.Manifest
	Settings Settings
	Profile  string // for pods that name none; empty: the settings' defaults
}

// File returns a file of objects, YAML or JSON, with the templates of labelled
// pods as the webhook would have the pods, and says of each what was done. Other
// documents stay as they are, letter for letter. The error has all that is wrong:
// KUB-064 for what is no object, else what Pod and FromManifest refuse.
func (p Preview) File(name string, data []byte) (out []byte, objects []Object, err error) {
	if len(data) > maxObjectFile {
		return nil, nil, problem.New("KUB-064", "%s has %d bytes, limit %d", name, len(data), maxObjectFile)
	}
	w := walk{Preview: p}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, problem.Because(err, "KUB-064", "%s", name)
		}
		w.at = Object{File: name, Document: n}
		if n > 1 {
			out = append(out, "---\n"...)
		}
		out = append(out, w.document(text)...)
	}
	return out, w.objects, w.refused.err(name)
}

// walk goes through the objects of a file.
type walk struct {
	Preview
	at      Object // the document that is being read
	seen    int
	objects []Object
	refused refusals
}

// document returns a document with its pods injected.
func (w *walk) document(text []byte) []byte {
	raw, err := yaml.YAMLToJSONStrict(text)
	var object map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &object)
	}
	if err != nil {
		w.refused.add("KUB-064", "%s, document %d is no YAML of an object, or has a key twice: %s", w.at.File, w.at.Document, lineOf(err))
		return text
	}
	if object == nil || !w.object(object, 0) {
		return text
	}
	if text, err = yaml.Marshal(object); err != nil {
		w.refused.add("KUB-064", "%s, document %d cannot be written: %v", w.at.File, w.at.Document, err)
	}
	return text
}

var yamlLine = regexp.MustCompile(`line [0-9]+`)

// lineOf is where YAML is wrong, without its text: a file may hold Secrets.
func lineOf(err error) string {
	if line := yamlLine.FindString(err.Error()); line != "" {
		return line
	}
	return "somewhere"
}

// object injects an object, or each item of a List, and reports whether it
// changed any.
func (w *walk) object(o map[string]any, lists int) (changed bool) {
	if w.seen++; w.seen > maxObjects || lists > maxLists {
		if w.seen == maxObjects+1 || lists > maxLists {
			w.refused.add("KUB-064", "%s: more than %d objects, or Lists within more than %d Lists", w.at.File, maxObjects, maxLists)
		}
		return false
	}
	if items, ok := o["items"].([]any); ok {
		for _, item := range items {
			if child, ok := item.(map[string]any); ok && w.object(child, lists+1) {
				changed = true
			}
		}
		return changed
	}
	meta, _ := o["metadata"].(map[string]any)
	w.at.Object = fmt.Sprintf("%v %v", o["kind"], meta["name"])
	template := templateOf(o)
	return template != nil && w.template(template, o["kind"] == "Pod")
}

// templateOf finds what pods are made of: the object itself, spec.template, or
// what a CronJob has. Any kind that has it is taken, one that is not Kubernetes'
// own too.
func templateOf(o map[string]any) map[string]any {
	if o["kind"] == "Pod" {
		return o
	}
	for _, way := range [][]string{{"spec", "template"}, {"spec", "jobTemplate", "spec", "template"}} {
		at := o
		for _, key := range way {
			at, _ = at[key].(map[string]any)
		}
		if _, ok := at["spec"].(map[string]any); ok {
			return at
		}
	}
	return nil
}

// template injects the pods of a template.
func (w *walk) template(t map[string]any, isPod bool) bool {
	pod := new(corev1.Pod)
	raw, err := json.Marshal(map[string]any{"metadata": t["metadata"], "spec": t["spec"]})
	if err == nil {
		err = json.Unmarshal(raw, pod)
	}
	name, ok := Labelled(pod)
	switch {
	case err != nil && !isPod: // some other kind's template
		return false
	case err != nil:
		w.refused.add("KUB-064", "%s, document %d: %s has fields of other types than a pod", w.at.File, w.at.Document, w.at.Object)
		return false
	case !ok:
		return false
	}
	if _, own := pod.Annotations[ProfileOf]; !own && w.Profile != "" {
		if pod.Annotations == nil {
			pod.Annotations = make(map[string]string)
		}
		pod.Annotations[ProfileOf] = w.Profile
	}
	m, err := FromManifest(w.Manifest, name)
	var got Result
	if err == nil {
		got, err = Pod(pod, m, w.Settings)
	}
	if err != nil {
		w.refuse(err)
		return false
	}
	if err := put(t, got.Pod); err != nil {
		w.refuse(err)
		return false
	}
	w.at.Marble, w.at.Profile, w.at.Warnings = name, got.Profile, got.Warnings
	w.objects = append(w.objects, w.at)
	return true
}

// refuse adds what was refused, with the place.
func (w *walk) refuse(err error) {
	var r refusals
	r.addIf(err)
	for _, e := range r {
		named := *e
		named.Detail = fmt.Sprintf("%s, document %d, %s: %s", w.at.File, w.at.Document, w.at.Object, e.Detail)
		w.refused = append(w.refused, &named)
	}
}

// put replaces metadata and spec of a template. Fields that a pod of this
// package's version has not, an API server would drop; they are dropped here.
func put(t map[string]any, pod *corev1.Pod) error {
	raw, err := json.Marshal(struct {
		Metadata any            `json:"metadata"`
		Spec     corev1.PodSpec `json:"spec"`
	}{pod.ObjectMeta, pod.Spec})
	if err != nil {
		return problem.Because(err, "KUB-064", "writing the pod")
	}
	return json.Unmarshal(raw, &t)
}
