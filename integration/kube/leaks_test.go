//go:build linux

package kube

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/ashlar-mesh/ashlar/integration/kube/cluster"
)

// forms are the ways in which a secret value could be written down, by name.
func forms(name string, value []byte) map[string][]byte {
	out := map[string][]byte{
		name + " raw": value, name + " hex": []byte(hex.EncodeToString(value)), name + " HEX": []byte(strings.ToUpper(hex.EncodeToString(value))),
	}
	if text, err := json.Marshal(string(value)); err == nil {
		out[name+" json"] = text[1 : len(text)-1]
	}
	for shift := range 3 { // base64 of something that holds it, wherever it begins in that
		padded := append(bytes.Repeat([]byte{0}, shift), value...)
		for kind, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := enc.EncodeToString(padded)
			from, to := []int{0, 2, 3}[shift], len(text)
			if len(padded)%3 != 0 {
				to-- // its last character depends on what follows
			}
			out[fmt.Sprintf("%s %s+%d", name, kind, shift)] = []byte(text[from:to])
		}
	}
	return out
}

// keyMarks begin private keys of every kind, in the forms that these are kept in.
func keyMarks() map[string][]byte {
	out := map[string][]byte{}
	for name, mark := range map[string]string{
		"PEM key":      "PRIVATE KEY-----",
		"PKCS8 P-256":  "\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20",
		"SEC1 P-256":   "\x30\x77\x02\x01\x01\x04\x20",
		"PKCS8 P-384":  "\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x04\x81",
		"SEC1 P-384":   "\x30\x81\xa4\x02\x01\x01\x04\x30",
		"PKCS8 25519":  "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
		"age identity": "AGE-SECRET-KEY-",
	} {
		for form, b := range forms(name, []byte(mark)) {
			out[form] = b
		}
	}
	return out
}

// found lists where any of the needles is, in etcd as it is stored and at the API
// server in every resource, and how many things were looked through.
func found(t *testing.T, c *cluster.Cluster, needles map[string][]byte) (places []string, looked int) {
	t.Helper()
	look := func(place string, content []byte) {
		looked++
		for name, n := range needles {
			if bytes.Contains(content, n) {
				places = append(places, place+": "+name)
			}
		}
	}
	if err := c.Raw(t.Context(), func(key string, value []byte) { look("etcd "+key, append([]byte(key), value...)) }); err != nil {
		t.Fatal(err)
	}
	everything(t, c, func(place string, object *unstructured.Unstructured) {
		text, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		look("API "+place, text)
		if object.GetKind() == "Secret" {
			data, _, _ := unstructured.NestedStringMap(object.Object, "data")
			for key, value := range data {
				look("API "+place+" "+key, unpacked(value))
			}
		}
	})
	return places, looked
}

// unpacked takes a Secret's value out of its base64, and a release of Helm's out of
// its second base64 and its compression.
func unpacked(value string) []byte {
	plain, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return nil
	}
	inner, err := base64.StdEncoding.DecodeString(string(plain))
	if err != nil {
		return plain
	}
	z, err := gzip.NewReader(bytes.NewReader(inner))
	if err != nil {
		return append(plain, inner...)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return append(plain, inner...)
	}
	return text
}

