package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
)

// shopURL is the shop's front door, on the gateway program's loopback port.
const shopURL = "http://127.0.0.1:8080"

// Demo is the story: each act shows one thing and fails if it is not so.
func (d *Deployment) Demo(ctx context.Context) error {
	acts := []func(context.Context) error{d.actVerify, d.actManifest, d.actMarbles, d.actRequest, d.actForbidden, d.actTampered, d.actPlaintext}
	for _, act := range acts {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// untrue says what the demo found not to be so.
func (d *Deployment) untrue(format string, args ...any) error {
	return problem.New("CLI-015", format, args...).WithNext("look at the logs in %s", d.LogDir())
}

func (d *Deployment) actVerify(ctx context.Context) error {
	c, err := d.Dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	v := c.Verified()
	if !v.Verdict.OK() || !v.Verdict.TEE.Simulated() {
		return d.untrue("the coordinator's verdict is %s on %s, want accepted on a software TEE", v.Verdict.Verdict, v.Verdict.TEE)
	}
	d.Say("1 coordinator  ✓ verified from outside: %s evidence, our nonce, %d checks", v.Verdict.TEE, len(v.Verdict.Steps))
	return nil
}

func (d *Deployment) actManifest(ctx context.Context) error {
	r, err := d.SetManifest(ctx)
	if err != nil {
		return err
	}
	d.Say("2 manifest     ✓ %.8s in force, revision %d: %s", r.Digest, r.Revision, strings.Join(names(d.Services), ", "))
	if r.OpenFirstSet {
		d.Say("               ! the first: anybody could have set it (--owner closes that)")
	}
	return nil
}

func (d *Deployment) actMarbles(ctx context.Context) error {
	start := time.Now()
	if err := d.StartMarbles(ctx); err != nil {
		return err
	}
	c, err := d.Dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	d.Say("3 marbles      each attested before its program started, %.1f s in all:", time.Since(start).Seconds())
	for _, s := range d.Services {
		m, err := c.Marble(ctx, s.Name)
		if err != nil {
			return err
		}
		if len(m.Instances) != 1 || m.Instances[0].TEE != s.TEE {
			return d.untrue("marble %s has %d instances, want one on %s", s.Name, len(m.Instances), s.TEE)
		}
		d.Say("               ✓ %-8s %-8s %-14s %s", s.Name, s.TEE, filepath.Base(s.Program), m.Instances[0].SPIFFEID)
	}
	return nil
}

// get asks the shop's front door.
func get(ctx context.Context, url string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

func (d *Deployment) actRequest(ctx context.Context) error {
	start := time.Now()
	status, body, err := get(ctx, shopURL+"/")
	if err != nil {
		return d.untrue("the shop does not answer: %s", err)
	}
	took := time.Since(start)
	var page struct {
		Web struct {
			Caller string
			Cart   struct {
				Items     []struct{ Item string }
				Signature string
			}
		}
	}
	if err := json.Unmarshal(body, &page); status != http.StatusOK || err != nil {
		return d.untrue("the shop answered %d %.200s", status, body)
	}
	if len(page.Web.Cart.Items) == 0 || page.Web.Cart.Signature == "" {
		return d.untrue("the shop's page lacks the catalog's items or the cart's signature: %.300s", body)
	}
	if want := "spiffe://shop.example/gateway"; !strings.Contains(page.Web.Caller, want) {
		return d.untrue("web saw the caller %q, want %s", page.Web.Caller, want)
	}
	d.Say("4 a request    ✓ gateway → web → cart → catalog: 200, %d items, %d ms\n                 three hops, each attested on both sides",
		len(page.Web.Cart.Items), took.Milliseconds())
	return nil
}

func (d *Deployment) actForbidden(ctx context.Context) error {
	status, body, err := get(ctx, shopURL+"/admin")
	if err != nil {
		return d.untrue("the shop does not answer: %s", err)
	}
	if status != http.StatusForbidden {
		return d.untrue("GET /admin answered %d %.200s, want 403", status, body)
	}
	d.Say("5 not allowed  ✓ gateway asks web for /admin: 403 from web's Envoy\n                 no call in the manifest grants it")
	return nil
}

func (d *Deployment) actTampered(ctx context.Context) error {
	code, output, err := d.RunTampered(ctx)
	if err != nil {
		return err
	}
	if code != problem.Refused.ExitCode() || !strings.Contains(output, attest.CodeMeasurement) {
		return d.untrue("the tampered gateway ended with exit code %d and said:\n%s", code, output)
	}
	d.Say("6 tampered     a gateway with one byte more asks to join:")
	for _, line := range strings.Split(strings.TrimSpace(output), "\n") {
		if tells(line) {
			d.Say("               │ %s", strings.TrimSpace(line))
		}
	}
	d.Say("               ✓ refused before it had a key's certificate or a secret: exit 3")
	return nil
}

// tells picks the lines of a refusal that the demo shows: what it was, the head
// of the table and the rows that do not hold, and where to read on.
func tells(line string) bool {
	return !strings.Contains(line, "level=") && (strings.Contains(line, "✗") || strings.HasPrefix(line, "field ") || strings.Contains(line, "ashlar explain"))
}

// RunTampered runs a copy of the gateway with a byte appended, and returns the
// exit code of ashlar-marble and what it printed.
func (d *Deployment) RunTampered(ctx context.Context) (int, string, error) {
	gateway := d.Services[0]
	program, err := os.ReadFile(gateway.Program)
	if err != nil {
		return 0, "", err
	}
	tampered := filepath.Join(d.work, "tampered-gateway")
	if err := os.WriteFile(tampered, append(program, 0), 0o700); err != nil {
		return 0, "", err
	}
	defer os.Remove(tampered)
	s := gateway
	s.Name, s.Program, s.IP, s.Ready = "tampered", tampered, "127.0.77.99", "127.0.0.1:9199"
	var out transcript.Buffer
	p, err := d.startAs(s, gateway.Name, &out)
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		p.Stop()
		return 0, "", d.untrue("the tampered gateway was not refused within 20 s:\n%s", out.String())
	}
	return code, out.String(), nil
}

func (d *Deployment) actPlaintext(ctx context.Context) error {
	target := fmt.Sprintf("http://%s:8081/page", d.Services[1].IP)
	status, _, err := get(ctx, target)
	if err == nil {
		return d.untrue("plaintext to %s answered %d, want no answer", target, status)
	}
	d.Say("7 plaintext    ✓ %s: refused by web's Envoy", target)
	return nil
}
