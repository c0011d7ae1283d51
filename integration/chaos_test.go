//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// crash kills the coordinator and returns when it is gone.
func (d *deployment) crash() {
	d.t.Helper()
	if err := d.Coordinator().Signal(syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	<-d.Coordinator().Done()
}

// terminate asks the coordinator to end, and returns how long that took.
func (d *deployment) terminate() time.Duration {
	d.t.Helper()
	began := time.Now()
	if err := d.Coordinator().Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	if code, err := d.Coordinator().Wait(ctx); err != nil || code != 0 {
		d.t.Fatalf("after SIGTERM: got exit code %d, %v, want 0", code, err)
	}
	return time.Since(began)
}

// start starts the coordinator again and waits until it answers.
func (d *deployment) start() {
	d.t.Helper()
	if err := d.StartCoordinator(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployment) service(name string) dev.Service {
	d.t.Helper()
	i := slices.IndexFunc(d.Services, func(s dev.Service) bool { return s.Name == name })
	if i < 0 {
		d.t.Fatalf("the shop has no service %q", name)
	}
	return d.Services[i]
}

// uncalled takes a marble's calls away.
func uncalled(marble string) func(map[string]any) {
	return func(doc map[string]any) { delete(doc["marbles"].(map[string]any)[marble].(map[string]any), "calls") }
}

// closed waits until a hop gives no page any more.
func closed(t *testing.T, url string) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		if status, body, err := get(t.Context(), url); err == nil && status == http.StatusOK {
			return fmt.Sprintf("%s still answers %d %.100s", url, status, body)
		}
		return ""
	})
}

// open waits until a hop gives a page.
func open(t *testing.T, url string) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		status, body, err := get(t.Context(), url)
		if err != nil {
			return err.Error()
		}
		if status != http.StatusOK {
			return fmt.Sprintf("%s answers %d %.200s", url, status, body)
		}
		return ""
	})
}

// The coordinator is killed and started again under traffic: programs notice
// nothing, nothing is lost, and what changes afterwards reaches every Envoy.
func TestCoordinatorKilledUnderTraffic(t *testing.T) {
	d := up(t, nil)
	before := d.client()
	d.awaitSettled(before)
	log, leaves := drive.Audit(t, before), d.serials(before)
	if len(leaves) != len(d.Services) {
		t.Fatalf("got leaves %v, want one of each service", leaves)
	}
	manifest, err := before.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shop := drive.Pages(t, 6, gatewayToWeb+"/page")
	for range 3 {
		shop.More(50)
		d.crash()
		shop.More(100)
		d.start()
		shop.More(50)
	}
	took := d.terminate()
	shop.More(50)
	d.start()
	restarted := time.Now()
	c := d.client()
	d.awaitSettled(c)
	t.Logf("an orderly end took %s; every marble and its Envoy were back %s after the coordinator", took.Round(time.Millisecond), time.Since(restarted).Round(10*time.Millisecond))
	shop.Flawless("the coordinator was killed three times and terminated once")

	t.Run("nothing is lost", func(t *testing.T) {
		if now := d.serials(c); fmt.Sprint(now) != fmt.Sprint(leaves) {
			t.Errorf("got leaves %v, want %v as before", now, leaves)
		}
		m, err := c.Manifest(t.Context())
		if err != nil || m.Digest.String() != manifest.Digest.String() || m.Revision != manifest.Revision {
			t.Errorf("got manifest %s revision %d, %v, want %s revision %d", m.Digest, m.Revision, err, manifest.Digest, manifest.Revision)
		}
		now := drive.Audit(t, c)
		if len(now) < len(log)+4 {
			t.Fatalf("the log has %d records, want the %d before and four starts", len(now), len(log))
		}
		for i, r := range log {
			if now[i].Hash.String() != r.Hash.String() {
				t.Errorf("record %d has hash %s, want %s as before", i, now[i].Hash, r.Hash)
			}
		}
		for _, r := range now[len(log):] {
			if r.Kind == "activationAccepted" || r.Kind == "renewalAccepted" {
				t.Errorf("record %d: %s of %s: a restart must not make marbles attest again", r.Seq, r.Kind, r.Subject)
			}
		}
	})
	t.Run("a change reaches the running Envoys", func(t *testing.T) {
		drive.Amend(d.t, c, uncalled("web"))
		closed(t, webToCart+"/items")
		// The hops before and after go on.
		status, body, err := get(t.Context(), gatewayToWeb+"/page")
		if err != nil || status != http.StatusBadGateway || !strings.Contains(body, "cart") {
			t.Errorf("gateway asked web: got %d %s, %v, want web's own 502 about the cart", status, body, err)
		}
		open(t, cartToCatalog+"/catalog.json")
		drive.Amend(d.t, c, func(doc map[string]any) {
			doc["marbles"].(map[string]any)["web"].(map[string]any)["calls"] =
				[]any{map[string]any{"marble": "cart", "port": "http", "listen": 9082, "routes": []string{"GET /items"}}}
		})
		open(t, gatewayToWeb+"/page")
	})
}

// TestParts kills and stalls the parts of one running shop, one after the other.
func TestParts(t *testing.T) {
	d := up(t, nil)
	c := d.client()
	d.awaitSettled(c)
	t.Run("Envoy killed", func(t *testing.T) { d.envoyKilled(t) })
	t.Run("marble killed", func(t *testing.T) { d.marbleKilled(t, c) })
	t.Run("program killed", func(t *testing.T) { d.programKilled(t) })
	t.Run("marble stalled", func(t *testing.T) { d.marbleStalled(t, c) })
}

