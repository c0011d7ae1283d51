package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/attest/endorse/fetch"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// need is what the evidence of the stack's platform is judged with.
func (s *stack) need(t *testing.T) endorse.Need {
	t.Helper()
	e, err := s.platform.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: program, Agent: program}).Issue(t.Context(), attest.Bind(nil))
	if err != nil {
		t.Fatal(err)
	}
	n, ok := endorse.NeedOf(s.verifiers[attest.SimSGX].(endorse.Identifier).Identify(e))
	if !ok {
		t.Fatal("the evidence names no platform")
	}
	return n
}

func (s *stack) bundle(t *testing.T, change func([]attest.Endorsement) []attest.Endorsement) []byte {
	t.Helper()
	en, err := s.platform.Endorsements(attest.SimSGX)
	if err != nil {
		t.Fatal(err)
	}
	items := append([]attest.Endorsement{}, en.Items()...)
	if change != nil {
		items = change(items)
	}
	var b endorse.Bundle
	if err := b.Put(endorse.Set{Need: s.need(t), Endorsements: attest.NewEndorsements(items...)}); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Export()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEndorsements(t *testing.T) {
	s := newStack(t, stackConfig{})
	raw := s.bundle(t, nil)
	ctx := context.Background()
	s.set(t, "1h")
	for name, call := range map[string]func() error{
		"show":   func() error { _, err := s.dial(t, nil).Endorsements(ctx); return err },
		"export": func() error { _, err := s.dial(t, nil).ExportEndorsements(ctx); return err },
		"import": func() error { _, err := s.dial(t, nil).ImportEndorsements(ctx, raw); return err },
	} {
		if err := call(); problem.CodeOf(err) != "CRD-040" {
			t.Errorf("%s as nobody: got %v, want CRD-040", name, err)
		}
	}
	alice := s.dial(t, s.alice)
	if got, err := alice.Endorsements(ctx); err != nil || len(got.Sets) != 0 {
		t.Errorf("before: got %+v, %v, want no sets", got, err)
	}
	forged := s.bundle(t, func(items []attest.Endorsement) []attest.Endorsement {
		for i := range items {
			if items[i].Kind == attest.KindTCBInfo {
				items[i].Body = bytes.Replace(items[i].Body, []byte(`"UpToDate"`), []byte(`"OutOfDate"`), 1)
			}
		}
		return items
	})
	got, err := alice.ImportEndorsements(ctx, forged)
	if err != nil || len(got.Sets) != 1 || !strings.Contains(got.Sets[0].Reason, "tcb_info.json: the signature does not hold") {
		t.Errorf("forged: got %+v, %v, want the TCB info refused with its reason", got, err)
	}
	if got, err = alice.ImportEndorsements(ctx, raw); err != nil || len(got.Sets) != 1 || !got.Sets[0].Changed || got.Sets[0].Reason != "" {
		t.Errorf("got %+v, %v, want one set taken", got, err)
	}
	shown, err := alice.Endorsements(ctx)
	if err != nil || len(shown.Sets) != 1 || len(shown.Sets[0].Documents) != 4 || len(shown.Sets[0].Missing) != 0 {
		t.Errorf("after: got %+v, %v, want one set of four documents", shown, err)
	}
	if again, err := alice.ExportEndorsements(ctx); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("exported %d bytes, %v, want what was imported", len(again), err)
	}
	if _, err := alice.ImportEndorsements(ctx, []byte("{}")); problem.CodeOf(err) != "ATT-063" {
		t.Errorf("no bundle: got %v, want ATT-063", err)
	}
	audit, err := alice.Audit(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range audit.Records {
		if r.Kind == "endorsementsImported" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("got %d records of imports, want 2", n)
	}
}

// TestImportNeedsTheRight refuses a user without it before it reads the body.
func TestImportNeedsTheRight(t *testing.T) {
	s := newStack(t, stackConfig{})
	m := bytes.Replace(s.manifest("1h"), []byte(`, "manageEndorsements"`), nil, 1)
	if _, err := s.dial(t, nil).SetManifest(context.Background(), m, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.dial(t, s.alice).ImportEndorsements(context.Background(), s.bundle(t, nil)); problem.CodeOf(err) != "CRD-135" {
		t.Errorf("got %v, want CRD-135", err)
	}
}

// TestEndorsementMetrics names kinds and outcomes from closed lists.
func TestEndorsementMetrics(t *testing.T) {
	now := time.Unix(1000, 0)
	m := NewMetrics("test", true)
	m.WatchEndorsements(func() []fetch.State {
		return []fetch.State{{Documents: []endorse.Document{
			{Kind: attest.KindTCBInfo, NextUpdate: now.Add(time.Hour)}, {Kind: attest.KindTCBInfo, NextUpdate: now.Add(time.Minute)},
			{Kind: attest.KindVCEK, NextUpdate: now.Add(-time.Second)}, {Kind: "made up", NextUpdate: now}}}}
	}, func() map[fetch.Outcome]uint64 { return map[fetch.Outcome]uint64{fetch.Throttled: 3} }, func() time.Time { return now })
	w := httptest.NewRecorder()
	NewOperations(m, func() Probe { return Probe{} }).Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`ashlar_endorsements_expire_seconds{kind="tcbInfo"} 60`, `ashlar_endorsements_expire_seconds{kind="vcek"} -1`,
		`ashlar_endorsements_fetches_total{outcome="throttled"} 3`} {
		if !bytes.Contains(body, []byte(line+"\n")) {
			t.Errorf("no line %s", line)
		}
	}
	if bytes.Contains(body, []byte("made up")) {
		t.Error("a kind that nobody knows became a label")
	}
}
