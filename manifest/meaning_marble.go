package manifest

import (
	"fmt"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxReply bounds what a marble is sent when it activates, in bytes: its
// parameters, its secrets, its certificates. It leaves room below gRPC's
// default message limit of 4 MiB.
const MaxReply = 3 << 20

const (
	maxArgv       = 64 << 10 // all arguments together, in bytes
	replyOverhead = 64 << 10 // chain, bundle and framing
	replyPerRSA   = 8 << 10  // private key and chain
	replyPerCert  = 4 << 10
	replyPerEntry = 128 // name and framing of a parameter or secret
	listenOffset  = 10_000
	defaultLease  = time.Hour
	minLease      = 10 * time.Second
	maxLease      = 24 * time.Hour
)

// noSuch reports a reference that leads nowhere.
func (c *checker) noSuch(code problem.Code, p *path, n *jsonpos.Node, message string, candidates []string) {
	c.report(p, spanOf(n), finding{code: code, message: message, suggest: c.didYouMean(n.Text, candidates)})
}

func (c *checker) marble(m *jsonpos.Member, p *path) {
	mb := c.m.Marbles[m.Key]
	if mb.Lease == 0 && m.Value.Get("lease") == nil {
		mb.Lease = attest.Duration(defaultLease)
	}
	c.duration(m.Value, p, "lease", minLease, maxLease)
	c.software(m, p, mb.Package, &mb.Platform)
	c.openArguments(m, p, mb)
	for _, item := range c.dnsNames(m.Value, p) {
		if other, taken := c.dns[item.Text]; taken && other != m.Key {
			c.report(p.member("dnsNames"), spanOf(item), finding{code: "MAN-026", message: fmt.Sprintf("DNS name %q belongs to marble %s already", item.Text, other)})
		}
		c.dns[item.Text] = m.Key
	}
	for name, port := range mb.Serves {
		if port.Protocol == "" {
			port.Protocol = TCP
			mb.Serves[name] = port
		}
	}
	c.ports(m, p, &mb)
	c.parameters(m, p, &mb)
	c.m.Marbles[m.Key] = mb
}

// software checks the package and the platform of a marble, or of coordinators,
// and fills the platform in.
func (c *checker) software(m *jsonpos.Member, p *path, pkg string, platform *string) {
	if _, ok := c.m.Packages[pkg]; ok {
		c.used[pkg] = true
	} else if pkg != "" {
		c.noSuch("MAN-015", p.member("package"), m.Value.Get("package"), fmt.Sprintf("%s has package %q, which does not exist", p, pkg), c.packageNames)
	}
	if *platform == "" {
		*platform = DefaultPlatform
	} else if _, ok := c.m.Platforms[*platform]; !ok {
		c.noSuch("MAN-016", p.member("platform"), m.Value.Get("platform"), fmt.Sprintf("%s has platform %q, which does not exist", p, *platform), c.platformNames)
	}
	c.snpRules(m, p, pkg, *platform)
}

// snpRules warns of software that may run in SEV-SNP guests, but on no machine.
func (c *checker) snpRules(m *jsonpos.Member, p *path, name, on string) {
	platform, known := c.m.Platforms[on]
	pkg := c.m.Packages[name]
	guests := pkg.SNP != nil || pkg.Azure != nil && pkg.Azure.SNP != nil
	if !known && on != DefaultPlatform || !guests || platform.SNP != nil {
		return
	}
	c.report(p, keySpan(m), finding{code: "MAN-050", warning: true,
		message: fmt.Sprintf("package %s may run in SEV-SNP guests, but platform %s has no snp rules, so no such machine is accepted", name, on),
		suggest: fmt.Sprintf("add snp with a minTCB to platforms.%s", on)})
}

// openArguments warns of a marble whose package measures files beside the
// program, as interpreters need it, while the host chooses the arguments: it
// could name another file.
func (c *checker) openArguments(m *jsonpos.Member, p *path, mb Marble) {
	ref := c.m.Packages[mb.Package].Sim
	if ref == nil || len(ref.Files) == 0 || len(mb.Parameters.Argv) > 0 {
		return
	}
	c.report(p, keySpan(m), finding{code: "MAN-051", warning: true,
		message: fmt.Sprintf("package %s measures files beside its program, but marbles.%s names no arguments: the host chooses them, and may run another file", mb.Package, m.Key),
		suggest: `give the whole command line in parameters.argv`})
}

// dnsNames returns the well-formed names of an object's dnsNames and reports
// those that are addresses.
func (c *checker) dnsNames(n *jsonpos.Node, p *path) []*jsonpos.Node {
	list := n.Get("dnsNames")
	if list == nil || c.bad[list] {
		return nil
	}
	var good []*jsonpos.Node
	for i, item := range list.Items {
		if c.bad[item] {
			continue
		}
		last := item.Text[strings.LastIndexByte(item.Text, '.')+1:]
		if strings.Trim(last, "0123456789") == "" {
			c.report(p.member("dnsNames").item(i), spanOf(item), finding{code: "MAN-025", message: fmt.Sprintf("%q is an address or number, not a DNS name", clip(item.Text))})
			continue
		}
		good = append(good, item)
	}
	return good
}

// ports checks what a marble serves and calls, and that no two of them want
// the same loopback port.
func (c *checker) ports(m *jsonpos.Member, p *path, mb *Marble) {
	taken := make(map[uint16]string)
	if serves := m.Value.Get("serves"); serves != nil && !c.bad[serves] {
		for i := range serves.Members {
			s := &serves.Members[i]
			number := mb.Serves[s.Key].Port
			if number == 0 {
				continue
			}
			if other, clash := taken[number]; clash {
				c.report(p.member("serves").member(s.Key).member("port"), spanOf(s.Value.Get("port")), finding{code: "MAN-022", message: fmt.Sprintf("port %d is taken by %s already", number, other), suggest: "use another number"})
			}
			taken[number] = "serves." + s.Key
		}
	}
	calls := m.Value.Get("calls")
	if calls == nil || c.bad[calls] {
		return
	}
	seen := make(map[[2]string]int)
	for i, n := range calls.Items {
		if c.bad[n] {
			continue
		}
		call := &mb.Calls[i]
		at := p.member("calls").item(i)
		if !c.call(m.Key, n, at, call) {
			continue
		}
		key := [2]string{call.Marble, call.Port}
		if first, dup := seen[key]; dup {
			c.report(at, spanOf(n), finding{code: "MAN-030", message: fmt.Sprintf("calls[%d] is the same call already", first), suggest: "merge the two, with the routes of both"})
			continue
		}
		seen[key] = i
		if other, clash := taken[call.Listen]; clash {
			c.listenClash(n, at, call, other)
		}
		taken[call.Listen] = fmt.Sprintf("calls[%d]", i)
	}
}

func (c *checker) listenClash(n *jsonpos.Node, at *path, call *Call, other string) {
	where := n.Get("listen")
	message := fmt.Sprintf("loopback port %d is taken by %s already", call.Listen, other)
	if where == nil {
		where = n.Get("port")
		message += "; without \"listen\" a call takes the callee's number"
	}
	f := finding{code: "MAN-022", message: message, suggest: "give the call another \"listen\""}
	if free := int(call.Listen) + listenOffset; free <= 65535 {
		f.suggest += fmt.Sprintf(", such as %d", free)
	}
	c.report(at, spanOf(where), f)
}

// call checks one call and fills its listen port in. It is false if the callee
// is not known well enough to go on.
func (c *checker) call(caller string, n *jsonpos.Node, at *path, call *Call) bool {
	if call.Marble == "" || call.Port == "" {
		c.broken = true
		return false
	}
	if call.Marble == caller {
		c.report(at.member("marble"), spanOf(n.Get("marble")), finding{code: "MAN-029", message: fmt.Sprintf("%s calls itself", caller)})
		return false
	}
	callee, ok := c.m.Marbles[call.Marble]
	if !ok {
		c.broken = true
		c.noSuch("MAN-017", at.member("marble"), n.Get("marble"), fmt.Sprintf("marbles.%s calls %q, which is no marble", caller, call.Marble), c.marbleNames)
		return false
	}
	port, ok := callee.Serves[call.Port]
	if !ok {
		c.broken = true
		message := fmt.Sprintf("%s serves no port %q", call.Marble, call.Port)
		if len(callee.Serves) == 0 {
			message = fmt.Sprintf("%s serves no port at all", call.Marble)
		}
		c.noSuch("MAN-018", at.member("port"), n.Get("port"), message, sortedKeys(callee.Serves))
		return false
	}
	if call.Listen == 0 {
		call.Listen = port.Port
	}
	c.routes(n, at, call, port)
	return call.Listen != 0
}

func (c *checker) routes(n *jsonpos.Node, at *path, call *Call, port Port) {
	routes := n.Member("routes")
	if routes == nil || c.bad[routes.Value] {
		return
	}
	if port.Protocol != HTTP {
		c.report(at.member("routes"), keySpan(routes), finding{code: "MAN-023", message: fmt.Sprintf("port %q of %s is not http, so requests can't be told apart by route", call.Port, call.Marble)})
	}
	for i, item := range routes.Value.Items {
		if c.bad[item] {
			continue
		}
		if _, path, ok := strings.Cut(item.Text, " "); ok && unsafePath(path) {
			c.report(at.member("routes").item(i), spanOf(item), finding{code: "MAN-024", message: "the path holds an empty, '.' or '..' segment or an escape; Envoy normalises paths before it compares them"})
		}
	}
}

// unsafePath reports whether a path is not in the normal form in which Envoy
// compares it.
func unsafePath(path string) bool {
	if strings.ContainsAny(path, "%\\;") {
		return true
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return true
		}
	}
	return false
}

