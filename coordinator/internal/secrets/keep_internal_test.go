package secrets

import (
	"fmt"
	"strings"
	"testing"
)

// TestKeptSecretsPrintNothing checks that no verb prints what the tables hold.
func TestKeptSecretsPrintNothing(t *testing.T) {
	v := version{Bytes: []byte("topsecret"), PrivateKey: []byte("topsecret")}
	r := record{Shape: "s", Now: &v, Before: &v}
	m := Missing{Name: "session", keep: &v}
	u := Usage{Name: "session", Input: []byte("topsecret")}
	g := Grasp{usage: u, versions: []*version{&v}}
	in := Supply{Name: "session", Value: []byte("topsecret")}
	for _, v := range []any{r, &r, v, &v, m, &m, []record{r}, map[string]Missing{"a": m}, Made{v: v}, u, &u, g, &g, in, &in, []Supply{in}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
			got := fmt.Sprintf(verb, v)
			for _, leak := range []string{"topsecret", fmt.Sprintf("%x", "topsecret"), fmt.Sprint([]byte("topsecret"))} {
				if strings.Contains(got, leak) {
					t.Errorf("%s of %T: got %q", verb, v, got)
				}
			}
		}
	}
}
