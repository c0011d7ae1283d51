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

	marbleNames, packageNames, platformNames, secretNames, roleNames []string
	dns                                                              map[string]string          // DNS name: marble
	used                                                             map[string]bool            // packages
	named                                                            map[string]bool            // secrets that a template names
	readers                                                          map[string]map[string]bool // by secret
	broken                                                           bool                       // a call leads nowhere
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
	c.dns, c.used, c.named = make(map[string]string), make(map[string]bool), make(map[string]bool)
	c.readers = make(map[string]map[string]bool)
	c.m.secretsOf = make(map[string][]string)
	c.section("platforms", c.platform)
	c.section("secrets", c.secret)
	c.section("marbles", c.marble)
	c.section("packages", c.pkg)
	c.section("secrets", c.secretUse)
	c.section("roles", c.role)
	c.users()
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

func (c *checker) platform(m *jsonpos.Member, p *path) {
	e := m.Value.Get("endorsements")
	if e == nil || c.bad[e] {
		return
	}
	p = p.member("endorsements")
	c.duration(e, p, "maxAge", 24*time.Hour, 8760*time.Hour)
	age := time.Duration(c.m.Platforms[m.Key].Endorsements.MaxAge)
	if age >= 24*time.Hour && age < 192*time.Hour {
		c.report(p.member("maxAge"), spanOf(e.Get("maxAge")), finding{code: "MAN-044", warning: true,
			message: fmt.Sprintf("maxAge is %s, but vendors re-issue at times only after 7.4 days; marbles would then be refused", short(age)),
			suggest: "write at least 192h, or leave maxAge out"})
	}
}

func (c *checker) pkg(m *jsonpos.Member, p *path) {
	pkg := c.m.Packages[m.Key]
	c.reference(m.Value, p, pkg)
	if !c.used[m.Key] {
		c.report(p, keySpan(m), finding{code: "MAN-045", warning: true, message: fmt.Sprintf("no marble uses package %q", m.Key)})
	}
}

// reference checks a package's reference values, in a manifest or policy file.
func (w *walker) reference(n *jsonpos.Node, p *path, pkg attest.Package) {
	tees := 0
	for _, tee := range []string{"sgx", "tdx", "snp", "sim"} {
		m := n.Member(tee)
		if m == nil {
			continue
		}
		tees++
		if w.bad[m.Value] || w.incomplete(m.Value) {
			continue
		}
		at, anyOK, missing := p.member(tee), false, ""
		switch tee {
		case "sgx":
			anyOK, missing = sgxMissing(pkg.SGX)
		case "tdx":
			anyOK, missing = pkg.TDX != nil && pkg.TDX.AllowAny, ""
			if pkg.TDX == nil || len(pkg.TDX.MRTD) == 0 {
				missing = "mrtd"
			}
			w.uncompared(m, at, pkg.TDX)
		case "snp":
			anyOK, missing = pkg.SNP != nil && pkg.SNP.AllowAny, ""
			if pkg.SNP == nil || len(pkg.SNP.Measurement) == 0 {
				missing = "measurement"
			}
		case "sim":
			anyOK, missing = pkg.Sim != nil && pkg.Sim.AllowAny, ""
			if pkg.Sim == nil || len(pkg.Sim.Program) == 0 {
				missing = "program"
			}
			if pkg.Sim != nil && len(pkg.Sim.Agent) == 0 && !anyOK {
				w.report(at, keySpan(m), finding{code: "MAN-041", warning: true, message: fmt.Sprintf("%s does not pin the agent: any program may supervise this one", at)})
			}
		}
		if missing != "" && !anyOK {
			w.report(at, keySpan(m), finding{code: "MAN-020", message: fmt.Sprintf("%s has no measurement: %s is missing", at, missing)})
		}
		if anyOK {
			w.report(at.member("allowAnyMeasurement"), keySpan(m.Value.Member("allowAnyMeasurement")), finding{code: "MAN-042", warning: true, message: fmt.Sprintf("%s accepts any measurement", at)})
		}
	}
	if tees == 0 && !w.incomplete(n) {
		w.report(p, spanOf(n), finding{code: "MAN-021", message: "the package names no TEE, so nothing can meet it", suggest: "add sgx, tdx, snp or sim with reference values"})
	}
	if pkg.AllowDebug {
		w.report(p.member("allowDebug"), keySpan(n.Member("allowDebug")), finding{code: "MAN-043", warning: true, message: "debug enclaves and guests are accepted: their hosts can read their memory"})
	}
}

