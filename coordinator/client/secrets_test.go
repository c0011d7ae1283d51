package client

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest/binding"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// offers has a statement bind a key for secrets.
func offers(key []byte) func(*apiv1.Statement) {
	return func(s *apiv1.Statement) {
		claims, err := binding.Parse(s.ClaimsBuffer)
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(key)
		claims.Upload, s.UploadKey = sum[:], key
		s.ClaimsBuffer = claims.Encode()
		s.Evidence = quote(s.ClaimsBuffer)
	}
}

func uploadKey(t testing.TB) hpke.PrivateKey {
	t.Helper()
	k, err := apiv1.NewUploadKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKeyForSecretsIsAttested lets a host that ends TLS put its own key in.
func TestKeyForSecretsIsAttested(t *testing.T) {
	d, nonce := newDeployment(t), bytes.Repeat([]byte{1}, 32)
	key, foreign := uploadKey(t).PublicKey().Bytes(), uploadKey(t).PublicKey().Bytes()
	for name, c := range map[string]struct {
		edit func(*apiv1.Statement)
		step string
	}{
		"none":     {func(*apiv1.Statement) {}, ""},
		"bound":    {offers(key), ""},
		"replaced": {func(s *apiv1.Statement) { offers(key)(s); s.UploadKey = foreign }, "SEC-015"},
		"removed":  {func(s *apiv1.Statement) { offers(key)(s); s.UploadKey = nil }, "SEC-015"},
		"added":    {func(s *apiv1.Statement) { s.UploadKey = foreign }, "SEC-015"},
	} {
		t.Run(name, func(t *testing.T) {
			s := d.statement(nonce)
			c.edit(&s)
			_, err := VerifyStatement(s, input(d, nonce))
			if (err == nil) != (c.step == "") {
				t.Fatalf("got %v", err)
			}
			if c.step != "" {
				wantStep(t, err, c.step)
			}
		})
	}
}

// TestSecretsTravelSealed plays a coordinator, and what could stand before it.
func TestSecretsTravelSealed(t *testing.T) {
	d, key := newDeployment(t), uploadKey(t)
	d.damage = offers(key.PublicKey().Bytes())
	refusals, seen := 0, ""
	answer := apiv1.SealBinding{Purpose: apiv1.SealReveal, Root: d.root.Raw, Name: "token", Version: 4}
	mux := http.NewServeMux()
	mux.Handle("/", d)
	mux.HandleFunc("PUT /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		var in apiv1.SecretUpload
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		if refusals > 0 {
			refusals--
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(403)
			_ = json.NewEncoder(w).Encode(problem.New("SEC-013", "another key"))
			return
		}
		if r.Header.Get("If-Match") != `"3"` || bytes.Contains(in.Sealed, []byte("hunter2")) {
			t.Errorf("If-Match %s", r.Header.Get("If-Match"))
		}
		value, err := apiv1.OpenSecret(key, apiv1.SealBinding{Purpose: apiv1.SealUpload, Root: d.root.Raw, Name: r.PathValue("name"), Version: 3}, in.Sealed)
		if err != nil {
			t.Error(err)
		}
		seen = string(value)
		_ = json.NewEncoder(w).Encode(apiv1.SecretVersion{Name: r.PathValue("name"), Version: 4})
	})
	mux.HandleFunc("POST /v1/secrets/{name}/reveal", func(w http.ResponseWriter, r *http.Request) {
		var in apiv1.RevealRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		sealed, err := apiv1.SealSecret(in.Key, answer, []byte(`{"value":"aHVudGVyMg=="}`))
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(apiv1.SecretValue{Name: "token", Version: 4, Sealed: sealed})
	})
	c, err := Dial(t.Context(), d.serve(t, mux), options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	refusals = 1
	if v, err := c.SetSecret(t.Context(), "token", []byte("hunter2"), 3); err != nil || v.Version != 4 || seen != "hunter2" {
		t.Errorf("after one refusal: got %+v, %v", v, err)
	}
	refusals = 2
	if _, err := c.SetSecret(t.Context(), "token", []byte("hunter2"), 3); problem.CodeOf(err) != "SEC-013" {
		t.Errorf("after two: got %v, want SEC-013", err)
	}
	if v, n, err := c.RevealSecret(t.Context(), "token", ""); err != nil || n != 4 || string(v.Value) != "hunter2" {
		t.Errorf("got version %d, %v", n, err)
	}
	good := answer
	for name, edit := range map[string]func(*apiv1.SealBinding){
		"another secret's": func(b *apiv1.SealBinding) { b.Name = "other" }, "an older one": func(b *apiv1.SealBinding) { b.Version = 3 },
		"another deployment's": func(b *apiv1.SealBinding) { b.Root = nil }, "an upload": func(b *apiv1.SealBinding) { b.Purpose = apiv1.SealUpload },
	} {
		answer = good
		edit(&answer)
		if v, _, err := c.RevealSecret(t.Context(), "token", ""); problem.CodeOf(err) != "SEC-013" || len(v.Value) > 0 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want SEC-013", name, err)
		}
	}
}

// TestNothingIsSentWithoutAKey asks a coordinator whose evidence names none.
func TestNothingIsSentWithoutAKey(t *testing.T) {
	d := newDeployment(t)
	c, err := Dial(t.Context(), d.serve(t, d), options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.SetSecret(t.Context(), "token", []byte("hunter2"), 0); problem.CodeOf(err) != "SEC-013" {
		t.Errorf("got %v, want SEC-013", err)
	}
}
