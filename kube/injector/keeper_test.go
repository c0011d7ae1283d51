package injector

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const host = "ashlar-injector.mesh.svc"

func authorityOf(t testing.TB, name string, at time.Time) *authority {
	t.Helper()
	a, err := newAuthority(name, host, at, caLife)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// verifies reports whether an API server with this caBundle would take what the
// keeper serves.
func verifies(t *testing.T, bundle []byte, k *keeper, at time.Time) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	cert, err := k.Certificate(nil)
	if err != nil {
		return err
	}
	_, err = cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

func TestACertificateIsForTheServiceAlone(t *testing.T) {
	a := authorityOf(t, "a", noon)
	for _, c := range []struct {
		host string
		at   time.Time
		ok   bool
	}{
		{host, noon, true},
		{host, noon.Add(-backdate), true},
		{host, noon.Add(-2 * backdate), false},
		{host, noon.Add(usual.Leaf), true},
		{host, noon.Add(usual.Leaf + time.Second), false},
		{"kubernetes.default.svc", noon, false},
	} {
		cert, err := a.issue(c.host, noon, usual.Leaf)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: c.host, CurrentTime: c.at}); (err == nil) != c.ok {
			t.Errorf("%s at %s: got %v, want %v", c.host, c.at, err, c.ok)
		}
	}
}

func encode(cs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range cs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}

// foreign is a self-signed CA that no injector makes.
func foreign(t *testing.T, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{Organization: []string{organization}, CommonName: "x"}, NotBefore: noon, NotAfter: noon.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMerge(t *testing.T) {
	mine, former, other := authorityOf(t, "a", noon).cert, authorityOf(t, "a", noon.Add(-time.Hour)).cert, authorityOf(t, "b", noon).cert
	old := authorityOf(t, "c", noon.Add(-caLife)).cert
	damaged := encode(other)
	damaged[len(damaged)/2] ^= 1
	names := func(bundle []byte) string {
		var all []string
		for _, c := range parseBundle(bundle) {
			switch {
			case c.Equal(mine):
				all = append(all, "mine")
			case c.Equal(other):
				all = append(all, "other")
			default:
				all = append(all, "unexpected")
			}
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		name string
		have []byte
		want int // certificates beside mine
	}{
		{"nothing", nil, 0},
		{"mine", encode(mine), 0},
		{"another replica's", encode(other), 1},
		{"twice", encode(other, other, mine, mine), 1},
		{"a former process of my name", encode(former, other), 1},
		{"ended", encode(old, other), 1},
		{"garbage around", append([]byte("hello\n-----BEGIN X-----\n"), append(encode(other), "trailing"...)...), 1},
		{"damaged", damaged, 0},
		{"somebody's CA", encode(foreign(t, func(c *x509.Certificate) { c.Subject.Organization = []string{"Example"} })), 0},
		{"no CA", encode(foreign(t, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 })), 0},
		{"a long life", encode(foreign(t, func(c *x509.Certificate) { c.NotAfter = noon.Add(10 * caLife) })), 0},
		{"huge", bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 100_000), 0},
		{"huge without lines", bytes.Repeat([]byte("-----BEGIN "), 200_000), 0},
	} {
		got := merge(c.have, []*x509.Certificate{mine}, "a", noon)
		all := parseBundle(got)
		if text := names(got); len(all) != c.want+1 || strings.Contains(text, "unexpected") || !strings.Contains(text, "mine") {
			t.Errorf("%s: got %d (%s), want mine and %d others", c.name, len(all), text, c.want)
		}
		if again := merge(got, []*x509.Certificate{mine}, "a", noon); !bytes.Equal(again, got) {
			t.Errorf("%s: merging again changes it", c.name)
		}
	}
	if got := merge(encode(mine, other), nil, "a", noon); names(got) != "other" {
		t.Errorf("removing mine: got %s", names(got))
	}
}

func TestABundleIsBounded(t *testing.T) {
	mine := authorityOf(t, "mine", noon.Add(-time.Hour)).cert
	var many []*x509.Certificate
	for i := range 3 * maxCAs {
		many = append(many, authorityOf(t, fmt.Sprint(i), noon.Add(time.Duration(i)*time.Minute)).cert)
	}
	got := parseBundle(merge(encode(many...), []*x509.Certificate{mine}, "mine", noon))
	if len(got) != maxCAs {
		t.Errorf("got %d, want %d", len(got), maxCAs)
	}
	for _, c := range got {
		if !c.Equal(mine) && c.NotBefore.Before(many[2*maxCAs].NotBefore) {
			t.Errorf("kept %s, which is older than others", c.Subject.CommonName)
		}
	}
}

func configuration(bundle []byte) *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "injector"}, Webhooks: []admissionv1.MutatingWebhook{
		{Name: "pods.injector.ashlar.dev", ClientConfig: admissionv1.WebhookClientConfig{CABundle: bundle, Service: &admissionv1.ServiceReference{Namespace: "mesh", Name: "ashlar-injector"}}}}}
}

func keeperOf(cluster *fake.Clientset, name string, now func() time.Time) *keeper {
	return &keeper{api: cluster.AdmissionregistrationV1().MutatingWebhookConfigurations(), webhook: "injector", host: host, name: name, times: usual, now: now, log: slog.New(slog.DiscardHandler)}
}

func bundleIn(t *testing.T, cluster *fake.Clientset) []byte {
	t.Helper()
	c, err := cluster.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), "injector", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Webhooks[0].ClientConfig.Service == nil {
		t.Error("the rest of the configuration is gone")
	}
	return c.Webhooks[0].ClientConfig.CABundle
}

