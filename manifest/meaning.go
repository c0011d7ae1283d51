package manifest

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// checker looks for what a schema can't say: that references lead somewhere,
// that ports don't clash, that templates can be rendered, that tests hold. It
// fills defaults in as it goes and skips values that the schema refused.
type checker struct {
	*walker
	m    *Manifest
	root *jsonpos.Node

	marbleNames, packageNames, platformNames, secretNames, roleNames, userNames []string
	dns                                                                         map[string]string          // DNS name: marble
	used                                                                        map[string]bool            // packages
	readers                                                                     map[string]map[string]bool // by secret
	broken                                                                      bool                       // a call leads nowhere
}

func (c *checker) check() {
	if c.m.Platforms == nil {
		c.m.Platforms = make(map[string]attest.Platform, 1)
	}
	if _, ok := c.m.Platforms[DefaultPlatform]; !ok {
		c.m.Platforms[DefaultPlatform] = attest.Platform{}
	}
	if c.m.Secrets == nil {
		c.m.Secrets = make(map[string]Secret)
	}
	c.marbleNames, c.packageNames, c.platformNames = sortedKeys(c.m.Marbles), sortedKeys(c.m.Packages), sortedKeys(c.m.Platforms)
	c.secretNames, c.roleNames = sortedKeys(c.m.Secrets), sortedKeys(c.m.Roles)
	c.userNames = sortedKeys(c.m.Users)
	c.dns, c.used = make(map[string]string), make(map[string]bool)
	c.readers = make(map[string]map[string]bool)
	c.m.secretsOf = make(map[string][]string)
	c.section("platforms", c.platform)
	c.section("secrets", c.secret)
	c.section("marbles", c.marble)
	c.coordinators()
	c.section("packages", c.pkg)
	c.supply()
	c.section("roles", c.role)
	c.users()
	c.approvals()
	c.recovery()
	c.witnesses()
	c.lifecycle()
	c.tests()
}

// section calls f for each member of a top-level object, in order.
func (c *checker) section(name string, f func(m *jsonpos.Member, p *path)) {
	top := (*path)(nil).member(name)
	n := c.root.Get(name)
	if n == nil || c.bad[n] {
		return
	}
	for i := range n.Members {
		if m := &n.Members[i]; !c.bad[m.Value] && !c.full {
			f(m, top.member(m.Key))
		}
	}
}

// duration checks a duration that is given against its bounds.
func (w *walker) duration(n *jsonpos.Node, p *path, key string, lo, hi time.Duration) {
	v := n.Get(key)
	if v == nil || w.bad[v] {
		return
	}
	var d attest.Duration
	if err := d.UnmarshalText([]byte(v.Text)); err != nil || time.Duration(d) < lo || time.Duration(d) > hi {
		w.report(p.member(key), spanOf(v), finding{code: "MAN-037", message: fmt.Sprintf("%s must be between %s and %s", key, short(lo), short(hi))})
	}
}

// short returns a duration without its empty parts: "24h", "1h30m", "10s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func (c *checker) secret(m *jsonpos.Member, p *path) {
	s := c.m.Secrets[m.Key]
	if s.Scope == "" {
		s.Scope = Shared
	}
	if s.OnUpdate == "" {
		s.OnUpdate = "keep"
	}
	c.secretShape(m.Value, p, &s)
	if s.Type.Certified() && s.Validity == 0 && m.Value.Get("validity") == nil {
		s.Validity = attest.Duration(8760 * time.Hour)
	}
	c.duration(m.Value, p, "validity", time.Hour, 8760*time.Hour)
	c.dnsNames(m.Value, p)
	c.rotation(m.Value, p, &s)
	c.secretLife(m, p, &s)
	for i, r := range s.Readers {
		if _, ok := c.m.Marbles[r]; !ok && r != "" {
			c.noSuch("MAN-017", p.member("readers").item(i), m.Value.Get("readers").Items[i], fmt.Sprintf("secret %s has reader %q, which is no marble", m.Key, r), c.marbleNames)
		}
	}
	c.m.Secrets[m.Key] = s
}

var sizes = map[SecretType]struct {
	initial int
	allowed []int
	words   string
}{
	Symmetric:   {256, nil, "a multiple of 8 from 128 to 4096"},
	RSA:         {3072, []int{2048, 3072, 4096}, "2048, 3072 or 4096"},
	CertRSA:     {3072, []int{2048, 3072, 4096}, "2048, 3072 or 4096"},
	ECDSA:       {256, []int{256, 384}, "256 or 384"},
	CertECDSA:   {256, []int{256, 384}, "256 or 384"},
	Ed25519:     {0, []int{}, ""},
	CertEd25519: {0, []int{}, ""},
	Opaque:      {0, []int{}, ""},
	Counter:     {0, []int{}, ""},
}

// secretShape checks the size and the fields that go with a secret's type.
func (c *checker) secretShape(n *jsonpos.Node, p *path, s *Secret) {
	size, known := sizes[s.Type]
	if !known {
		return
	}
	bits := n.Get("bits")
	switch {
	case bits == nil:
		s.Bits = size.initial
	case c.bad[bits]:
	case size.allowed != nil && len(size.allowed) == 0:
		c.report(p.member("bits"), spanOf(bits), finding{code: "MAN-036", message: fmt.Sprintf("a secret of type %s has one size; leave bits out", s.Type)})
	case size.allowed == nil && s.Bits%8 != 0, size.allowed != nil && !slices.Contains(size.allowed, s.Bits):
		c.report(p.member("bits"), spanOf(bits), finding{code: "MAN-036", message: fmt.Sprintf("bits of a %s secret must be %s, not %d", s.Type, size.words, s.Bits)})
	}
	if s.Type.Certified() {
		return
	}
	for _, key := range []string{"commonName", "dnsNames", "validity", "organization", "ipAddresses", "extendedKeyUsages"} {
		if m := n.Member(key); m != nil {
			c.report(p.member(key), keySpan(m), finding{code: "MAN-036", message: fmt.Sprintf("a secret of type %s has no certificate, so %s does not fit", s.Type, key)})
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
