package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func sample(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustParse(t testing.TB, raw []byte) *Manifest {
	t.Helper()
	m, ds := Parse(raw)
	if m == nil {
		t.Fatalf("got diagnostics %v, want a manifest", ds)
	}
	return m
}

// edit replaces the first occurrence of old in the sample.
func edit(t testing.TB, old, new string) []byte {
	t.Helper()
	raw := string(sample(t))
	if !strings.Contains(raw, old) {
		t.Fatalf("the sample does not hold %q", old)
	}
	return []byte(strings.Replace(raw, old, new, 1))
}

func TestParseSample(t *testing.T) {
	raw := sample(t)
	m, ds := Parse(raw)
	if m == nil || len(ds) > 0 {
		t.Fatalf("got diagnostics %v, want none", ds)
	}
	if got := m.Marbles["cart"].Calls[0].Listen; got != 5432 {
		t.Errorf("listen of cart's call: got %d, want the callee's 5432", got)
	}
	if got := m.Marbles["db"].Serves["sql"].Protocol; got != TCP {
		t.Errorf("protocol: got %q, want tcp", got)
	}
	if got := m.Marbles["cart"].Lease.String(); got != "1h0m0s" {
		t.Errorf("lease: got %s, want 1h", got)
	}
	if got := m.Secrets["cartTLS"]; got.Bits != 256 || got.Scope != Shared || got.OnUpdate != "keep" {
		t.Errorf("secret: got %+v, want defaults filled in", got)
	}
	if got := fmt.Sprint(m.SecretsOf("web"), m.SecretsOf("db")); got != "[sessionKey] []" {
		t.Errorf("SecretsOf: got %s", got)
	}
	if m.Digest() != DigestOf(raw) || !bytes.Equal(m.Raw(), raw) {
		t.Error("digest and raw must be of the bytes that were parsed")
	}
	d, err := ParseDigest(m.Digest().String())
	if err != nil || d != m.Digest() || len(d.Short()) != 8 {
		t.Errorf("ParseDigest: got %v, %v", d, err)
	}
	if _, err := ParseDigest("abc"); err == nil {
		t.Error("ParseDigest took a short digest")
	}
}

func TestPolicyFor(t *testing.T) {
	m := mustParse(t, sample(t))
	p, ok := m.PolicyFor("web")
	if !ok || p.PackageName != "web" || p.PlatformName != "default" || p.Platform.SGX.MinTCBEvaluation != 19 || *p.Package.SGX.ProductID != 16 {
		t.Errorf("PolicyFor(web): got %+v, %v", p, ok)
	}
	if p, ok := m.PolicyFor("nobody"); ok || p.Package.SGX != nil {
		t.Errorf("PolicyFor(nobody): got %+v, %v; want nothing", p, ok)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		code           problem.Code
		path           string
		message        string // part of
		suggest        string // part of
	}{
		{"syntax", `"version": 1,`, `"version": 1`, "MAN-001", "", "expected ','", ""},
		{"unknown field", `"packages"`, `"pakages"`, "MAN-002", "pakages", `unknown field "pakages"`, `"packages"`},
		{"other case", `"trustDomain"`, `"TrustDomain"`, "MAN-002", "TrustDomain", "unknown field", `"trustDomain"`},
		{"other case below", `"minSecurityVersion": 3`, `"minSecurityVersion": 3, "MINSECURITYVERSION": 1`, "MAN-002", "packages.web.sgx.MINSECURITYVERSION", "", `"minSecurityVersion"`},
		{"wrong type", `"port": 5432`, `"port": "5432"`, "MAN-003", "marbles.db.serves.sql.port", "whole number", ""},
		{"fraction", `"port": 5432`, `"port": 5432.0`, "MAN-003", "marbles.db.serves.sql.port", "fraction", ""},
		{"exponent bomb", `"port": 5432`, `"port": 1e999999999`, "MAN-003", "marbles.db.serves.sql.port", "exponent", ""},
		{"enum", `"protocol": "http"`, `"protocol": "htpt"`, "MAN-004", "marbles.web.serves.http.protocol", `one of "tcp", "http"`, `"http"`},
		{"revoked", `"SWHardeningNeeded"`, `"Revoked"`, "MAN-004", "platforms.default.sgx.acceptedTCBStatuses[1]", "", ""},
		{"missing", `"trustDomain": "shop.example",`, ``, "MAN-005", "", `"trustDomain" is missing`, ""},
		{"port zero", `"port": 5432`, `"port": 0`, "MAN-006", "marbles.db.serves.sql.port", "between 1 and 65535", ""},
		{"port too large", `"port": 5432`, `"port": 99999999999999999999999`, "MAN-006", "marbles.db.serves.sql.port", "between 1 and 65535", ""},
		{"port negative", `"port": 5432`, `"port": -99999999999999999999999`, "MAN-006", "marbles.db.serves.sql.port", "between 1 and 65535", ""},
		{"gigabit key", `"bits": 256`, `"bits": 1600000000`, "MAN-006", "secrets.sessionKey.bits", "between 128 and 4096", ""},
		{"empty list", `["1111111111111111111111111111111111111111111111111111111111111111"]`, `[]`, "MAN-006", "packages.db.sim.program", "at least 1", ""},
		{"trust domain", `"shop.example"`, `"Shop.example"`, "MAN-007", "trustDomain", "SPIFFE trust domain", "shop.example"},
		{"marble name", `"db": {
      "package"`, `"d/b": {
      "package"`, "MAN-007", `marbles["d/b"]`, `"d/b"`, ""},
		{"short measurement", `"0ab2`, `"ab2`, "MAN-007", "packages.web.sgx.signerID", "32 bytes in hexadecimal", ""},
		{"wildcard", `"web.shop.example"`, `"*.shop.example"`, "MAN-007", "marbles.web.dnsNames[0]", "DNS name", ""},
		{"relative path", `"/etc/shop/web.pem"`, `"etc/web.pem"`, "MAN-007", `marbles.web.parameters.files["etc/web.pem"]`, "absolute path", ""},
		{"dotted path", `"/etc/shop/web.pem"`, `"/etc/../web.pem"`, "MAN-007", `marbles.web.parameters.files["/etc/../web.pem"]`, "'..'", ""},
		{"zero byte", `"--name"`, `"--na\u0000me"`, "MAN-007", "marbles.web.parameters.argv[1]", "zero byte", ""},
		{"duplicate key", `"version": 1,`, `"version": 1, "version": 1,`, "MAN-008", "", `"version" is here twice`, "line 3"},
		{"duplicate item", `["web"] }`, `["web", "web"] }`, "MAN-008", "secrets.sessionKey.readers[1]", "listed twice", ""},
		{"null", `"maxInstances": 20`, `"maxInstances": null`, "MAN-009", "marbles.web.maxInstances", "leave the field out", ""},
		{"version", `"version": 1`, `"version": 2`, "MAN-013", "version", "must be 1", ""},
		{"no package", `"package": "db"`, `"package": "bd"`, "MAN-015", "marbles.db.package", `"bd"`, `"db"`},
		{"no platform", `"package": "db"`, `"package": "db", "platform": "defualt"`, "MAN-016", "marbles.db.platform", `"defualt"`, `"default"`},
		{"no action", `"updateManifest"`, `"updateManifests"`, "MAN-007", "roles.operator.actions[0]", "an action", "updateManifest"},
		{"floor of no platform", `"updateManifest"`, `"updateManifest", "raiseFloor:defualt"`, "MAN-016", "roles.operator.actions[1]", `"defualt"`, `"raiseFloor:default"`},
		{"no marble", `"marble": "cart"`, `"marble": "carts"`, "MAN-017", "marbles.web.calls[0].marble", `marbles.web calls "carts", which is no marble`, `"cart"`},
		{"no reader", `"readers": ["web"]`, `"readers": ["web", "wbe"]`, "MAN-017", "secrets.sessionKey.readers[1]", `"wbe"`, `"web"`},
		{"no marble in test", `"from": "db"`, `"from": "dbb"`, "MAN-017", "tests[1].from", `"dbb"`, `"db"`},
		{"no port", `"port": "sql"`, `"port": "sqk"`, "MAN-018", "marbles.cart.calls[0].port", `serves no port "sqk"`, `"sql"`},
		{"no role", `"roles": ["operator"]`, `"roles": ["operators"]`, "MAN-019", "users.alice.roles[0]", "", `"operator"`},
		{"no measurement", `"signerID": "0ab2000000000000000000000000000000000000000000000000000000077f00", `, ``, "MAN-020", "packages.web.sgx", "signerID is missing", ""},
		{"signer alone", `, "productID": 16, "minSecurityVersion": 3`, ``, "MAN-020", "packages.web.sgx", "accepts everything of that signer", ""},
		{"no MRTD", `"mrtd"`, `"rtmr1"`, "MAN-020", "packages.cart.tdx", "mrtd is missing", ""},
		{"no TEE", `"sgx": { "signerID": "0ab2000000000000000000000000000000000000000000000000000000077f00", "productID": 16, "minSecurityVersion": 3 }`, ``, "MAN-021", "packages.web", "no TEE", ""},
		{"clash with own port", `"listen": 8081, `, ``, "MAN-022", "marbles.web.calls[0]", "8080 is taken by serves.http", "18080"},
		{"routes on tcp", `"port": "sql" }`, `"port": "sql", "routes": ["GET /"] }`, "MAN-023", "marbles.cart.calls[0].routes", "not http", ""},
		{"malformed route", `"GET /items/*"`, `"GET items"`, "MAN-007", "marbles.web.calls[0].routes[0]", "", "GET /items/*"},
		{"route with dots", `"GET /items/*"`, `"GET /items/../x"`, "MAN-024", "marbles.web.calls[0].routes[0]", "normalises", ""},
		{"address", `"web.shop.example"`, `"10.0.0.1"`, "MAN-025", "marbles.web.dnsNames[0]", "not a DNS name", ""},
		{"DNS name twice", `"package": "cart",`, `"package": "cart", "dnsNames": ["web.shop.example"],`, "MAN-026", "marbles.cart.dnsNames", "belongs to marble web", ""},
		{"certificate", `-----BEGIN CERTIFICATE-----\n`, `-----BEGIN CERTIFICATE-----\nAAAA`, "MAN-027", "users.alice.certificate", "", ""},
		{"self call", `"marble": "db", "port": "sql"`, `"marble": "cart", "port": "http"`, "MAN-029", "marbles.cart.calls[0].marble", "calls itself", ""},
		{"call twice", `[{ "marble": "db", "port": "sql" }]`, `[{ "marble": "db", "port": "sql" }, { "marble": "db", "port": "sql", "listen": 99 }]`, "MAN-030", "marbles.cart.calls[1]", "calls[0] is the same", ""},
		{"template syntax", `{{ .Marble.Name }}`, `{{ .Marble.Name `, "MAN-032", "marbles.web.parameters.argv[2]", "does not parse", ""},
		{"template value", `{{ .Marble.Name }}`, `{{ .Marble.Nam }}`, "MAN-032", "marbles.web.parameters.argv[2]", ".Marble.Nam", ".Marble.Name"},
		{"raw in env", `{{ hex .Secrets.sessionKey }}`, `{{ raw .Secrets.sessionKey }}`, "MAN-032", "marbles.web.parameters.env.SESSION_KEY", "raw bytes", "base64"},
		{"pem of bytes", `{{ hex .Secrets.sessionKey }}`, `{{ pem .Secrets.sessionKey }}`, "MAN-032", "marbles.web.parameters.env.SESSION_KEY", "does not fit", "hex"},
		{"not a reader", `"readers": ["web"]`, `"readers": ["cart"]`, "MAN-033", "marbles.web.parameters.env.SESSION_KEY", "none of its readers", "secrets.sessionKey.readers"},
		{"no secret", `{{ hex .Secrets.sessionKey }}`, `{{ hex .Secrets.sesionKey }}`, "MAN-034", "marbles.web.parameters.env.SESSION_KEY", `"sesionKey"`, `"sessionKey"`},
		{"RSA-16384", `"type": "cert-ecdsa"`, `"type": "cert-rsa", "bits": 16384`, "MAN-006", "secrets.cartTLS.bits", "4096", ""},
		{"RSA-1024", `"type": "cert-ecdsa"`, `"type": "cert-rsa", "bits": 1024`, "MAN-036", "secrets.cartTLS.bits", "2048, 3072 or 4096", ""},
		{"ECDSA-521", `"type": "cert-ecdsa"`, `"type": "cert-ecdsa", "bits": 521`, "MAN-036", "secrets.cartTLS.bits", "256 or 384", ""},
		{"uneven bits", `"bits": 256`, `"bits": 257`, "MAN-036", "secrets.sessionKey.bits", "multiple of 8", ""},
		{"Ed25519 with bits", `"type": "cert-ecdsa"`, `"type": "cert-ed25519", "bits": 256`, "MAN-036", "secrets.cartTLS.bits", "one size", ""},
		{"name on a symmetric secret", `"bits": 256`, `"commonName": "x"`, "MAN-036", "secrets.sessionKey.commonName", "no certificate", ""},
		{"lease", `"lease": "30m"`, `"lease": "1s"`, "MAN-037", "marbles.web.lease", "between 10s and 24h", ""},
		{"age", `"maxAge": "720h"`, `"maxAge": "1h"`, "MAN-037", "platforms.default.endorsements.maxAge", "between 24h and 8760h", ""},
		{"validity", `"validity": "720h"`, `"validity": "999999h"`, "MAN-037", "secrets.cartTLS.validity", "8760h", ""},
		{"test that must not", `"to": "db", "allow": true`, `"to": "db", "allow": false`, "MAN-040", "tests[0]", "web must not reach db, but it does: web → cart (line 34) → db (line 45)", ""},
		{"test that must", `"to": "web", "allow": false`, `"to": "web", "allow": true`, "MAN-040", "tests[1]", "db must reach web, but no chain", "db calls nobody"},
		{"SNP with the fields of sim", `"sim": {`, `"snp": {`, "MAN-002", "packages.db.snp.program", `"program"`, ""},
		{"SNP without measurement", `"packages": {`, `"packages": { "vm": { "snp": { "vmpl": 1 } },`, "MAN-020", "packages.vm.snp", "measurement is missing", ""},
		{"SNP with an empty list", `"packages": {`, `"packages": { "vm": { "snp": { "measurement": [] } },`, "MAN-006", "packages.vm.snp.measurement", "at least 1", ""},
		{"SNP with half a measurement", `"packages": {`, `"packages": { "vm": { "snp": { "measurement": ["1111"] } },`, "MAN-007", "packages.vm.snp.measurement[0]", "48 bytes", ""},
		{"SNP at VMPL 4", `"packages": {`, `"packages": { "vm": { "snp": { "allowAnyMeasurement": true, "vmpl": 4 } },`, "MAN-006", "packages.vm.snp.vmpl", "between 0 and 3", ""},
		{"SNP without floor", `"platforms": {`, `"platforms": { "amd": { "snp": { "allowSMT": true } },`, "MAN-005", "platforms.amd.snp", `"minTCB"`, ""},
		{"SNP with an empty floor", `"platforms": {`, `"platforms": { "amd": { "snp": { "minTCB": {} } },`, "MAN-006", "platforms.amd.snp.minTCB", "at least 1", ""},
		{"SNP with a floor of an unknown product", `"platforms": {`, `"platforms": { "amd": { "snp": { "minTCB": { "milan": {} } } },`, "MAN-002", "platforms.amd.snp.minTCB.milan", `"milan"`, "Milan"},
		{"SNP with a level above 255", `"platforms": {`, `"platforms": { "amd": { "snp": { "minTCB": { "Milan": { "microcode": 256 } } } },`, "MAN-006", "platforms.amd.snp.minTCB.Milan.microcode", "between 0 and 255", ""},
		{"SNP with firmware 1.256", `"platforms": {`, `"platforms": { "amd": { "snp": { "minTCB": { "Milan": {} }, "minFirmware": "1.256" } },`, "MAN-007", "platforms.amd.snp.minFirmware", "1.55", "1.55"},
		{"SNP with no machine", `"platforms": {`, `"platforms": { "amd": { "snp": { "minTCB": { "Milan": {} }, "chipIDs": [] } },`, "MAN-006", "platforms.amd.snp.chipIDs", "at least 1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, ds := Parse(edit(t, c.old, c.new))
			if m != nil {
				t.Fatal("got a manifest, want none")
			}
			for _, d := range ds {
				if d.Code == c.code && d.Severity == SeverityError && d.Path == c.path && strings.Contains(d.Message, c.message) && strings.Contains(d.Suggestion, c.suggest) {
					checkPlace(t, d)
					return
				}
			}
			t.Errorf("got %+v\nwant %s at %s: …%s… (…%s…)", ds, c.code, c.path, c.message, c.suggest)
		})
	}
}

