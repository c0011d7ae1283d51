//go:build linux

package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/integration/envoytest"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// revocable lets alice do what this file's tests do, and the probe call web
// (http) and catalog (tcp).
func revocable(doc map[string]any) {
	doc["roles"].(map[string]any)["operator"].(map[string]any)["actions"] = []string{"updateManifest", "revoke:*", "breakGlass", "rotateSecret:*"}
	doc["marbles"].(map[string]any)["probe"].(map[string]any)["calls"] = []map[string]any{
		{"marble": "web", "port": portOf(doc, "web"), "listen": 19081}, {"marble": "catalog", "port": portOf(doc, "catalog"), "listen": 19083}}
}

func portOf(doc map[string]any, marble string) string {
	ports := doc["marbles"].(map[string]any)[marble].(map[string]any)["serves"].(map[string]any)
	for name := range ports {
		return name
	}
	return ""
}

// askTime is how long an answer may take.
const askTime = 10 * time.Second

// line is an open connection of the probe to an Envoy: it asks for a page and
// says whether one came.
type line struct {
	name string
	ask  func() error
}

// answered opens lines under a leaf until each is answered: Envoys learn of a leaf,
// and that a revocation is over, a moment later.
func answered(t *testing.T, cert tls.Certificate) (lines []line) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		var err error
		if lines, err = openLines(t, cert); err != nil {
			return err.Error()
		}
		for _, l := range lines {
			if err := l.ask(); err != nil {
				return l.name + ": " + err.Error()
			}
		}
		return ""
	})
	return lines
}

// openLines opens connections under a leaf: HTTP/1.1 and HTTP/2 to web, TCP to
// catalog.
func openLines(t *testing.T, cert tls.Certificate) ([]line, error) {
	t.Helper()
	dial := func(alpn string) (*tls.Conn, error) {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: askTime}, "tcp", webInbound,
			&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}})
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return c, err
	}
	keepAlive := func(name, path string, c *tls.Conn) line {
		r := bufio.NewReader(c)
		return line{name, func() error {
			_ = c.SetDeadline(time.Now().Add(askTime))
			if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: peer\r\n\r\n", path); err != nil {
				return err
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			return isPage(resp)
		}}
	}
	second, err := dial("h2")
	if err != nil {
		return nil, err
	}
	h2, err := envoytest.HTTP2(t.Context(), second)
	if err != nil {
		return nil, err
	}
	first, err := dial("http/1.1")
	if err != nil {
		return nil, err
	}
	return []line{
		keepAlive("http/1.1", "/page", first),
		{"h2", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), askTime)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://peer/page", nil)
			if err != nil {
				return err
			}
			resp, err := h2.RoundTrip(req)
			if err != nil {
				return err
			}
			return isPage(resp)
		}},
		{"tcp", func() error { // catalog closes after each answer
			got, err := throughTLS(context.Background(), catalogInbound, &cert)
			if err == nil && !strings.Contains(got, " 404 ") {
				err = fmt.Errorf("got %.60q", got)
			}
			return err
		}},
	}, nil
}