// parameters checks the templates of a marble and the size of its reply.
func (c *checker) parameters(m *jsonpos.Member, p *path, mb *Marble) {
	params := m.Value.Get("parameters")
	if params == nil || c.bad[params] {
		return
	}
	p = p.member("parameters")
	size, argv := replyOverhead, 0
	secrets := make(map[string]bool)
	if list := params.Get("argv"); list != nil && !c.bad[list] {
		for i, item := range list.Items {
			argv += len(item.Text) + 1
			size += c.parameter(m.Key, item, p.member("argv").item(i), secrets, false)
		}
		if argv > maxArgv {
			c.report(p.member("argv"), spanOf(list), finding{code: "MAN-006", message: fmt.Sprintf("%d bytes of arguments, but at most %d are allowed", argv, maxArgv)})
		}
	}
	for _, kind := range []string{"env", "files"} {
		for _, v := range c.membersOf(params.Get(kind)) {
			at := p.member(kind).member(v.Key)
			if kind == "files" {
				c.dotted(v, at)
			}
			size += len(v.Key) + c.parameter(m.Key, v.Value, at, secrets, kind == "files")
		}
		size += c.references(m.Key, params, p, kind, secrets)
	}
	if len(secrets) > 0 {
		c.m.secretsOf[m.Key] = sortedKeys(secrets)
	}
	for name := range secrets {
		size += len(name) + c.secretSize(name)
	}
	if size > MaxReply {
		c.report(p, spanOf(params), finding{code: "MAN-035", message: fmt.Sprintf("marbles.%s would be sent %d bytes of parameters and secrets, but at most %d are allowed", m.Key, size, MaxReply)})
	}
}

