package stage_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/marble/stage"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func tracker() *stage.Tracker {
	return stage.NewTracker(slog.New(slog.DiscardHandler), func() time.Time { return noon })
}

func TestTransitions(t *testing.T) {
	tr := tracker()
	want := func(what string, s stage.Stage) {
		t.Helper()
		if got, _ := tr.Current(); got.Stage != s {
			t.Errorf("%s: got %s, want %s", what, got.Stage, s)
		}
	}
	want("new", stage.Starting)
	tr.Trouble("proxy", stage.Trouble{Code: "MRB-014", Reason: "gone"})
	want("trouble before running", stage.Starting)
	tr.Enter(stage.Status{Stage: stage.Running})
	want("running with trouble", stage.Degraded)
	tr.Trouble("lease", stage.Trouble{Code: "MRB-020", Reason: "away"})
	if got, _ := tr.Current(); got.Reason != "lease: away" || got.Code != "MRB-020" {
		t.Errorf("got %+v, want the first source by name", got)
	}
	tr.Clear("proxy")
	want("one trouble left", stage.Degraded)
	tr.Clear("lease")
	want("no trouble", stage.Running)
	tr.Enter(stage.Status{Stage: stage.Degraded})
	want("degraded is not entered", stage.Running)
	tr.Enter(stage.Status{Stage: stage.Stopping})
	tr.Enter(stage.Status{Stage: stage.Running})
	want("nothing after stopping", stage.Stopping)
}

func TestChangeIsAnnouncedOnce(t *testing.T) {
	tr := tracker()
	_, changed := tr.Current()
	tr.Enter(stage.Status{Stage: stage.Starting})
	select {
	case <-changed:
		t.Error("announced a change that is none")
	default:
	}
	tr.Enter(stage.Status{Stage: stage.Attesting})
	select {
	case <-changed:
	default:
		t.Error("did not announce a change")
	}
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name     string
		enter    stage.Stage
		trouble  bool
		notAfter time.Time
		want     int
	}{
		{"starting", stage.Starting, false, noon.Add(time.Hour), 503},
		{"refused", stage.Refused, false, noon.Add(time.Hour), 503},
		{"running", stage.Running, false, noon.Add(time.Hour), 200},
		{"degraded, lease holds", stage.Running, true, noon.Add(time.Hour), 200},
		{"degraded, lease ended", stage.Running, true, noon.Add(-time.Second), 503},
		{"stopping", stage.Stopping, false, noon.Add(time.Hour), 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := tracker()
			tr.Leased(c.notAfter)
			tr.Enter(stage.Status{Stage: c.enter})
			if c.trouble {
				tr.Trouble("lease", stage.Trouble{Code: "MRB-020", Reason: "x", NextRetry: noon.Add(time.Minute)})
			}
			w := httptest.NewRecorder()
			tr.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/ready", nil))
			if w.Code != c.want {
				t.Errorf("got %d, want %d", w.Code, c.want)
			}
			var got stage.Status
			if err := json.NewDecoder(bytes.NewReader(w.Body.Bytes())).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if want, _ := tr.Current(); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			w = httptest.NewRecorder()
			tr.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/live", nil))
			if w.Code != 200 {
				t.Errorf("live: got %d, want 200", w.Code)
			}
			w = httptest.NewRecorder()
			tr.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/ready", nil))
			if w.Code != 405 {
				t.Errorf("POST: got %d, want 405", w.Code)
			}
		})
	}
}

func TestLapse(t *testing.T) {
	tr := tracker()
	tr.Leased(noon.Add(time.Minute))
	want := func(what string, s stage.Stage, code, reason string, ready bool) {
		t.Helper()
		got, _ := tr.Current()
		if got.Stage != s || got.Code != code || got.Reason != reason || got.Ready(noon) != ready {
			t.Errorf("%s: got %+v, ready %v; want %s %s %q, ready %v", what, got, got.Ready(noon), s, code, reason, ready)
		}
	}
	tr.Lapse(stage.Drained, "MRB-031", "drained")
	want("not running yet", stage.Starting, "", "", false)
	tr.Lapse("", "", "")
	tr.Enter(stage.Status{Stage: stage.Running})
	tr.Trouble("lease", stage.Trouble{Code: "MRB-020", Reason: "away", Mild: true})
	want("mild trouble", stage.Running, "MRB-020", "lease: away", true)
	tr.Trouble("proxy", stage.Trouble{Code: "MSH-021", Reason: "gone"})
	want("worse trouble, later by name", stage.Degraded, "MSH-021", "proxy: gone", true)
	tr.Clear("proxy")
	tr.Lapse(stage.Degraded, "MRB-030", "overdue")
	want("degraded", stage.Degraded, "MRB-020", "overdue; lease: away", true)
	tr.Lapse(stage.Drained, "MRB-031", "no new requests")
	want("drained", stage.Drained, "MRB-020", "no new requests; lease: away", false)
	tr.Clear("lease")
	tr.Lapse(stage.Cut, "MRB-021", "ended")
	want("cut", stage.Cut, "MRB-021", "ended", false)
	tr.Lapse("", "", "")
	want("renewed", stage.Running, "", "", true)
	for _, s := range []stage.Stage{stage.Drained, stage.Cut} {
		tr.Enter(stage.Status{Stage: s})
		want("never entered", stage.Running, "", "", true)
	}
}
