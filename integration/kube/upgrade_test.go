//go:build linux

package kube

import (
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli"
)

// TestUpgradeToNewerPrograms upgrades with the command of a later version, and
// goes back with the earlier one, which takes a risk by its name.
func TestUpgradeToNewerPrograms(t *testing.T) {
	c := controlPlane(t)
	ns := c.Namespace(t, nil)
	o := newOperator(t, c, ns)
	becomeReady(t, c, ns)
	built := cli.Version
	t.Cleanup(func() { cli.Version = built })
	runs := func(version string) {
		t.Helper()
		set, err := c.Client.AppsV1().StatefulSets(ns).Get(t.Context(), "ashlar-coordinator", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Client.AppsV1().Deployments(ns).Get(t.Context(), "ashlar-injector", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range []string{set.Spec.Template.Spec.Containers[0].Image, d.Spec.Template.Spec.Containers[0].Image} {
			if !strings.HasSuffix(image, ":"+version) {
				t.Errorf("got image %s, want version %s", image, version)
			}
		}
	}

	cli.Version = "v0.9.0"
	o.want(0, "revision 1", "install", "--policy", policyFile(t), "--skip-verify", "--wait", "1m")
	runs("v0.9.0")
	cli.Version = "v0.10.0"
	o.want(0, "v0.9.0 → v0.10.0", "upgrade", "--dry-run", "--skip-verify")
	runs("v0.9.0")
	o.want(0, "revision 2", "upgrade", "--yes", "--skip-verify", "--wait", "1m")
	runs("v0.10.0")
	cli.Version = "v0.9.0"
	o.want(2, "--accept", "upgrade", "--yes", "--skip-verify", "--wait", "1m")
	runs("v0.10.0")
	o.want(0, "revision 3", "upgrade", "--yes", "--accept", "downgrade", "--skip-verify", "--wait", "1m")
	runs("v0.9.0")
	o.want(0, "is removed", "uninstall", "--yes", "--delete-state", "ashlar")
}