func TestNothingIsServedBeforeTheCAIsKnown(t *testing.T) {
	at, cluster := &clock{at: noon}, fake.NewClientset(configuration(nil))
	k := keeperOf(cluster, "a", at.now)
	if _, err := k.Certificate(nil); err == nil {
		t.Error("a certificate before the first step")
	}
	for _, step := range []struct {
		after time.Duration
		ok    bool
	}{{0, false}, {usual.First - 1, false}, {1, true}} {
		at.forward(step.after)
		if err := k.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := verifies(t, bundleIn(t, cluster), k, at.now()); (err == nil) != step.ok {
			t.Errorf("after %s: got %v, want %v", at.now().Sub(noon), err, step.ok)
		}
	}
}

// TestRotation lives through a month with two replicas: at no time is what one
// of them serves unknown to an API server whose view is two minutes old.
func TestRotation(t *testing.T) {
	at, cluster := &clock{at: noon}, fake.NewClientset(configuration(nil))
	a, b := keeperOf(cluster, "a", at.now), keeperOf(cluster, "b", at.now)
	type view struct {
		at     time.Time
		bundle []byte
	}
	var views []view
	cas, leaves, most := map[string]bool{}, map[string]bool{}, 0
	for at.now().Before(noon.Add(30 * 24 * time.Hour)) {
		for _, k := range []*keeper{a, b} {
			if err := k.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		views = append(views, view{at.now(), bundleIn(t, cluster)})
		for len(views) > 1 && !views[1].at.After(at.now().Add(-usual.Next)) {
			views = views[1:]
		}
		if at.now().After(noon.Add(usual.Next)) {
			for _, k := range []*keeper{a, b} {
				for _, v := range []view{views[0], views[len(views)-1]} {
					if err := verifies(t, v.bundle, k, at.now()); err != nil {
						t.Fatalf("%s at %s, seen %s before: %v", k.name, at.now(), at.now().Sub(v.at), err)
					}
				}
				leaf, _ := k.State()
				leaves[string(leaf.Raw)] = true
			}
		}
		now := parseBundle(views[len(views)-1].bundle)
		most = max(most, len(now))
		for _, c := range now {
			cas[string(c.Raw)] = true
		}
		step := 20 * time.Minute
		for _, k := range []*keeper{a, b} {
			if k.next != nil || k.former != nil || len(leaves) == 0 {
				step = 20 * time.Second
			}
		}
		at.forward(step)
	}
	if len(cas) < 2*8 || len(leaves) < 2*55 || most > 6 {
		t.Errorf("got %d CAs, %d certificates, at most %d CAs at once; want a CA each half week, a certificate each half day, and few at once", len(cas), len(leaves), most)
	}
	if err := a.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := parseBundle(bundleIn(t, cluster)); len(left) != 1 || left[0].Subject.CommonName != "b" {
		t.Errorf("got %d CAs after a went, want b's", len(left))
	}
}

func TestAnEmptiedBundleHeals(t *testing.T) {
	at, cluster := &clock{at: noon}, fake.NewClientset(configuration(nil))
	k := keeperOf(cluster, "a", at.now)
	for range 2 {
		if err := k.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		at.forward(usual.First)
	}
	for _, bundle := range [][]byte{nil, []byte("nonsense"), encode(foreign(t, func(*x509.Certificate) {}))} {
		if _, err := cluster.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(t.Context(), configuration(bundle), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := k.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := verifies(t, bundleIn(t, cluster), k, at.now()); err != nil {
			t.Errorf("%.20q: %v", bundle, err)
		}
	}
}

func TestWritesThatFail(t *testing.T) {
	group := schema.GroupResource{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"}
	conflict := apierrors.NewConflict(group, "injector", errors.New("changed"))
	for _, c := range []struct {
		name   string
		errs   []error // of the patches, in order
		ok     bool
		detail string
	}{
		{"conflicts", []error{conflict, conflict, nil}, true, ""},
		{"conflicts for ever", []error{conflict, conflict, conflict, conflict, conflict, conflict, conflict}, false, "changed"},
		{"forbidden", []error{apierrors.NewForbidden(group, "injector", errors.New("no patch"))}, false, "no patch"},
		{"gone", []error{apierrors.NewNotFound(group, "injector")}, false, `there is no MutatingWebhookConfiguration "injector"`},
	} {
		cluster, n := fake.NewClientset(configuration(nil)), 0
		cluster.PrependReactor("patch", "mutatingwebhookconfigurations", func(a k8stesting.Action) (bool, runtime.Object, error) {
			var body struct {
				Metadata struct{ ResourceVersion *string }
			}
			if err := json.Unmarshal(a.(k8stesting.PatchAction).GetPatch(), &body); err != nil || body.Metadata.ResourceVersion == nil {
				t.Errorf("%s: a patch that does not say what it changes: %v", c.name, err)
			}
			n++
			return c.errs[n-1] != nil, nil, c.errs[n-1]
		})
		k := keeperOf(cluster, "a", func() time.Time { return noon })
		err := k.step(t.Context())
		if (err == nil) != c.ok || err != nil && (problem.CodeOf(err) != "KUB-078" || !strings.Contains(err.Error(), c.detail)) {
			t.Errorf("%s: got %v, want %v with %q", c.name, err, c.ok, c.detail)
		}
		if _, trouble := k.State(); (trouble == nil) != c.ok {
			t.Errorf("%s: state %v", c.name, trouble)
		}
	}
}

func FuzzBundle(f *testing.F) {
	mine := authorityOf(f, "a", noon)
	f.Add(encode(mine.cert))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := parseBundle(merge(raw, []*x509.Certificate{mine.cert}, "a", noon))
		if len(got) == 0 || len(got) > maxCAs {
			t.Errorf("got %d CAs", len(got))
		}
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	keeperOf(fake.NewClientset(configuration(nil)), "a", time.Now).Run(ctx)
}
