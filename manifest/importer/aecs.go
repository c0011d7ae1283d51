package importer

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/jsonpos"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// aecsImport is one import of AECS secrets. That service names no workloads: a
// marble is made for each enclave that the rules of a service accept.
type aecsImport struct {
	*job
	marbles *namer
	book    *secretBook
	known   map[string]string // marble by service and identity
	each    map[string]int    // identities by service
}

func aecs(j *job, root value) {
	im := &aecsImport{job: j, marbles: objectNames(), book: newSecretBook(j), known: map[string]string{}, each: map[string]int{}}
	j.m.Packages, j.m.Marbles = map[string]attest.Package{}, map[string]manifest.Marble{}
	secrets := root.get("secrets")
	if secrets.present() && !secrets.is(jsonpos.Array) {
		secrets = value{job: j}
	}
	all := secrets.items()
	if root.get("spec").present() {
		all = append(all, root)
	}
	kind := root.get("kind")
	if len(all) == 0 || !kind.empty() && kind.text() != "SecretPolicy" {
		j.fail(problem.New("MAN-073", "an AECS document is of kind SecretPolicy and has secrets, each with a spec"))
		return
	}
	kind.note(Maps, "", "an Ashlar manifest")
	root.get("apiVersion").maps("version")
	for _, s := range all {
		im.secret(s)
	}
	im.book.release()
	if j.err == nil && len(j.m.Secrets) > 0 {
		j.decide("marbles", "there programs fetched secrets by name; here name each in the parameters of the marbles that read it")
	}
}

func (im *aecsImport) secret(s value) {
	spec := s.get("spec")
	name, service := spec.get("name", "secret_name"), spec.get("service", "service_name")
	if name.empty() {
		im.fail(problem.New("MAN-073", "%s has no spec with a name", where(s.path)))
		return
	}
	if v := s.get("data"); !v.empty() {
		v.note(Dropped, "", redacted)
	}
	marbles := im.readers(service, spec)
	source := service.text() + "/" + name.text()
	if _, dup := im.book.kept[source]; dup || im.book.why[source] != "" {
		im.fail(problem.New("MAN-070", "%s: the service has a secret of this name already", name.path))
		return
	}
	path := join("secrets", im.book.names.as(source, name.text()))
	readonly, share := spec.get("readonly", "bool_readonly"), spec.get("share")
	readonly.note(Maps, path, "nobody writes secrets here")
	if isFold(share.scalar(), "public") {
		share.note(Stricter, path+".readers", "only readers have it, nobody else")
	} else {
		share.maps(path + ".readers")
	}
	out, ok := im.kind(source, s, spec, path)
	if !ok {
		return
	}
	if len(marbles) == 0 {
		im.book.lack(source, s, "its policy accepts no enclave that could be a reader")
		return
	}
	k := im.book.keep(source, s, out)
	for _, m := range marbles {
		k.reads[m] = true
	}
	name.note(Maps, "secrets."+k.name, renamed(name.text(), k.name))
}

// kind reads the type of a secret with its parameters.
func (im *aecsImport) kind(source string, s, spec value, path string) (manifest.Secret, bool) {
	v := spec.get("type")
	params := spec.get("params")
	switch v.text() {
	case "SECRET_TYPE_AES256_KEY":
		v.maps(path + ".type")
		return manifest.Secret{Type: manifest.Symmetric, Bits: 256}, true
	case "SECRET_TYPE_RSA_KEY_PAIR":
		v.maps(path + ".type")
		return manifest.Secret{Type: manifest.RSA, Bits: im.rsaBits(params, path)}, true
	case "SECRET_TYPE_CERTIFICATE":
		v.note(Stricter, path+".type", "signed by the mesh CA, not by itself; ECDSA P-256")
		params.note(NoCounterpart, "", "of a certificate a manifest sets common name, DNS names and validity")
		return manifest.Secret{Type: manifest.CertECDSA, Bits: 256}, true
	}
	if v.text() == "SECRET_TYPE_IMPORT_DATA" || v.text() == "SECRET_TYPE_CONFIGURATIONS" {
		v.note(Maps, path+".type", "opaque: what is given")
		params.note(Dropped, "", redacted)
		return manifest.Secret{Type: manifest.Opaque}, true
	}
	why := "secrets have no such type"
	switch v.text() {
	case "SECRET_TYPE_SM2_KEY_PAIR":
		why = "SM2 is not offered"
	}
	v.note(NoCounterpart, "", why)
	params.note(Dropped, "", redacted)
	im.book.lack(source, s, why)
	return manifest.Secret{}, false
}

