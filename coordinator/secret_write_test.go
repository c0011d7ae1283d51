package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/secrets"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestReadersWaitForWhatIsSupplied(t *testing.T) {
	d := newVault(t, needsToken)
	_, err := d.attempt("db", "one").activate(d)
	wantCode(t, err, "SEC-003")
	if problem.From(err).Kind() != problem.Unavailable || !strings.Contains(err.Error(), "secret token was not supplied yet") {
		t.Errorf("got %v: a marble must see that it has to wait, and for what", err)
	}
	status, err := d.Status(t.Context())
	if err != nil || !slices.ContainsFunc(status.Attention, func(a apiv1.Attention) bool { return a.Code == "SEC-003" && a.Subject == "secret token" }) {
		t.Errorf("attention %+v, %v: want the missing secret", status.Attention, err)
	}
	if _, err := d.supply("token", "first", 0); err != nil {
		t.Fatal(err)
	}
	lease := d.mustActivate("db", "one").Lease
	if got := lease.Secrets["token"]; string(got.Bytes) != "first" || got.Version != 1 {
		t.Errorf("got version %d", got.Version)
	}
	told := map[string]bool{}
	d.WatchSecrets(func(m map[string]bool) { told = m })
	set, err := d.supply("token", "second", 1)
	if err != nil || set.Version != 2 || !set.OverlapEnds.Equal(d.clock.Now().Add(10*time.Minute)) || !told["db"] {
		t.Fatalf("got %+v, %v, told %v", set, err, told)
	}
	next, changed, err := d.Refresh(t.Context(), d.peer(lease), Sent{})
	if v := next.Secrets["token"]; err != nil || !changed || string(v.Bytes) != "second" || string(v.Previous.Bytes) != "first" {
		t.Errorf("pushed %t, %v", changed, err)
	}
	d.check()
}

