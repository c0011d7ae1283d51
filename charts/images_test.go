package charts_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// dockerfiles reads the instructions of the images by their folders' names.
func dockerfiles(t *testing.T) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob("../images/*/Dockerfile")
	if err != nil || len(paths) != 4 {
		t.Fatalf("got %d Dockerfiles (%v), want 4", len(paths), err)
	}
	all := map[string][]string{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "\\\n", " ")
		for line := range strings.SplitSeq(text, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				name := filepath.Base(filepath.Dir(path))
				all[name] = append(all[name], line)
			}
		}
	}
	return all
}

func TestImages(t *testing.T) {
	base := regexp.MustCompile(`^FROM (scratch|[a-z]+(/[a-z]+)?:(\$\{[A-Z]+\}|[a-z0-9.-]+))( AS [a-z]+)?$`)
	version := regexp.MustCompile(`-X github.com/ashlar-mesh/ashlar/([a-z/]+)\.Version=`)
	for name, lines := range dockerfiles(t) {
		text := strings.Join(lines, "\n")
		for _, line := range lines {
			if strings.HasPrefix(line, "FROM ") && (!base.MatchString(line) || strings.Contains(line, ":latest")) {
				t.Errorf("%s: %q: wanted a tag, and no registry", name, line)
			}
		}
		if !slices.Contains(lines, "USER 65532:65532") {
			t.Errorf("%s: wanted the user that the chart has", name)
		}
		last := text[strings.LastIndex(text, "FROM "):]
		if gramine := strings.HasSuffix(name, "-gramine"); gramine == strings.HasPrefix(last, "FROM scratch") || !strings.Contains(last, "ENTRYPOINT [") {
			t.Errorf("%s ends with %q", name, last)
		}
		m := version.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s: no version is linked", name)
			continue
		}
		var found bool
		files, _ := filepath.Glob("../" + m[1] + "/*.go")
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(b), "\nvar Version = ")
		}
		if !found {
			t.Errorf("%s sets the version in %s, which has none", name, m[1])
		}
	}
}

// The chart's repositories are the images' folders.
func TestImagesAreTheCharts(t *testing.T) {
	all, defaults := dockerfiles(t), load(t).Values
	for _, part := range []string{"coordinator", "injector", "marble"} {
		repository, _ := lookup(defaults, part+".image.repository")
		folder := strings.TrimPrefix(repository.(string), "ashlar-")
		if lines := all[folder]; len(lines) == 0 || !strings.Contains(lines[len(lines)-1], "/ashlar-"+folder+`"]`) {
			t.Errorf("%s: got repository %v, whose image starts %v", part, repository, lines)
		}
	}
}

// Envoy finds its libraries where the injector puts them, and is the one that
// everything is tried with.
func TestMarbleImage(t *testing.T) {
	text := strings.Join(dockerfiles(t)["marble"], "\n")
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	pinned := regexp.MustCompile(`\nversion=([0-9.]+)\n`).FindStringSubmatch(read("../scripts/envoy.sh"))
	if pinned == nil || !strings.Contains(text, "\nARG ENVOY="+pinned[1]+"\n") {
		t.Errorf("wanted Envoy %v, as scripts/envoy.sh", pinned)
	}
	injected := mustInject(t)
	bin := injected[len(injected)-1]
	if strings.Join(injected[:2], " ") != "ashlar-marble install" || strings.Count(text, " "+bin+"/envoy-lib") != 1 || strings.Count(text, `"`+bin+"/envoy-lib/") != 1 {
		t.Errorf("the injector installs by %q; Envoy looks for its libraries elsewhere", injected)
	}
	if !strings.Contains(read("../marble/command/install.go"), `libraries = "envoy-lib"`) {
		t.Error("install brings another folder")
	}
	if !strings.Contains(text, "ENV PATH=/opt/ashlar\n") || !strings.Contains(text, "/opt/ashlar/ashlar-marble") {
		t.Error("ashlar-marble is not in PATH")
	}
}

// mustInject returns the command of the injected init container.
func mustInject(t *testing.T) []string {
	t.Helper()
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1", Command: []string{"/app/web"}}}}}
	pod.Labels = map[string]string{inject.Label: "web"}
	var settings struct {
		inject.Settings
		Client, Webhook, Service string
	}
	values := values{"tee": values{"defaults": values{"sim:sgx": "sim"}}}
	strict(t, []byte(find[*corev1.ConfigMap](t, objects(t, mustRender(t, usual, values)), "ashlar-injector").Data["settings.json"]), &settings)
	result, err := inject.Pod(pod, inject.Marble{Name: "web", TEEs: []string{"sim:sgx"}}, settings.Settings)
	if err != nil {
		t.Fatal(err)
	}
	first := result.Pod.Spec.InitContainers[0]
	if first.Image != "ashlar-marble:devel" {
		t.Errorf("got image %s", first.Image)
	}
	return append(slices.Clone(first.Command), first.Args...)
}
