package replica

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestRecords(t *testing.T) {
	long := strings.Repeat("x", maxRecord)
	for text, ok := range map[string]bool{
		`{"name":"coordinator-0","client":"coordinator-0.ashlar:4433","mesh":"10.0.0.1:2001"}`: true,
		`{"name":"a","client":"[2001:db8::1]:4433","mesh":"[fe80::1]:2001"}`:                   true,
		`{"name":"a","client":"a:1","mesh":"a.b.:65535","new":{"of":"a newer release"}}`:       true,
		``:            false,
		`null`:        false,
		`[]`:          false,
		`{}`:          false,
		`{"name":"a"`: false,
		`{"name":"a","client":"a:1","mesh":"a:1"} {}`:                   false,
		`{"name":"a","client":"a:1"}`:                                   false,
		`{"name":"","client":"a:1","mesh":"a:1"}`:                       false,
		`{"name":"a/b","client":"a:1","mesh":"a:1"}`:                    false,
		`{"name":"-a","client":"a:1","mesh":"a:1"}`:                     false,
		`{"name":"a\u001b","client":"a:1","mesh":"a:1"}`:                false,
		`{"name":"` + long[:65] + `","client":"a:1","mesh":"a:1"}`:      false,
		`{"name":"a","client":"a:1","mesh":"a:1","pad":"` + long + `"}`: false,
		`{"name":"a","client":"a","mesh":"a:1"}`:                        false,
		`{"name":"a","client":"a:0","mesh":"a:1"}`:                      false,
		`{"name":"a","client":"a:01","mesh":"a:1"}`:                     false,
		`{"name":"a","client":"a:65536","mesh":"a:1"}`:                  false,
		`{"name":"a","client":"a:http","mesh":"a:1"}`:                   false,
		`{"name":"a","client":":1","mesh":"a:1"}`:                       false,
		`{"name":"a","client":"0.0.0.0:1","mesh":"a:1"}`:                false,
		`{"name":"a","client":"[::]:1","mesh":"a:1"}`:                   false,
		`{"name":"a","client":"224.0.0.1:1","mesh":"a:1"}`:              false,
		`{"name":"a","client":"a b:1","mesh":"a:1"}`:                    false,
		`{"name":"a","client":"a\u0000:1","mesh":"a:1"}`:                false,
		`{"name":"a","client":"http://a:1","mesh":"a:1"}`:               false,
		`{"name":"a","client":"a:1","mesh":"` + long[:300] + `:1"}`:     false,
		`{"name":7,"client":"a:1","mesh":"a:1"}`:                        false,
	} {
		if _, err := parseRecord([]byte(text)); (err == nil) != ok {
			t.Errorf("%.100s: got %v, want accepted: %t", text, err, ok)
		}
	}
}

func TestEntries(t *testing.T) {
	good := entry{Client: "a:1", Mesh: "a:2", Replica: apiv1.Replica{Name: "a", Role: apiv1.ReplicaJoining, Reason: "no manifest names coordinators",
		Version: "1.2.3", TEE: "sgx", Since: time.Unix(1_790_000_000, 0).UTC()}}
	for name, c := range map[string]struct {
		alter func(*entry)
		ok    bool
	}{
		"as it is":          {func(*entry) {}, true},
		"standby":           {func(e *entry) { e.Role = apiv1.ReplicaStandby }, true},
		"active":            {func(e *entry) { e.Role = apiv1.ReplicaActive }, true},
		"a long reason":     {func(e *entry) { e.Reason = strings.Repeat("x", 2*maxRecord) }, true},
		"one that escapes":  {func(e *entry) { e.Reason = strings.Repeat("<", maxReason) }, true},
		"no role":           {func(e *entry) { e.Role = "" }, false},
		"another role":      {func(e *entry) { e.Role = "king" }, false},
		"another's name":    {func(e *entry) { e.Name = "b" }, false},
		"no address":        {func(e *entry) { e.Client = "" }, false},
		"a mesh of nowhere": {func(e *entry) { e.Mesh = "a" }, false},
	} {
		e := good
		c.alter(&e)
		text, err := e.encode()
		if err != nil || len(text) > maxRecord {
			t.Fatalf("%s: got %d bytes, %v", name, len(text), err)
		}
		if got, err := parseEntry("a", []byte(text)); (err == nil) != c.ok || c.ok && got.Role != e.Role {
			t.Errorf("%s: got %+v, %v; want accepted: %t", name, got, err, c.ok)
		}
	}
	e, err := parseEntry("a", []byte(`{"name":"a","role":"joining","reason":"one\ntwo\u001b[2J","client":"a:1","mesh":"a:1"}`))
	if want := `one; two\x1b[2J`; err != nil || e.Reason != want {
		t.Errorf("got reason %q, %v; want %q", e.Reason, err, want)
	}
}

func TestSelfIsChecked(t *testing.T) {
	for name, alter := range map[string]func(*Self){
		"no name":      func(s *Self) { s.Name = "" },
		"any address":  func(s *Self) { s.Client = "0.0.0.0:4433" },
		"no port":      func(s *Self) { s.Mesh = "a" },
		"long version": func(s *Self) { s.Version = strings.Repeat("1", maxWord+1) },
		"long TEE":     func(s *Self) { s.TEE = strings.Repeat("1", maxWord+1) },
	} {
		s := self(1)
		alter(&s)
		if _, err := Open(t.Context(), nil, s); problem.CodeOf(err) != "REP-003" {
			t.Errorf("%s: got %v, want REP-003", name, err)
		}
	}
	s := self(1)
	s.Now = nil
	if _, err := Open(t.Context(), nil, s); err == nil {
		t.Error("got opened without a clock")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"name":"a","role":"standby","client":"a:1","mesh":"[::1]:2"}`))
	f.Add([]byte(`{"name":"a","client":"10.0.0.1:1","mesh":"a:2","reason":"\u001b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b); err == nil {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := parseRecord(text); err != nil || again != r {
				t.Fatalf("got %+v, %v; want %+v", again, err, r)
			}
		}
		e, err := parseEntry("a", b)
		if err != nil {
			return
		}
		text, err := e.encode()
		if err != nil {
			return // such as a year that JSON has no form for
		}
		if again, err := parseEntry("a", []byte(text)); err != nil || again.Name != "a" || again.Role != e.Role {
			t.Fatalf("got %+v, %v; want %+v", again, err, e)
		}
	})
}
