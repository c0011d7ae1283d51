//go:build linux

package kube

import (
	"strings"

	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// unfolded is what a command printed, without the mark of a simulation and with
// folded lines on one.
func unfolded(out string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(out, "SIMULATION", "")), " ")
}

func (m *mesh) mentions(out string, all ...string) {
	m.t.Helper()
	for _, text := range all {
		if !strings.Contains(unfolded(out), text) {
			m.t.Errorf("want %q in\n%s", text, out)
		}
	}
}

// healthy is a mesh in which nothing is wrong, as check and explain see it.
func (m *mesh) healthy(shop string) {
	drive.Eventually(m.t, patience, func() string { // what is new since the last one joined reaches the others a moment later
		if _, out := m.run("check", "--only", "deployment", "-n", m.ns, "-a", m.address()); !strings.Contains(unfolded(out), "✓ 4 Envoys are in step") {
			return out
		}
		return ""
	})
	m.mentions(m.ashlar("check", "-n", m.ns, "-a", m.address(), "--manifest", "manifest.json"),
		": 1 of 1 pods are ready", ": 2 of 2 pods are ready",
		"✓ marble gateway can run: sim:sgx on 2 nodes (profile sim)",
		"✓ evidence meets the policy: sim:sgx, UpToDate", "✓ 4 Envoys are in step", "leaves are renewed in time",
		"is for labelled pods, and no such pod starts without it", "(2 in the caBundle)", "✓ 2 injectors are ready behind Service",
		"✓ the webhook answers: a trial pod of marble cart would be injected", "✓ the webhook leaves pods without the label alone", " 0 failed, 0 skipped")
	// Without the manifest's file a marble is known from the coordinator.
	m.mentions(m.ashlar("check", "-n", m.ns, "-a", m.address()), "✓ the webhook answers: a trial pod of marble cart would be injected")
	m.mentions(m.ashlar("explain", "pod", "gateway", "-n", shop, "-a", m.address()),
		"runs as marble gateway, attested and ready", "was accepted", "sim.program")
}

// explains wants the reason why pods of a Deployment are not what they should be.
func (m *mesh) explains(shop, name string, want ...string) {
	m.t.Helper()
	m.mentions(m.ashlar("explain", "pod", name, "-n", shop, "-a", m.address()), want...)
}
