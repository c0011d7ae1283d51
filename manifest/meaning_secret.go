package manifest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// operationsOf are what can be done with a use-only key of each type.
var operationsOf = map[SecretType][]Operation{
	Symmetric: {Encrypt, Decrypt, HMAC}, RSA: {Sign, Decrypt}, ECDSA: {Sign}, Ed25519: {Sign},
}

// secretLife checks what happens to a secret over time, and who gives it.
func (c *checker) secretLife(m *jsonpos.Member, p *path, s *Secret) {
	n := m.Value
	unfit := func(key string, format string, args ...any) {
		if v := n.Member(key); v != nil && !c.bad[v.Value] {
			c.report(p.member(key), keySpan(v), finding{code: "MAN-036", message: fmt.Sprintf(format, args...)})
		}
	}
	if _, known := sizes[s.Type]; !known {
		return
	}
	given := s.Type == Opaque || s.Type == Counter
	switch {
	case s.Scope == PerRole && s.Type != Counter:
		unfit("scope", "scope marble is for counters alone, not for a %s secret", s.Type)
	case s.Scope == Instance && s.Type == Opaque:
		unfit("scope", "an opaque secret has one value: its scope is shared")
	}
	switch {
	case s.OnUpdate == "rederive" && given, s.OnUpdate == "discard" && s.Type == Counter:
		unfit("onUpdate", "a secret of type %s can't be made anew, so onUpdate %s does not fit", s.Type, s.OnUpdate)
	}
	if s.Type != Opaque {
		unfit("depositors", "only opaque secrets are given, not those of type %s", s.Type)
	}
	if s.Type == Counter {
		unfit("rotation", "a counter has no versions, so nothing rotates")
	} else if every := n.Get("rotation").Get("every"); every != nil && given {
		c.report(p.member("rotation").member("every"), spanOf(every), finding{code: "MAN-036", message: "an opaque secret is replaced by who gives it, not by schedule"})
	}
	c.depositors(n, p, m.Key, s)
	c.operations(n, p, s)
	c.addresses(n, p)
	if r := s.Rotation; r.Every > 0 && r.Overlap > r.Every {
		c.report(p.member("rotation"), keySpan(n.Member("rotation")), finding{code: "MAN-082", warning: true, message: "the overlap is longer than the time between rotations: of several versions readers get the last two", suggest: `give "overlap" at most the time of "every"`})
	}
}

func (c *checker) depositors(n *jsonpos.Node, p *path, name string, s *Secret) {
	list := n.Get("depositors")
	if list == nil || c.bad[list] {
		return
	}
	for i, d := range s.Depositors {
		if _, ok := c.m.Marbles[d]; !ok && d != "" {
			c.noSuch("MAN-017", p.member("depositors").item(i), list.Items[i], fmt.Sprintf("secret %s has depositor %q, which is no marble", name, d), c.marbleNames)
		}
	}
}

func (c *checker) operations(n *jsonpos.Node, p *path, s *Secret) {
	list := n.Get("operations")
	if list == nil || c.bad[list] {
		return
	}
	able := operationsOf[s.Type]
	for i, o := range s.Operations {
		if o == "" || slices.Contains(able, o) {
			continue
		}
		suggest := ""
		if len(able) > 0 {
			suggest = fmt.Sprintf("it can do %s", some(wordsOf(able)))
		}
		c.report(p.member("operations").item(i), spanOf(list.Items[i]), finding{code: "MAN-036", message: fmt.Sprintf("a secret of type %s can't %s", s.Type, o), suggest: suggest})
	}
}

func (c *checker) addresses(n *jsonpos.Node, p *path) {
	list := n.Get("ipAddresses")
	if list == nil || c.bad[list] {
		return
	}
	for i, item := range list.Items {
		if c.bad[item] {
			continue
		}
		if a, err := netip.ParseAddr(item.Text); err != nil || a.Zone() != "" {
			c.report(p.member("ipAddresses").item(i), spanOf(item), finding{code: "MAN-079", message: fmt.Sprintf("%q is no IP address", clip(item.Text))})
		}
	}
}

// supply warns of opaque secrets that nobody can give.
func (c *checker) supply() {
	writers := make(map[string]bool)
	for _, user := range c.userNames {
		for _, right := range actionsOf(c.m, user) {
			writers[right] = true
		}
	}
	c.section("secrets", func(m *jsonpos.Member, p *path) {
		s := c.m.Secrets[m.Key]
		if s.Type == Opaque && len(s.Depositors) == 0 && !writers[WriteSecret+"*"] && !writers[WriteSecret+m.Key] && c.rightsKnown() {
			c.report(p, keySpan(m), finding{code: "MAN-080", warning: true, message: fmt.Sprintf("nobody may give secret %q its value, so no marble that needs it starts", m.Key),
				suggest: fmt.Sprintf("give a role %q, or name depositors", WriteSecret+m.Key)})
		}
	})
}