// everything calls f with each object of each resource that can be listed.
func everything(t *testing.T, c *cluster.Cluster, f func(place string, object *unstructured.Unstructured)) {
	t.Helper()
	lists, err := c.Client.Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	resources, err := discovery.GroupVersionResources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list"}}, lists))
	if err != nil {
		t.Fatal(err)
	}
	for r := range resources {
		list, err := client.Resource(r).List(t.Context(), meta.ListOptions{})
		if err != nil {
			t.Fatalf("listing %s: %v", r.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			f(r.Resource+" "+o.GetNamespace()+"/"+o.GetName(), o)
		}
	}
}

// TestTheSearchForSecretsFinds plants values in each form and place: the control
// of the search that has to find nothing.
func TestTheSearchForSecretsFinds(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	value := []byte("planted-Öl-7c4f0e61>>?")
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: append([]byte("some bytes before "), value...)})
	for name, text := range map[string]string{"raw": string(value), "hex": hex.EncodeToString(value), "pem": string(block),
		"base64": base64.StdEncoding.EncodeToString(append([]byte("x"), value...)), "url": base64.RawURLEncoding.EncodeToString(value)} {
		cm := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name}, Data: map[string]string{"k": text}}
		if _, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(value); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{"bytes": value, "release": []byte(base64.StdEncoding.EncodeToString(packed.Bytes()))}
	if _, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "planted"}, Data: secrets}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // a namespace takes a while to be gone, and others search too
		for _, name := range []string{"raw", "hex", "pem", "base64", "url"} {
			_ = c.Client.CoreV1().ConfigMaps(ns).Delete(context.Background(), name, meta.DeleteOptions{})
		}
		_ = c.Client.CoreV1().Secrets(ns).Delete(context.Background(), "planted", meta.DeleteOptions{})
	})

	places, _ := found(t, c, forms("planted", value))
	all := strings.Join(places, "\n")
	for _, want := range []string{"etcd /registry/configmaps/" + ns + "/raw: planted raw", "etcd /registry/configmaps/" + ns + "/hex: planted hex",
		"etcd /registry/configmaps/" + ns + "/base64: planted base64+1", "etcd /registry/configmaps/" + ns + "/url: planted base64url+0",
		"etcd /registry/secrets/" + ns + "/planted: planted raw", "API configmaps " + ns + "/raw: planted json",
		"API secrets " + ns + "/planted bytes: planted raw", "API secrets " + ns + "/planted release: planted raw"} {
		if !strings.Contains(all, want) {
			t.Errorf("not found: %s", want)
		}
	}
	marks, _ := found(t, c, keyMarks())
	if want := "API configmaps " + ns + "/pem: PEM key raw"; !strings.Contains(strings.Join(marks, "\n"), want) {
		t.Errorf("not found: %s", want)
	}
}

// nothingLeaked reads all that etcd and the API server have after the whole
// scenario.
func (m *mesh) nothingLeaked(shop string) {
	needles := keyMarks()
	add := func(name string, value []byte) {
		for form, b := range forms(name, value) {
			needles[form] = b
		}
	}
	add("cartKey", []byte(cartKey))
	add("apiToken", []byte(apiToken))
	key := m.resolved(shop, "/etc/cart/tls.key")
	block, _ := pem.Decode(key)
	if block == nil {
		m.t.Fatalf("/etc/cart/tls.key in cart's pod is no PEM: %d bytes", len(key))
	}
	add("cartTLS", block.Bytes[len(block.Bytes)/3:])
	for i, line := range strings.Split(strings.TrimSpace(string(key)), "\n") {
		if !strings.HasPrefix(line, "-----") {
			needles[fmt.Sprintf("cartTLS line %d", i)] = []byte(line)
		}
	}
	if got := m.resolved(shop, "/etc/cart/key"); string(got) != cartKey {
		m.t.Errorf("the file of cart's program has %d bytes, want the secret's value", len(got))
	}
	places, looked := found(m.t, m.c, needles)
	if len(places) > 0 {
		m.t.Errorf("secrets outside of a TEE:\n%s", strings.Join(places, "\n"))
	}
	references, _ := found(m.t, m.c, map[string][]byte{"reference": []byte("sealed:ashlar:v1:cartKey")})
	if looked < 500 || len(references) == 0 {
		m.t.Errorf("%d things were looked through and %d references found, want more than 500 and some: was it the right cluster?", looked, len(references))
	}
}

// resolved reads a file in cart's pod.
func (m *mesh) resolved(shop, path string) []byte {
	m.t.Helper()
	pod, err := aPod(m.t.Context(), m.c.Client, shop, "app=cart")
	if err != nil {
		m.t.Fatal(err)
	}
	b, err := m.nodes.ReadFile(shop, pod.Name, "cart", path)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}