func isPage(resp *http.Response) error {
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// pressing asks over a line without end, and notes when what was answered last was
// asked.
type pressing struct {
	line
	last atomic.Int64 // UnixNano
	n    atomic.Int64
}

// since is how long after a moment the last question that was answered was asked.
func (p *pressing) since(moment time.Time) time.Duration {
	return max(0, time.Unix(0, p.last.Load()).Sub(moment))
}

// press presses until each line was answered a few times, and goes on until it is
// halted, which waits for what is still being asked.
func press(t *testing.T, lines []line, times int64) (all []*pressing, halt func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	halt = func() {
		cancel()
		work.Wait()
	}
	t.Cleanup(halt)
	for _, l := range lines {
		p := &pressing{line: l}
		all = append(all, p)
		work.Go(func() {
			for ctx.Err() == nil {
				// The answer may come late on a machine that is busy.
				if asked := time.Now(); p.ask() == nil {
					p.last.Store(asked.UnixNano())
					p.n.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	drive.Eventually(t, patience, func() string {
		for _, p := range all {
			if p.n.Load() < times {
				return p.name + " is not under load"
			}
		}
		return ""
	})
	return all, halt
}

// TestRevocation revokes a peer that attested honestly and has open connections
// of each protocol to real Envoys, while the shop is under traffic.
func TestRevocation(t *testing.T) {
	d := up(t, revocable)
	c := d.client()
	d.awaitSettled(c)
	for _, s := range []apiv1.Subject{{Kind: "marble", Name: "probe", Instance: probeInstance().Id}, {Kind: "marble", Name: "probe"}, {Kind: "package", Name: "probe"}} {
		t.Run(s.Kind+" "+s.Name+" "+s.Instance, func(t *testing.T) { d.revokedPeer(t, c, s) })
	}
	t.Run("quarantine", func(t *testing.T) { d.quarantined(t, c) })
	t.Run("a marble that runs", func(t *testing.T) { d.revokedMarble(t, c) })
}

func (d *deployment) revokedPeer(t *testing.T, c *client.Client, s apiv1.Subject) {
	cert := d.join().Certificate()
	lines := answered(t, cert)
	shop, hop := drive.Pages(t, 4, gatewayToWeb+"/page"), drive.Pages(t, 4, cartToCatalog+"/catalog.json")
	shop.More(50)
	all, halt := press(t, lines, 20)
	r, command := d.revokeUnderLoad(t, c, s, all)
	shop.More(100)
	halt()
	for _, p := range all {
		took := p.since(command)
		t.Logf("%s: the last request that passed was made %s after the command", p.name, took.Round(time.Millisecond))
		if took > 2*time.Second {
			t.Errorf("%s passed %s after the command, want 2 s at most", p.name, took)
		}
	}
	for _, addr := range []string{webInbound, catalogInbound} {
		if got, err := throughTLS(t.Context(), addr, &cert); err == nil && strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("a new connection to %s passes", addr)
		}
	}
	if _, err := d.rejoin(); err == nil {
		t.Error("the peer gets a lease again")
	} else if !strings.Contains(err.Error(), "INC-0") || !strings.Contains(err.Error(), "a test") {
		t.Errorf("the refusal %q does not say why", err)
	}
	shop.Flawless("web during the revocation")
	hop.Flawless("catalog during the revocation")
	if _, err := c.Lift(t.Context(), apiv1.Revocation, r.Incident.ID, "test over"); err != nil {
		t.Fatal(err)
	}
}

// revokeUnderLoad revokes, waits until nothing that was asked within a second is
// answered, and returns when the command was given.
func (d *deployment) revokeUnderLoad(t *testing.T, c *client.Client, s apiv1.Subject, all []*pressing) (apiv1.RevokeResult, time.Time) {
	command := time.Now()
	r, err := c.Revoke(t.Context(), apiv1.Revocation, apiv1.RevokeRequest{Subject: s, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		for _, p := range all {
			if time.Since(time.Unix(0, p.last.Load())) < time.Second {
				return p.name + " is still answered"
			}
		}
		return ""
	})
	return r, command
}

// crowd activates n instances of a marble that may call web, each with a stream
// of configuration that it takes as an Envoy does.
func (d *deployment) crowd(t *testing.T, n int) {
	for i := range n {
		instance := &marblepb.Instance{Marble: "crowd", Id: fmt.Sprintf("crowd-%03d", i), Address: fmt.Sprintf("127.0.80.%d", i+1)}
		a, err := d.dial(nil).Activate(t.Context(), probe.Attempt{Issuer: d.issuer(probeDigest), Instance: instance})
		if err != nil {
			t.Fatal(err)
		}
		leaf := a.Certificate()
		stream := deltaStream(t.Context(), t, d.dial(&leaf).Conn)
		for _, kind := range []string{"cluster.v3.Cluster", "listener.v3.Listener"} {
			if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config." + kind, ResourceNamesSubscribe: []string{"*"}}); err != nil {
				t.Fatal(err)
			}
		}
		go func() { // ends with the test's connection
			for {
				resp, err := stream.Recv()
				if err != nil || stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}) != nil {
					return
				}
			}
		}()
	}
}

// TestRevocationTimes measures, among 100 marbles, how long after the command the
// last request of a revoked peer passes.
func TestRevocationTimes(t *testing.T) {
	d := up(t, func(doc map[string]any) {
		revocable(doc)
		doc["marbles"].(map[string]any)["crowd"] = map[string]any{"package": "probe", "maxInstances": 200,
			"calls": []map[string]any{{"marble": "web", "port": portOf(doc, "web"), "listen": 19081}}}
	})
	c := d.client()
	d.awaitSettled(c)
	d.crowd(t, 95)
	runs := 3
	if soak() {
		runs = 30
	}
	shop := drive.Pages(t, 4, gatewayToWeb+"/page")
	times := map[string][]time.Duration{}
	for n := range runs {
		s := apiv1.Subject{Kind: "marble", Name: "probe"}
		if n%2 == 1 {
			s.Instance = probeInstance().Id
		}
		cert := d.join().Certificate()
		lines := answered(t, cert)
		all, halt := press(t, lines, 10)
		r, command := d.revokeUnderLoad(t, c, s, all)
		halt()
		for _, p := range all {
			times[p.name] = append(times[p.name], p.since(command))
		}
		if _, err := c.Lift(t.Context(), apiv1.Revocation, r.Incident.ID, "next run"); err != nil {
			t.Fatal(err)
		}
	}
	shop.Flawless("web during the revocations")
	for name, all := range times {
		slices.Sort(all)
		t.Logf("%s: last request that passed after the command, of %d runs among 100 marbles: min %s, median %s, max %s", name, len(all),
			all[0].Round(time.Millisecond), all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
		if all[len(all)-1] > 2*time.Second {
			t.Errorf("%s: %s, want 2 s at most", name, all[len(all)-1])
		}
	}
}

// quarantined takes web off the mesh and puts it back: it renews and runs all
// the time.
func (d *deployment) quarantined(t *testing.T, c *client.Client) {
	r, err := c.Revoke(t.Context(), apiv1.Quarantine, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "marble", Name: "web"}, Reason: "a look"})
	if err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		if status, _, err := get(t.Context(), shopURL+"/"); err == nil && status == http.StatusOK {
			return "the shop still gets pages from web"
		}
		return ""
	})
	web := instances(t, c)["web"]
	if len(web) != 1 || web[0].Stage != "quarantined" || !web[0].Proxy.Connected {
		t.Errorf("web is shown as %+v", web)
	}
	if _, err := c.Lift(t.Context(), apiv1.Quarantine, r.Incident.ID, "clean"); err != nil {
		t.Fatal(err)
	}
	d.awaitShop()
}

