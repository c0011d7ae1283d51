package manifest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

// ageKey is the example of the schema.
const ageKey = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

// witnessExample is the key of a witness that nobody has.
const witnessExample = "witness.example+4ac50073+BAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"

func publicPEM(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// TestGovernanceDiagnostics adds sections to a document, or alters them.
func TestGovernanceDiagnostics(t *testing.T) {
	w := newWorld(t, 9)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, quoted := publicPEM(t, rsaKey.Public()), func(s string) string { raw, _ := json.Marshal(s); return string(raw) }
	people := func(actions ...string) string { // users alice, bob and carol, each with the role of the same number
		text, users := `"roles":{`, `"users":{`
		for i, a := range actions {
			list, _ := json.Marshal(strings.Fields(a))
			text += fmt.Sprintf(`"r%d":{"actions":%s},`, i, list)
			users += fmt.Sprintf(`%q:{"certificate":%s,"roles":["r%d"]},`, worldUsers[i], quoted(w.certificates[i]), i)
		}
		return strings.TrimSuffix(text, ",") + "}," + strings.TrimSuffix(users, ",") + "}"
	}
	full := people(UpdateManifest)
	secret := func(body string) string {
		return people(UpdateManifest+" writeSecret:*") + `,"secrets":{"s":{"readers":["a"],` + body + `}}`
	}
	for _, c := range []struct{ name, sections, want string }{
		{"nothing", full, ""},
		{"two who can", people(UpdateManifest, "updateManifest:*") + `,"approvals":{"updateManifest":2}`, ""},
		{"one of two", full + `,"approvals":{"updateManifest":2}`, "MAN-064 approvals.updateManifest"},
		{"two who share a path", people("updateManifest:packages/p", "updateManifest:packages/*", "updateManifest:users/*") + `,"approvals":{"updateManifest:packages/*":2,"updateManifest:users/*":1}`, `warning MAN-065 approvals["updateManifest:packages/*"]`},
		{"two of different paths", people("updateManifest:packages/*", "updateManifest:secrets/*") + `,"approvals":{"updateManifest":2}`, "MAN-064 approvals.updateManifest"},
		{"two to revoke", people(UpdateManifest, "revoke:*") + `,"approvals":{"revoke:users/*":2}`, `MAN-064 approvals["revoke:users/*"]`},
		{"two to break glass", people(UpdateManifest+" breakGlass", "breakGlass") + `,"approvals":{"breakGlass":2}`, ""},
		{"got around", people(UpdateManifest, UpdateManifest) + `,"approvals":{"updateManifest:packages/*":2}`, `warning MAN-065 approvals["updateManifest:packages/*"]`},
		{"not got around", people(UpdateManifest, UpdateManifest) + `,"approvals":{"updateManifest:packages/*":2,"updateManifest:users/*":2,"updateManifest:roles/*":2}`, ""},
		{"only parts", people("updateManifest:packages/*"), ""},

		{"unknown part", people(UpdateManifest + " updateManifest:package/p"), "MAN-066 roles.r0.actions[1] packages"},
		{"unknown field", people(UpdateManifest + " updateManifest:marbles/*/packages"), "MAN-066 roles.r0.actions[1] package"},
		{"too deep", people(UpdateManifest + " updateManifest:packages/p/sgx"), "MAN-066 roles.r0.actions[1] updateManifest:packages/p"},
		{"too deep in a marble", people(UpdateManifest + " updateManifest:marbles/a/parameters/env"), "MAN-066 roles.r0.actions[1]"},
		{"half a name", people(UpdateManifest + " updateManifest:packages/p*"), "MAN-066 roles.r0.actions[1]"},
		{"package to be", people(UpdateManifest + " updateManifest:packages/pp"), "warning MAN-066 roles.r0.actions[1] p"},
		{"part of an approval", people(UpdateManifest) + `,"approvals":{"updateManifest:secret/*":1}`, `MAN-066 approvals["updateManifest:secret/*"] secrets`},
		{"notes", people(UpdateManifest + " updateManifest:notes updateManifest:marbles/*/notes updateManifest:*/a"), ""},
		{"secret that is not there", people(UpdateManifest + " readSecret:t"), "MAN-034 roles.r0.actions[1]"},
		{"package that is not there", people(UpdateManifest + " raiseSecurityVersion:q"), "MAN-015 roles.r0.actions[1] raiseSecurityVersion:p"},
		{"marble that is not there", people(UpdateManifest + " revoke:marbles/aa"), "MAN-017 roles.r0.actions[1] revoke:marbles/a"},
		{"machine", people(UpdateManifest + " revoke:platforms/00906ed50000"), ""},
		{"platform that is not there", people(UpdateManifest + " revoke:platforms/00906ed5"), "MAN-016 roles.r0.actions[1]"},
		{"user that is not there", people(UpdateManifest + " revoke:users/alic"), "MAN-067 roles.r0.actions[1] revoke:users/alice"},
		{"secret that is made", people(UpdateManifest+" writeSecret:s") + `,"secrets":{"s":{"type":"symmetric","readers":["a"]}}`, "warning MAN-066 roles.r0.actions[1]"},

		{"recovery", full + `,"recovery":{"keys":{"alice":` + quoted(good) + `},"threshold":1}`, ""},
		{"age", full + `,"recovery":{"keys":{"alice":"` + ageKey + `"},"threshold":1}`, ""},
		{"mistyped age", full + `,"recovery":{"keys":{"alice":"` + strings.Replace(ageKey, "hjy", "hjz", 1) + `"},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"long age", full + `,"recovery":{"keys":{"alice":"` + ageKey + `q"},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"capital age", full + `,"recovery":{"keys":{"alice":"` + strings.ToUpper(ageKey) + `"},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"letter of no age", full + `,"recovery":{"keys":{"alice":"` + strings.Replace(ageKey, "l3z", "lbz", 1) + `"},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"small RSA", full + `,"recovery":{"keys":{"alice":` + quoted(publicPEM(t, small.Public())) + `},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"other key", full + `,"recovery":{"keys":{"alice":` + quoted(publicPEM(t, ec.Public())) + `},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"certificate", full + `,"recovery":{"keys":{"alice":` + quoted(w.certificates[0]) + `},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"two keys", full + `,"recovery":{"keys":{"alice":` + quoted(good+good) + `},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"no key", full + `,"recovery":{"keys":{"alice":"x"},"threshold":1}`, "MAN-068 recovery.keys.alice"},
		{"holder who is no user", full + `,"recovery":{"keys":{"alic":"` + ageKey + `"},"threshold":1}`, "MAN-067 recovery.keys.alic alice"},
		{"same key", people(UpdateManifest, Backup) + `,"recovery":{"keys":{"alice":"` + ageKey + `","bob":"` + ageKey + `"},"threshold":1}`, "MAN-076 recovery.keys.bob"},
		{"same RSA key", people(UpdateManifest, Backup) + `,"recovery":{"keys":{"alice":` + quoted(good) + `,"bob":` + quoted(good+"\n") + `},"threshold":1}`, "MAN-076 recovery.keys.bob"},
		{"threshold", full + `,"recovery":{"keys":{"alice":"` + ageKey + `"},"threshold":2}`, "MAN-069 recovery.threshold"},
		{"sealed by none", full + `,"seal":"none"`, "warning MAN-081 seal"},
		{"sealed by none, with shares", full + `,"seal":"none","recovery":{"keys":{"alice":"` + ageKey + `"},"threshold":1}`, ""},

		{"witness", full + `,"witnesses":{"w":{"key":"` + witnessExample + `"}}`, ""},
		{"witness with another ID", full + `,"witnesses":{"w":{"key":"` + strings.Replace(witnessExample, "+4", "+5", 1) + `"}}`, "MAN-077 witnesses.w.key"},
		{"witness with another type", full + `,"witnesses":{"w":{"key":"` + strings.Replace(witnessExample, "+BA", "+AQ", 1) + `"}}`, "MAN-077 witnesses.w.key"},
		{"witness without ID", full + `,"witnesses":{"w":{"key":"witness.example"}}`, "MAN-077 witnesses.w.key"},
		{"witness without name", full + `,"witnesses":{"w":{"key":"` + strings.TrimPrefix(witnessExample, "witness.example") + `"}}`, "MAN-077 witnesses.w.key"},
		{"witness twice", full + `,"witnesses":{"v":{"key":"` + witnessExample + `"},"w":{"key":"` + witnessExample + `"}}`, "MAN-078 witnesses.w.key"},

		{"signing", secret(`"type":"ecdsa","operations":["sign"]`), ""},
		{"encrypting with ECDSA", secret(`"type":"ecdsa","operations":["encrypt"]`), "MAN-036 secrets.s.operations[0] sign"},
		{"signing with a certificate's key", secret(`"type":"cert-rsa","operations":["sign"]`), "MAN-036 secrets.s.operations[0]"},
		{"signing with random bytes", secret(`"type":"symmetric","operations":["hmac","sign"]`), "MAN-036 secrets.s.operations[1]"},
		{"signing with what was given", secret(`"type":"opaque","operations":["sign"]`), "MAN-036 secrets.s.operations[0]"},
		{"depositor of a made secret", secret(`"type":"rsa","depositors":["a"]`), "MAN-036 secrets.s.depositors"},
		{"depositor who is no marble", secret(`"type":"opaque","depositors":["b"]`), "MAN-017 secrets.s.depositors[0] a"},
		{"opaque per instance", secret(`"type":"opaque","scope":"instance"`), "MAN-036 secrets.s.scope"},
		{"key per marble", secret(`"type":"rsa","scope":"marble"`), "MAN-036 secrets.s.scope"},
		{"counter per marble", secret(`"type":"counter","scope":"marble"`), ""},
		{"counter that rotates", secret(`"type":"counter","rotation":{"every":"1h"}`), "MAN-036 secrets.s.rotation"},
		{"opaque that rotates", secret(`"type":"opaque","rotation":{"every":"2h"}`), "MAN-036 secrets.s.rotation.every"},
		{"opaque that overlaps", secret(`"type":"opaque","rotation":{"overlap":"2h"}`), ""},
		{"opaque made anew", secret(`"type":"opaque","onUpdate":"rederive"`), "MAN-036 secrets.s.onUpdate"},
		{"counter discarded", secret(`"type":"counter","onUpdate":"discard"`), "MAN-036 secrets.s.onUpdate"},
		{"long overlap", secret(`"type":"rsa","rotation":{"every":"1h","overlap":"2h"}`), "warning MAN-082 secrets.s.rotation"},
		{"long overlap of roots", full + `,"ca":{"rootRotation":"24h","overlap":"48h"}`, "warning MAN-082 ca"},
		{"addresses", secret(`"type":"cert-rsa","ipAddresses":["10.0.0.1","::1"]`), ""},
		{"no address", secret(`"type":"cert-rsa","ipAddresses":["10.0.0.256"]`), "MAN-079 secrets.s.ipAddresses[0]"},
		{"address with a zone", secret(`"type":"cert-rsa","ipAddresses":["fe80::1%eth0"]`), "MAN-079 secrets.s.ipAddresses[0]"},
		{"nobody gives it", full + `,"secrets":{"s":{"type":"opaque","readers":["a"]}}`, "warning MAN-080 secrets.s writeSecret:s"},
		{"a marble gives it", full + `,"secrets":{"s":{"type":"opaque","readers":["a"],"depositors":["a"]}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := []byte(`{"version":1,"trustDomain":"t","packages":{"p":{"sgx":{"uniqueID":` + hexes(32) + `}}},"marbles":{"a":{"package":"p"}},` + c.sections + `}`)
			var got []string
			suggest := ""
			m, ds := Parse(raw)
			for _, d := range ds {
				checkPlace(t, d)
				text := string(d.Code) + " " + d.Path
				if d.Severity == SeverityWarning {
					text = "warning " + text
				}
				got, suggest = append(got, text), d.Suggestion
			}
			line := strings.Join(got, ", ")
			if want := c.want; line != want && (!strings.HasPrefix(want, line+" ") || line == "" || !strings.Contains(suggest, strings.TrimPrefix(want, line+" "))) {
				t.Errorf("got %v, want %q\n%s", ds, want, raw)
			}
			if (m == nil) != (c.want != "" && !strings.HasPrefix(c.want, "warning")) {
				t.Errorf("got a manifest: %t", m != nil)
			}
		})
	}
}

// TestIntersection has pairs of rights.
func TestIntersection(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{UpdateManifest, "updateManifest:packages/*", "updateManifest:packages/*"},
		{"updateManifest:packages/web", "updateManifest:packages/*", "updateManifest:packages/web"},
		{"updateManifest:marbles/web", "updateManifest:marbles/*/calls", "updateManifest:marbles/web/calls"},
		{"updateManifest:*/web", "updateManifest:marbles", "updateManifest:marbles/web"},
		{"updateManifest:packages/web", "updateManifest:packages/cart", ""},
		{"updateManifest:packages/web", "revoke:packages/web", ""},
		{"revoke:*", "revoke:users/*", "revoke:users/*"},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got, ok := intersection(pair[0], pair[1]); got != c.want || ok != (c.want != "") {
				t.Errorf("%v: got %q, %t, want %q", pair, got, ok, c.want)
			}
		}
	}
}

func FuzzRecoveryKey(f *testing.F) {
	f.Add(ageKey)
	f.Add("age1" + strings.Repeat("q", 58))
	f.Add("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	f.Add(witnessExample)
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := recoveryKey(text); err == nil && strings.HasPrefix(text, "age1") && len(key) != len("age ")+32 {
			t.Errorf("a key of %d bytes", len(key))
		}
		if key, err := witnessKey(text); err == nil && !bytes.HasPrefix([]byte(key), []byte{4}) {
			t.Errorf("a key of type %d", key[0])
		}
	})
}
