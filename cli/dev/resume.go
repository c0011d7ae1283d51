package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Resume sets the shop's manifest where none is in force yet. Otherwise the
// manifest in force stays, but for the measurements of the shop's own programs:
// what was built anew since the last time could not join any more.
func (d *Deployment) Resume(ctx context.Context) (apiv1.SetResult, error) {
	c, err := d.Dial(ctx, false)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	defer c.Close()
	if c.Verified().Statement.Revision == 0 {
		return d.SetManifest(ctx)
	}
	active, err := c.Manifest(ctx)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	next, err := d.remeasured(active.Raw)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	if next == nil {
		return apiv1.SetResult{Digest: active.Digest, Revision: active.Revision}, os.WriteFile(d.ManifestFile(), active.Raw, 0o644)
	}
	return d.setAsAlice(ctx, next, c.Verified())
}

// AwaitShop waits a moment until the front door answers: a marble is ready when
// its program was started, and its callers are told a little later. A manifest
// that its operator has changed may never let it.
func (d *Deployment) AwaitShop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _, err := get(ctx, shopURL+"/"); err == nil && status < http.StatusInternalServerError {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Deployment) setAsAlice(ctx context.Context, raw []byte, seen client.Verified) (apiv1.SetResult, error) {
	if err := os.WriteFile(d.ManifestFile(), raw, 0o644); err != nil {
		return apiv1.SetResult{}, err
	}
	c, err := d.Dial(ctx, true)
	if err != nil {
		return apiv1.SetResult{}, err
	}
	defer c.Close()
	d.Say("programs were built anew: setting their new measurements")
	return c.SetManifest(ctx, raw, seen.Statement.Manifest)
}

// remeasured returns a manifest with the packages of the shop's services as
// they are now; nil if none differs. Packages that it lacks are not added.
func (d *Deployment) remeasured(raw []byte) ([]byte, error) {
	fresh, err := d.packages(d.Services)
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	var packages map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, problem.Because(err, "CLI-003", "reading the manifest in force")
	}
	if err := json.Unmarshal(doc["packages"], &packages); err != nil {
		return nil, problem.Because(err, "CLI-003", "reading the manifest in force")
	}
	differs := false
	for name, pkg := range fresh {
		now, err := json.Marshal(pkg)
		if err != nil {
			return nil, err
		}
		if old, ok := packages[name]; ok && !sameJSON(old, now) {
			packages[name], differs = now, true
		}
	}
	if !differs {
		return nil, nil
	}
	if doc["packages"], err = json.Marshal(packages); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(doc, "", "  ")
	return append(out, '\n'), err
}

// sameJSON reports whether two documents differ in nothing but order and space.
func sameJSON(a, b []byte) bool { return bytes.Equal(canonical(a), canonical(b)) }

func canonical(raw []byte) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}
