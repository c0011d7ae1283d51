//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// shortLease is the shortest that a manifest may ask for.
const shortLease = 10 * time.Second

// misbehave tells the platform what to do wrong; the zero value ends it.
func (d *deployment) misbehave(m platform.Misbehaviour) {
	d.t.Helper()
	file := filepath.Join(d.PlatformDir(), "misbehaviour.json")
	raw, err := json.Marshal(m)
	if err != nil {
		d.t.Fatal(err)
	}
	// The platform reads the file on each request: it must never see half of it.
	if err := os.WriteFile(file+".new", raw, 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		d.t.Fatal(err)
	}
}

// Leases of ten seconds: leaves are renewed and swapped in running Envoys
// without a failed request; while the platform is out of date renewals are
// refused, and the hop ends with the lease; then it heals.
func TestLeases(t *testing.T) {
	d := up(t, func(doc map[string]any) {
		for _, m := range doc["marbles"].(map[string]any) {
			m.(map[string]any)["lease"] = shortLease.String()
		}
	})
	c := d.client()
	t.Run("renewed under traffic", func(t *testing.T) { d.renewed(t, c) })
	t.Run("refused while the platform is out of date", func(t *testing.T) { d.outOfDate(t, c) })
	t.Run("refused while the platform is revoked", func(t *testing.T) { d.revoked(t, c) })
}

func (d *deployment) renewed(t *testing.T, c *client.Client) {
	shop := drive.Pages(t, 6, gatewayToWeb+"/page")
	seen := map[string]map[string]bool{}
	start := time.Now()
	drive.Eventually(t, patience, func() string {
		for name, serial := range d.serials(c) {
			if seen[name] == nil {
				seen[name] = map[string]bool{}
			}
			seen[name][serial] = true
		}
		if time.Since(start) < 5*shortLease/2 {
			return "the traffic has not lasted for two and a half leases"
		}
		for _, s := range d.Services {
			if len(seen[s.Name]) < 3 {
				return fmt.Sprintf("%s has had %d leaves, want 3", s.Name, len(seen[s.Name]))
			}
		}
		return ""
	})
	leaves := 0
	for _, of := range seen {
		leaves += len(of)
	}
	shop.Flawless(fmt.Sprintf("%d leaves of four marbles in %s", leaves, time.Since(start).Round(time.Second)))
	for _, s := range d.Services {
		ds, err := c.Decisions(t.Context(), s.Name, 50)
		if err != nil {
			t.Fatal(err)
		}
		renewals := 0
		for _, one := range ds {
			if one.Purpose == "renew" && one.Accepted && one.Verdict.OK() {
				renewals++
			}
		}
		if renewals < 2 {
			t.Errorf("%s: the log has %d accepted renewals, want at least 2", s.Name, renewals)
		}
	}
}

// refused waits until the renewal of some marble is refused with a code, and the
// marble says itself that it is degraded, and why. Which one it is depends on
// whose turn it is: the coordinator's own platform is the same, so that marbles
// which connect anew refuse it before it can refuse them.
func (d *deployment) refused(t *testing.T, c *client.Client, code string) (who string, refusal apiv1.Decision) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		page, err := c.Marbles(t.Context(), "", 0)
		if err != nil {
			return err.Error()
		}
		var seen []string
		for _, m := range page.Marbles {
			if m.LastRefusal == nil || len(m.Instances) != 1 {
				continue
			}
			i := m.Instances[0]
			if m.LastRefusal.Code == code && i.Stage == "degraded" && strings.Contains(i.Reason, "renewal failed") {
				who, refusal = m.Name, *m.LastRefusal
				return ""
			}
			seen = append(seen, fmt.Sprintf("%s: refused with %s, shown as %s (%s)", m.Name, m.LastRefusal.Code, i.Stage, i.Reason))
		}
		return fmt.Sprintf("no marble is degraded by a renewal refused with %s: %q", code, seen)
	})
	return who, refusal
}

func (d *deployment) outOfDate(t *testing.T, c *client.Client) {
	open(t, gatewayToWeb+"/page")
	d.misbehave(platform.Misbehaviour{TCBStatus: attest.OutOfDate, Advisories: []string{"INTEL-SA-00615"}})
	began := time.Now()
	who, refusal := d.refused(t, c, attest.CodeTCBStatus)
	if refusal.Purpose != "renew" || refusal.Accepted || refusal.Verdict.OK() || !strings.Contains(refusal.Reason, "OutOfDate") {
		t.Errorf("got decision %+v, want a refused renewal that names OutOfDate", refusal)
	}
	status, body, err := get(t.Context(), "http://"+d.service(who).Ready+"/ready")
	if err != nil || !strings.Contains(body, "tcb.status") {
		t.Errorf("%s's probe: got %d %s, %v, want the reason", who, status, body, err)
	}
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !mentions(st.Attention, who, attest.CodeTCBStatus) {
		t.Errorf("got attention %+v, want %s with %s", st.Attention, who, attest.CodeTCBStatus)
	}
	closed(t, gatewayToWeb+"/page")
	t.Logf("the hop ended %s after the platform went out of date, leases are of %s", time.Since(began).Round(100*time.Millisecond), shortLease)
	drive.Eventually(t, patience, func() string {
		status, body, err := get(t.Context(), "http://"+d.service("web").Ready+"/ready")
		if err != nil || status != http.StatusServiceUnavailable {
			return fmt.Sprintf("web's probe says %d %s, %v after the end of its lease", status, body, err)
		}
		return ""
	})
	d.misbehave(platform.Misbehaviour{})
	d.healed(t, c)
}

func (d *deployment) revoked(t *testing.T, c *client.Client) {
	d.misbehave(platform.Misbehaviour{RevokedPCK: true})
	_, refusal := d.refused(t, c, attest.CodeRevoked)
	if refusal.Purpose != "renew" {
		t.Errorf("got purpose %q, want renew", refusal.Purpose)
	}
	d.misbehave(platform.Misbehaviour{}) // before the lease ends: it is simply renewed
	d.healed(t, c)
}

// healed waits until all is well again, by itself.
func (d *deployment) healed(t *testing.T, c *client.Client) {
	t.Helper()
	began := time.Now()
	drive.Eventually(t, patience, func() string {
		if status, body, err := get(t.Context(), gatewayToWeb+"/page"); err != nil || status != http.StatusOK {
			return fmt.Sprintf("the shop answers %d %.200s, %v", status, body, err)
		}
		return ""
	})
	t.Logf("the shop answered again after %s", time.Since(began).Round(100*time.Millisecond))
	d.awaitSettled(c)
	drive.Eventually(t, patience, func() string {
		st, err := c.Status(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, a := range st.Attention {
			if strings.HasPrefix(a.Code, "ATT-") {
				return fmt.Sprintf("%s is still shown: %s", a.Subject, a.Text)
			}
		}
		return ""
	})
}

func mentions(list []apiv1.Attention, subject, code string) bool {
	for _, a := range list {
		if a.Code == code && a.Subject == subject {
			return true
		}
	}
	return false
}
