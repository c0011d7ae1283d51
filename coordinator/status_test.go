package coordinator

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/storetest"
)

func TestSecrets(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	one, two := d.mustActivate("web", "one").Lease.Secrets, d.mustActivate("web", "two").Lease.Secrets
	if string(one["sessionKey"].Bytes) != string(two["sessionKey"].Bytes) {
		t.Error("two instances got two values of a shared secret")
	}
	if string(one["own"].Bytes) == string(two["own"].Bytes) {
		t.Error("two instances got one value of an instance secret")
	}
	if _, ok := one["dbCert"]; ok {
		t.Error("web got the secret of db")
	}
	db := d.mustActivate("db", "one").Lease.Secrets
	cert, err := x509.ParseCertificate(db["dbCert"].Certificates[0])
	if err != nil || cert.VerifyHostname("db.shop.example") != nil {
		t.Errorf("got certificate for %v, %v", cert.DNSNames, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(db["dbCert"].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if pub := key.(interface{ Public() cryptoPublic }).Public(); !cert.PublicKey.(interface{ Equal(cryptoPublic) bool }).Equal(pub) {
		t.Error("the secret's key is not its certificate's")
	}
	d.restart()
	if again := d.mustActivate("web", "one").Lease.Secrets; string(again["own"].Bytes) != string(one["own"].Bytes) || string(again["sessionKey"].Bytes) != string(one["sessionKey"].Bytes) {
		t.Error("values changed with a restart")
	}
	d.mustSet(shop(t, lease("web", "2h"), func(m object) { m["secrets"].(object)["own"].(object)["onUpdate"] = "rederive" }))
	next := d.mustActivate("web", "one").Lease.Secrets
	if string(next["sessionKey"].Bytes) != string(one["sessionKey"].Bytes) {
		t.Error("keep: the value changed with the manifest")
	}
	if string(next["own"].Bytes) == string(one["own"].Bytes) {
		t.Error("rederive: the value stayed")
	}
	d.mustSet(shop(t, func(m object) { m["secrets"].(object)["sessionKey"].(object)["bits"] = 512 }))
	if got := d.mustActivate("web", "one").Lease.Secrets["sessionKey"].Bytes; len(got) != 64 {
		t.Errorf("got %d bytes after the size changed, want 64", len(got))
	}
	page, _ := d.Audit(t.Context(), 0, 1000, false)
	asJSON, _ := json.Marshal(page)
	if strings.Contains(string(asJSON), attest.Hex(one["own"].Bytes).String()) {
		t.Error("a secret's value is in the log")
	}
}

func TestOnlyWhatIsNamedIsGenerated(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t, func(m object) {
		for i := range 50 {
			m["secrets"].(object)[fmt.Sprintf("unused%d", i)] = object{"type": "cert-rsa", "bits": 4096, "readers": []string{"web"}}
		}
	}))
	got := d.mustActivate("web", "one").Lease.Secrets
	if len(got) != 2 {
		t.Errorf("got %d secrets, want the 2 that the parameters name", len(got))
	}
}

func TestReleasedWithTheInstanceOnly(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	first := d.mustActivate("web", "one").Lease.Secrets["own"].Bytes
	d.clock.advance(2 * time.Hour)
	if err := d.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := d.mustActivate("web", "one").Lease.Secrets["own"].Bytes; string(again) == string(first) {
		t.Error("the secret outlived its instance")
	}
}

func TestView(t *testing.T) {
	d := newDeployment(t)
	v, err := d.View(t.Context())
	if err != nil || v.Manifest != nil || v.Revision != "" || len(v.Instances) != 0 {
		t.Errorf("before the first manifest: %+v, %v", v, err)
	}
	d.mustSet(shop(t, lease("db", "10m"), func(m object) {
		m["marbles"].(object)["web-2"] = m["marbles"].(object)["job"]
	}))
	a := d.attempt("web-2", "b")
	a.issuer = d.platform.NewInsecureIssuer(attest.SimSGX, measured("job"))
	if _, err := a.activate(d); err != nil {
		t.Fatal(err)
	}
	d.mustActivate("web", "c")
	d.mustActivate("web", "a")
	d.mustActivate("db", "x")
	v, err = d.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, _ := d.Manifest(t.Context())
	instance := func(marble, id string) ViewInstance {
		return ViewInstance{Marble: marble, ID: id, Address: "10.0.0.9", Loopback: "127.0.0.1"}
	}
	want := []ViewInstance{instance("db", "x"), instance("web", "a"), instance("web", "c"), instance("web-2", "b")}
	if !slices.Equal(v.Instances, want) || v.Revision != m.Digest.String() || v.TrustDomain != "shop.example" {
		t.Errorf("got %+v, want %+v", v.Instances, want)
	}
	d.clock.advance(11 * time.Minute)
	if v, _ := d.View(t.Context()); len(v.Instances) != 3 {
		t.Errorf("got %+v, want the instance whose lease has ended to be gone", v.Instances)
	}
}

func TestMarblesByPage(t *testing.T) {
	d := newDeployment(t)
	if page, err := d.Marbles(t.Context(), "", 10); err != nil || len(page.Marbles) != 0 {
		t.Errorf("before the first manifest: %+v, %v", page, err)
	}
	d.mustSet(shop(t))
	d.mustActivate("web", "one")
	var names []string
	for after, i := "", 0; i < 5; i++ {
		page, err := d.Marbles(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Marbles {
			names = append(names, m.Name)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if want := []string{"db", "job", "web"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	_, err := d.Marble(t.Context(), "wb")
	wantCode(t, err, "CRD-030")
	if !strings.Contains(err.Error(), `did you mean "db"`) && !strings.Contains(err.Error(), `did you mean "web"`) {
		t.Errorf("%v suggests nothing", err)
	}
}

func TestReports(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	p := d.peer(d.mustActivate("web", "one").Lease)
	yes, no := true, false
	event := func(e ProxyEvent) { e.Peer = p; d.ProxyEvent(e) }
	d.Report(t.Context(), p, "running", "")
	event(ProxyEvent{Connected: &yes})
	event(ProxyEvent{Type: "cluster", State: "applied", Revision: "r1"})
	event(ProxyEvent{Type: "listener", State: "refused", Error: strings.Repeat("x", 5000), Names: []string{"in"}, Revision: "r2"})
	event(ProxyEvent{Type: "made up", State: "applied"})
	d.ProxyEvent(ProxyEvent{Peer: Peer{Marble: "web", Instance: "stranger"}, Connected: &yes})
	d.ProxyEvent(ProxyEvent{Peer: Peer{Marble: "web", Instance: "one", Serial: "77"}, Connected: &no})
	m, _ := d.Marble(t.Context(), "web")
	got := m.Instances[0]
	if got.Stage != "running" || !got.Proxy.Connected || len(got.Proxy.Types) != 2 || got.Proxy.Revision != "r1" || len(got.Proxy.Types[1].Error) > maxProxyError {
		t.Errorf("got %+v", got)
	}
	s, _ := d.Status(t.Context())
	if s.Proxies != 1 || !slices.ContainsFunc(s.Attention, func(a apiv1Attention) bool { return a.Code == "CRD-060" }) {
		t.Errorf("got %d proxies and %+v", s.Proxies, s.Attention)
	}
	newest := p
	// The stream goes on under the leaf that it was opened with.
	for range 3 {
		d.clock.advance(10 * time.Minute)
		l, err := d.renewal(newest).renew(d, newest)
		if err != nil {
			t.Fatal(err)
		}
		newest = d.peer(l)
	}
	event(ProxyEvent{Type: "listener", State: "applied", Revision: "r2"})
	event(ProxyEvent{Connected: &no})
	event(ProxyEvent{Connected: &no})
	d.Disconnected(newest)
	m, _ = d.Marble(t.Context(), "web")
	s, _ = d.Status(t.Context())
	if m.Instances[0].Proxy.Revision != "r2" || s.Proxies != 0 || m.Instances[0].Stage != "disconnected" {
		t.Errorf("got %+v and %d proxies", m.Instances[0], s.Proxies)
	}
}

// TestReadsDoNotWaitForWrites holds a commit and wants every read to return.
func TestReadsDoNotWaitForWrites(t *testing.T) {
	d := newDeployment(t)
	d.mustSet(shop(t))
	leaf := leafOfLease(t, d.mustActivate("web", "one").Lease)
	entered, release := make(chan struct{}), make(chan struct{})
	first := d.disk.Commits() + 1
	d.disk.SetFaults(func(n int, _ []store.Entry, _ []string) storetest.Fault {
		if n == first {
			close(entered)
			<-release
		}
		return storetest.None
	}, nil)
	a := d.attempt("web", "two")
	a.quote(d)
	done := make(chan error)
	go func() { _, err := a.activate(d); done <- err }()
	<-entered
	s, err := d.Status(t.Context())
	if err != nil || s.Instances != 1 {
		t.Errorf("status: %d instances, %v", s.Instances, err)
	}
	if v, err := d.View(t.Context()); err != nil || len(v.Instances) != 1 {
		t.Errorf("view: %+v, %v", v, err)
	}
	if m, err := d.Marbles(t.Context(), "", 10); err != nil || len(m.Marbles) != 3 {
		t.Errorf("marbles: %+v, %v", m, err)
	}
	if _, err := d.Identify(leaf); err != nil {
		t.Errorf("identify: %v", err)
	}
	if _, err := d.Attest(t.Context(), make([]byte, 32), []byte("key")); err != nil {
		t.Errorf("attest: %v", err)
	}
	if _, err := d.Challenge(t.Context(), newSession()); err != nil {
		t.Errorf("challenge: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStatusDoesNotGrow compares what a status costs with 3 and with 2,000
// marbles.
func TestStatusDoesNotGrow(t *testing.T) {
	cost := func(marbles int) float64 {
		d := newDeployment(t)
		d.mustSet(shop(t, func(m object) {
			for i := range marbles {
				m["marbles"].(object)[fmt.Sprintf("m%d", i)] = object{"package": "job"}
			}
		}))
		return testing.AllocsPerRun(100, func() {
			if _, err := d.Status(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := cost(0), cost(2000); many > few+1 {
		t.Errorf("a status takes %v allocations with 3 marbles and %v with 2,003", few, many)
	}
}