func TestSupplyRefuses(t *testing.T) {
	d := newVault(t)
	if _, err := d.supply("token", "first", 0); err != nil {
		t.Fatal(err)
	}
	seal := func(public []byte, b apiv1.SealBinding) []byte {
		t.Helper()
		sealed, err := apiv1.SealSecret(public, b, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	other, err := apiv1.NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	key := d.secret.upload.PublicKey().Bytes()
	good := apiv1.SealBinding{Purpose: apiv1.SealUpload, Root: d.Bundle()[0], Name: "token", Version: 1}
	with := func(change func(*apiv1.SealBinding)) []byte {
		b := good
		change(&b)
		return seal(key, b)
	}
	flipped := with(func(*apiv1.SealBinding) {})
	flipped[40] ^= 1
	for name, c := range map[string]struct {
		req  SetSecretRequest
		code problem.Code
	}{
		"nobody":                {SetSecretRequest{Name: "token", Follows: 1, Sealed: seal(key, good)}, "CRD-015"},
		"no right":              {SetSecretRequest{Name: "token", Follows: 1, Sealed: seal(key, good), User: &Principal{Name: "alice"}}, "SEC-010"},
		"right to another":      {SetSecretRequest{Name: "sessionKey", Sealed: seal(key, good), User: keeper}, "SEC-010"},
		"replayed upload":       {SetSecretRequest{Name: "token", Follows: 0, Sealed: d.seal("token", "first", 0), User: keeper}, "SEC-011"},
		"upload after another":  {SetSecretRequest{Name: "token", Follows: 1, Sealed: with(func(b *apiv1.SealBinding) { b.Version = 0 }), User: keeper}, "SEC-013"},
		"another secret's":      {SetSecretRequest{Name: "token", Follows: 1, Sealed: with(func(b *apiv1.SealBinding) { b.Name = "other" }), User: keeper}, "SEC-013"},
		"another deployment's":  {SetSecretRequest{Name: "token", Follows: 1, Sealed: with(func(b *apiv1.SealBinding) { b.Root = []byte("root") }), User: keeper}, "SEC-013"},
		"another purpose":       {SetSecretRequest{Name: "token", Follows: 1, Sealed: with(func(b *apiv1.SealBinding) { b.Purpose = apiv1.SealReveal }), User: keeper}, "SEC-013"},
		"to another key":        {SetSecretRequest{Name: "token", Follows: 1, Sealed: seal(other.PublicKey().Bytes(), good), User: keeper}, "SEC-013"},
		"changed on its way":    {SetSecretRequest{Name: "token", Follows: 1, Sealed: flipped, User: keeper}, "SEC-013"},
		"cut":                   {SetSecretRequest{Name: "token", Follows: 1, Sealed: []byte("x"), User: keeper}, "SEC-013"},
		"a version to come":     {SetSecretRequest{Name: "token", Follows: 7, Sealed: d.seal("token", "x", 7), User: keeper}, "SEC-011"},
		"empty":                 {SetSecretRequest{Name: "token", Follows: 1, Sealed: d.seal("token", "", 1), User: keeper}, "SEC-008"},
		"more than 64 KiB":      {SetSecretRequest{Name: "token", Follows: 1, Sealed: d.seal("token", strings.Repeat("x", secrets.MaxValue+1), 1), User: keeper}, "SEC-008"},
		"of a rotated upload":   {SetSecretRequest{Name: "token", Follows: 1, Sealed: d.seal("token", "x", 2), User: keeper}, "SEC-013"},
		"a secret that is none": {SetSecretRequest{Name: "nothing", User: keeper}, "SEC-010"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.SetSecret(t.Context(), c.req)
			wantCode(t, err, c.code)
		})
	}
	s, err := d.Secret(t.Context(), keeper, "token")
	if err != nil || s.Version != 1 || s.SuppliedBy != "user bob" {
		t.Errorf("got %+v, %v: want version 1, untouched", s, err)
	}
	recorded := d.seal("token", "second", 1)
	d.restart()
	_, err = d.SetSecret(t.Context(), SetSecretRequest{Name: "token", Follows: 1, User: keeper, Sealed: recorded})
	wantCode(t, err, "SEC-013")
	d.check()
}

func TestDeposit(t *testing.T) {
	d := newVault(t)
	web, db := d.live1("web", "one"), d.live1("db", "one")
	for _, c := range []struct {
		name   string
		peer   Peer
		secret string
		value  string
		code   problem.Code
	}{
		{"a reader alone", db, "token", "x", "SEC-002"},
		{"a secret without depositors", web, "sessionKey", "x", "SEC-002"},
		{"none", web, "nothing", "x", "SEC-001"},
		{"empty", web, "token", "", "SEC-008"},
		{"too large", web, "token", strings.Repeat("x", secrets.MaxValue+1), "SEC-008"},
	} {
		_, err := d.DepositSecret(t.Context(), c.peer, c.secret, []byte(c.value))
		if got := problem.CodeOf(err); got != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	for want := uint64(1); want <= 2; want++ {
		if n, err := d.DepositSecret(t.Context(), web, "token", fmt.Append(nil, "made by web ", want)); err != nil || n != want {
			t.Fatalf("got version %d, %v", n, err)
		}
	}
	v, err := d.FetchSecret(t.Context(), db, "token")
	if err != nil || string(v.Bytes) != "made by web 2" || v.Previous == nil {
		t.Errorf("got version %d, %v", v.Version, err)
	}
	if _, err := d.FetchSecret(t.Context(), web, "token"); problem.CodeOf(err) != "SEC-002" {
		t.Errorf("a depositor that is no reader got it: %v", err)
	}
	if got := d.logged(audit.SecretDeposit); len(got) != 2 || got[1].Subject != "token" || got[1].Actor != "web" || got[1].Details["version"] != "2" {
		t.Errorf("logged %+v", got)
	}
	d.check()
}

func TestFetchIsLoggedOnceAndCounted(t *testing.T) {
	d := newVault(t)
	p := d.live1("web", "one")
	var first secrets.Value
	for i := range 10 {
		v, err := d.FetchSecret(t.Context(), p, "pair")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = v
		}
		if !bytes.Equal(v.PrivateKey, first.PrivateKey) || len(v.PublicKey) == 0 {
			t.Error("another value")
		}
	}
	if got := d.logged(audit.SecretRelease); len(got) != 1 || got[0].Details["secrets"] != "pair@1" || got[0].Details["instance"] != "one" {
		t.Errorf("logged %+v", got)
	}
	for range 100 {
		d.mustUse(p, "box", "hmac", []byte("x"))
	}
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range d.logged(audit.SecretUse) {
		sums[e.Subject+" "+e.Details["operation"]+" "+e.Details["version"]] += e.Details["count"] + ";"
	}
	if sums["box hmac 1"] != ";99;" || sums["pair fetch 1"] != "9;" || len(sums) != 2 {
		t.Errorf("counted %v", sums)
	}
	d.check()
}

func TestCountersNeverGoBack(t *testing.T) {
	d := newVault(t)
	web, two, db := d.live1("web", "one"), d.live1("web", "two"), d.live1("db", "one")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for range 8 {
		wg.Go(func() {
			last := uint64(0)
			for range 25 {
				u, err := d.use(web, "orders", "increment", nil)
				if err != nil || u.Count <= last {
					t.Errorf("got %d after %d, %v", u.Count, last, err)
					return
				}
				last = u.Count
				mu.Lock()
				if seen[u.Count] {
					t.Errorf("%d was given twice", u.Count)
				}
				seen[u.Count] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, c := range []struct {
		peer Peer
		name string
		want uint64
	}{{db, "orders", 201}, {web, "perRole", 1}, {two, "perRole", 2}, {db, "perRole", 1}, {web, "perInstance", 1}, {two, "perInstance", 1}, {web, "perInstance", 2}} {
		if u := d.mustUse(c.peer, c.name, "increment", nil); u.Count != c.want {
			t.Errorf("%s/%s %s: got %d, want %d", c.peer.Marble, c.peer.Instance, c.name, u.Count, c.want)
		}
	}
	d.disk.SetFaults(func(int, []store.Entry, []string) storetest.Fault { return storetest.Unknown }, nil)
	if u, err := d.use(web, "orders", "increment", nil); err == nil {
		t.Errorf("got %d from a failing disk", u.Count)
	}
	d.disk.SetFaults(nil, nil)
	d.restart()
	if u := d.mustUse(web, "orders", "read", nil); u.Count != 202 {
		t.Errorf("got %d after a restart, want 202: a raise that may have been made counts", u.Count)
	}
	// An instance that is gone comes back under another manifest.
	d.clock.advance(2 * time.Hour)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.mustSet(shop(t, vault, func(m object) { m["marbles"].(object)["job"].(object)["maxInstances"] = 3 }))
	again := d.live1("web", "one")
	if u := d.mustUse(again, "perInstance", "increment", nil); u.Count != 3 {
		t.Errorf("got %d, want 3", u.Count)
	}
	d.check()
}

func TestManifestsReplaceSecrets(t *testing.T) {
	kind := func(onUpdate string) func(object) {
		return func(m object) { m["secrets"].(object)["sessionKey"].(object)["onUpdate"] = onUpdate }
	}
	for onUpdate, want := range map[string]struct {
		version  uint64
		previous bool
	}{"keep": {1, false}, "rederive": {2, true}, "discard": {2, false}} {
		t.Run(onUpdate, func(t *testing.T) {
			d := newVault(t, kind(onUpdate))
			lease := d.mustActivate("web", "one").Lease
			d.mustSet(shop(t, vault, kind(onUpdate), func(m object) { m["marbles"].(object)["job"].(object)["maxInstances"] = 3 }))
			d.work.Wait()
			next, changed, err := d.Refresh(t.Context(), d.peer(lease), Sent{})
			if err != nil || changed != (want.version > 1) {
				t.Fatalf("changed %t, %v", changed, err)
			}
			if !changed {
				return
			}
			v := next.Secrets["sessionKey"]
			if v.Version != want.version || (v.Previous != nil) != want.previous {
				t.Errorf("got version %d, previous %t", v.Version, v.Previous != nil)
			}
			if want.previous && !bytes.Equal(v.Previous.Bytes, lease.Secrets["sessionKey"].Bytes) {
				t.Error("the previous value is another than the one released")
			}
			d.check()
		})
	}
}

func TestReveal(t *testing.T) {
	d := newVault(t)
	p := d.live1("web", "one")
	key, err := apiv1.NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name, instance string, user *Principal) (apiv1.RevealedSecret, error) {
		var v apiv1.RevealedSecret
		out, err := d.RevealSecret(t.Context(), RevealSecretRequest{Name: name, Instance: instance, Key: key.PublicKey().Bytes(), User: user})
		if err != nil {
			return v, err
		}
		plain, err := apiv1.OpenSecret(key, apiv1.SealBinding{Purpose: apiv1.SealReveal, Root: d.Bundle()[0], Name: name, Version: out.Version}, out.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		return v, json.Unmarshal(plain, &v)
	}
	lease, _, err := d.Refresh(t.Context(), p, Sent{Versions: map[string]uint64{}})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := ask("sessionKey", "", keeper); err != nil || !bytes.Equal(v.Value, lease.Secrets["sessionKey"].Bytes) {
		t.Errorf("sessionKey: %v", err)
	}
	if v, err := ask("own", "web/one", keeper); err != nil || !bytes.Equal(v.Value, lease.Secrets["own"].Bytes) {
		t.Errorf("own: %v", err)
	}
	for _, c := range []struct {
		name, instance string
		user           *Principal
		code           problem.Code
	}{
		{"sessionKey", "", nil, "CRD-015"}, {"sessionKey", "", &Principal{Name: "alice"}, "SEC-010"}, {"signer", "", keeper, "SEC-004"},
		{"orders", "", keeper, "SEC-005"}, {"own", "web/two", keeper, "SEC-017"}, {"own", "", keeper, "SEC-017"}, {"token", "", keeper, "SEC-017"}, {"nothing", "", keeper, "SEC-001"},
	} {
		if _, err := ask(c.name, c.instance, c.user); problem.CodeOf(err) != c.code {
			t.Errorf("%s %s: got %v, want %s", c.name, c.instance, err, c.code)
		}
	}
	_, err = d.RevealSecret(t.Context(), RevealSecretRequest{Name: "sessionKey", Key: make([]byte, 31), User: keeper})
	wantCode(t, err, "SEC-013")
	if got := d.logged(audit.SecretRead); len(got) != 2 || got[0].Actor != "bob" || got[0].Subject != "sessionKey" || got[1].Details["instance"] != "web/one" {
		t.Errorf("logged %+v", got)
	}
	d.check()
}

func TestLineage(t *testing.T) {
	d := newVault(t)
	d.live1("web", "one")
	two := d.live1("web", "two")
	d.mustUse(two, "signer", "sign", nil)
	if _, err := d.supply("token", "x", 0); err != nil {
		t.Fatal(err)
	}
	touched := func(f secrets.Filter) (found []string) {
		t.Helper()
		err := d.store.View(t.Context(), func(tx *store.Tx) error {
			for _, touch := range secrets.Touched(tx, f) {
				who := touch.Origin.User
				if who == "" {
					who = touch.Origin.Marble + "/" + touch.Origin.Instance
				}
				found = append(found, fmt.Sprintf("%s@%d %s %s", touch.Secret, touch.Version, who, strings.Join(touch.Ways, ",")))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for name, c := range map[string]struct {
		filter secrets.Filter
		want   []string
	}{
		"instance": {secrets.Filter{Marble: "web", Instance: "one"}, []string{"*leaf@0 web/one lease", "own@1 web/one lease", "sessionKey@1 web/one lease"}},
		"secret":   {secrets.Filter{Secret: "sessionKey"}, []string{"sessionKey@1 web/one lease", "sessionKey@1 web/two lease"}},
		"package":  {secrets.Filter{Package: "web", Secret: "signer"}, []string{"signer@1 web/two use"}},
		"platform": {secrets.Filter{Platform: "default", Instance: "two", Secret: "own"}, []string{"own@1 web/two lease"}},
		"user":     {secrets.Filter{User: "bob"}, []string{"token@1 bob write"}},
		"nobody":   {secrets.Filter{Machine: "00"}, nil},
	} {
		if got := touched(c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if _, err := d.RotateSecret(t.Context(), keeper, "sessionKey", ""); err != nil {
		t.Fatal(err)
	}
	d.clock.advance(59 * time.Minute)
	if got := touched(secrets.Filter{Secret: "sessionKey", At: d.clock.Now()}); len(got) != 2 {
		t.Errorf("in the overlap: got %q", got)
	}
	d.clock.advance(time.Minute)
	if got := touched(secrets.Filter{Secret: "sessionKey", At: d.clock.Now()}); len(got) != 0 {
		t.Errorf("after it: got %q", got)
	}
	// Instances that are gone for long become one.
	d.clock.advance(31 * 24 * time.Hour)
	for range 2 {
		if err := d.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := touched(secrets.Filter{Secret: "signer"}); !slices.Equal(got, []string{"signer@1 web/* use"}) {
		t.Errorf("folded: got %q", got)
	}
	if got := touched(secrets.Filter{Secret: "sessionKey"}); len(got) != 0 {
		t.Errorf("of a version that is long destroyed: got %q", got)
	}
	if got := touched(secrets.Filter{Secret: secrets.Leaf}); len(got) != 0 {
		t.Errorf("leaves of those that are gone: got %q", got)
	}
	if got := touched(secrets.Filter{Marble: "web", Instance: "one", Secret: "signer"}); len(got) != 1 {
		t.Errorf("a fold stands for each of its instances: got %q", got)
	}
	d.check()
}
