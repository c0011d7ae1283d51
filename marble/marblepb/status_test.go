package marblepb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

func TestStatusRoundTrip(t *testing.T) {
	if err := marblepb.Status(nil); err != nil {
		t.Errorf("got %v for nil, want nil", err)
	}
	sent := problem.New("ATT-012", "sgx.uniqueID: wanted aa, got bb")
	sent.Instance, sent.Verdict = "web/7f2c", json.RawMessage(`{"verdict":"refused"}`)
	wire := marblepb.Status(fmt.Errorf("activating: %w", sent))
	if got := status.Code(wire); got != codes.FailedPrecondition {
		t.Errorf("got status %v, want FailedPrecondition", got)
	}
	got, ok := marblepb.Problem(fmt.Errorf("calling: %w", wire))
	if !ok || got.Code != sent.Code || got.Detail != sent.Detail || got.Next != sent.Next ||
		got.Instance != sent.Instance || string(got.Verdict) != string(sent.Verdict) {
		t.Errorf("got %+v, %v, want %+v", got, ok, sent)
	}
}

func TestProblemRefusesMalformed(t *testing.T) {
	detail := func(r *marblepb.Refusal) error {
		s, err := status.New(codes.Internal, "x").WithDetails(r)
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	for _, c := range []struct {
		name string
		err  error
	}{
		{"no status", errors.New("plain")},
		{"no detail", status.Error(codes.Internal, "x")},
		{"unknown code", detail(&marblepb.Refusal{Code: "XYZ-999", Problem: []byte(`{"code":"XYZ-999"}`)})},
		{"other code inside", detail(&marblepb.Refusal{Code: "ATT-012", Problem: []byte(`{"code":"ATT-013"}`)})},
		{"not JSON", detail(&marblepb.Refusal{Code: "ATT-012", Problem: []byte("{")})},
		{"too large", detail(&marblepb.Refusal{Code: "ATT-012", Problem: append([]byte(`{"code":"ATT-012","detail":"`), make([]byte, 2<<20)...)})},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, ok := marblepb.Problem(c.err); ok {
				t.Errorf("got %+v, want none", got)
			}
		})
	}
}