// revokedMarble revokes cart, a real marble with its agent: it is told, and cuts
// itself off.
func (d *deployment) revokedMarble(t *testing.T, c *client.Client) {
	for _, url := range []string{webToCart + "/items", cartToCatalog + "/catalog.json"} {
		if status, body, err := get(t.Context(), url); err != nil || status != http.StatusOK {
			t.Fatalf("%s answers %d %s, %v at first", url, status, body, err)
		}
	}
	if _, err := c.Revoke(t.Context(), apiv1.Revocation, apiv1.RevokeRequest{Subject: apiv1.Subject{Kind: "marble", Name: "cart"}, Reason: "sold"}); err != nil {
		t.Fatal(err)
	}
	drive.Eventually(t, patience, func() string {
		if status, _, err := get(t.Context(), webToCart+"/items"); err == nil && status == http.StatusOK {
			return "web still reaches cart"
		}
		if status, _, err := get(t.Context(), cartToCatalog+"/catalog.json"); err == nil && status == http.StatusOK {
			return "cart still reaches catalog"
		}
		return ""
	})
	st, err := c.Status(t.Context())
	if err != nil || !slices.ContainsFunc(st.Attention, func(a apiv1.Attention) bool { return a.Code == "INC-001" && strings.Contains(a.Text, "sold") }) {
		t.Errorf("the status shows %+v, %v", st.Attention, err)
	}
}

