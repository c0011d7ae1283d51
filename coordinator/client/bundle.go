package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

// Limits of a bundle. All of them are in docs/wire.md.
const (
	bundleVersion   = 2
	MaxBundle       = 16 << 20 // bytes of the file
	maxCertificates = 8
	maxManifest     = 4 << 20 // bytes
	maxBundleValues = 2000    // JSON values in the file
	maxBundleDepth  = 8
)

// Bundle is everything that one verification of a coordinator saw, so that
// somebody else can make it again later, without a network: VerifyBundle. As a
// file it is JSON, described in docs/wire.md. Nothing in it is trusted for
// being there.
type Bundle struct {
	Version   int             `json:"version"` // 2
	Time      time.Time       `json:"time"`    // when its maker verified, by the maker's clock
	Address   string          `json:"address,omitempty"`
	Nonce     attest.Hex      `json:"nonce"` // 32 bytes, the maker's
	Statement apiv1.Statement `json:"statement"`
	// Certificates are what the connection showed, DER, leaf first.
	Certificates [][]byte `json:"certificates"`
	// Manifest holds the bytes that were uploaded; absent before the first.
	Manifest []byte `json:"manifest,omitempty"`
	// Acceptance shows that the log of the checkpoint in the evidence holds the
	// manifest's acceptance; nil before the first.
	Acceptance *apiv1.Acceptance `json:"acceptance,omitempty"`
	// Log has the hashes of the log's newest entries, and Witnessed what witnesses
	// have co-signed of it; nil where they were not kept.
	Log       *BundleLog       `json:"log,omitempty"`
	Witnessed *BundleWitnessed `json:"witnessed,omitempty"`
}

// Portable returns what the client's newest verification saw, with the manifest
// and what shows that the log accepted it. It is verified before it is
// returned. CRD-102 says that the manifest changed meanwhile: dial again.
func (c *Client) Portable(ctx context.Context) (Bundle, error) {
	v := c.Verified()
	b := Bundle{Version: bundleVersion, Time: v.At.UTC().Truncate(time.Second), Address: v.Address, Nonce: v.Nonce,
		Statement: v.Statement, Certificates: v.Certificates}
	if v.Statement.Revision > 0 {
		m, err := c.Manifest(ctx)
		if err != nil {
			return Bundle{}, err
		}
		if !bytes.Equal(m.Digest, v.Statement.Manifest) {
			return Bundle{}, problem.New("CRD-102", "attested is manifest %s, and by now %s is in force", v.Statement.Manifest, m.Digest)
		}
		b.Manifest = m.Raw
		q := url.Values{"size": {strconv.FormatUint(v.Checkpoint.Size, 10)}}
		a, err := get[apiv1.Acceptance](ctx, c, "/v1/manifest/acceptance", q)
		if err != nil {
			return Bundle{}, err
		}
		b.Acceptance = &a
	}
	r := transparency.NewReader(v.Checkpoint, c.getter(ctx).tiles())
	var err error
	if b.Log, err = c.bundleLog(r); err != nil {
		return Bundle{}, err
	}
	if b.Witnessed, err = bundleWitnessed(c.getter(ctx), r, v.Statement.LogKey); err != nil {
		return Bundle{}, err
	}
	_, err = VerifyBundle(b, BundleInput{Policy: c.o.Policy, Verifiers: c.o.Verifiers, Now: c.o.Now()})
	return b, err
}

// Encode returns the bundle as a file: JSON, one space of indentation.
func (b Bundle) Encode() ([]byte, error) {
	out, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return nil, problem.Because(err, "CRD-121", "encoding")
	}
	if len(out) >= MaxBundle {
		return nil, problem.New("CRD-121", "it would have %d bytes, more than %d", len(out), MaxBundle)
	}
	return append(out, '\n'), nil
}

// ParseBundle reads a bundle, strictly: what Encode writes, in any order of keys
// and with any white space, and nothing else. The error is CRD-121.
func ParseBundle(raw []byte) (Bundle, error) {
	var b Bundle
	if len(raw) > MaxBundle {
		return b, problem.New("CRD-121", "%d bytes, a bundle has at most %d", len(raw), MaxBundle)
	}
	limits := jsonpos.Limits{Depth: maxBundleDepth, Values: maxBundleValues}
	tree, faults := jsonpos.Parse(raw, limits)
	if len(faults) > 0 {
		return b, problem.New("CRD-121", "%s", faults[0].Error())
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &version); err == nil && version.Version != bundleVersion {
		return b, problem.New("CRD-121", "version %d, want %d", version.Version, bundleVersion)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return Bundle{}, problem.Because(err, "CRD-121", "reading")
	}
	if err := b.check(); err != nil {
		return Bundle{}, err
	}
	// encoding/json is lax about the case of keys, null, and the spelling of
	// values: what was read must be all that is there.
	again, err := b.Encode()
	if err != nil {
		return Bundle{}, err
	}
	canonical, _ := jsonpos.Parse(again, limits)
	if at := differ(tree, canonical); at != nil {
		return Bundle{}, problem.New("CRD-121", "at byte %d: not as a bundle writes it", at.Start)
	}
	return b, nil
}

// differ returns the first value of got that want does not have in its place,
// or nil.
func differ(got, want *jsonpos.Node) *jsonpos.Node {
	if got.Kind != want.Kind || got.Text != want.Text || len(got.Members) != len(want.Members) || len(got.Items) != len(want.Items) {
		return got
	}
	for _, m := range got.Members {
		other := want.Get(m.Key)
		if other == nil {
			return m.Value
		}
		if at := differ(m.Value, other); at != nil {
			return at
		}
	}
	for i, item := range got.Items {
		if at := differ(item, want.Items[i]); at != nil {
			return at
		}
	}
	return nil
}

// check compares sizes and counts with the limits.
func (b Bundle) check() error {
	switch {
	case b.Time.IsZero():
		return problem.New("CRD-121", "it names no time")
	case len(b.Nonce) != apiv1.NonceSize:
		return problem.New("CRD-121", "its nonce has %d bytes, want %d", len(b.Nonce), apiv1.NonceSize)
	case len(b.Certificates) == 0 || len(b.Certificates) > maxCertificates:
		return problem.New("CRD-121", "it holds %d certificates, want 1 to %d", len(b.Certificates), maxCertificates)
	case len(b.Manifest) > maxManifest:
		return problem.New("CRD-121", "its manifest has %d bytes, more than %d", len(b.Manifest), maxManifest)
	}
	if a := b.Acceptance; a != nil && (len(a.Entry) > transparency.MaxEntry || len(a.Proof) > transparency.MaxProof) {
		return problem.New("CRD-121", "its acceptance has an entry of %d bytes and %d hashes", len(a.Entry), len(a.Proof))
	}
	if w := b.Witnessed; w != nil && (len(w.Checkpoint) > transparency.MaxNote || len(w.Proof) > transparency.MaxProof) {
		return problem.New("CRD-121", "its co-signed checkpoint has %d bytes and %d hashes", len(w.Checkpoint), len(w.Proof))
	}
	if b.Log != nil {
		return b.Log.check()
	}
	return nil
}
