package etcdtest

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestClusterSurvivesAMember(t *testing.T) {
	c := Start(t, 3)
	c.Kill(0)
	c.await(c.members[1])
	c.Restart(0)
}

// call asks etcd's JSON gateway.
func call(t *testing.T, c *Cluster, method, body string) string {
	t.Helper()
	resp, err := http.Post("http://"+c.Endpoints()[0]+"/v3/kv/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: got %d %s, %v", method, resp.StatusCode, b, err)
	}
	return string(b)
}

func TestClusterGoesBack(t *testing.T) {
	c := Start(t, 3)
	c.Kill(c.Leader())
	c.Leader()
	c.KillAll()
	saved := c.Save()
	c.RestartAll()
	call(t, c, "put", `{"key":"a2V5","value":"dmFsdWU="}`)
	if got := call(t, c, "range", `{"key":"a2V5"}`); !strings.Contains(got, "dmFsdWU=") {
		t.Fatalf("got %s, want the value that was written", got)
	}
	c.KillAll()
	c.Load(saved)
	c.RestartAll()
	if got := call(t, c, "range", `{"key":"a2V5"}`); strings.Contains(got, "dmFsdWU=") {
		t.Errorf("got %s from before the value was written", got)
	}
}
