//go:build linux

package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// Addresses at which programs of the shop reach others, on loopback, by way of
// their own Envoy.
const (
	gatewayToWeb  = "http://127.0.0.1:9081"
	webToCart     = "http://127.0.0.1:9082"
	cartToCatalog = "http://127.0.0.1:9083"
)

// instances returns the live instances of every marble, by marble.
func instances(t *testing.T, c *client.Client) map[string][]apiv1.Instance {
	t.Helper()
	page, err := c.Marbles(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]apiv1.Instance{}
	for _, m := range page.Marbles {
		out[m.Name] = m.Instances
	}
	return out
}

// serials returns the serial of the leaf of each of the shop's marbles.
func (d *deployment) serials(c *client.Client) map[string]string {
	d.t.Helper()
	out := map[string]string{}
	all := instances(d.t, c)
	for _, s := range d.Services {
		if len(all[s.Name]) == 1 {
			out[s.Name] = all[s.Name][0].Serial
		}
	}
	return out
}

// awaitSettled waits until every marble of the shop runs and its Envoy has
// taken all that it was sent.
func (d *deployment) awaitSettled(c *client.Client) {
	d.t.Helper()
	drive.Eventually(d.t, patience, func() string {
		all := instances(d.t, c)
		for _, s := range d.Services {
			if len(all[s.Name]) != 1 {
				return fmt.Sprintf("%s has %d instances", s.Name, len(all[s.Name]))
			}
			i := all[s.Name][0]
			if i.Stage != "running" || !i.Proxy.Connected {
				return fmt.Sprintf("%s is %s (%s), proxy connected: %v", s.Name, i.Stage, i.Reason, i.Proxy.Connected)
			}
			for _, typ := range i.Proxy.Types {
				if typ.State != "applied" {
					return fmt.Sprintf("%s's proxy has %s %s", s.Name, typ.Type, typ.State)
				}
			}
		}
		return ""
	})
}

// soak reports whether what takes minutes, or needs an idle machine, is wanted.
func soak() bool { return os.Getenv("ASHLAR_SOAK") == "1" }
