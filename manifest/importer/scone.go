package importer

import (
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// sconeImport is one import of a SCONE session.
type sconeImport struct {
	*job
	marbles *namer
	book    *secretBook
	cas     map[string]bool   // certificates of CAs, by name
	keys    map[string]string // by private key: the certificate that comes with it
	byName  map[string]value  // the session's secrets
	images  map[string]value
	used    map[string]bool // images that a service runs
	debug   bool
}

func scone(j *job, root value) {
	services := root.get("services")
	if root.get("name").empty() && services.empty() || root.get("Packages").present() {
		j.fail(problem.New("MAN-073", "a SCONE session has a name and services"))
		return
	}
	im := &sconeImport{job: j, marbles: objectNames(), book: newSecretBook(j), cas: map[string]bool{}, keys: map[string]string{},
		byName: map[string]value{}, images: map[string]value{}, used: map[string]bool{}}
	root.get("name").note(NoCounterpart, "", "a deployment has no name but its trust domain")
	root.get("version").maps("version")
	for _, f := range []struct{ name, why string }{
		{"predecessor", "revisions are linked by the coordinator, by digest"}, {"predecessor_key", "revisions are linked by the coordinator, by digest"},
		{"creator", "who may set a manifest stands in users"},
		{"volumes", "encrypted volumes are not managed: give the marble a secret as their key"},
	} {
		root.get(f.name).note(NoCounterpart, "", f.why)
	}
	if !root.get("volumes").empty() {
		j.decide("secrets", "volumes: give marbles that mount encrypted volumes a symmetric secret as key")
	}
	im.security(root.get("security"))
	im.secrets(root.get("secrets"))
	j.m.Packages, j.m.Marbles = map[string]attest.Package{}, map[string]manifest.Marble{}
	for _, image := range root.get("images").items() {
		im.images[image.get("name").text()] = image
	}
	for _, s := range services.items() {
		im.service(s)
	}
	for _, image := range root.get("images").items() {
		image.get("volumes").note(NoCounterpart, "", "encrypted volumes are not managed: give the marble a secret as their key")
		if !im.used[image.get("name").text()] {
			image.leave(Dropped, "no service runs this image")
		}
	}
	im.book.release()
	im.access(root.get("access_policy"))
	if j.err == nil && len(j.m.Marbles) == 0 {
		j.decide("marbles", "the session has no services: write the marbles that may run")
	}
}

func (im *sconeImport) service(s value) {
	name := s.get("name")
	if name.empty() {
		im.fail(problem.New("MAN-073", "%s has no name", where(s.path)))
		return
	}
	got := im.marbles.name(name.text())
	if _, dup := im.m.Marbles[got]; dup {
		im.fail(problem.New("MAN-070", "%s: another service has this name", name.path))
		return
	}
	path := join("marbles", got)
	name.note(Maps, path, renamed(name.text(), got))
	im.m.Packages[got] = im.reference(s, join("packages", got))
	p := &parameters{job: im.job, book: im.book, marble: got}
	im.command(p, s.get("command"))
	for _, e := range s.get("environment").members() {
		if e.is(jsonpos.Array) || e.is(jsonpos.Object) {
			e.note(Dropped, "", "a variable has one value")
			continue
		}
		p.env(e.name, e.value, im.text(e.scalar(), false))
	}
	im.image(p, s.get("image_name"))
	s.get("pwd").note(NoCounterpart, "", "the image says where a program starts")
	for _, f := range []string{"fspf_path", "fspf_tag", "fspf_key"} {
		s.get(f).note(NoCounterpart, "", "file systems are not encrypted here: what is in the image is measured")
	}
	im.m.Marbles[got] = manifest.Marble{Package: got, Parameters: p.out}
}

// reference reads who a service is: any of mrenclaves, or what attestation says.
func (im *sconeImport) reference(s value, path string) attest.Package {
	ref := &attest.SGXReference{}
	for _, v := range s.get("mrenclaves").oneOrMore() {
		if h, ok := im.digest(v, path+".sgx.uniqueID"); ok {
			ref.UniqueID = append(ref.UniqueID, h)
		}
	}
	for _, a := range s.get("attestation").oneOrMore() {
		for _, v := range a.get("mrenclave", "mrenclaves").oneOrMore() {
			if h, ok := im.digest(v, path+".sgx.uniqueID"); ok {
				ref.UniqueID = append(ref.UniqueID, h)
			}
		}
	}
	for _, a := range s.get("attestation").oneOrMore() {
		im.signer(a, ref, path)
	}
	if len(ref.UniqueID) == 0 && len(ref.SignerID) == 0 {
		im.decide(path+".sgx", "%s names no enclave: write its uniqueID (ashlar inspect tells it)", s.path)
	}
	return attest.Package{SGX: ref, AllowDebug: im.debug}
}

// signer reads an alternative that names a signer. A package compares all that
// it names, so beside measurements there is no room for it.
func (im *sconeImport) signer(a value, ref *attest.SGXReference, path string) {
	v := a.get("mrsigner")
	if v.empty() {
		return
	}
	if len(ref.UniqueID) > 0 || len(ref.SignerID) > 0 {
		a.note(Stricter, "", "a package compares all that it names: measurements or one signer")
		im.decide(path+".sgx", "%s would accept a signer too: split the marble, or accept the signer alone", a.path)
		return
	}
	ref.SignerID, _ = im.digest(v, path+".sgx.signerID")
	ref.ProductID = im.decimal(a.get("isvprodid", "isv_prod_id"), path+".sgx.productID")
	ref.MinSecurityVersion = im.decimal(a.get("isvsvn", "isv_svn"), path+".sgx.minSecurityVersion")
}

// command splits a command line, or takes a list as it is.
func (im *sconeImport) command(p *parameters, v value) {
	var args []converted
	if v.is(jsonpos.Array) {
		for _, a := range v.items() {
			args = append(args, im.text(a.scalar(), false))
		}
		p.argv(v, args)
		return
	}
	words, ok := split(v.text())
	if !ok {
		p.argv(v, []converted{{why: "the command line has a quote without its end"}})
		return
	}
	for _, w := range words {
		args = append(args, im.text(w, false))
	}
	p.argv(v, args)
}

// split cuts a command line at spaces outside of quotes. It is false if a quote
// has no end.
func split(line string) ([]string, bool) {
	var words []string
	var word strings.Builder
	inWord := false
	quote := rune(0)
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, quote == 0
}

// image takes the files that are injected into the image of a service.
func (im *sconeImport) image(p *parameters, name value) {
	if name.empty() {
		return
	}
	image, ok := im.images[name.text()]
	if !ok {
		name.note(NoCounterpart, "", "the manifest names no images; the session has none of this name")
		return
	}
	im.used[name.text()] = true
	target := join("marbles", p.marble) + ".parameters.files"
	name.maps(target)
	image.get("name").maps(target)
	for _, f := range image.get("injection_files").items() {
		path, content := f.get("path"), f.get("content")
		if content.node == nil {
			f.note(NoCounterpart, "", "a file without content")
			continue
		}
		path.maps(target)
		p.file(path.text(), content, im.text(content.text(), true))
	}
}

// tolerated are the platform states that a session may tolerate, as statuses.
var tolerated = map[string]attest.TCBStatus{
	"hyperthreading": attest.ConfigurationNeeded, "insecure-igpu": attest.ConfigurationNeeded, "insecure-configuration": attest.ConfigurationNeeded,
	"outdated-tcb": attest.OutOfDate, "software-hardening-needed": attest.SWHardeningNeeded,
}

// security turns what attestation tolerates into the default platform.
func (im *sconeImport) security(s value) {
	const path = "platforms.default.sgx"
	a := s.get("attestation")
	rules := &attest.DCAPPlatform{AcceptedTCBStatuses: []attest.TCBStatus{attest.UpToDate}, AcceptedAdvisories: []string{}}
	im.m.Platforms = map[string]attest.Platform{manifest.DefaultPlatform: {SGX: rules}}
	if mode := a.get("mode"); mode.text() == "none" {
		mode.note(Stricter, "", "without attestation nobody is admitted")
		im.decide("packages", "%s switched attestation off: here every marble proves what it is", mode.path)
	} else {
		mode.maps("packages")
	}
	has := map[attest.TCBStatus]bool{}
	for _, v := range a.get("tolerate").oneOrMore() {
		word := v.text()
		status, ok := tolerated[word]
		switch {
		case ok:
			has[status] = true
			v.note(Maps, path+".acceptedTCBStatuses", string(status))
		case word == "debug-mode":
			im.debug = true
			v.note(Maps, "packages", "allowDebug of every package")
		default:
			v.note(Dropped, "", "no state of a platform that could be accepted: it stays refused")
		}
	}
	for status := range has {
		rules.AcceptedTCBStatuses = append(rules.AcceptedTCBStatuses, status)
	}
	if has[attest.ConfigurationNeeded] && has[attest.SWHardeningNeeded] {
		rules.AcceptedTCBStatuses = append(rules.AcceptedTCBStatuses, attest.ConfigurationAndSWHardeningNeeded)
	}
	if has[attest.ConfigurationNeeded] && has[attest.OutOfDate] {
		rules.AcceptedTCBStatuses = append(rules.AcceptedTCBStatuses, attest.OutOfDateConfigurationNeeded)
	}
	rules.AcceptedTCBStatuses = statuses(rules.AcceptedTCBStatuses)
	ignored := a.get("ignore_advisories")
	if slices.ContainsFunc(ignored.oneOrMore(), func(v value) bool { return v.text() == "*" }) {
		rules.AcceptedAdvisories = nil
		ignored.note(Maps, path+".acceptedAdvisories", "any, by leaving the field out")
		return
	}
	rules.AcceptedAdvisories = advisories(ignored.oneOrMore(), path+".acceptedAdvisories")
}

// access says what of the access policy the author must write as users.
func (im *sconeImport) access(a value) {
	for _, f := range []struct{ name, why string }{
		{"read", "anybody may read the manifest; values of secrets are not in it"},
		{"update", "users with the action updateManifest, by certificate"},
		{"create_sessions", "one coordinator serves one deployment"},
	} {
		a.get(f.name).note(NoCounterpart, "", f.why)
	}
	if !a.get("update").empty() {
		im.decide("users", "%s: add the users who may set the next manifest, with their certificates", a.get("update").path)
	}
}
