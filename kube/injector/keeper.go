package injector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	registration "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	conflicts   = 6 // attempts of one write
	callTimeout = 10 * time.Second
)

// Times are those of the webhook's certificate.
type Times struct {
	Leaf time.Duration // life of a serving certificate
	CA   time.Duration // life of the CA above it, a week at most
	Look time.Duration // between two looks at the caBundle
	// First is how long after its CA was written the first certificate is shown,
	// and Next the same for the successor of a CA, while the old one serves. API
	// servers learn of the configuration by watching it.
	First, Next time.Duration
}

// usual are the times where Config has none.
var usual = Times{Leaf: 24 * time.Hour, CA: caLife, Look: 15 * time.Second, First: 3 * time.Second, Next: 2 * time.Minute}

// keeper holds the certificate that the webhook serves with, and keeps the CA
// above it in the webhook's configuration.
type keeper struct {
	api           registration.MutatingWebhookConfigurationInterface
	webhook, host string
	name          string // of this replica
	times         Times
	now           func() time.Time
	log           *slog.Logger
	synced        func(error) // observes each look at the caBundle; may be nil

	// Of step alone:
	first, next *held // the CA that certifies, and its successor on the way in
	former      *held // the predecessor, until nobody can need it

	mu      sync.Mutex // guards what follows
	serving *tls.Certificate
	trouble error // of the newest look at the caBundle
}

// held is a CA and since when it is in the configuration.
type held struct {
	*authority
	since time.Time // zero: not yet
}

// Certificate is for tls.Config.GetCertificate. Before the API server can know
// the CA there is none.
func (k *keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.serving == nil {
		return nil, errors.New("no certificate yet: its CA is not in the webhook's configuration")
	}
	return k.serving, nil
}

// State returns the certificate in use, nil before the first, and why the newest
// look at the caBundle failed.
func (k *keeper) State() (*x509.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.serving == nil {
		return nil, k.trouble
	}
	return k.serving.Leaf, k.trouble
}

// Run keeps the certificate until ctx ends. Remove is to be called afterwards.
func (k *keeper) Run(ctx context.Context) {
	for failed := 0; ; {
		err := k.step(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := k.times.Look
		switch cert, _ := k.State(); {
		case err != nil:
			wait = min(time.Second<<min(failed, 4), k.times.Look)
			failed++
			k.log.Warn("the webhook's CA cannot be kept in its configuration", "error", err, "retry", wait)
		case cert == nil:
			failed, wait = 0, k.times.First
		default:
			failed = 0
		}
		if !pause.For(ctx, wait) {
			return
		}
	}
}

// step does what is due.
func (k *keeper) step(ctx context.Context) error {
	err := k.look(ctx)
	k.mu.Lock()
	k.trouble = err
	k.mu.Unlock()
	if k.synced != nil {
		k.synced(err)
	}
	return err
}

func (k *keeper) look(ctx context.Context) error {
	now := k.now()
	var err error
	switch {
	case k.first == nil:
		err = k.make(&k.first, now)
	case k.next == nil && stale(k.first.cert, now):
		err = k.make(&k.next, now)
	}
	if err != nil {
		return err
	}
	if k.former != nil && !now.Before(k.first.since.Add(2*k.times.Next)) {
		k.former = nil
	}
	if err := k.write(ctx, k.cas()); err != nil {
		return err
	}
	now = k.now()
	for _, h := range []*held{k.first, k.next} {
		if h != nil && h.since.IsZero() {
			h.since = now
		}
	}
	if k.next != nil && !now.Before(k.next.since.Add(k.times.Next)) {
		k.former, k.first, k.next = k.first, k.next, nil
		return k.serve(now)
	}
	leaf, _ := k.State()
	if leaf == nil && !now.Before(k.first.since.Add(k.times.First)) || leaf != nil && stale(leaf, now) {
		return k.serve(now)
	}
	return nil
}

func (k *keeper) make(into **held, now time.Time) error {
	a, err := newAuthority(k.name, k.host, now, k.times.CA)
	if err != nil {
		return err
	}
	*into = &held{authority: a}
	return nil
}

func (k *keeper) cas() []*x509.Certificate {
	var all []*x509.Certificate
	for _, h := range []*held{k.first, k.next, k.former} {
		if h != nil {
			all = append(all, h.cert)
		}
	}
	return all
}

// serve puts a new certificate of the first CA into use.
func (k *keeper) serve(now time.Time) error {
	cert, err := k.first.issue(k.host, now, k.times.Leaf)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.serving = cert
	k.log.Info("the webhook has a new certificate", "notAfter", cert.Leaf.NotAfter)
	return nil
}

// Remove takes our CAs out of the configuration.
func (k *keeper) Remove(ctx context.Context) error { return k.write(ctx, nil) }

// write brings ours, and no other CA of ours, into the configuration. Who else
// changes it meanwhile wins, and it is tried again.
func (k *keeper) write(ctx context.Context, ours []*x509.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := k.tryWrite(ctx, ours)
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			return problem.New("KUB-078", "there is no MutatingWebhookConfiguration %q", k.webhook)
		case !apierrors.IsConflict(err) || attempt == conflicts-1:
			return problem.Because(err, "KUB-078", "MutatingWebhookConfiguration %s", k.webhook)
		}
		if most := 50 * time.Millisecond << attempt; !pause.For(ctx, most/2+rand.N(most/2)) {
			return problem.Because(ctx.Err(), "KUB-078", "MutatingWebhookConfiguration %s", k.webhook)
		}
	}
}

func (k *keeper) tryWrite(ctx context.Context, ours []*x509.Certificate) error {
	have, err := k.api.Get(ctx, k.webhook, metav1.GetOptions{})
	if err != nil {
		return err
	}
	patch := bundlePatch(have, func(bundle []byte) []byte { return merge(bundle, ours, k.name, k.now()) })
	if patch == nil {
		return nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = k.api.Patch(ctx, k.webhook, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	return err
}

// bundlePatch returns the strategic merge patch that gives each webhook the
// bundle that to makes of its own, on condition that nobody changed the
// configuration since; nil where nothing changes.
func bundlePatch(have *admissionv1.MutatingWebhookConfiguration, to func([]byte) []byte) map[string]any {
	var hooks []map[string]any
	for _, w := range have.Webhooks {
		want := to(w.ClientConfig.CABundle)
		if string(want) != string(w.ClientConfig.CABundle) {
			hooks = append(hooks, map[string]any{"name": w.Name, "clientConfig": map[string]any{"caBundle": want}})
		}
	}
	if hooks == nil {
		return nil
	}
	return map[string]any{"metadata": map[string]any{"resourceVersion": have.ResourceVersion}, "webhooks": hooks}
}
