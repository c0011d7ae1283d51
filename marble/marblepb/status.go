// Package marblepb is the wire contract of the marble API, generated from
// marble.proto, and the one mapping between coded errors and gRPC statuses that
// both ends use. It decides nothing.
package marblepb

import (
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// MaxMessage is the size limit of every message of the marble API, both ways,
// in bytes: gRPC's own default for what is received.
const MaxMessage = 4 << 20

// maxProblem bounds the JSON of a coded error that is read from a peer, in bytes.
const maxProblem = 1 << 20

var statusCodes = map[problem.Kind]codes.Code{
	problem.Internal:     codes.Internal,
	problem.Usage:        codes.InvalidArgument,
	problem.Refused:      codes.FailedPrecondition,
	problem.Unavailable:  codes.Unavailable,
	problem.NotPermitted: codes.PermissionDenied,
	problem.Invalid:      codes.InvalidArgument,
	problem.Conflict:     codes.Aborted,
	problem.NotFound:     codes.NotFound,
	problem.TooLarge:     codes.InvalidArgument,
	problem.Busy:         codes.ResourceExhausted,
}

// Status returns err as a gRPC status error: the code of its kind, its text as
// message, and a Refusal as the only detail. A nil error stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	e := problem.From(err)
	s := status.New(statusCodes[e.Kind()], e.Error())
	if with, detailErr := s.WithDetails(NewRefusal(e)); detailErr == nil {
		s = with
	}
	return s.Err()
}

// NewRefusal returns the wire form of a coded error.
func NewRefusal(e *problem.Error) *Refusal {
	b, err := json.Marshal(e)
	if err != nil { // only a malformed verdict can be the cause
		b = nil
	}
	return &Refusal{Code: string(e.Code), Problem: b}
}

// Problem returns the coded error that a peer sent with Status, or false if err
// carries none that this release knows.
func Problem(err error) (*problem.Error, bool) {
	var grpcErr interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpcErr) {
		return nil, false
	}
	for _, d := range grpcErr.GRPCStatus().Details() {
		if r, ok := d.(*Refusal); ok {
			return r.Decode()
		}
	}
	return nil, false
}

// Decode returns the coded error of a refusal, or false if it is malformed or of
// a code that this release does not know.
func (r *Refusal) Decode() (*problem.Error, bool) {
	if r == nil || len(r.GetProblem()) > maxProblem || !problem.Known(problem.Code(r.GetCode())) {
		return nil, false
	}
	e := new(problem.Error)
	if json.Unmarshal(r.GetProblem(), e) != nil || string(e.Code) != r.GetCode() {
		return nil, false
	}
	return e, true
}
