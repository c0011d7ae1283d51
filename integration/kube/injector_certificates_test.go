//go:build linux

package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/kube/injector"
)

// bundle replaces the caBundle as somebody with the right would.
func (i *injectors) bundle(t *testing.T, raw []byte) {
	t.Helper()
	conf, err := i.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), i.webhook, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"webhooks": []any{map[string]any{"name": conf.Webhooks[0].Name, "clientConfig": map[string]any{"caBundle": raw}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(t.Context(), i.webhook, types.StrategicMergePatchType, body, meta.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// noneRefused makes pods while change runs, ten at least: none is refused.
func (i *injectors) noneRefused(t *testing.T, prefix string, change func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var maker sync.WaitGroup
	made := 0
	var failures []error
	maker.Go(func() {
		for made < 10 || ctx.Err() == nil {
			made++
			if _, _, err := i.marble(fmt.Sprint(prefix, made), label("web")); err != nil {
				failures = append(failures, err)
			}
		}
	})
	change()
	cancel()
	maker.Wait()
	t.Logf("%d pods made", made)
	if len(failures) > 0 {
		t.Errorf("%d of %d pods were refused, the first: %v", len(failures), made, failures[0])
	}
}

// replace starts a replica, and then ends the others.
func (i *injectors) replace(t *testing.T, name string, times injector.Times) {
	t.Helper()
	next := i.start(name, times)
	drive.Eventually(t, patience, func() string {
		if !next.ready.Load() {
			return "a new injector is not ready"
		}
		return ""
	})
	i.mu.Lock()
	old := slices.DeleteFunc(slices.Clone(i.replicas), func(r *replica) bool { return r == next })
	i.mu.Unlock()
	for _, r := range old {
		r.stop()
	}
	i.mu.Lock()
	i.replicas = []*replica{next}
	i.mu.Unlock()
}

// certificatesChange has one injector replace its certificate and the CA above
// it, several times.
func (i *injectors) certificatesChange(t *testing.T) {
	// Half of a life is left where the next certificate is late, and Next where the
	// API server is.
	i.replace(t, "hasty", injector.Times{Leaf: 14 * time.Second, CA: 20 * time.Second, Look: 300 * time.Millisecond, First: 3 * time.Second, Next: 3 * time.Second})
	cas := map[string]bool{}
	drive.Eventually(t, patience, func() string {
		conf, err := i.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), i.webhook, meta.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for rest := conf.Webhooks[0].ClientConfig.CABundle; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cas[string(block.Bytes)] = true
		}
		if len(cas) < 4 {
			return fmt.Sprintf("%d CAs were seen", len(cas))
		}
		return ""
	})
}