// checkPlace checks what holds of every diagnostic.
func checkPlace(t *testing.T, d Diagnostic) {
	t.Helper()
	if !problem.Known(d.Code) {
		t.Errorf("%s is not in the table", d.Code)
	}
	if d.Line < 1 || d.Column < 1 || d.Width < 1 {
		t.Errorf("got place %d:%d width %d, want 1 or more", d.Line, d.Column, d.Width)
	}
}

func TestParseWarnings(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		code           problem.Code
		path           string
	}{
		{"nobody may update", `"roles": ["operator"]
    }`, `"roles": ["x"]
    }`, "MAN-039", "users"},
		{"any agent", `"agent": ["2222222222222222222222222222222222222222222222222222222222222222"],`, ``, "MAN-041", "packages.db.sim"},
		{"any measurement", `"productID": 16`, `"allowAnyMeasurement": true`, "MAN-042", "packages.web.sgx.allowAnyMeasurement"},
		{"debug", `"web": {
      "sgx"`, `"web": { "allowDebug": true,
      "sgx"`, "MAN-043", "packages.web.allowDebug"},
		{"young endorsements", `"720h"`, `"168h"`, "MAN-044", "platforms.default.endorsements.maxAge"},
		{"SNP on no machine", `"db": {
      "sim"`, `"db": { "snp": { "measurement": ["` + strings.Repeat("11", 48) + `"] },
      "sim"`, "MAN-050", "marbles.db"},
		{"unused package", `"packages": {`, `"packages": { "old": { "sim": { "program": ["1111111111111111111111111111111111111111111111111111111111111111"], "agent": ["1111111111111111111111111111111111111111111111111111111111111111"] } },`, "MAN-045", "packages.old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := edit(t, c.old, c.new)
			if c.name == "nobody may update" {
				raw = bytes.Replace(raw, []byte(`"roles": ["x"]`), []byte(`"roles": ["viewer"]`), 1)
				raw = bytes.Replace(raw, []byte(`"operator": { "actions": ["updateManifest"] }`), []byte(`"viewer": { "actions": [] }`), 1)
			}
			_, ds := Parse(raw)
			for _, d := range ds {
				if d.Code == c.code && d.Severity == SeverityWarning && d.Path == c.path {
					return
				}
			}
			t.Errorf("got %v, want warning %s at %s", ds, c.code, c.path)
		})
	}
}

