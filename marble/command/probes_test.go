package command

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// The kubelet asks the marble, and the marble the program: here a server of the
// test stands for it.
func TestProbesOfTheProgram(t *testing.T) {
	var well atomic.Bool
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer program.Close()
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil)})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	p := x.start([]string{"--ready-addr", address, "--probes", fmt.Sprintf(`{"readiness": %q, "liveness": "tcp://%s"}`, program.URL, program.Listener.Addr())}, os.Args[0])
	get := func(path string) int {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	x.await("it runs", p, func() bool { return get("/ready") == 200 && get("/probe/startup") == 200 })
	if r, l := get("/probe/readiness"), get("/probe/liveness"); r != 503 || l != 200 {
		t.Errorf("an ill program: readiness %d, liveness %d, want 503, 200", r, l)
	}
	well.Store(true)
	if r := get("/probe/readiness"); r != 200 {
		t.Errorf("a well program: readiness %d, want 200", r)
	}
	if n := get("/probe/none"); n != 404 {
		t.Errorf("another probe: %d, want 404", n)
	}
}

func TestProbesAreChecked(t *testing.T) {
	line := func(more ...string) []string {
		return append([]string{"--marble", "web", "--coordinator", "c", "--coordinator-root", "r", "--tee", "sgx"}, append(more, "--", "/app")...)
	}
	for want, args := range map[problem.Code][]string{
		"MRB-062": line("--probes", `{"readyness": "tcp://127.0.0.1:1"}`, "--ready-addr", "0.0.0.0:9101"),
		"MRB-001": line("--probes", `{"readiness": "tcp://127.0.0.1:1"}`),
	} {
		if _, err := parse(args, noEnv); problem.CodeOf(err) != want {
			t.Errorf("%q: got %v, want %s", args, err, want)
		}
	}
	o, err := parse(line(), func(name string) string {
		return map[string]string{"ASHLAR_PROBES": `{"startup": "tcp://127.0.0.1:1"}`, "ASHLAR_READY_ADDR": "0.0.0.0:9101"}[name]
	})
	if err != nil || !strings.Contains(fmt.Sprint(o.probes), "startup") {
		t.Errorf("from the environment: got %v, %v", o.probes, err)
	}
}
