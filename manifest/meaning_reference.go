package manifest

import (
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
)

// membersOf are an object's members; none of one that is not there or is bad.
func (c *checker) membersOf(n *jsonpos.Node) []*jsonpos.Member {
	if n == nil || c.bad[n] {
		return nil
	}
	all := make([]*jsonpos.Member, len(n.Members))
	for i := range n.Members {
		all[i] = &n.Members[i]
	}
	return all
}

// dotted refuses a path that leads elsewhere than it says.
func (c *checker) dotted(m *jsonpos.Member, p *path) {
	if strings.Contains(m.Key+"/", "/../") || strings.Contains(m.Key+"/", "/./") {
		c.report(p, keySpan(m), finding{code: "MAN-007", message: "the path holds a '.' or '..' segment"})
	}
}

// references checks the places of one kind, env or files, where the host puts
// references, notes the secrets that they may name, and returns their share of
// the reply.
func (c *checker) references(marble string, params *jsonpos.Node, p *path, kind string, secrets map[string]bool) int {
	list := params.Get("references")
	if list == nil || c.bad[list] {
		return 0
	}
	p = p.member("references").member(kind)
	size, set := 0, params.Get(kind)
	for _, place := range c.membersOf(list.Get(kind)) {
		at := p.member(place.Key)
		switch {
		case kind == "files":
			c.dotted(place, at)
		case strings.HasPrefix(place.Key, "ASHLAR_"):
			c.report(at, keySpan(place), finding{code: "MAN-103", message: fmt.Sprintf("%s is for the marble itself: no program gets it from the host", place.Key)})
		}
		if set.Get(place.Key) != nil {
			c.report(at, keySpan(place), finding{code: "MAN-102", message: fmt.Sprintf("parameters.%s sets %q, so a reference there would never be looked at", kind, clip(place.Key)),
				suggest: fmt.Sprintf("remove it from parameters.%s or from parameters.references.%s", kind, kind)})
		}
		size += len(place.Key) + replyPerEntry
		if c.bad[place.Value] {
			continue
		}
		for i, item := range place.Value.Items {
			if !c.bad[item] {
				size += len(item.Text) + replyPerEntry
				c.referable(marble, item, at.item(i), secrets)
			}
		}
	}
	return size
}

// referable checks a secret that a reference may name: the marble gets it.
func (c *checker) referable(marble string, n *jsonpos.Node, p *path, secrets map[string]bool) {
	s, known := c.m.Secrets[n.Text]
	switch {
	case !known:
		c.noSuch("MAN-034", p, n, fmt.Sprintf("there is no secret %q", n.Text), c.secretNames)
		return
	case !c.reads(n.Text, marble):
		c.report(p, spanOf(n), finding{code: "MAN-100", message: fmt.Sprintf("a reference in marbles.%s may name secret %q, but %s is none of its readers", marble, n.Text, marble),
			suggest: fmt.Sprintf("add %q to secrets.%s.readers", marble, n.Text)})
	case s.Type == Counter:
		c.report(p, spanOf(n), finding{code: "MAN-101", message: fmt.Sprintf("secret %q is a counter, and no reference stands for one", n.Text), suggest: "ask for it through the agent's socket"})
	case !s.Exported():
		c.report(p, spanOf(n), finding{code: "MAN-101", message: fmt.Sprintf("secret %q is use-only: no reader ever gets the key", n.Text), suggest: "use it through the agent's socket, or remove operations"})
	}
	secrets[n.Text] = true
}
