package manifest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
)

// world makes random manifests over few names, so that two of them have much in
// common.
type world struct {
	*mrand.Rand
	certificates []string
}

var (
	worldMarbles = []string{"a", "b", "c", "d", "e", "f"}
	worldRoutes  = []string{"GET /x", "GET /y/*", "POST /z"}
	worldUsers   = []string{"alice", "bob", "carol"}
	worldHolders = []string{
		"age1dc6qh88lkdaf3899gnntk7q293ufq8flkvmnsa59zx3sv9a05qws9s7aq0",
		"age1f063yte5g42v2w7796ace54hu0gkqzkkx8pctfwhen3rcau9gkdqjneh52",
		"age1m0qmfjgqlljg646mtkjuvwqyqyjlvhdslclzgj2twm4fsezhmxrqtertqa",
	}
	worldRights = []string{UpdateManifest, ManageEndorsements, RaiseFloor + "*", RaiseFloor + "default", RaiseFloor + "strict", BreakGlass, Backup, RotateCA,
		"updateManifest:packages/*", "updateManifest:packages/p", "updateManifest:platforms/strict", "updateManifest:platforms/*", "updateManifest:marbles/*/package", "updateManifest:marbles/a/parameters",
		"updateManifest:marbles/*/calls", "updateManifest:marbles/b", "updateManifest:secrets/*/readers", "updateManifest:secrets/k1", "updateManifest:users/*", "updateManifest:users/alice", "updateManifest:users/dave",
		"updateManifest:roles/one", "updateManifest:roles/*", "updateManifest:approvals", "updateManifest:recovery", "updateManifest:coordinators", "updateManifest:tests", "readSecret:*", "writeSecret:*", "rotateSecret:*", "revoke:*", "revoke:users/*",
		"raiseSecurityVersion:*", "raiseSecurityVersion:p"}
)

type doc = map[string]any

func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{Rand: mrand.New(mrand.NewPCG(seed, 7))}
	for i := range 4 {
		w.certificates = append(w.certificates, newCertificate(t, int64(i+1)))
	}
	return w
}

