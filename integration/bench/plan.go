package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

// planned is how many instances a plan judges.
const planned = 1000

// plans activates instances of their own evidence each, and asks who of them
// would lose an identity: by a floor that none meets, so that each is judged as
// it is and as it would be. What is measured is what the user waits for.
func (b *bench) plans(ctx context.Context, d *daemon) error {
	if err := d.setManifest(ctx); err != nil {
		return err
	}
	if err := d.activateMany(ctx, planned); err != nil {
		return err
	}
	c, err := d.Dial(ctx, true)
	if err != nil {
		return err
	}
	defer c.Close()
	req := apiv1.PlanRequest{Floors: map[string]attest.Floor{"default": {Sim: &attest.DCAPFloor{MinTCBEvaluation: 1 << 20}}}}
	var wall, used []float64
	for range 9 {
		before, err := d.cpu()
		if err != nil {
			return err
		}
		start := time.Now()
		p, err := c.Plan(ctx, req)
		if err != nil {
			return err
		}
		took := time.Since(start)
		after, err := d.cpu()
		if err != nil {
			return err
		}
		if p.Instances < planned || p.Loses != p.Instances || len(p.Unjudged) > 0 {
			return fmt.Errorf("of %d instances %d would lose their identity, want all of at least %d", p.Instances, p.Loses, planned)
		}
		scale := float64(planned) / float64(p.Instances)
		wall = append(wall, scale*float64(took.Microseconds())/1000)
		used = append(used, scale*float64((after-before).Microseconds())/1000)
	}
	slices.Sort(wall)
	slices.Sort(used)
	least := 2 * planned * b.limits.verifyUS / 1000
	b.add("plan.1000.ms", wall[len(wall)/2], "ms", least/2, "two P-256 verifications for each, on two cores")
	b.add("plan.1000.cpu_ms", used[len(used)/2], "ms CPU", least, "two P-256 verifications for each")
	return nil
}

// activateMany activates instances with identities of their own.
func (d *daemon) activateMany(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			_, err := d.one(ctx, "worker", workers+i)
			return err
		})
	}
	return g.Wait()
}

// user makes the operator's key and certificate, where Dial looks for them, and
// returns the certificate, PEM.
func (d *daemon) user() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "alice"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(d.KeyFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return "", err
	}
	return string(cert), os.WriteFile(d.CertFile(), cert, 0o600)
}