// TestIncidentCommands goes through the runbook of docs/guides/operate.md at a
// shell.
func TestIncidentCommands(t *testing.T) {
	d := up(t, revocable)
	o := newOperator(t)
	o.Must(0, "verify", d.Client, "--policy", d.PolicyFile())
	cert, key := d.CertFile(), d.KeyFile()
	as := func(args ...string) []string { return append(args, "--cert", cert, "--key", key, "--yes") }

	drive.Wants(t, o.Must(0, as("revoke", "marble", "cart", "--reason", "its host was broken into", "--dry-run")...).Stderr, "hop closed: web → cart", "cartKey")
	o.Must(0, "status")
	got := o.Must(0, as("quarantine", "marble", "cart", "--reason", "a look at it")...)
	drive.Wants(t, got.Stdout, "quarantine of marble cart stands", "incident 1")
	drive.Wants(t, o.Must(0, "status").Stdout, "a look at it")
	drive.Wants(t, o.Must(0, "explain", "cart").Stderr, "is quarantined", "a look at it")
	drive.Wants(t, o.Must(0, "quarantine", "list", "--cert", cert, "--key", key).Stdout, "marble cart", "alice")
	drive.Wants(t, o.Must(0, as("revoke", "marble", "cart", "--reason", "its host was broken into")...).Stdout, "revocation of marble cart stands", "incident 2")
	drive.Wants(t, o.Must(0, "status").Stdout, "INC-001", "its host was broken into")
	drive.Wants(t, o.Must(0, "explain", "INC-001").Stdout, "the marble is revoked")
	radius := o.Must(0, "blast-radius", "marble", "cart", "--cert", cert, "--key", key)
	drive.Wants(t, radius.Stdout, "cartKey v1", "lease", "rotate", "leaf ")
	drive.Wants(t, o.Must(0, as("rotate", "--touched-by", "marble", "cart", "--dry-run")...).Stdout, "would rotate cartKey")
	drive.Wants(t, o.Must(0, as("rotate", "--touched-by", "marble", "cart")...).Stdout, "cartKey has version 2")
	if after := o.Must(0, "blast-radius", "marble", "cart", "--cert", cert, "--key", key).Stdout; strings.Contains(after, "cartKey") {
		t.Errorf("after the rotation cartKey still counts:\n%s", after)
	}
	drive.Wants(t, o.Must(0, as("revoke", "--lift", "2", "--reason", "the host was replaced")...).Stdout, "incident 2 is over")
	o.Must(0, as("quarantine", "--lift", "1", "--reason", "the host was replaced")...)
	drive.Wants(t, o.Must(0, "revoke", "list", "--cert", cert, "--key", key).Stdout, "no revocation stands")

	drive.Wants(t, o.Must(1, as("revoke", "marble", "carts", "--reason", "x")...).Stderr, "INC-010", `did you mean "cart"`)
	drive.Wants(t, o.Must(7, as("revoke", "user", "alice", "--reason", "x")...).Stderr, "INC-013", "--accept=lock-out")
	drive.Wants(t, o.Must(2, as("revoke", "secret", "x", "--reason", "x")...).Stderr, "secret")

	drive.Wants(t, o.Must(0, as("break-glass", "--allow", "gateway:catalog/items", "--listen", "19183", "--for", "30m", "--reason", "repair")...).Stdout, "breakGlass of hop gateway:catalog/items stands", "ends by itself")
	refused := o.Must(3, "verify", "--dry-run")
	drive.Wants(t, refused.Stderr, "BREAK-GLASS hop gateway:catalog/items", "INC-022", "repair")
	drive.Wants(t, o.Must(0, "verify", "--dry-run", "--allow-break-glass").Stdout, "Verified")
	drive.Wants(t, o.Must(0, "status").Stdout, "BREAK-GLASS")
	drive.Eventually(t, patience, func() string {
		status, body, err := get(t.Context(), "http://127.0.0.1:19183/catalog.json")
		if err != nil || status != http.StatusOK {
			return fmt.Sprintf("gateway does not reach catalog: %d %.80s %v", status, body, err)
		}
		return ""
	})
	list := drive.Document[apiv1.Incidents](o.Shell, "break-glass", "list")
	if len(list.Incidents) != 1 {
		t.Fatalf("got %+v", list)
	}
	o.Must(0, as("break-glass", "--end", fmt.Sprint(list.Incidents[0].ID), "--reason", "done")...)
	o.Must(0, "verify", "--dry-run")
}
