package importer

import (
	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// marbleRunImport is one import of a MarbleRun manifest.
type marbleRunImport struct {
	*job
	packages, marbles *namer
	book              *secretBook
	platforms         map[string]string // platform by package of the source
	platformNames     *namer
}

func marbleRun(j *job, root value) {
	packages, marbles := root.get("Packages"), root.get("Marbles")
	if packages.empty() || marbles.empty() {
		j.fail(problem.New("MAN-073", "a MarbleRun manifest has Packages and Marbles"))
		return
	}
	im := &marbleRunImport{job: j, packages: objectNames(), marbles: objectNames(), book: newSecretBook(j), platforms: map[string]string{}, platformNames: objectNames()}
	im.platformNames.name(manifest.DefaultPlatform)
	j.m.Packages, j.m.Platforms = map[string]attest.Package{}, map[string]attest.Platform{}
	for _, p := range packages.members() {
		im.pkg(p)
	}
	root.get("Infrastructures").note(NoCounterpart, "", "never checked there; name accepted hardware in platforms.NAME.sgx")
	for _, s := range root.get("Secrets").members() {
		im.secret(s)
	}
	j.m.Marbles = map[string]manifest.Marble{}
	for _, m := range marbles.members() {
		im.marble(m)
	}
	im.edges(root)
	im.book.release()
	im.people(root)
	im.config(root.get("Config"))
}

// pkg turns a package into reference values, and what it says of the TCB into a
// platform.
func (im *marbleRunImport) pkg(p member) {
	name := im.packages.name(p.name)
	path := join("packages", name)
	ref := &attest.SGXReference{}
	pkg := attest.Package{SGX: ref}
	if v := p.get("UniqueID"); !v.empty() {
		if h, ok := im.digest(v, path+".sgx.uniqueID"); ok {
			ref.UniqueID = []attest.Hex{h}
		}
	}
	if v := p.get("SignerID"); !v.empty() {
		ref.SignerID, _ = im.digest(v, path+".sgx.signerID")
	}
	ref.ProductID = im.number16(p.get("ProductID"), path+".sgx.productID")
	ref.MinSecurityVersion = im.number16(p.get("SecurityVersion"), path+".sgx.minSecurityVersion")
	debug := p.get("Debug")
	if pkg.AllowDebug = debug.flag(); pkg.AllowDebug {
		debug.note(Maps, path+".allowDebug", "production enclaves are accepted too; there only debug enclaves were")
	} else {
		debug.note(Maps, path, "debug enclaves are refused unless allowDebug says otherwise")
	}
	im.m.Packages[name] = pkg
	im.platforms[p.name] = im.platform(p, name)
}

// platform returns the name of the platform with the TCB rules of a package.
func (im *marbleRunImport) platform(p member, pkg string) string {
	statusList, advisoryList := p.get("AcceptedTCBStatuses"), p.get("AcceptedAdvisories")
	if statusList.empty() && advisoryList.empty() {
		rules := attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.SWHardeningNeeded, attest.UpToDate}}
		im.m.Platforms[manifest.DefaultPlatform] = attest.Platform{SGX: &rules}
		p.absent("AcceptedTCBStatuses", Maps, "platforms.default.sgx.acceptedTCBStatuses", "UpToDate and SWHardeningNeeded")
		return manifest.DefaultPlatform
	}
	name := im.platformNames.as("packages."+pkg, pkg)
	path := join("platforms", name) + ".sgx"
	rules := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.UpToDate}}
	for _, v := range statusList.items() {
		switch s := attest.TCBStatus(v.text()); s {
		case attest.UpToDate, attest.SWHardeningNeeded, attest.ConfigurationNeeded, attest.ConfigurationAndSWHardeningNeeded, attest.OutOfDate, attest.OutOfDateConfigurationNeeded:
			rules.AcceptedTCBStatuses = append(rules.AcceptedTCBStatuses, s)
			v.maps(path + ".acceptedTCBStatuses")
		case attest.Revoked:
			v.note(Stricter, "", "a revoked platform is never accepted")
		default:
			v.note(Dropped, "", "not a TCB status: it stays refused")
		}
	}
	if statusList.empty() {
		rules.AcceptedTCBStatuses = append(rules.AcceptedTCBStatuses, attest.SWHardeningNeeded)
		p.absent("AcceptedTCBStatuses", Maps, path+".acceptedTCBStatuses", "UpToDate and SWHardeningNeeded")
	}
	rules.AcceptedTCBStatuses = statuses(rules.AcceptedTCBStatuses)
	if !advisoryList.empty() {
		rules.AcceptedAdvisories = advisories(advisoryList.items(), path+".acceptedAdvisories")
		advisoryList.note(Stricter, path+".acceptedAdvisories", "holds for every status; there for SWHardeningNeeded alone")
	}
	im.m.Platforms[name] = attest.Platform{SGX: rules}
	return name
}

