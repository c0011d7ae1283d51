//go:build linux

package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// walked is when a marble entered each stage, as its probe says.
type walked map[stage.Stage]time.Time

// stageOf asks a marble's probe.
func (d *deployment) stageOf(t *testing.T, name string) (s stage.Status, ready bool) {
	t.Helper()
	code, body, err := get(t.Context(), "http://"+d.service(name).Ready+"/ready")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%s's probe answered %s: %v", name, body, err)
	}
	return s, code == http.StatusOK
}

// walk follows marbles until all are cut, and calls at each step.
func (d *deployment) walk(t *testing.T, names []string, entered func(name string, s stage.Status)) map[string]walked {
	t.Helper()
	all := map[string]walked{}
	for _, name := range names {
		all[name] = walked{}
	}
	drive.Eventually(t, patience, func() string {
		left := ""
		for _, name := range names {
			s, ready := d.stageOf(t, name)
			if want := s.Stage == stage.Running || s.Stage == stage.Degraded; ready != want {
				t.Errorf("%s is %s, and ready: %v", name, s.Stage, ready)
			}
			if all[name][s.Stage].IsZero() {
				all[name][s.Stage] = time.Now()
				t.Logf("%s %s is %s: %.160s (%s)", time.Now().Format("15:04:05.000"), name, s.Stage, s.Reason, s.Code)
				entered(name, s)
			}
			if s.Stage != stage.Cut {
				left = name + " is " + string(s.Stage)
			}
		}
		return left
	})
	for _, name := range names {
		at := all[name]
		if at[stage.Degraded].IsZero() || at[stage.Drained].IsZero() || at[stage.Drained].Before(at[stage.Degraded]) || at[stage.Cut].Before(at[stage.Drained]) {
			t.Errorf("%s was not degraded, then drained, then cut: %v", name, at)
		}
	}
	return all
}

// shown waits until the coordinator shows an instance in a stage and says so
// where somebody looks.
func (d *deployment) shown(t *testing.T, c *client.Client, name, in, code string) {
	t.Helper()
	drive.Eventually(t, patience, func() string {
		m, err := c.Marble(t.Context(), name)
		if err != nil {
			return err.Error()
		}
		got := "no instance"
		for _, i := range m.Instances {
			got = i.Stage + ": " + i.Reason
		}
		st, err := c.Status(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, a := range st.Attention {
			if a.Code == code && strings.HasPrefix(a.Subject, name+"/") && (in == "cut" && got == "no instance" || strings.HasPrefix(got, in+": ")) {
				return ""
			}
		}
		return fmt.Sprintf("%s is shown as %q, and %s is not in %+v; want %s", name, got, code, st.Attention, in)
	})
}

// lapseLease is that of the marbles that lapse. Each stage has to be seen: on a
// machine that is busy that takes seconds.
const lapseLease = 2 * shortLease

// Leases of twenty seconds whose renewals are due after about ten: degraded two
// seconds later, drained after six, cut after ten.
func TestLapse(t *testing.T) {
	d := up(t, func(doc map[string]any) {
		for name, m := range doc["marbles"].(map[string]any) {
			if name == "cart" || name == "catalog" {
				m.(map[string]any)["lease"] = lapseLease.String()
				m.(map[string]any)["renewal"] = map[string]any{"degradeAfter": "2s", "drainAfter": "6s", "cutAfter": "10s"}
			}
		}
	})
	c := d.client()
	t.Run("renewals are refused, HTTP", func(t *testing.T) { d.lapseHTTP(t, c) })
	t.Run("renewals are refused, TCP", func(t *testing.T) { d.lapseTCP(t, c) })
	t.Run("the coordinator is stalled", func(t *testing.T) { d.lapseStalled(t, c) })
}

// acceptProgram sets what programs a package accepts, and returns what it accepted.
func acceptProgram(doc map[string]any, name string, program any) any {
	sim := doc["packages"].(map[string]any)[name].(map[string]any)["sim"].(map[string]any)
	old := sim["program"]
	sim["program"] = program
	return old
}

// refuse has the renewals of one marble refused: the manifest does not accept its
// program any more. It returns what ends that, and checks that it heals without a
// restart.
func (d *deployment) refuse(t *testing.T, c *client.Client, name string) (heal func()) {
	t.Helper()
	var accepted any
	pid := d.Marble(name).Pid()
	drive.Amend(d.t, c, func(doc map[string]any) { accepted = acceptProgram(doc, name, []string{strings.Repeat("00", 32)}) })
	return func() {
		t.Helper()
		drive.Amend(d.t, c, func(doc map[string]any) { acceptProgram(doc, name, accepted) })
		d.healed(t, c)
		if got := d.Marble(name).Pid(); got != pid {
			t.Errorf("%s was started again: process %d, was %d", name, got, pid)
		}
	}
}

// lapseHTTP: an HTTP hop ends by the steps of the lease, no request before them.
func (d *deployment) lapseHTTP(t *testing.T, c *client.Client) {
	open(t, webToCart+"/items")
	items := drive.Pages(t, 4, webToCart+"/items")
	items.More(100)
	heal := d.refuse(t, c, "cart")
	at := d.walk(t, []string{"cart"}, func(name string, s stage.Status) {
		switch s.Stage {
		case stage.Degraded:
			d.shown(t, c, name, "degraded", "CRD-090")
			if failed := items.Failures(); len(failed) > 0 {
				t.Errorf("requests failed while cart was degraded: %q", failed)
			}
		case stage.Drained:
			d.shown(t, c, name, "drained", "CRD-091")
			status, body, err := get(t.Context(), webToCart+"/items")
			if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "no instance of cart/http takes requests") {
				t.Errorf("a call of the drained cart: got %d %q, %v, want 503 with the reason", status, body, err)
			}
		case stage.Cut:
			d.shown(t, c, name, "cut", "CRD-092")
		}
	})
	for _, f := range items.Failures() {
		when, err := time.ParseInLocation("15:04:05.000", f[:12], time.Local)
		if err != nil {
			t.Fatal(err)
		}
		// The probe is asked every now and then: it may show a stage late.
		if drained := at["cart"][stage.Drained]; sinceMidnight(when) < sinceMidnight(drained)-2*time.Second {
			t.Errorf("a request failed before cart was drained at %s: %s", drained.Format("15:04:05.000"), f)
		}
	}
	items.Halt()
	heal()
	after := drive.Pages(t, 4, webToCart+"/items")
	time.Sleep(lapseLease) // through another renewal
	after.Flawless("the shop after it healed")
}

