package importer

import (
	"slices"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const aa = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// rule is one mapping: a small source, a line that the report must have, and
// what the manifest must hold, or not hold if it begins with a bang. Spaces do
// not count.
type rule struct {
	name, source string
	line         Line // Reason: a part of it
	manifest     string
	open         string // a part of an open point's message; "" if it does not matter
}

func squeeze(s string) string { return strings.NewReplacer(" ", "", "\n", "").Replace(s) }

func testRules(t *testing.T, format string, rules []rule) {
	for _, tt := range rules {
		t.Run(tt.name, func(t *testing.T) {
			r := doImport(t, format, tt.source)
			everyLeafIsReported(t, []byte(tt.source), r)
			if tt.line.Source != "" && !slices.ContainsFunc(r.Report, func(l Line) bool {
				return l.Source == tt.line.Source && l.Became == tt.line.Became && l.Verdict == tt.line.Verdict && strings.Contains(l.Reason, tt.line.Reason)
			}) {
				t.Errorf("got %+v, want a line like %+v", r.Report, tt.line)
			}
			want, absent := strings.CutPrefix(tt.manifest, "!")
			if strings.Contains(squeeze(string(r.Manifest)), squeeze(want)) == absent && want != "" {
				t.Errorf("got %s, want %s", r.Manifest, tt.manifest)
			}
			if !slices.ContainsFunc(r.Open, func(o Open) bool { return strings.Contains(o.Message, tt.open) || tt.open == "" }) && tt.open != "" {
				t.Errorf("got open points %+v, want one with %q", r.Open, tt.open)
			}
		})
	}
}

// mr is a MarbleRun manifest with a package and a marble, and more.
func mr(pkg, marble, rest string) string {
	return `{"Packages":{"p":{"UniqueID":"` + aa + `"` + pkg + `}},"Marbles":{"m":{"Package":"p"` + marble + `}}` + rest + `}`
}

func mrEnv(value, secrets string) string {
	return mr("", `,"Parameters":{"Env":{"V":`+value+`}}`, `,"Secrets":{`+secrets+`}`)
}

func mrFile(value, secrets string) string {
	return mr("", `,"Parameters":{"Files":{"/f":`+value+`}}`, `,"Secrets":{`+secrets+`}`)
}

// people are users who may update the manifest.
func people(names ...string) string {
	users := ""
	for _, name := range names {
		users += `,"` + name + `":{"Certificate":"` + name + `","Roles":["r"]}`
	}
	return `,"Roles":{"r":{"ResourceType":"Manifest","Actions":["UpdateManifest"]}},"Users":{` + users[1:] + `}`
}

func TestMarbleRunRules(t *testing.T) {
	const (
		key  = `"k":{"Type":"symmetric-key","Size":256,"Shared":true}`
		own  = `"my-key":{"Type":"symmetric-key","Size":128}`
		cert = `"c":{"Type":"cert-ecdsa","Size":521,"ValidFor":4000}`
		env  = "marbles.m.parameters.env.V"
		src  = "Marbles.m.Parameters.Env.V"
	)
	testRules(t, "marblerun", []rule{
		{"names without regard to case", `{"packages":{"p":{"uniqueid":"` + aa + `"}},"MARBLES":{"m":{"package":"p"}}}`, Line{"packages.p.uniqueid", "packages.p.sgx.uniqueID", Maps, ""}, `"uniqueID":["` + aa + `"]`, ""},
		{"null is absent", mr(`,"SignerID":null`, "", `,"Users":null`), Line{"Users", "", Dropped, "empty"}, "", ""},
		{"unknown field", mr("", `,"Foo":{"Bar":1}`, ""), Line{"Marbles.m.Foo.Bar", "", NoCounterpart, "does not know"}, "", ""},
		{"debug", mr(`,"Debug":true`, "", ""), Line{"Packages.p.Debug", "packages.p.allowDebug", Maps, "production"}, `"allowDebug":true`, "debug"},
		{"no debug", mr(`,"Debug":false`, "", ""), Line{"Packages.p.Debug", "packages.p", Maps, "refused"}, `!allowDebug`, ""},
		{"malformed measurement", mr(`,"SignerID":"zz"`, "", ""), Line{"Packages.p.SignerID", "", Dropped, "32 bytes"}, "!signerID", "32 bytes"},
		{"product out of range", mr(`,"ProductID":65536`, "", ""), Line{"Packages.p.ProductID", "", Dropped, "16 bits"}, "!productID", "65535"},
		{"default statuses", mr("", "", ""), Line{"Packages.p.AcceptedTCBStatuses", "platforms.default.sgx.acceptedTCBStatuses", Maps, "SWHardeningNeeded"}, `"platforms":{"default":{"sgx":{"acceptedTCBStatuses":["SWHardeningNeeded","UpToDate"]}}}`, ""},
		{"own statuses", mr(`,"AcceptedTCBStatuses":["OutOfDate"]`, "", ""), Line{"Packages.p.AcceptedTCBStatuses[0]", "platforms.p.sgx.acceptedTCBStatuses", Maps, ""}, `"acceptedTCBStatuses":["OutOfDate","UpToDate"]`, ""},
		{"revoked", mr(`,"AcceptedTCBStatuses":["Revoked"]`, "", ""), Line{"Packages.p.AcceptedTCBStatuses[0]", "", Stricter, "never"}, `"acceptedTCBStatuses":["UpToDate"]`, ""},
		{"advisories", mr(`,"AcceptedAdvisories":["intel-sa-00615","x"]`, "", ""), Line{"Packages.p.AcceptedAdvisories[1]", "", Dropped, "refused"}, `"acceptedAdvisories":["INTEL-SA-00615"]`, ""},
		{"a package named default", `{"Packages":{"default":{"UniqueID":"` + aa + `","AcceptedTCBStatuses":["OutOfDate"]}},"Marbles":{"m":{"Package":"default"}}}`, Line{}, `"platform":"default-2"`, ""},
		{"infrastructures", mr("", "", `,"Infrastructures":{"a":{"QESVN":1}}`), Line{"Infrastructures", "", NoCounterpart, "never checked"}, "", ""},
		{"activations", mr("", `,"MaxActivations":3`, ""), Line{"Marbles.m.MaxActivations", "marbles.m.maxInstances", Maps, "every start"}, `"maxInstances":3`, "how often"},
		{"unlimited activations", mr("", `,"MaxActivations":0`, ""), Line{"Marbles.m.MaxActivations", "", Stricter, "10000"}, "!maxInstances", ""},
		{"many activations", mr("", `,"MaxActivations":20000`, ""), Line{"Marbles.m.MaxActivations", "marbles.m.maxInstances", Stricter, "10000"}, `"maxInstances":10000`, ""},
		{"secret binding", mr("", `,"DisableSecretBinding":true`, ""), Line{"Marbles.m.DisableSecretBinding", "", NoCounterpart, "anew"}, "", ""},
		{"argv", mr("", `,"Parameters":{"Argv":["a","b"]}`, ""), Line{"Marbles.m.Parameters.Argv", "marbles.m.parameters.argv", Maps, ""}, `"argv":["a","b"]`, ""},
		{"argv with braces", mr("", `,"Parameters":{"Argv":["a","{{b}}"]}`, ""), Line{"Marbles.m.Parameters.Argv", "", NoCounterpart, "{{"}, "!argv", "left out"},
		{"relative file", mr("", `,"Parameters":{"Files":{"f":"x"}}`, ""), Line{"Marbles.m.Parameters.Files.f", "", NoCounterpart, "absolute"}, `!"files"`, "absolute"},
		{"variable's name", mr("", `,"Parameters":{"Env":{"a-b":"x"}}`, ""), Line{"Marbles.m.Parameters.Env.a-b", "", NoCounterpart, "name"}, `!"env"`, ""},
		{"hex text", mrEnv(`{"Data":"6869","Encoding":"HEX"}`, ""), Line{src + ".Data", env, Maps, ""}, `"V":"hi"`, ""},
		{"not in its encoding", mrEnv(`{"Data":"x","Encoding":"hex"}`, ""), Line{src, "", NoCounterpart, "Encoding"}, `!"env"`, ""},
		{"unknown encoding", mrEnv(`{"Data":"x","Encoding":"rot13"}`, ""), Line{src, "", NoCounterpart, "none of"}, `!"env"`, ""},
		{"binary content", mrFile(`{"Data":"ff","Encoding":"hex"}`, ""), Line{"Marbles.m.Parameters.Files[\"/f\"]", "", NoCounterpart, "UTF-8"}, `!"files"`, ""},
		{"no templates", mrEnv(`{"Data":"{{ x }}","NoTemplates":true}`, ""), Line{src, "", NoCounterpart, "{{"}, `!"env"`, ""},
		{"symmetric", mrEnv(`"a {{ hex .Secrets.k }} b"`, key), Line{src, env, Maps, ""}, `"V":"a {{ hex .Secrets.k }} b"`, ""},
		{"symmetric in a pipe", mrEnv(`"{{ .Secrets.k.Private | base64 }}"`, key), Line{src, env, Maps, ""}, `"V":"{{ base64 .Secrets.k }}"`, ""},
		{"index", mrEnv(`"{{ hex (index .Secrets \"my-key\") }}"`, own), Line{"Secrets.my-key", "secrets.my_key", Maps, ""}, `{"my_key":{"type":"symmetric","bits":128,"scope":"instance","readers":["m"]}}`, ""},
		{"index, a part", mrEnv(`"{{ hex (index .Secrets \"my-key\").Private }}"`, own), Line{src, env, Maps, ""}, `{{ hex .Secrets.my_key }}`, ""},
		{"index in a pipe", mrEnv(`"{{ index .Secrets \"my-key\" | hex }}"`, own), Line{src, env, Maps, ""}, `{{ hex .Secrets.my_key }}`, ""},
		{"symmetric as PEM", mrEnv(`"{{ pem .Secrets.k }}"`, key), Line{src, "", NoCounterpart, "PEM"}, `!"env"`, "left out"},
		{"raw in a variable", mrEnv(`"{{ raw .Secrets.k }}"`, key), Line{src, "", NoCounterpart, "function"}, `!"env"`, ""},
		{"raw in a file", mrFile(`"{{ raw .Secrets.k }}"`, key), Line{}, `"/f":"{{ raw .Secrets.k }}"`, ""},
		{"condition", mrEnv(`"{{ if .Secrets.k }}x{{ end }}"`, key), Line{src, "", NoCounterpart, "conditions"}, `!"env"`, ""},
		{"printf", mrEnv(`"{{ printf \"%d\" 1 }}"`, ""), Line{src, "", NoCounterpart, "one function"}, `!"env"`, ""},
		{"previous secret", mrEnv(`"{{ hex .Previous.Secrets.k }}"`, key), Line{src, env, Maps, "first rotation"}, `{{ hex .Secrets.k.Previous }}`, ""},
		{"previous certificate", mrEnv(`"{{ pem .Previous.Secrets.c.Cert }}{{ pem .Secrets.c.Private }}"`, cert), Line{src, env, Maps, "first rotation"}, `{{ pem .Secrets.c.Previous.Chain }}{{ pem .Secrets.c.PrivateKey }}`, ""},
		{"unknown secret", mrEnv(`"{{ hex .Secrets.none }}"`, ""), Line{src, "", NoCounterpart, "no entry"}, `!"env"`, ""},
		{"no template", mrEnv(`"{{"`, ""), Line{src, "", NoCounterpart, "parse"}, `!"env"`, ""},
		{"a brace before an action", mrEnv(`"{{{ hex .Secrets.k }}"`, key), Line{src, "", NoCounterpart, ""}, `!"env"`, ""},
		{"root CA", mrEnv(`"{{ pem .MarbleRun.RootCA.Cert }}"`, ""), Line{src, env, Maps, ""}, `{{ pem .Bundle }}`, ""},
		{"root", mrEnv(`"{{ pem .MarbleRun.CoordinatorRoot.Cert }}"`, ""), Line{src, env, Maps, ""}, `{{ pem .Root }}`, ""},
		{"marble's certificate", mrEnv(`"{{ pem .MarbleRun.MarbleCert.Cert }}"`, ""), Line{src, env, Maps, ""}, `{{ pem .Marble.Chain }}`, ""},
		{"marble's public key", mrEnv(`"{{ pem .MarbleRun.MarbleCert.Public }}"`, ""), Line{src, "", NoCounterpart, "MarbleCert"}, `!"env"`, ""},
		{"certificate", mrEnv(`"{{ pem .Secrets.c.Cert }}{{ pem .Secrets.c.Private }}"`, cert), Line{"Secrets.c.ValidFor", "secrets.c.validity", Stricter, "8760h"}, `{{ pem .Secrets.c.Chain }}{{ pem .Secrets.c.PrivateKey }}`, ""},
		{"P-521", mrEnv(`"{{ pem .Secrets.c.Cert }}"`, cert), Line{"Secrets.c.Size", "secrets.c.bits", NoCounterpart, "P-384"}, `"bits":384`, ""},
		{"public key of a secret", mrEnv(`"{{ pem .Secrets.c.Public }}"`, cert), Line{src, env, Maps, ""}, `{{ pem .Secrets.c.PublicKey }}`, ""},
		{"size of a secret", mrEnv(`"{{ hex .Secrets.k.Size }}"`, key), Line{src, "", NoCounterpart, "sizes"}, `!"env"`, ""},
		{"small RSA key", mrEnv(`"{{ pem .Secrets.r.Cert }}"`, `"r":{"Type":"cert-rsa","Size":1024}`), Line{"Secrets.r.Size", "secrets.r.bits", Stricter, "3072"}, `"bits":3072`, ""},
		{"Ed25519", mrEnv(`"{{ pem .Secrets.e.Cert }}"`, `"e":{"Type":"cert-ed25519","Size":0,"ValidFor":1}`), Line{"Secrets.e.Type", "secrets.e.type", Maps, ""}, `"type":"cert-ed25519","scope":"instance","readers":["m"],"validity":"24h0m0s"`, ""},
		{"odd size", mrEnv(`"{{ hex .Secrets.s }}"`, `"s":{"Type":"symmetric-key","Size":64}`), Line{"Secrets.s", "", NoCounterpart, "128 to 4096"}, `!"secrets"`, "no secret here"},
		{"unknown type", mrEnv(`"x"`, `"s":{"Type":"blob"}`), Line{"Secrets.s", "", NoCounterpart, "no such type"}, `!"secrets"`, ""},
		{"user's secret", mrEnv(`"{{ string .Secrets.u }}"`, `"u":{"Type":"plain","UserDefined":true}`), Line{"Secrets.u.Type", "secrets.u.type", Maps, "opaque"}, `"V":"{{ text .Secrets.u }}"}}}},"secrets":{"u":{"type":"opaque","readers":["m"]}}`, "ashlar secret set"},
		{"user's key", mrEnv(`"{{ hex .Secrets.u.Private }}"`, `"u":{"Type":"symmetric-key","Size":256,"UserDefined":true,"Private":"aGk="}`), Line{"Secrets.u.Private", "", Dropped, "stays out"}, `"V":"{{ hex .Secrets.u }}"`, "comes from a person"},
		{"user's certificate", mrEnv(`"{{ pem .Secrets.u.Cert }}"`, `"u":{"Type":"cert-rsa","UserDefined":true}`), Line{"Secrets.u.UserDefined", "", NoCounterpart, "made here"}, `!"secrets"`, ""},
		{"certificate's names", mrEnv(`"{{ pem .Secrets.c.Cert }}"`, `"c":{"Type":"cert-ecdsa","Size":256,"Cert":{"Subject":{"Organization":["O"],"Country":["X"]},"IPAddresses":["10.0.0.1","x"],"ExtKeyUsage":[1,3]}}`),
			Line{"Secrets.c.Cert.ExtKeyUsage[1]", "", NoCounterpart, "servers and clients"}, `"organization":["O"],"ipAddresses":["10.0.0.1"],"extendedKeyUsages":["serverAuth"]`, ""},
		{"secret without reader", mrEnv(`"x"`, key), Line{"Secrets.k", "", Dropped, "nobody"}, `!"secrets"`, ""},
		{"recovery keys", mr("", "", `,"RecoveryKeys":{"a":"PEM","b":"PEM"}`), Line{"RecoveryKeys.a", "recovery.keys.a", Maps, ""}, `"threshold":2`, "names no user"},
		{"recovery keys of users", mr("", "", `,"RecoveryKeys":{"a":"PEM"},"Config":{"RecoveryThreshold":1}`+people("a", "b")), Line{"Config.RecoveryThreshold", "recovery.threshold", Maps, ""}, `"recovery":{"keys":{"a":"PEM"},"threshold":1}`, ""},
		{"threshold without keys", mr("", "", `,"Config":{"RecoveryThreshold":2}`), Line{"Config.RecoveryThreshold", "", Dropped, "no recovery keys"}, `!recovery`, ""},
		{"raising versions", mr("", "", `,"Roles":{"r":{"ResourceType":"Packages","ResourceNames":["p","q"],"Actions":["updatesecurityversion"]}},"Users":{"a":{"Certificate":"x","Roles":["r"]}}`),
			Line{"Roles.r.ResourceNames[1]", "", Dropped, "no such thing"}, `"r":{"actions":["raiseSecurityVersion:p"]}`, ""},
		{"reading and writing", mr("", `,"Parameters":{"Env":{"V":"{{ string .Secrets.u }}"}}`, `,"Secrets":{"u":{"Type":"plain","UserDefined":true},"x":{"Type":"plain","UserDefined":true}},"Roles":{"r":{"ResourceType":"Secrets","ResourceNames":["u","x"],"Actions":["ReadSecret","WriteSecret"]}},"Users":{"a":{"Certificate":"x","Roles":["r"]}}`),
			Line{"Roles.r.Actions[1]", "roles.r.actions", Maps, ""}, `"actions":["readSecret:u","writeSecret:u"]`, ""},
		{"role for nothing", mr("", "", `,"Roles":{"r":{"ResourceType":"Secrets","ResourceNames":["u"],"Actions":["ReadSecret"]}}`), Line{"Roles.r", "", Dropped, "no action"}, `!"roles"`, ""},
		{"all who may update", mr("", "", people("a", "b")), Line{"Config", "approvals.updateManifest", Maps, "all 2 users"}, `"approvals":{"updateManifest":2}`, ""},
		{"some who may update", mr("", "", `,"Config":{"UpdateThreshold":2}`+people("a", "b", "c")), Line{"Config.UpdateThreshold", "approvals.updateManifest", Maps, ""}, `"approvals":{"updateManifest":2}`, ""},
		{"one who may update", mr("", "", `,"Config":{"UpdateThreshold":1}`+people("a", "b")), Line{"Config.UpdateThreshold", "approvals.updateManifest", Maps, "one user"}, `!approvals`, ""},
		{"sealed to the program", mr("", "", `,"Config":{"SealMode":"UniqueKey"}`), Line{"Config.SealMode", "seal", Maps, ""}, `"seal":"unique"`, ""},
		{"not sealed", mr("", "", `,"Config":{"SealMode":"Disabled"}`), Line{"Config.SealMode", "seal", Maps, "recovery"}, `"seal":"none"`, ""},
		{"a call on a port in use", `{"Packages":{"p":{"UniqueID":"` + aa + `"}},"Marbles":{"a":{"Package":"p","TLS":["t"]},"b":{"Package":"p","TLS":["t"]}},"TLS":{"t":{"Incoming":[{"Port":"80"}],"Outgoing":[{"Addr":"b","Port":"80"}]}}}`,
			Line{}, `"calls":[{"marble":"b","port":"tcp80","listen":1024}]`, "127.0.0.1:1024"},
		{"callers without certificate", mr("", `,"TLS":["t"]`, `,"TLS":{"t":{"Incoming":[{"Port":"80","Cert":"c","DisableClientAuth":true}]}}`), Line{"TLS.t.Incoming[0].DisableClientAuth", "", Stricter, "every caller"}, `"tcp80":{"port":80}`, "nobody"},
		{"no port", mr("", `,"TLS":["t"]`, `,"TLS":{"t":{"Incoming":[{"Port":"x"}]}}`), Line{"TLS.t.Incoming[0].Port", "", Dropped, "65535"}, `!"serves"`, "65535"},
	})
}

func ae(kind, rules, rest string) string {
	return `{"kind":"SecretPolicy","secrets":[{"spec":{"name":"s","service":"Svc","type":"` + kind + `","policy":{"enclaveMatchAnyRules":[` + rules + `]}` + rest + `}}]}`
}

func TestAECSRules(t *testing.T) {
	const (
		key  = "SECRET_TYPE_AES256_KEY"
		one  = `{"mrenclave":"` + aa + `"}`
		spec = "secrets[0].spec"
		r0   = spec + ".policy.enclaveMatchAnyRules[0]"
	)
	testRules(t, "aecs", []rule{
		{"key", ae(key, one, ""), Line{spec + ".type", "secrets.s.type", Maps, ""}, `"s":{"type":"symmetric","bits":256,"readers":["svc"]}`, "name each in the parameters"},
		{"enclave", ae(key, one, ""), Line{r0 + ".mrenclave", "packages.svc.sgx.uniqueID", Maps, ""}, `"svc":{"sgx":{"uniqueID":["` + aa + `"]}}`, ""},
		{"upper case", ae(key, `{"mrenclave":"0X`+strings.ToUpper(aa)+`"}`, ""), Line{}, `"uniqueID":["` + aa + `"]`, ""},
		{"any rule may hold", ae(key, one+`,{"mrsigner":"`+aa+`","prodID":"0x10","minIsvSvn":""}`, ""), Line{r0[:len(r0)-3] + "[1].prodID", "packages.svc-2.sgx.productID", Maps, ""}, `"productID":16,"minSecurityVersion":0`, ""},
		{"same enclave twice", ae(key, one+","+one, ""), Line{}, `"readers":["svc"]`, ""},
		{"signer alone", ae(key, `{"mrsigner":"`+aa+`"}`, ""), Line{r0 + ".minIsvSvn", "packages.svc.sgx.minSecurityVersion", Maps, "any version"}, `!productID`, "measurement"},
		{"any enclave", ae(key, `{"mrenclave":"","minIsvSvn":"0"}`, ""), Line{r0 + ".mrenclave", "", Dropped, "empty"}, `!allowAnyMeasurement`, "measurement"},
		{"debug not compared", ae(key, `{"mrenclave":"`+aa+`","debug_disabled":""}`, ""), Line{r0 + ".debug_disabled", "packages.svc", Stricter, "not compared"}, "!allowDebug", ""},
		{"debug wanted", ae(key, `{"mrenclave":"`+aa+`","debug_disabled":"false"}`, ""), Line{r0 + ".debug_disabled", "packages.svc", Stricter, "refused"}, "!allowDebug", "allowDebug"},
		{"user data", ae(key, `{"mrenclave":"`+aa+`","user_data":"00"}`, ""), Line{r0 + ".user_data", "", NoCounterpart, "report data"}, "", ""},
		{"EPID", ae(key, `{"mrenclave":"`+aa+`","str_tee_platform":"SGX_EPID"}`, ""), Line{r0 + ".str_tee_platform", "packages.svc.sgx", Stricter, "DCAP"}, "", ""},
		{"another TEE", ae(key, `{"mrenclave":"`+aa+`","str_tee_platform":"Kunpeng"}`, ""), Line{r0 + ".str_tee_platform", "", NoCounterpart, "SGX"}, "", "another TEE"},
		{"boot measurement", ae(key, `{"mrenclave":"`+aa+`","hex_boot_measurement":"00"}`, ""), Line{r0 + ".hex_boot_measurement", "", NoCounterpart, ""}, "", "not compared here"},
		{"product is no number", ae(key, `{"mrenclave":"`+aa+`","prodID":"zz"}`, ""), Line{r0 + ".prodID", "", Dropped, "65535"}, "!productID", "65535"},
		{"public", ae(key, one, `,"share":"public"`), Line{spec + ".share", "secrets.s.readers", Stricter, "only readers"}, "", ""},
		{"RSA", ae("SECRET_TYPE_RSA_KEY_PAIR", one, `,"params":[{"key":"bit_length","value":"1024"}]`), Line{spec + ".params[0].value", "secrets.s.bits", Stricter, "3072"}, `"type":"rsa","bits":3072`, ""},
		{"certificate", ae("SECRET_TYPE_CERTIFICATE", one, ""), Line{spec + ".type", "secrets.s.type", Stricter, "mesh CA"}, `"type":"cert-ecdsa"`, ""},
		{"SM2", ae("SECRET_TYPE_SM2_KEY_PAIR", one, ""), Line{"secrets[0]", "", NoCounterpart, "SM2"}, `!"secrets"`, "SM2"},
		{"imported", ae("SECRET_TYPE_IMPORT_DATA", one, ""), Line{spec + ".type", "secrets.s.type", Maps, "opaque"}, `"s":{"type":"opaque","readers":["svc"]}`, "ashlar secret set"},
		{"enclave of a secret that is left out", ae("SECRET_TYPE_IMPORT_DATA", one, ""), Line{r0 + ".mrenclave", "packages.svc.sgx.uniqueID", Maps, ""}, `"svc":{"sgx"`, ""},
		{"no rules", ae(key, "", ""), Line{"secrets[0]", "", NoCounterpart, "no enclave"}, `!"secrets"`, "names no enclave"},
		{"message of one secret", `{"spec":{"secret_name":"s","service_name":"x","type":"SECRET_TYPE_AES256_KEY","policy":{"rules":{"entries":[{"hex_mrenclave":"` + aa + `"}]}}}}`, Line{"spec.policy.rules.entries[0].hex_mrenclave", "packages.x.sgx.uniqueID", Maps, ""}, `"readers":["x"]`, ""},
		{"all of one", `{"spec":{"name":"s","type":"SECRET_TYPE_AES256_KEY","policy":{"allOf":[{"hex_enclave_hash":"` + aa + `","hex_min_isvsvn":"3"}]}}}`, Line{"spec.policy.allOf[0].hex_min_isvsvn", "packages.service.sgx.minSecurityVersion", Maps, ""}, `"minSecurityVersion":3`, ""},
		{"nested", `{"spec":{"name":"s","type":"SECRET_TYPE_AES256_KEY","policy":{"policy":{"main_attributes":[{"hex_ta_measurement":"` + aa + `"}],"nested_policies":[{"x":1}]}}}}`, Line{"spec.policy.policy.nested_policies", "", NoCounterpart, "behind"}, "", "behind"},
		{"one name in two services", `{"secrets":[{"spec":{"name":"s","service":"a","type":"SECRET_TYPE_AES256_KEY","policy":{"enclaveMatchAnyRules":[` + one + `]}}},{"spec":{"name":"s","service":"b","type":"SECRET_TYPE_AES256_KEY","policy":{"enclaveMatchAnyRules":[` + one + `]}}}]}`,
			Line{"secrets[1].spec.name", "secrets.s_2", Maps, "s_2"}, `"s_2":{"type":"symmetric","bits":256,"readers":["b"]}`, ""},
	})
}

// sc is a session with one service.
func sc(service, rest string) string {
	return `{"name":"n","version":"0.3","services":[{"name":"Web","image_name":"i","mrenclaves":["` + aa + `"]` + service + `}]` + rest + `}`
}

func scEnv(value, secrets string) string {
	return sc(`,"environment":{"V":"`+value+`"}`, `,"secrets":[`+secrets+`]`)
}

func TestSCONERules(t *testing.T) {
	const (
		src   = "services[0].environment.V"
		env   = "marbles.web.parameters.env.V"
		chain = `{"name":"k","kind":"private-key","key_type":"P-384"},{"name":"c","kind":"x509","private_key":"k","issuer":"ca","dns":"a.b"},{"name":"ca","kind":"x509-ca","private_key":"cak"},{"name":"cak","kind":"private-key"}`
	)
	testRules(t, "scone", []rule{
		{"service", sc("", ""), Line{"services[0].name", "marbles.web", Maps, "named web"}, `"web":{"package":"web"}`, ""},
		{"measurement", sc("", ""), Line{"services[0].mrenclaves[0]", "packages.web.sgx.uniqueID", Maps, ""}, `"uniqueID":["` + aa + `"]`, ""},
		{"placeholder for a measurement", sc(`,"attestation":[{"mrenclave":["$MRENCLAVE"]}]`, ""), Line{"services[0].attestation[0].mrenclave[0]", "", Dropped, "32 bytes"}, "", "32 bytes"},
		{"no measurement", `{"name":"n","services":[{"name":"w"}]}`, Line{}, "!allowAnyMeasurement", "names no enclave"},
		{"no services", `{"name":"n"}`, Line{"name", "", NoCounterpart, "trust domain"}, "", "no services"},
		{"signer beside measurements", sc(`,"attestation":[{"mrsigner":"`+aa+`"}]`, ""), Line{"services[0].attestation[0]", "", Stricter, "all that it names"}, "!signerID", "signer"},
		{"command", sc(`,"command":"a 'b c' \"\" d"`, ""), Line{"services[0].command", "marbles.web.parameters.argv", Maps, ""}, `"argv":["a","b c","","d"]`, ""},
		{"open quote", sc(`,"command":"a 'b"`, ""), Line{"services[0].command", "", NoCounterpart, "quote"}, "!argv", "quote"},
		{"number in the environment", sc(`,"environment":{"N":1,"B":true,"L":[1]}`, ""), Line{"services[0].environment.L", "", Dropped, "one value"}, `"env":{"B":"true","N":"1"}`, ""},
		{"working directory", sc(`,"pwd":"/x"`, ""), Line{"services[0].pwd", "", NoCounterpart, "image"}, "", ""},
		{"file system key", sc(`,"fspf_key":"k"`, ""), Line{"services[0].fspf_key", "", NoCounterpart, "not encrypted"}, "", ""},
		{"injected file", sc("", `,"images":[{"name":"i","injection_files":[{"path":"/a","content":"x"}]}]`), Line{"images[0].injection_files[0].content", `marbles.web.parameters.files["/a"]`, Maps, ""}, `"/a":"x"`, ""},
		{"image of nobody", sc("", `,"images":[{"name":"j"}]`), Line{"images[0]", "", Dropped, "no service"}, "", ""},
		{"missing image", sc("", ""), Line{"services[0].image_name", "", NoCounterpart, "none of this name"}, "", ""},
		{"ascii", scEnv("$$SCONE::a$$", `{"name":"a","kind":"ascii","size":65}`), Line{"secrets[0].size", "secrets.a.bits", Maps, ""}, `"bits":264`, ""},
		{"short ascii", scEnv("$$SCONE::a$$", `{"name":"a","kind":"ascii","size":8}`), Line{"secrets[0].size", "secrets.a.bits", Stricter, "128"}, `"bits":128`, ""},
		{"large binary", scEnv("$$SCONE::a:hex$$", `{"name":"a","kind":"binary","size":1024}`), Line{"secrets[0]", "", NoCounterpart, "4096"}, `!"secrets"`, ""},
		{"binary as hex", scEnv("x$$SCONE::a:hex$$y", `{"name":"a","kind":"binary","size":64}`), Line{src, env, Maps, ""}, `"V":"x{{ hex .Secrets.a }}y"`, ""},
		{"binary raw in a variable", scEnv("$$SCONE::a:bin$$", `{"name":"a","kind":"binary","size":64}`), Line{src, "", NoCounterpart, "function"}, `!"env"`, ""},
		{"unknown form", scEnv("$$SCONE::a:rot13$$", `{"name":"a","kind":"binary","size":64}`), Line{src, "", NoCounterpart, "form"}, `!"env"`, ""},
		{"brought value", scEnv("$$SCONE::a$$", `{"name":"a","kind":"ascii","value":"v"}`), Line{"secrets[0].value", "", Dropped, "stays out"}, `"V":"{{ text .Secrets.a }}"`, "ashlar secret set"},
		{"imported", scEnv("$$SCONE::a$$", `{"name":"a","kind":"ascii","import":{"session":"s"}}`), Line{"secrets[0].import", "", NoCounterpart, ""}, `!"secrets"`, "another session"},
		{"unknown secret", scEnv("$$SCONE::a$$", ""), Line{src, "", NoCounterpart, "no such secret"}, `!"env"`, "left out"},
		{"unreadable reference", scEnv("$$SCONE::$$", ""), Line{src, "", NoCounterpart, "can't be read"}, `!"env"`, ""},
		{"braces", scEnv("{{ x }}", ""), Line{src, "", NoCounterpart, "{{"}, `!"env"`, ""},
		{"certificate", scEnv("$$SCONE::c.crt$$", chain), Line{"secrets[1].issuer", "secrets.c", Stricter, "mesh CA"}, `"c":{"type":"cert-ecdsa","bits":384,"readers":["web"],"dnsNames":["a.b"]}`, ""},
		{"its chain", scEnv("$$SCONE::c$$", chain), Line{src, env, Maps, ""}, `{{ pem .Secrets.c.Chain }}`, ""},
		{"its key", scEnv("$$SCONE::c:privatekey:pkcs8:pem$$", chain), Line{src, env, Maps, ""}, `{{ pem .Secrets.c.PrivateKey }}`, ""},
		{"its key by name", scEnv("$$SCONE::k$$", chain), Line{src, env, Maps, ""}, `{{ pem .Secrets.c.PrivateKey }}`, ""},
		{"certificate of the CA", scEnv("$$SCONE::ca:crt$$", chain), Line{"secrets[2]", "", Stricter, "only one"}, `{{ pem .Bundle }}`, ""},
		{"key of the CA", scEnv("$$SCONE::ca.key$$", chain), Line{src, "", NoCounterpart, "never leaves"}, `!"env"`, ""},
		{"key of the CA by name", scEnv("$$SCONE::cak$$", chain), Line{"secrets[3]", "", Stricter, "never leaves"}, `!"env"`, ""},
		{"lone key", scEnv("$$SCONE::k$$", `{"name":"k","kind":"private-key","key_type":"RSA-4096"}`), Line{"secrets[0].kind", "secrets.k.type", Maps, ""}, `{"type":"rsa","bits":4096`, ""},
		{"lone key's certificate", scEnv("$$SCONE::k.crt$$", `{"name":"k","kind":"private-key"}`), Line{src, "", NoCounterpart, "no certificate"}, `!"env"`, ""},
		{"strange key", scEnv("$$SCONE::k$$", `{"name":"k","kind":"private-key","key_type":"P-521"}`), Line{"secrets[0].key_type", "secrets.k.type", NoCounterpart, "P-384"}, `"bits":384`, ""},
		{"shared key", scEnv("$$SCONE::k$$", `{"name":"k","kind":"private-key"},{"name":"c","kind":"x509","private_key":"k"},{"name":"d","kind":"x509","private_key":"k"}`), Line{"secrets[0]", "", Stricter, "of its own"}, `!"env"`, ""},
		{"validity", scEnv("$$SCONE::c$$", `{"name":"c","kind":"x509","valid_for":"2w"}`), Line{"secrets[0].valid_for", "secrets.c.validity", Maps, ""}, `"validity":"336h0m0s"`, ""},
		{"long validity", scEnv("$$SCONE::c$$", `{"name":"c","kind":"x509","valid_for":"3560d"}`), Line{"secrets[0].valid_for", "secrets.c.validity", Stricter, "8760h"}, `!"validity"`, ""},
		{"short validity", scEnv("$$SCONE::c$$", `{"name":"c","kind":"x509","valid_for":"5m"}`), Line{"secrets[0].valid_for", "secrets.c.validity", NoCounterpart, "1h"}, `"validity":"1h0m0s"`, ""},
		{"token", scEnv("$$SCONE::t$$", `{"name":"t","kind":"aad-token"}`), Line{"secrets[0]", "", NoCounterpart, "no such kind"}, `!"secrets"`, ""},
		{"nothing tolerated", sc("", ""), Line{}, `"acceptedTCBStatuses":["UpToDate"],"acceptedAdvisories":[]`, ""},
		{"tolerate", sc("", `,"security":{"attestation":{"tolerate":["outdated-tcb","insecure-igpu"]}}`), Line{"security.attestation.tolerate[0]", "platforms.default.sgx.acceptedTCBStatuses", Maps, "OutOfDate"}, `["ConfigurationNeeded","OutOfDate","OutOfDateConfigurationNeeded","UpToDate"]`, ""},
		{"debug mode", sc("", `,"security":{"attestation":{"tolerate":["debug-mode"]}}`), Line{"security.attestation.tolerate[0]", "packages", Maps, "allowDebug"}, `"allowDebug":true`, "debug"},
		{"any advisory", sc("", `,"security":{"attestation":{"ignore_advisories":"*"}}`), Line{"security.attestation.ignore_advisories", "platforms.default.sgx.acceptedAdvisories", Maps, "any"}, `!acceptedAdvisories`, ""},
		{"no attestation", sc("", `,"security":{"attestation":{"mode":"none"}}`), Line{"security.attestation.mode", "", Stricter, "nobody"}, "", "attestation off"},
		{"volumes", sc("", `,"volumes":[{"name":"v","fspf_key":"x"}]`), Line{"volumes", "", NoCounterpart, "encrypted"}, "", "volumes"},
		{"access", sc("", `,"access_policy":{"update":["CREATOR"]}`), Line{"access_policy.update", "", NoCounterpart, "updateManifest"}, "", "access_policy.update"},
	})
}

func TestInvalidSourcesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name, format, source string
		want                 problem.Code
	}{
		{"wrong type", "marblerun", mr(`,"ProductID":"x"`, "", ""), "MAN-072"},
		{"negative number", "marblerun", mr(`,"ProductID":-1`, "", ""), "MAN-072"},
		{"file is a number", "marblerun", mrEnv("1", ""), "MAN-072"},
		{"unknown package", "marblerun", `{"Packages":{"p":{}},"Marbles":{"m":{"Package":"q"}}}`, "MAN-074"},
		{"unknown tag", "marblerun", mr("", `,"TLS":["t"]`, ""), "MAN-074"},
		{"one field in two cases", "marblerun", mr(`,"uniqueid":"x"`, "", ""), "MAN-070"},
		{"several rules at once", "aecs", `{"spec":{"name":"s","policy":{"allOf":[{},{}]}}}`, "MAN-072"},
		{"nameless secret", "aecs", `{"secrets":[{"spec":{}}]}`, "MAN-073"},
		{"another kind", "aecs", `{"kind":"Config","secrets":[{"spec":{"name":"s"}}]}`, "MAN-073"},
		{"secret twice", "aecs", `{"secrets":[{"spec":{"name":"s"}},{"spec":{"name":"s"}}]}`, "MAN-070"},
		{"service twice", "scone", `{"name":"n","services":[{"name":"a"},{"name":"a"}]}`, "MAN-070"},
		{"service without name", "scone", `{"name":"n","services":[{}]}`, "MAN-073"},
		{"secret twice", "scone", sc("", `,"secrets":[{"name":"a","kind":"ascii"},{"name":"a","kind":"ascii"}]`), "MAN-070"},
		{"key of nobody", "scone", sc("", `,"secrets":[{"name":"a","kind":"x509","private_key":"k"}]`), "MAN-074"},
		{"services no list", "scone", `{"name":"n","services":1}`, "MAN-072"},
	} {
		_, err := formats[tt.format]([]byte(tt.source), Options{})
		if problem.CodeOf(err) != tt.want {
			t.Errorf("%s, %s: got %v, want %s", tt.format, tt.name, err, tt.want)
		}
	}
}
