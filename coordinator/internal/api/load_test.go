package api

import (
	"crypto/tls"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSlowBodiesDelayNoRevocation has a stranger and a user without rights send
// as many bodies as are read at once, and not finish them: small requests, such
// as a revocation and a share, are read all the same.
func TestSlowBodiesDelayNoRevocation(t *testing.T) {
	s := newStack(t, stackConfig{})
	s.set(t, "1h")
	slow := func(user *tls.Certificate, method, path string) {
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
		if user != nil {
			config.Certificates = []tls.Certificate{*user}
		}
		conn, err := tls.Dial("tcp", s.client, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", method, path)
	}
	for range maxBodies {
		slow(nil, "POST", "/v1/recovery/shares")
		slow(s.alice, "POST", "/v1/plan")
	}
	ask := func(user *tls.Certificate, path, body string) (int, string) {
		t.Helper()
		resp, err := browse(t, false, user).Post("https://"+s.client+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // until all places are taken
		if _, answer := ask(s.alice, "/v1/plan", "{}"); strings.Contains(answer, "CRD-115") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("large bodies are read without a limit")
		}
	}
	if status, answer := ask(s.alice, "/v1/revocations", `{"subject":{"kind":"marble","name":"web"},"reason":"x"}`); !strings.Contains(answer, "GOV-001") {
		t.Errorf("a revocation: got %d %s, want it judged", status, answer)
	}
	if status, answer := ask(nil, "/v1/recovery/shares", "{}"); !strings.Contains(answer, "REC-005") {
		t.Errorf("a share: got %d %s, want it judged", status, answer)
	}
}

// TestSearchesAreRateLimited has a stranger have the log searched, and old
// manifests parsed.
func TestSearchesAreRateLimited(t *testing.T) {
	for path, want := range map[string]string{"/v1/decisions": "200", "/v1/decisions/web/00000000": "404", "/v1/manifest?revision=1": "200"} {
		s := newStack(t, stackConfig{})
		s.set(t, "1h")
		c := browse(t, true, nil)
		counts := map[string]int{}
		for range 3 * statementBurst {
			resp, err := c.Get("https://" + s.client + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			counts[strconv.Itoa(resp.StatusCode)]++
		}
		if counts["429"] == 0 || counts[want] == 0 {
			t.Errorf("%s: got %v, want %s at first, and then 429", path, counts, want)
		}
	}
}
