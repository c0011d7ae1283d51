// Package integration holds the tests that run the real binaries with the real
// Envoy: a coordinator, the sample shop, and peers that misbehave. They use fixed
// addresses and run one after the other.
package integration

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// deployment is a running shop with one more marble, "probe", which this
// process plays.
type deployment struct {
	*dev.Deployment
	t   *testing.T
	tee *platform.Platform // the same simulated machine, in this process
}

const patience = drive.Patience

// probeDigest stands for the probe's program.
var probeDigest = attest.Hex(strings.Repeat("p", 32))

// binaries returns where make build put the binaries, and Envoy.
func binaries(t *testing.T) (bin, envoy string) {
	t.Helper()
	bin, envoy = os.Getenv("ASHLAR_BIN"), os.Getenv("ASHLAR_ENVOY")
	if bin == "" || envoy == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("ASHLAR_BIN and ASHLAR_ENVOY are not set: run make integration")
		}
		t.Skip("ASHLAR_BIN and ASHLAR_ENVOY are not set: run make integration")
	}
	return bin, envoy
}

// bare starts a coordinator without a manifest. amend changes the shop's
// manifest when it is set; it may be nil.
func bare(t *testing.T, amend func(map[string]any)) *deployment {
	t.Helper()
	bin, envoy := binaries(t)
	dir := t.TempDir()
	d, err := dev.Start(t.Context(), dev.Config{Dir: dir, Bin: bin, Envoy: envoy, Client: dev.DefaultClient, Mesh: dev.DefaultMesh,
		Metrics: dev.DefaultMetrics, Say: t.Logf, Amend: func(doc map[string]any) {
			addProbe(doc)
			if amend != nil {
				amend(doc)
			}
		}})
	t.Cleanup(func() {
		d.Close()
		if t.Failed() {
			keepLogs(t, d.LogDir())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tee, err := platform.New(platform.Config{Dir: d.PlatformDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &deployment{d, t, tee}
}

// up starts the whole shop and waits until its front door answers.
func up(t *testing.T, amend func(map[string]any)) *deployment {
	t.Helper()
	d := bare(t, amend)
	if _, err := d.SetManifest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.StartMarbles(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.awaitShop()
	return d
}

func addProbe(doc map[string]any) {
	ref := map[string]any{"program": []attest.Hex{probeDigest}, "agent": []attest.Hex{probeDigest}}
	doc["packages"].(map[string]any)["probe"] = map[string]any{"sim": ref}
	doc["marbles"].(map[string]any)["probe"] = map[string]any{"package": "probe"}
}

// issuer vouches for a program's digest, as the platform would for a process.
func (d *deployment) issuer(program attest.Hex) attest.Issuer {
	return d.tee.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: program, Agent: program})
}

// keepLogs shows the end of each process's log.
func keepLogs(t *testing.T, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			t.Logf("%s:\n%s", filepath.Base(f), b[max(0, len(b)-3000):])
		}
	}
}

const shopURL = "http://127.0.0.1:8080"

// page asks the shop for its front page: three hops.
func page(ctx context.Context) (int, string, error) { return get(ctx, shopURL+"/") }

func get(ctx context.Context, url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

func (d *deployment) awaitShop() {
	d.t.Helper()
	drive.Eventually(d.t, patience, func() string {
		status, body, err := page(d.t.Context())
		if err != nil {
			return err.Error()
		}
		if status != http.StatusOK {
			return body
		}
		return ""
	})
}

func (d *deployment) client() *client.Client {
	d.t.Helper()
	c, err := d.Dial(d.t.Context(), true)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}
