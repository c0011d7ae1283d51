package inject_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/manifest"
)

func preview(t testing.TB, profile string) inject.Preview {
	t.Helper()
	raw, err := os.ReadFile("testdata/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	m, diagnostics := manifest.Parse(raw)
	if err := diagnostics.Err(); err != nil {
		t.Fatal(err)
	}
	return inject.Preview{Manifest: m, Settings: settings(), Profile: profile}
}

// TestFile goes through every kind that makes pods, and leaves the rest alone.
func TestFile(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "objects.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	out, objects, err := preview(t, "sim").File("objects.yaml", raw)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "objects.injected.yaml"), out)
	var got []string
	for _, o := range objects {
		got = append(got, o.Object+" "+o.Marble+" "+o.Profile)
	}
	want := "Deployment web sim, CronJob night sim, Pod one sim, Pod two sim, Rollout custom sim"
	if s := strings.ReplaceAll(strings.Join(got, ", "), " web sim", " sim"); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
	again, _, err := preview(t, "sim").File("objects.yaml", out)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(out) {
		t.Errorf("the second time: got\n%s", again)
	}
}

func TestFileIsRefused(t *testing.T) {
	pod := strings.Replace(plainPod, "apiVersion", "\napiVersion", 1)
	for _, c := range []struct {
		name, text string
		code       problem.Code
		want       string
	}{
		{"no YAML", "a: [", "KUB-064", "f.yaml, document 1"},
		{"key twice", "kind: A\nkind: B", "KUB-064", "document 1"},
		{"second document", "kind: ConfigMap\n---\n- {", "KUB-064", "document 2"},
		{"no pod", "kind: Pod\nmetadata: {labels: 3}", "KUB-064", "document 1"},
		{"too large", strings.Repeat(" ", 8<<20+1), "KUB-064", "limit"},
		{"lists", strings.Repeat("items: [{", 9) + strings.Repeat("}]", 9), "KUB-064", "Lists"},
		{"no marble", strings.Replace(pod, "marble: web", "marble: wep", 1), "KUB-052", "f.yaml, document 1, Pod web: the manifest in force has no marble"},
		{"several", pod + "\n---\n" + strings.Replace(pod, "[/app/web]", "null", 1) + "\n---\nkind: [", "KUB-050", "document 2, Pod web: container web has no command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := preview(t, "sim").File("f.yaml", []byte(c.text))
			if problem.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.want)
			}
		})
	}
}

// TestFileWithoutLabels stays as it is, letter for letter.
func TestFileWithoutLabels(t *testing.T) {
	text := "# words\nkind: ConfigMap   # here\ndata: {a: b}\n"
	out, objects, err := preview(t, "").File("f.yaml", []byte(text))
	if err != nil || string(out) != text || len(objects) != 0 {
		t.Errorf("got %q, %v, %v", out, objects, err)
	}
}

func FuzzFile(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("testdata", "objects.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("kind: List\nitems: [{kind: Pod, metadata: {labels: {ashlar.dev/marble: web}}}]"))
	p := preview(f, "sim")
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, _, err := p.File("f.yaml", raw)
		if err != nil {
			return
		}
		if _, _, err := p.File("f.yaml", out); err != nil {
			t.Errorf("the second time: %v", err)
		}
	})
}
