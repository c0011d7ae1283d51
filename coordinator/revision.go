package coordinator

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// revision is the manifest in force with what is looked up in it. It is
// immutable. Before the first manifest m is nil and the rest is empty.
type revision struct {
	record   revisionRecord
	m        *manifest.Manifest
	marbles  []string                 // names, sorted
	packages map[string]attest.Policy // to find the nearest one
	users    map[[32]byte]user        // by SHA-256 of the certificate
	outcasts map[[32]byte]user        // those who are revoked, likewise
	rules    *sync.Map                // of rulesOf: attest.Hex by package and platform
}

type user struct {
	name string
	cert *x509.Certificate
}

// digest returns the digest in hex; empty before the first manifest.
func (r *revision) digest() string { return r.record.Digest.String() }

// trustDomain is empty before the first manifest.
func (r *revision) trustDomain() string {
	if r.m == nil {
		return ""
	}
	return r.m.TrustDomain
}

func newRevision(record revisionRecord, m *manifest.Manifest) (*revision, error) {
	r := &revision{record: record, m: m, packages: map[string]attest.Policy{}, users: map[[32]byte]user{}, rules: new(sync.Map)}
	for name := range m.Marbles {
		r.marbles = append(r.marbles, name)
	}
	slices.Sort(r.marbles)
	for name, p := range m.Packages {
		r.packages[name] = attest.Policy{Package: p, PackageName: name}
	}
	for name, u := range m.Users {
		block, _ := pem.Decode([]byte(u.Certificate))
		if block == nil {
			return nil, fmt.Errorf("certificate of user %q is not PEM", name)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate of user %q: %w", name, err)
		}
		r.users[sha256.Sum256(cert.Raw)] = user{name: name, cert: cert}
	}
	return r, nil
}

// judges reports whether evidence is judged under a name: that of a marble, or of
// further coordinators where the manifest admits any.
func (r *revision) judges(name string) bool {
	if _, ok := r.m.Marbles[name]; ok {
		return true
	}
	return name == coordinators && r.m.Coordinators != nil
}

// readRevision reads the manifest of a record back from the log. The zero
// record stands for no manifest.
func (c *Coordinator) readRevision(ctx context.Context, record revisionRecord) (*revision, error) {
	return readRevision(ctx, c.store, record)
}

func readRevision(ctx context.Context, s *store.Store, record revisionRecord) (*revision, error) {
	if record.Number == 0 {
		return &revision{}, nil
	}
	found, err := manifests.Read(ctx, s, record.Place, 1)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, problem.New("STO-006", "the manifest of revision %d is missing", record.Number)
	}
	m, problems := manifest.Parse(found[0].Data)
	if err := problems.Err(); err != nil {
		return nil, fmt.Errorf("reading the manifest of revision %d: %w", record.Number, err)
	}
	if digest := m.Digest(); !slices.Equal(digest[:], record.Digest) {
		return nil, problem.New("STO-006", "the manifest of revision %d is %s, want %s", record.Number, digest, record.Digest)
	}
	return newRevision(record, m)
}