func TestParseNothingMayTalk(t *testing.T) {
	m, ds := Parse([]byte(`{"version":1,"trustDomain":"t","packages":{"p":{"sim":{"allowAnyMeasurement":true}}},"marbles":{"a":{"package":"p"},"b":{"package":"p"}}}`))
	if m == nil {
		t.Fatalf("got %v, want a manifest", ds)
	}
	var codes []string
	for _, d := range ds {
		codes = append(codes, string(d.Code))
	}
	if got := strings.Join(codes, " "); got != "MAN-039 MAN-042 MAN-031" {
		t.Errorf("got %s", got)
	}
	if err := ds.Err(); err != nil {
		t.Errorf("Err of warnings: got %v, want nil", err)
	}
	if _, ok := m.Platforms[DefaultPlatform]; !ok {
		t.Error("platform default must exist")
	}
}

func TestAllProblemsTogether(t *testing.T) {
	raw := sample(t)
	for _, e := range [][2]string{
		{`"productID"`, `"prodctID"`}, {`"protocol": "http"`, `"protocol": "htpt"`}, {`"marble": "cart"`, `"marble": "carts"`},
		{`{{ .Marble.Name }}`, `{{ .Marble.Nam }}`}, {`"from": "db", "to": "web", "allow": false`, `"from": "cart", "to": "db", "allow": false`},
	} {
		raw = bytes.Replace(raw, []byte(e[0]), []byte(e[1]), 1)
	}
	var first string
	for i := range 20 {
		_, ds := Parse(raw)
		var codes []string
		for _, d := range ds {
			codes = append(codes, string(d.Code))
		}
		all, err := json.Marshal(ds)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = string(all)
			if got := strings.Join(codes, " "); got != "MAN-002 MAN-004 MAN-017 MAN-032 MAN-040" {
				t.Errorf("got %s\n%v", got, ds)
			}
			e := problem.From(ds.Err())
			if e.Code != "MAN-002" || e.Kind() != problem.Invalid || !strings.Contains(e.Detail, "and 4 more") {
				t.Errorf("Err: got %v", e)
			}
		}
		if string(all) != first {
			t.Fatalf("run %d differs:\n%s\n%s", i, all, first)
		}
	}
}

