package coordinator

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// ca sets a schedule, in a deployment without certificates of secrets.
func ca(schedule object) func(object) {
	return func(m object) {
		delete(m["secrets"].(object), "dbCert")
		delete(m["marbles"].(object)["db"].(object), "parameters")
		m["ca"] = schedule
		m["roles"].(object)["operator"].(object)["actions"] = []string{"updateManifest", "rotateCA"}
	}
}

// accepts reports whether a lease's chain leads to a trust anchor of another.
func accepts(t *testing.T, of, by Lease, at time.Time) bool {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range by.Bundle {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(c)
	}
	var leaf *x509.Certificate
	for i, der := range of.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			leaf = c
		} else {
			between.AddCert(c)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func TestRotateCAOnDemand(t *testing.T) {
	d := newDeployment(t)
	alice := &Principal{Name: "alice"}
	if _, err := d.RotateCA(t.Context(), alice, MeshCA); problem.CodeOf(err) != "CRD-081" {
		t.Errorf("without a manifest: got %v, want CRD-081", err)
	}
	d.mustSet(shop(t, ca(object{}), func(m object) { m["roles"].(object)["operator"].(object)["actions"] = []string{"updateManifest"} }))
	for _, tt := range []struct {
		user  *Principal
		which string
		want  problem.Code
	}{{alice, MeshCA, "CRD-081"}, {nil, MeshCA, "CRD-081"}, {alice, "leaf", "CRD-080"}} {
		if _, err := d.RotateCA(t.Context(), tt.user, tt.which); problem.CodeOf(err) != tt.want {
			t.Errorf("%v rotates %s: got %v, want %s", tt.user, tt.which, err, tt.want)
		}
	}
	d.mustSet(shop(t, ca(object{"overlap": "2h"})))
	before := d.CAs()
	old := d.mustActivate("web", "one").Lease
	mesh, err := d.RotateCA(t.Context(), alice, MeshCA)
	if err != nil || mesh.Mesh.Serial == before.Mesh.Serial || mesh.Root.Serial != before.Root.Serial {
		t.Fatalf("mesh: got %+v, %v", mesh, err)
	}
	root, err := d.RotateCA(t.Context(), alice, RootCA)
	if err != nil || root.Root.Serial == before.Root.Serial || len(root.Older) != 1 || root.Older[0].Serial != before.Root.Serial {
		t.Fatalf("root: got %+v, %v", root, err)
	}
	fresh := d.mustActivate("web", "two").Lease
	now := d.clock.Now()
	if !accepts(t, fresh, old, now) || !accepts(t, old, fresh, now) {
		t.Error("during the overlap old and new leaves must accept each other")
	}
	d.restart()
	if got := d.CAs(); got.Root != root.Root || len(got.Older) != 1 || got.Older[0] != root.Older[0] {
		t.Errorf("after a restart: got %+v, want %+v", got, root)
	}
	d.clock.advance(2*time.Hour + time.Minute)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := d.mustActivate("web", "three").Lease
	if len(d.Bundle()) != 1 || len(last.Bundle) != 1 || len(last.Certificates) != 2 || accepts(t, last, old, d.clock.Now()) {
		t.Errorf("after the overlap: got %d anchors and a chain of %d", len(d.Bundle()), len(last.Certificates))
	}
	if steps := d.RootSteps(); len(steps.Steps) != 1 || string(steps.Steps[0].Previous) != string(old.Bundle[0]) {
		t.Errorf("got %d steps, want the one from the first root", len(steps.Steps))
	}
}

func TestRootRotationsAreBounded(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, ca(object{"overlap": "2h"})))
	alice := &Principal{Name: "alice"}
	for range 3 {
		if _, err := d.RotateCA(t.Context(), alice, RootCA); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.RotateCA(t.Context(), alice, RootCA); problem.CodeOf(err) != "CRD-082" {
		t.Errorf("got %v, want CRD-082", err)
	}
}

func TestCASchedule(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, ca(object{"meshRotation": "3h", "rootRotation": "24h", "overlap": "10h"})))
	first := d.CAs()
	// A leaf of a day outlives the overlap: the old root stays for it.
	lasting := lease("web", "24h")
	for _, step := range []struct {
		after                time.Duration
		meshes, roots, older int // how many rotations in all, and older roots then
	}{{2 * time.Hour, 0, 0, 0}, {time.Hour, 1, 0, 0}, {3 * time.Hour, 2, 0, 0}, {18 * time.Hour, 3, 1, 1}, {5 * time.Hour, 4, 1, 1}, {6 * time.Hour, 5, 1, 0}} {
		before := d.CAs()
		d.clock.advance(step.after)
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := d.CAs()
		if changed := got.Mesh.Serial != before.Mesh.Serial; changed != (step.meshes > 0) {
			t.Errorf("after %s: mesh CA replaced: %t", step.after, changed)
		}
		if changed := got.Root.Serial != first.Root.Serial; changed != (step.roots > 0) || len(got.Older) != step.older {
			t.Errorf("after %s: root replaced: %t, older roots %d, want %d", step.after, changed, len(got.Older), step.older)
		}
	}
	d.mustSet(shop(t, ca(object{"overlap": "10m"}), lasting))
	d.mustActivate("web", "one")
	got, err := d.RotateCA(t.Context(), &Principal{Name: "alice"}, RootCA)
	if want := d.clock.Now().Add(24 * time.Hour); err != nil || got.Older[0].Next.Before(want) {
		t.Errorf("got %+v, %v: the old root must be trusted until %s, when the leaf of a day ends", got.Older, err, want)
	}
}

func TestCertificatesOfSecretsHoldTheOldRoot(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, ca(object{"overlap": "10m"}), func(m object) {
		m["secrets"].(object)["tls"] = object{"type": "cert-ecdsa", "readers": []string{"web"}}
	}))
	mesh := d.CAs().Mesh.NotAfter
	got, err := d.RotateCA(t.Context(), &Principal{Name: "alice"}, RootCA)
	if err != nil || got.Older[0].Next.Before(mesh) {
		t.Errorf("got %+v, %v, want the old root until %s", got.Older, err, mesh)
	}
}
