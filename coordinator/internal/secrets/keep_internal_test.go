package secrets

import (
	"fmt"
	"strings"
	"testing"
)

// TestKeptSecretsPrintNothing checks that no verb prints what the tables hold.
func TestKeptSecretsPrintNothing(t *testing.T) {
	r := record{Shape: "s", Bytes: []byte("topsecret"), PrivateKey: []byte("topsecret")}
	m := Missing{Name: "session", keep: []byte("topsecret")}
	for _, v := range []any{r, &r, m, &m, []record{r}, map[string]Missing{"a": m}, Made{r}} {
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