// newCertificate is one of a new key, in PEM.
func newCertificate(t testing.TB, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// pick keeps each item with a chance of one in n.
func pick[T any](w *world, n int, items ...T) []T {
	out := []T{}
	for _, item := range items {
		if w.IntN(n) == 0 {
			out = append(out, item)
		}
	}
	return out
}

func (w *world) atLeastOne(items ...string) []string {
	out := pick(w, 2, items...)
	if len(out) == 0 {
		out = append(out, items[w.IntN(len(items))])
	}
	return out
}

func (w *world) manifest(t testing.TB) *Manifest {
	t.Helper()
	marbles := w.atLeastOne(worldMarbles...)
	secrets, readers := doc{}, map[string][]string{}
	for _, name := range pick(w, 2, "k1", "k2") {
		readers[name] = w.atLeastOne(marbles...)
		secrets[name] = w.secret(readers[name], marbles)
	}
	all := doc{}
	for _, name := range marbles {
		all[name] = w.marble(name, readers, secrets)
	}
	for _, name := range marbles {
		all[name].(doc)["calls"] = w.calls(name, marbles, all)
	}
	m := doc{"version": 1, "trustDomain": "shop.example", "packages": doc{"p": w.pkg(), "q": w.pkg()}, "marbles": all, "secrets": secrets,
		"platforms": doc{"default": w.platform(), "strict": w.platform()}, "roles": doc{}, "users": doc{}}
	for _, role := range []string{"one", "two", "three"} {
		actions := pick(w, 12, worldRights...)
		if len(actions) == 0 {
			actions = append(actions, worldRights[w.IntN(len(worldRights))])
		}
		m["roles"].(doc)[role] = doc{"actions": actions}
	}
	keys := doc{}
	for i, user := range worldUsers {
		if w.IntN(3) > 0 {
			m["users"].(doc)[user] = doc{"certificate": w.certificates[i], "roles": w.atLeastOne("one", "two", "three")}
			if w.IntN(3) == 0 {
				keys[user] = worldHolders[i]
			}
		}
	}
	if len(keys) > 0 {
		m["recovery"] = doc{"keys": keys, "threshold": 1 + w.IntN(len(keys))}
	}
	if w.IntN(3) == 0 {
		m["coordinators"] = doc{"package": w.atLeastOne("p", "q")[0], "platform": w.atLeastOne("default", "strict")[0]}
	}
	return w.approved(t, m)
}

// approved adds numbers of approvals that can be reached.
func (w *world) approved(t testing.TB, m doc) *Manifest {
	t.Helper()
	numbers := doc{}
	for _, right := range worldRights {
		if (isUpdate(right) || right == BreakGlass || right == "revoke:users/*") && w.IntN(8) == 0 {
			numbers[right] = 2 + w.IntN(2)
		}
	}
	for {
		m["approvals"] = numbers
		raw, err := json.MarshalIndent(m, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		parsed, ds := Parse(raw)
		if parsed != nil {
			return parsed
		}
		for _, d := range ds {
			if d.Severity == SeverityError && d.Code != "MAN-064" {
				t.Fatalf("got %v\n%s", ds, raw)
			}
			for right := range numbers {
				if d.Code == "MAN-064" && strings.HasPrefix(d.Message, right+" needs") {
					delete(numbers, right)
				}
			}
		}
	}
}

// secret is one of any kind.
func (w *world) secret(readers, marbles []string) doc {
	s := doc{"type": "symmetric", "readers": readers, "scope": w.atLeastOne("shared", "instance")[0]}
	switch w.IntN(5) {
	case 0:
		s["operations"] = w.atLeastOne("encrypt", "hmac")
	case 1:
		s["type"], s["scope"] = "opaque", "shared"
		if w.IntN(2) == 0 {
			s["depositors"] = w.atLeastOne(marbles...)
		}
	case 2:
		s["type"] = "counter"
	}
	return s
}

func (w *world) marble(name string, readers map[string][]string, secrets doc) doc {
	env, files := doc{"PLAIN": "x"}, doc{}
	for _, secret := range sortedKeys(readers) {
		s := secrets[secret].(doc)
		if !slices.Contains(readers[secret], name) || s["operations"] != nil || s["type"] == "counter" {
			continue
		}
		switch w.IntN(4) {
		case 0:
			files["/run/"+secret] = []string{secret}
		case 1, 2:
			env["S"+secret] = "{{ hex .Secrets." + secret + " }}"
		}
	}
	mb := doc{"package": w.atLeastOne("p", "q")[0], "serves": doc{"http": doc{"port": 8080, "protocol": "http"}, "tcp": doc{"port": 5432}}, "parameters": doc{"env": env, "references": doc{"files": files}}}
	if w.IntN(2) == 0 {
		mb["platform"] = "strict"
	}
	return mb
}

func (w *world) calls(from string, marbles []string, all doc) []doc {
	calls, listen := []doc{}, 20000
	for _, to := range marbles {
		for _, port := range pick(w, 5, "http", "tcp") {
			if to == from {
				continue
			}
			listen++
			c := doc{"marble": to, "port": port, "listen": listen}
			if port == "http" && w.IntN(2) == 0 {
				c["routes"] = w.atLeastOne(worldRoutes...)
			}
			calls = append(calls, c)
		}
	}
	return calls
}

func (w *world) pkg() doc {
	digests := func(n int) []string {
		return w.atLeastOne(strings.Repeat("01", n), strings.Repeat("02", n), strings.Repeat("03", n))
	}
	p := doc{}
	if w.IntN(3) > 0 {
		ref := doc{"uniqueID": digests(32)}
		if w.IntN(2) == 0 {
			ref = doc{"signerID": strings.Repeat("02", 32), "productID": w.IntN(2), "minSecurityVersion": w.IntN(3)}
		}
		p["sgx"] = ref
	}
	if len(p) == 0 || w.IntN(3) == 0 {
		ref := doc{"mrtd": digests(48)}
		if w.IntN(2) == 0 {
			ref["rtmr1"] = digests(48)
		}
		p["tdx"] = ref
	}
	if w.IntN(6) == 0 {
		p["allowDebug"] = true
	}
	return p
}

func (w *world) platform() doc {
	p := doc{}
	for _, tee := range pick(w, 2, "sgx", "tdx") {
		rules := doc{"acceptedTCBStatuses": pick(w, 2, "SWHardeningNeeded", "OutOfDate")}
		if w.IntN(2) == 0 {
			rules["acceptedAdvisories"] = pick(w, 2, "INTEL-SA-00001", "INTEL-SA-00002")
		}
		if w.IntN(2) == 0 {
			rules["refusedAdvisories"] = w.atLeastOne("INTEL-SA-00003", "INTEL-SA-00004")
		}
		if w.IntN(2) == 0 {
			rules["minTCBEvaluation"] = 17 + w.IntN(3)
		}
		p[tee] = rules
	}
	return p
}

// claims is what some evidence says.
func (w *world) claims() attest.Claims {
	digest := func(n int) attest.Hex { return bytes.Repeat([]byte{byte(1 + w.IntN(3))}, n) }
	c := attest.Claims{ReportData: make(attest.Hex, 64), Debug: w.IntN(4) == 0, TCB: attest.TCBClaims{
		Status:           []attest.TCBStatus{"UpToDate", "SWHardeningNeeded", "OutOfDate"}[w.IntN(3)],
		Advisories:       pick(w, 4, "INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003", "INTEL-SA-00004"),
		EvaluationNumber: uint32(17 + w.IntN(3)), RevocationChecked: true, NotAfter: time.Unix(4e9, 0), NextUpdate: time.Unix(4e9, 0),
	}}
	if w.IntN(2) == 0 {
		c.TEE, c.SGX = attest.SGX, &attest.SGXClaims{UniqueID: digest(32), SignerID: digest(32), ProductID: uint16(w.IntN(2)), SecurityVersion: uint16(w.IntN(3)), Attributes: make(attest.Hex, 16)}
		return c
	}
	c.TEE, c.TDX = attest.TDX, &attest.TDXClaims{MRTD: digest(48), RTMR0: digest(48), RTMR1: digest(48), RTMR2: digest(48), RTMR3: digest(48),
		TDAttributes: attest.Hex{0, 0, 0, 0x10, 0, 0, 0, 0}}
	return c
}

// alter takes one field over from another package or platform, or away.
func (w *world) alter(to, from doc) {
	for _, tee := range sortedKeys(from) {
		inner, nested := to[tee].(doc)
		other, same := from[tee].(doc)
		if !nested || !same || w.IntN(3) == 0 {
			to[tee] = from[tee]
			return
		}
		for _, key := range sortedKeys(other) {
			switch w.IntN(3) {
			case 0:
				inner[key] = other[key]
				return
			case 1:
				delete(inner, key)
				return
			}
		}
	}
}