// rsaBits reads the parameter bit_length.
func (im *aecsImport) rsaBits(params value, path string) int {
	bits := 3072
	for _, p := range params.items() {
		key, v := p.get("key"), p.get("value")
		if key.text() != "bit_length" {
			p.note(NoCounterpart, "", "the form of a key is the template's: pem, base64, raw")
			continue
		}
		key.maps(path + ".bits")
		switch n := v.scalar(); n {
		case "2048", "3072", "4096":
			bits, _ = strconv.Atoi(n)
			v.maps(path + ".bits")
		default:
			v.note(Stricter, path+".bits", "RSA keys have 2048, 3072 or 4096 bits: 3072")
		}
	}
	return bits
}

// readers returns the marbles for the enclaves that a policy accepts: any of its
// rules may hold.
func (im *aecsImport) readers(service, spec value) []string {
	policy := spec.get("policy")
	if inner := policy.get("policy"); inner.present() {
		policy = inner
	} else if inner := policy.get("rules"); inner.present() {
		policy = inner
	}
	if nested := policy.get("nested_policies", "nested_attributes"); !nested.empty() {
		nested.note(NoCounterpart, "", "enclaves behind the enclave are judged by their own packages")
		im.decide("packages", "%s: add packages for what stands behind the enclaves of %s", nested.path, nested.path)
	}
	rules := policy.get("enclaveMatchAnyRules", "main_attributes", "entries", "anyOf").items()
	if all := policy.get("allOf"); !all.empty() {
		if len(all.items()) > 1 {
			im.fail(problem.New("MAN-072", "%s: an enclave meets one rule; several that must all hold have no counterpart", all.path))
		}
		rules = append(rules, all.items()...)
	}
	if len(rules) == 0 && im.err == nil {
		im.decide("packages", "%s names no enclave: write the packages that may read its secret", where(spec.path))
	}
	var names []string
	seen := map[string]bool{}
	for _, rule := range rules {
		if name := im.identity(service, rule); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// identity returns the marble for the enclave that a rule accepts.
func (im *aecsImport) identity(service, rule value) string {
	id := identityOf(rule)
	key := service.text() + "\x00" + id
	name, known := im.known[key]
	if !known {
		base := service.text()
		if base == "" {
			base = "service"
		}
		if im.each[base]++; im.each[base] > 1 {
			base = fmt.Sprintf("%s-%d", base, im.each[base])
		}
		name = im.marbles.as(key, base)
		im.known[key] = name
		im.m.Marbles[name] = manifest.Marble{Package: name}
	}
	service.maps(join("marbles", name))
	im.m.Packages[name] = im.reference(rule, join("packages", name))
	return name
}

// aecsNames are the names of a rule's fields in the files and messages of the
// service's versions.
var aecsNames = struct{ enclave, signer, product, version, debug, platform []string }{
	enclave:  []string{"mrenclave", "hex_mrenclave", "hex_ta_measurement", "hex_enclave_hash"},
	signer:   []string{"mrsigner", "hex_mrsigner", "hex_signer"},
	product:  []string{"prodID", "hex_prod_id"},
	version:  []string{"minIsvSvn", "hex_min_isvsvn", "str_min_isvsvn"},
	debug:    []string{"debug_disabled", "bool_debug_disabled"},
	platform: []string{"str_tee_platform"},
}

// identityOf is what of a rule becomes reference values, as one string: rules
// that agree in it are one package.
func identityOf(rule value) string {
	var parts []string
	for _, names := range [][]string{aecsNames.enclave, aecsNames.signer, aecsNames.product, aecsNames.version} {
		parts = append(parts, strings.ToLower(rule.get(names...).scalar()))
	}
	return strings.Join(parts, "\x00")
}

// reference turns a rule into reference values. Empty fields are not compared,
// there as here.
func (im *aecsImport) reference(rule value, path string) attest.Package {
	ref := &attest.SGXReference{}
	if v := rule.get(aecsNames.enclave...); !v.empty() {
		if h, ok := im.digest(v, path+".sgx.uniqueID"); ok {
			ref.UniqueID = []attest.Hex{h}
		}
	}
	signer := rule.get(aecsNames.signer...)
	if !signer.empty() {
		ref.SignerID, _ = im.digest(signer, path+".sgx.signerID")
	}
	ref.ProductID = im.decimal(rule.get(aecsNames.product...), path+".sgx.productID")
	version := rule.get(aecsNames.version...)
	ref.MinSecurityVersion = im.decimal(version, path+".sgx.minSecurityVersion")
	if version.empty() && len(ref.SignerID) > 0 {
		ref.MinSecurityVersion = new(uint16)
		rule.absent("minIsvSvn", Maps, path+".sgx.minSecurityVersion", "any version")
	}
	im.debug(rule.get(aecsNames.debug...), path)
	im.teeOf(rule.get(aecsNames.platform...), path)
	for _, f := range rule.members() {
		switch {
		case f.empty() || im.noted[f.path]:
		case strings.EqualFold(f.name, "user_data"), strings.EqualFold(f.name, "hex_user_data"):
			f.note(NoCounterpart, "", "the report data binds the marble's key here")
		case strings.EqualFold(f.name, "spid"), strings.EqualFold(f.name, "hex_spid"):
			f.note(NoCounterpart, "", "EPID is not used: evidence is ECDSA (DCAP)")
		default:
			f.note(NoCounterpart, "", "packages compare no such field")
			im.decide(path, "%s is not compared here", f.path)
		}
	}
	return attest.Package{SGX: ref}
}

// decimal reads a number that is written as text; 0x begins a hexadecimal one.
func (j *job) decimal(v value, became string) *uint16 {
	if v.empty() {
		return nil
	}
	n, err := strconv.ParseUint(v.scalar(), 0, 16)
	if err != nil {
		v.note(Dropped, "", "not a number from 0 to 65535")
		j.decide(became, "%s is not a number from 0 to 65535", v.path)
		return nil
	}
	v.maps(became)
	small := uint16(n)
	return &small
}

func (im *aecsImport) debug(v value, path string) {
	switch strings.ToLower(v.scalar()) {
	case "true", "1":
		v.note(Maps, path, "debug enclaves are refused")
	case "":
		v.note(Stricter, path, "not compared there; here debug enclaves are refused")
	default:
		v.note(Stricter, path, "debug enclaves are refused")
		im.decide(path+".allowDebug", "%s asks for debug enclaves, which are refused until allowDebug accepts them", v.path)
	}
}

func (im *aecsImport) teeOf(v value, path string) {
	switch p := strings.ToUpper(v.text()); {
	case p == "":
	case p == "SGX_DCAP":
		v.maps(path + ".sgx")
	case strings.HasPrefix(p, "SGX"):
		v.note(Stricter, path+".sgx", "EPID is not used: evidence is ECDSA (DCAP)")
	default:
		v.note(NoCounterpart, "", "the measurements were taken for SGX")
		im.decide(path, "%s names another TEE: write its reference values (ashlar inspect tells them)", v.path)
	}
}