func (d *deployment) envoyKilled(t *testing.T) {
	agent := d.Marble("web").Pid()
	envoy := children(t, agent)["envoy"]
	if envoy == 0 {
		t.Fatalf("web's agent has the children %v, want an envoy", children(t, agent))
	}
	others := drive.Pages(t, 4, cartToCatalog+"/catalog.json")
	others.More(20)
	if err := syscall.Kill(envoy, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "the killed Envoy", envoy)
	open(t, gatewayToWeb+"/page")
	if again := children(t, agent)["envoy"]; again == 0 || again == envoy {
		t.Errorf("got Envoy %d after %d was killed, want a new one", again, envoy)
	}
	others.More(20)
	others.Flawless("web's Envoy was killed and the hop cart → catalog went on")
}

func (d *deployment) marbleKilled(t *testing.T, c *client.Client) {
	web := d.Marble("web")
	family := children(t, web.Pid())
	if len(family) < 2 {
		t.Fatalf("web's agent has the children %v, want its program and its Envoy", family)
	}
	activated := func() time.Time {
		m, err := c.Marble(t.Context(), "web")
		if err != nil || len(m.Instances) != 1 {
			t.Fatalf("got %+v, %v, want one instance of web", m, err)
		}
		return m.Instances[0].ActivatedAt
	}
	first := activated()
	others := drive.Pages(t, 4, cartToCatalog+"/catalog.json")
	others.More(20)
	if err := web.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-web.Done()
	for name, pid := range family {
		awaitEnd(t, name+" of the killed marble", pid)
	}
	if status, body, err := get(t.Context(), gatewayToWeb+"/page"); err == nil && status == http.StatusOK {
		t.Errorf("got %d %s from a killed marble", status, body)
	}
	drive.Eventually(t, patience, func() string {
		m, err := c.Marble(t.Context(), "web")
		if err != nil {
			return err.Error()
		}
		if len(m.Instances) == 1 && (m.Instances[0].Stage != "disconnected" || m.Instances[0].Proxy.Connected) {
			return fmt.Sprintf("web is shown as %s, proxy connected: %v", m.Instances[0].Stage, m.Instances[0].Proxy.Connected)
		}
		return ""
	})
	others.More(20)
	if err := d.StartMarble(d.service("web")); err != nil {
		t.Fatal(err)
	}
	if err := d.AwaitMarble(t.Context(), d.service("web")); err != nil {
		t.Fatal(err)
	}
	open(t, gatewayToWeb+"/page")
	if again := activated(); !again.After(first) {
		t.Errorf("web was activated at %s, want later than %s: attested again", again, first)
	}
	others.Flawless("the marble web was killed and the hop cart → catalog went on")
}

// A program that ends takes its marble with it: its Envoy would answer for
// nobody.
func (d *deployment) programKilled(t *testing.T) {
	cart := d.Marble("cart")
	family := children(t, cart.Pid())
	for name, pid := range family {
		if name != "envoy" {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code, err := cart.Wait(ctx)
	if err != nil || code != 128+int(syscall.SIGKILL) {
		t.Fatalf("the marble of a killed program: got exit code %d, %v, want %d", code, err, 128+int(syscall.SIGKILL))
	}
	for name, pid := range family {
		awaitEnd(t, name+" of the ended marble", pid)
	}
	if err := d.StartMarble(d.service("cart")); err != nil {
		t.Fatal(err)
	}
	open(t, gatewayToWeb+"/page")
}

// marbleStalled stops cart's agent: nobody else waits for it.
func (d *deployment) marbleStalled(t *testing.T, c *client.Client) {
	d.awaitSettled(c)
	cart := d.Marble("cart")
	if err := cart.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cart.Signal(syscall.SIGCONT) })
	shop := drive.Pages(t, 4, gatewayToWeb+"/page")
	shop.More(20) // through cart's Envoy, which has its configuration and its leaf
	for range 20 {
		d.join()
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	shop.More(20)
	shop.Flawless("cart's agent was stalled while 20 marbles were activated")

	calls := func(routes ...string) func(map[string]any) {
		return func(doc map[string]any) {
			doc["marbles"].(map[string]any)["gateway"].(map[string]any)["calls"] =
				[]any{map[string]any{"marble": "web", "port": "http", "listen": 9081, "routes": routes}}
		}
	}
	drive.Amend(d.t, c, calls("GET /page", "GET /admin"))
	open(t, gatewayToWeb+"/admin")
	drive.Amend(d.t, c, calls("GET /page"))
	closed(t, gatewayToWeb+"/admin")
	drive.Amend(d.t, c, uncalled("cart"))
	closed(t, cartToCatalog+"/catalog.json") // by catalog's Envoy: a caller that is not told is refused all the same
	if err := cart.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	drive.Amend(d.t, c, func(doc map[string]any) {
		doc["marbles"].(map[string]any)["cart"].(map[string]any)["calls"] =
			[]any{map[string]any{"marble": "catalog", "port": "items", "listen": 9083}}
	})
	open(t, gatewayToWeb+"/page")
	d.awaitSettled(c)
}