// lapseTCP: a connection lives on while its marble is drained, new ones find
// nobody, and the cut closes it.
func (d *deployment) lapseTCP(t *testing.T, c *client.Client) {
	open(t, cartToCatalog+"/catalog.json")
	kept := dialOn(t, cartToCatalog)
	heal := d.refuse(t, c, "catalog")
	d.walk(t, []string{"catalog"}, func(name string, s stage.Status) {
		if s.Stage == stage.Drained {
			d.shown(t, c, name, "drained", "CRD-091")
			closed(t, cartToCatalog+"/catalog.json")
			kept.begins(t)
		}
	})
	kept.ends(t)
	heal()
	open(t, cartToCatalog+"/catalog.json")
}

// lapseStalled stops the coordinator without closing anything: marbles walk the
// same way by themselves, serve until they are cut, and heal when it goes on.
func (d *deployment) lapseStalled(t *testing.T, c *client.Client) {
	d.awaitSettled(c)
	items := drive.Pages(t, 4, webToCart+"/items")
	items.More(100)
	if err := d.Coordinator().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	failedAt := -1
	d.walk(t, []string{"cart", "catalog"}, func(name string, s stage.Status) {
		if s.Stage == stage.Drained && name == "cart" {
			failedAt = len(items.Failures())
		}
	})
	if failedAt != 0 {
		t.Errorf("%d requests failed before cart was drained: %q", failedAt, items.Failures())
	}
	closed(t, webToCart+"/items")
	items.Halt()
	if err := d.Coordinator().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.healed(t, c)
}

func sinceMidnight(t time.Time) time.Duration {
	y, m, d := t.Date()
	return t.Sub(time.Date(y, m, d, 0, 0, 0, 0, t.Location()))
}

// held is a connection through a caller's Envoy that was opened and not used yet.
type held struct {
	conn net.Conn
	read *bufio.Reader
}

func dialOn(t *testing.T, url string) held {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return held{conn, bufio.NewReader(conn)}
}

// begins sends half of a request: the program waits for the rest.
func (h held) begins(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(h.conn, "GET /catalog.json HTTP/1.1\r\nHost: catalog\r\n"); err != nil {
		t.Errorf("a connection that was open when its marble was drained: %v", err)
	}
	if err := h.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var e net.Error
	if _, err := h.read.ReadByte(); !errors.As(err, &e) || !e.Timeout() {
		t.Errorf("a connection that was open when its marble was drained: got %v, want it to stay", err)
	}
}

// ends waits until the connection is closed by the other side.
func (h held) ends(t *testing.T) {
	t.Helper()
	if err := h.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, h.read); err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("a connection to a marble that was cut is still open after %s", patience)
		}
	} else {
		t.Logf("the connection to the cut marble was closed after %d bytes", n)
	}
}