// incomplete reports whether the schema refused a member of n, so that what is
// missing may be only misspelt.
func (w *walker) incomplete(n *jsonpos.Node) bool {
	for _, m := range n.Members {
		if w.bad[m.Value] {
			return true
		}
		for _, item := range m.Value.Items {
			if w.bad[item] {
				return true
			}
		}
	}
	return false
}

// uncompared warns of a TDX package that any kernel meets: the firmware, which
// MRTD is of, measures what it starts into the run-time registers.
func (w *walker) uncompared(m *jsonpos.Member, at *path, r *attest.TDXReference) {
	if r == nil || r.AllowAny || len(r.MRTD) == 0 {
		return
	}
	var open []string
	if len(r.RTMR1) == 0 {
		open = append(open, "rtmr1")
	}
	if len(r.RTMR2) == 0 {
		open = append(open, "rtmr2")
	}
	if len(open) > 0 {
		w.report(at, keySpan(m), finding{code: "MAN-048", warning: true,
			message: fmt.Sprintf("%s does not compare %s: the same firmware with any other kernel, command line or initial ram disk is accepted", at, strings.Join(open, " and ")),
			suggest: "name the values of the released image"})
	}
}

func sgxMissing(r *attest.SGXReference) (anyOK bool, missing string) {
	if r == nil {
		return false, "uniqueID"
	}
	if len(r.UniqueID) > 0 {
		return r.AllowAny, ""
	}
	switch {
	case len(r.SignerID) == 0 && r.ProductID == nil && r.MinSecurityVersion == nil:
		missing = "uniqueID, or signerID with productID and minSecurityVersion,"
	case len(r.SignerID) == 0:
		missing = "signerID"
	case r.ProductID == nil:
		missing = "productID (signerID alone accepts everything of that signer)"
	case r.MinSecurityVersion == nil:
		missing = "minSecurityVersion (signerID alone accepts every old version)"
	}
	return r.AllowAny, missing
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
	if s.Type != Symmetric && s.Validity == 0 && m.Value.Get("validity") == nil {
		s.Validity = attest.Duration(8760 * time.Hour)
	}
	c.duration(m.Value, p, "validity", time.Hour, 8760*time.Hour)
	c.dnsNames(m.Value, p)
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
	CertRSA:     {3072, []int{2048, 3072, 4096}, "2048, 3072 or 4096"},
	CertECDSA:   {256, []int{256, 384}, "256 or 384"},
	CertEd25519: {0, []int{}, ""},
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
	case s.Type == CertEd25519:
		c.report(p.member("bits"), spanOf(bits), finding{code: "MAN-036", message: "an Ed25519 key has one size; leave bits out"})
	case size.allowed == nil && s.Bits%8 != 0, size.allowed != nil && !slices.Contains(size.allowed, s.Bits):
		c.report(p.member("bits"), spanOf(bits), finding{code: "MAN-036", message: fmt.Sprintf("bits of a %s secret must be %s, not %d", s.Type, size.words, s.Bits)})
	}
	if s.Type != Symmetric {
		return
	}
	for _, key := range []string{"commonName", "dnsNames", "validity"} {
		if m := n.Member(key); m != nil {
			c.report(p.member(key), keySpan(m), finding{code: "MAN-036", message: fmt.Sprintf("a symmetric secret has no certificate, so %s does not fit", key)})
		}
	}
}

// secretUse warns of secrets that nobody gets, because no reader's parameters
// name them.
func (c *checker) secretUse(m *jsonpos.Member, p *path) {
	if !c.named[m.Key] {
		c.report(p, keySpan(m), finding{code: "MAN-038", warning: true, message: fmt.Sprintf("no reader's parameters name secret %q, so it is never made", m.Key)})
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