func TestRender(t *testing.T) {
	_, ds := Parse(edit(t, `"marble": "cart"`, `"marble": "carts"`))
	var b strings.Builder
	ds[:1].Render(&b, "manifest.json", false)
	want := `manifest.json:34:21: error: marbles.web calls "carts", which is no marble   MAN-017
   34 |         { "marble": "carts", "port": "http", "listen": 8081, "routes": [
      |                     ^^^^^^^
      = did you mean "cart"?
1 problem in manifest.json
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	ds.Render(&b, "evil\x1b[2J.json", true)
	if !strings.Contains(b.String(), red) || strings.Contains(b.String(), "\x1b[2J") {
		t.Errorf("got %q, want colour and no control characters from the name", b.String())
	}
}

func TestDocumentsCannotSteerTheTerminal(t *testing.T) {
	_, ds := Parse([]byte("{\"\\u001b[2Jx\": 1, \"y\u009b\": \"\u202e\"}"))
	var b strings.Builder
	ds.Render(&b, "m.json", false)
	if strings.ContainsAny(b.String(), "\x1b\u009b\u202e") {
		t.Errorf("got %q", b.String())
	}
}

// TestParseSNP checks that every field arrives.
func TestParseSNP(t *testing.T) {
	hex := func(n int) string { return `["` + strings.Repeat("1a", n) + `"]` }
	m, ds := Parse([]byte(`{"version":1,"trustDomain":"t","packages":{"p":{"snp":{"measurement":` + hex(48) + `,"hostData":` + hex(32) +
		`,"idKeyDigest":` + hex(48) + `,"authorKeyDigest":` + hex(48) + `,"familyID":` + hex(16) + `,"imageID":` + hex(16) +
		`,"vmpl":1,"minGuestSVN":4294967295,"allowMigration":true}}},"platforms":{"default":{"snp":{"minTCB":{"Turin":{"fmc":1,"bootloader":2,"tee":3,"snp":4,"microcode":255}},` +
		`"minFirmware":"1.55.29","allowSMT":true,"allowProvisionalFirmware":true,"chipIDs":` + hex(64) + `}}},"marbles":{"a":{"package":"p"}}}`))
	if m == nil {
		t.Fatalf("got %v, want a manifest", ds)
	}
	list := func(n int) []attest.Hex { return []attest.Hex{bytes.Repeat([]byte{0x1a}, n)} }
	vmpl, svn := uint32(1), uint32(4294967295)
	want := attest.SNPReference{Measurement: list(48), HostData: list(32), IDKeyDigest: list(48), AuthorKeyDigest: list(48), FamilyID: list(16),
		ImageID: list(16), VMPL: &vmpl, MinGuestSVN: &svn, AllowMigration: true}
	p, _ := m.PolicyFor("a")
	if !reflect.DeepEqual(*p.Package.SNP, want) {
		t.Errorf("got %+v, want %+v", *p.Package.SNP, want)
	}
	rules := attest.SNPPlatform{MinTCB: map[string]attest.SNPTCB{"Turin": {FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 255}},
		MinFirmware: &attest.SNPFirmware{Major: 1, Minor: 55, Build: 29}, AllowSMT: true, AllowProvisionalFirmware: true, ChipIDs: list(64)}
	if !reflect.DeepEqual(*p.Platform.SNP, rules) {
		t.Errorf("got %+v, want %+v", *p.Platform.SNP, rules)
	}
	if c := Compare(m, m); !c.Empty() {
		t.Errorf("got %+v, want no change", c)
	}
}
