package drive

import (
	"encoding/json"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// InForce reads the manifest in force, and its digest.
func InForce(t testing.TB, c *client.Client) (doc map[string]any, digest attest.Hex) {
	t.Helper()
	now, err := c.Manifest(t.Context())
	if err == nil {
		err = json.Unmarshal(now.Raw, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc, now.Digest
}

// Amend sets a changed copy of the manifest in force, whatever it risks.
func Amend(t testing.TB, c *client.Client, change func(doc map[string]any)) apiv1.SetResult {
	t.Helper()
	doc, digest := InForce(t, c)
	change(doc)
	return Put(t, c, doc, digest)
}

// Put sets a manifest, whatever it risks, in place of the one with a digest.
func Put(t testing.TB, c *client.Client, doc map[string]any, replaces attest.Hex) apiv1.SetResult {
	t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.SetManifest(t.Context(), raw, replaces, manifest.AllRisks()...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
