package dev

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest/sim"
)

// TestRemeasured: a manifest in force stays as it is, but for the measurements
// of programs that were built anew.
func TestRemeasured(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("ashlar-marble", "agent")
	web := write("web", "program")
	d := &Deployment{bin: dir, Services: []Service{{Name: "web", Program: web}, {Name: "gone", Program: web}}}
	agent, err := sim.FileDigest(filepath.Join(dir, "ashlar-marble"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := sim.FileDigest(web)
	if err != nil {
		t.Fatal(err)
	}
	active := `{"version": 1, "packages": {"web": {"sim": {"program": ["` + program.String() + `"], "agent": ["` + agent.String() + `"]}}, "own": {"sim": {}}}, "marbles": {"own": {}}}`
	if got, err := d.remeasured([]byte(active)); err != nil || got != nil {
		t.Fatalf("got %s, %v, want nothing to change", got, err)
	}
	write("web", "program, built anew")
	got, err := d.remeasured([]byte(active))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Packages map[string]struct{ Sim struct{ Program []string } }
		Marbles  map[string]any
	}
	if err := json.Unmarshal(got, &doc); err != nil {
		t.Fatal(err)
	}
	if program, err = sim.FileDigest(web); err != nil {
		t.Fatal(err)
	}
	if p := doc.Packages["web"].Sim.Program; len(p) != 1 || p[0] != program.String() {
		t.Errorf("got programs %v, want %s", p, program)
	}
	if _, ok := doc.Packages["gone"]; ok || len(doc.Packages) != 2 || doc.Marbles["own"] == nil {
		t.Errorf("got %s, want the operator's own package and marble, and none that was removed", got)
	}
}

func TestInstanceIDIsStable(t *testing.T) {
	a, b := &Deployment{Config: Config{Dir: "/a"}}, &Deployment{Config: Config{Dir: "/b"}}
	id := a.instanceID("web")
	if id != a.instanceID("web") || id == a.instanceID("cart") || id == b.instanceID("web") {
		t.Errorf("got %s, %s, %s: want one id for each service and folder", id, a.instanceID("cart"), b.instanceID("web"))
	}
	if len(id) != 36 || id[14] != '8' {
		t.Errorf("got %s, want a UUID of version 8", id)
	}
}
