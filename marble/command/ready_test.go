package command

import (
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

func TestReady(t *testing.T) {
	tracker := stage.NewTracker(slog.New(slog.DiscardHandler), time.Now)
	server := httptest.NewServer(tracker.Handler())
	defer server.Close()
	socket := t.TempDir() + "/ready.sock"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	local := httptest.NewUnstartedServer(tracker.Handler())
	local.Listener.Close()
	local.Listener = l
	local.Start()
	defer local.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, c := range []struct {
		s    stage.Status
		code int
		said string
	}{
		{stage.Status{Stage: stage.WaitingForManifest, Reason: "there is none yet", Code: "CRD-030"}, 1, "waiting-for-manifest: there is none yet  CRD-030\n"},
		{stage.Status{Stage: stage.Refused, Reason: "a\x1b[2Jb\nc"}, 1, "refused: a?[2Jb c\n"},
		{stage.Status{Stage: stage.Running}, 0, "running\n"},
	} {
		tracker.Enter(c.s)
		for _, address := range []string{socket, "127.0.0.1:" + port, "0.0.0.0:" + port, ":" + port} {
			var out strings.Builder
			code, err := ready(t.Context(), nil, func(string) string { return address }, &out)
			if err != nil || code != c.code || out.String() != c.said {
				t.Errorf("%s: got %d, %q, %v, want %d, %q", address, code, out.String(), err, c.code, c.said)
			}
		}
	}
}

func TestReadyRefusals(t *testing.T) {
	other := httptest.NewServer(nil)
	defer other.Close()
	for want, args := range map[problem.Code][][]string{
		"MRB-001": {{}, {"--ready-addr", "127.0.0.1:1", "more"}, {"--redy-addr", "x"}},
		"MRB-070": {{"--ready-addr", "/no/such/socket"}, {"--ready-addr", other.Listener.Addr().String()}, {"--ready-addr", "no port"}},
	} {
		for _, a := range args {
			if _, err := ready(t.Context(), a, noEnv, new(strings.Builder)); problem.CodeOf(err) != want {
				t.Errorf("%q: got %v, want %s", a, err, want)
			}
		}
	}
}