// digest reads a measurement. A malformed one is left out, so that the package
// is incomplete and refuses everything until its author mends it.
func (j *job) digest(v value, became string) (attest.Hex, bool) {
	h, ok := measurement(v.scalar())
	if !ok {
		v.note(Dropped, "", "not 32 bytes in hexadecimal")
		j.decide(became, "%s is not 32 bytes in hexadecimal: write the measurement (ashlar inspect tells it)", v.path)
		return nil, false
	}
	v.maps(became)
	return h, true
}

// number16 reads a number that hardware holds in 16 bits.
func (j *job) number16(v value, became string) *uint16 {
	n, ok := v.count()
	if !ok {
		return nil
	}
	if n > 65535 {
		v.note(Dropped, "", "hardware has 16 bits for it: no enclave can have this number")
		j.decide(became, "%s is more than 65535", v.path)
		return nil
	}
	v.maps(became)
	small := uint16(n)
	return &small
}

func (im *marbleRunImport) marble(m member) {
	name := im.marbles.name(m.name)
	path := join("marbles", name)
	pkg := m.get("Package")
	source := pkg.text()
	platform, known := im.platforms[source]
	if !known {
		im.fail(problem.New("MAN-074", "%s.Package names no entry of Packages", m.path))
		return
	}
	pkg.note(Maps, path+".package", renamed(source, im.packages.name(source)))
	out := manifest.Marble{Package: im.packages.name(source)}
	if platform != manifest.DefaultPlatform {
		out.Platform = platform
	}
	if limit := m.get("MaxActivations"); limit.present() {
		out.MaxInstances = im.instances(limit, path)
	}
	binding := m.get("DisableSecretBinding")
	if binding.flag() {
		binding.note(NoCounterpart, "", "secrets are made anew; those of the old deployment are not derived again")
	} else {
		binding.note(Maps, path, "secrets of instances are bound to the marble")
	}
	p := &parameters{job: im.job, book: im.book, marble: name}
	im.parameters(p, m.get("Parameters"))
	out.Parameters = p.out
	im.m.Marbles[name] = out
	if name != m.name {
		m.note(Maps, path, renamed(m.name, name))
	}
}

// instances reads MaxActivations: how often a marble may start becomes how many
// may live.
func (im *marbleRunImport) instances(v value, path string) int {
	n, ok := v.count()
	switch {
	case !ok:
		return 0
	case n == 0:
		v.note(Stricter, "", "without limit there, 10000 at once here")
		return 0
	case n > manifest.MaxInstances:
		v.note(Stricter, path+".maxInstances", "10000 at once at most")
		return manifest.MaxInstances
	}
	v.note(Maps, path+".maxInstances", "how many may live at once; there it counted every start, restarts too")
	im.decide(path+".maxInstances", "%s limited how often it may start; here it limits how many live at once", v.path)
	return int(n)
}

func (im *marbleRunImport) parameters(p *parameters, v value) {
	for _, f := range v.get("Files").members() {
		p.file(f.name, f.value, im.file(f.value, true))
	}
	for _, e := range v.get("Env").members() {
		p.env(e.name, e.value, im.file(e.value, false))
	}
	argv := v.get("Argv")
	var args []converted
	for _, a := range argv.items() {
		args = append(args, literal(a.text()))
	}
	p.argv(argv, args)
}

// edges turns tags of transparent TLS into ports and calls.
func (im *marbleRunImport) edges(root value) {
	tags := root.get("TLS")
	byName, used := map[string]value{}, map[string]bool{}
	for _, t := range tags.members() {
		byName[t.name] = t.value
	}
	wires := newWiring(im.job)
	for _, m := range root.get("Marbles").members() {
		for _, t := range m.get("TLS").items() {
			tag, ok := byName[t.text()]
			if !ok {
				im.fail(problem.New("MAN-074", "%s names no entry of TLS", t.path))
				return
			}
			used[tag.path] = true
			t.note(Maps, join("marbles", im.marbles.name(m.name)), "the ports and calls of the tag")
			for _, e := range tag.get("Incoming").items() {
				wires.serve(im.marbles.name(m.name), e)
			}
		}
	}
	for _, m := range root.get("Marbles").members() {
		for _, t := range m.get("TLS").items() {
			for _, e := range byName[t.text()].get("Outgoing").items() {
				wires.call(im.marbles.name(m.name), e)
			}
		}
	}
	for _, t := range tags.members() {
		if !used[t.path] {
			t.leave(Dropped, "no marble has this tag")
		}
	}
}