func (c *checker) secretSize(name string) int {
	s := c.m.Secrets[name]
	switch s.Type {
	case Symmetric:
		return replyPerEntry + s.Bits/8
	case CertRSA:
		return replyPerEntry + replyPerRSA + 256*len(s.DNSNames)
	}
	return replyPerEntry + replyPerCert + 256*len(s.DNSNames)
}

// parameter checks one template, notes the secrets that it names and returns
// its share of the reply.
func (c *checker) parameter(marble string, n *jsonpos.Node, p *path, secrets map[string]bool, file bool) int {
	if c.bad[n] {
		return 0
	}
	size := len(n.Text) + replyPerEntry
	if !file && strings.ContainsRune(n.Text, 0) {
		c.report(p, spanOf(n), finding{code: "MAN-007", message: "a zero byte can't be passed in an argument or environment variable"})
	}
	t, err := compile(n.Text, c.m.Secrets)
	if err != nil {
		c.report(p, spanOf(n), c.templateFinding(err))
		return size
	}
	if t.binary && !file {
		c.report(p, spanOf(n), finding{code: "MAN-032", message: "raw bytes can't be passed in an argument or environment variable", suggest: "use hex or base64, or a file"})
	}
	for _, name := range t.secrets {
		if !c.reads(name, marble) {
			c.report(p, spanOf(n), finding{code: "MAN-033", message: fmt.Sprintf("marbles.%s names secret %q, but is none of its readers", marble, name), suggest: fmt.Sprintf("add %q to secrets.%s.readers", marble, name)})
		}
		secrets[name] = true
	}
	return size
}

// reads reports whether a marble is a reader of a secret. Long lists of readers
// are indexed once.
func (c *checker) reads(name, marble string) bool {
	index := c.readers[name]
	if index == nil {
		list := c.m.Secrets[name].Readers
		index = make(map[string]bool, len(list))
		for _, r := range list {
			index[r] = true
		}
		c.readers[name] = index
	}
	return index[marble]
}

func (c *checker) templateFinding(err *templateError) finding {
	f := finding{code: "MAN-032", message: err.text, suggest: err.suggest}
	if err.unknownSecret != "" {
		f.code = "MAN-034"
		f.suggest = c.didYouMean(err.unknownSecret, c.secretNames)
	}
	return f
}
