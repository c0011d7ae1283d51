package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSecretTemplates checks that a secret's certificate has what its template
// says, and that nothing is issued for one that cannot be kept to.
func TestSecretTemplates(t *testing.T) {
	a, now := newAuthority(t), start
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	base := SecretRequest{CommonName: "shop", PublicKey: spki, NotAfter: now.Add(time.Hour)}
	for name, c := range map[string]struct {
		change func(*SecretRequest)
		usages []x509.ExtKeyUsage
		fails  bool
	}{
		"plain":          {func(*SecretRequest) {}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, false},
		"server alone":   {func(r *SecretRequest) { r.ExtendedKeyUsages = []string{"serverAuth"} }, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, false},
		"other order":    {func(r *SecretRequest) { r.ExtendedKeyUsages = []string{"clientAuth", "serverAuth"} }, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, false},
		"organizations":  {func(r *SecretRequest) { r.Organization = []string{"Zebra", "Ant", "Longer than both"} }, nil, false},
		"addresses":      {func(r *SecretRequest) { r.IPAddresses = []string{"10.0.0.7", "2001:db8::1"} }, nil, false},
		"code signing":   {func(r *SecretRequest) { r.ExtendedKeyUsages = []string{"codeSigning"} }, nil, true},
		"no address":     {func(r *SecretRequest) { r.IPAddresses = []string{"10.0.0"} }, nil, true},
		"empty":          {func(r *SecretRequest) { r.Organization = []string{""} }, nil, true},
		"too many":       {func(r *SecretRequest) { r.Organization = []string{"a", "b", "c", "d", "e"} }, nil, true},
		"too long":       {func(r *SecretRequest) { r.Organization = []string{strings.Repeat("a", 257)} }, nil, true},
		"wrong DNS name": {func(r *SecretRequest) { r.DNSNames = []string{"a b"} }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := base
			c.change(&r)
			token, err := a.PrepareSecret(r, now)
			if c.fails {
				if err == nil {
					t.Error("prepared, want an error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			issued, err := a.Issue(token)
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Sorted(slices.Values(issued.Leaf.Subject.Organization))
			if want := slices.Sorted(slices.Values(r.Organization)); !slices.Equal(got, want) {
				t.Errorf("organization %q, want %q", got, want)
			}
			if len(issued.Leaf.IPAddresses) != len(r.IPAddresses) || c.usages != nil && !slices.Equal(issued.Leaf.ExtKeyUsage, c.usages) {
				t.Errorf("addresses %v and usages %v", issued.Leaf.IPAddresses, issued.Leaf.ExtKeyUsage)
			}
		})
	}
}
