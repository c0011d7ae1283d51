package fetch

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// TestReach asks services that answer, that have nothing, and that are gone.
func TestReach(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		code   problem.Code
	}{{"answers", 200, ""}, {"has nothing", 404, "ATT-067"}, {"fails", 500, "ATT-064"}, {"gone", 0, "ATT-064"}} {
		t.Run(c.name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path)
				w.WriteHeader(c.status)
			}))
			defer server.Close()
			pccs, err := NewPCCS(ClientConfig{URL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			kds, err := NewKDS(ClientConfig{URL: server.URL + "/mirror"})
			if err != nil {
				t.Fatal(err)
			}
			if c.status == 0 {
				server.Close()
			}
			for _, err := range []error{pccs.Reach(t.Context()), kds.Reach(t.Context())} {
				if problem.CodeOf(err) != c.code {
					t.Errorf("got %v, want code %q", err, c.code)
				}
			}
			if c.status == 0 {
				return
			}
			if len(asked) != 2 || asked[0] != "/sgx/certification/v4/qe/identity" || asked[1] != "/mirror/vcek/v1/Milan/cert_chain" {
				t.Errorf("asked for %q, want one document of each, once", asked)
			}
		})
	}
}
