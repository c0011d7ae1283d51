// Package problem holds the one error type that crosses a wire, and the table
// of every code that Ashlar can answer with.
//
// A code is stable: it is never reused for another meaning. Inside a package,
// errors are ordinary wrapped errors; where a decision is made that a user will
// read, an *Error with a code is returned. The HTTP and gRPC edges render it
// (RFC 9457, gRPC status), the clients get the same *Error back, and the CLI
// turns its kind into an exit code.
//
// What is lost on the way over a wire: the wrapped cause. Only the code, the
// detail, the next step, the instance and the verdict travel.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Code identifies one kind of refusal or failure, such as "ATT-012".
type Code string

// Kind is the class of a code. It decides the exit code and the HTTP status.
type Kind int

// The kinds. The zero value is an internal failure.
const (
	Internal     Kind = iota // the tool itself failed
	Usage                    // wrong command line or malformed request
	Refused                  // attestation or policy said no
	Unavailable              // unreachable, timed out, shutting down, not ready
	NotPermitted             // who asks may not do this
	Invalid                  // a document is not valid
	Conflict                 // someone else changed it, or it exists already
	NotFound                 // no such thing
	TooLarge                 // over a size or count limit
	Busy                     // over a rate or concurrency limit: try later
)

// Error is a coded error. Every text in it is for people; none holds a secret.
type Error struct {
	Code     Code            `json:"code"`
	Detail   string          `json:"detail"`             // what happened, with what was wanted and what came
	Next     string          `json:"next,omitempty"`     // what to do about it
	Instance string          `json:"instance,omitempty"` // decision or request id, such as "pay/7f2c"
	Verdict  json.RawMessage `json:"verdict,omitempty"`  // an attest.Verdict as JSON, when one refused
	cause    error
}

// New returns an error with the code's own next step. The code must be in the
// table; a test checks every use.
func New(code Code, format string, args ...any) *Error {
	e := &Error{Code: code, Detail: fmt.Sprintf(format, args...), Next: Lookup(code).Next}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.cause = err
		}
	}
	return e
}

// Because returns a coded error around cause; the cause's text is appended to
// the detail and stays reachable through errors.Is and errors.As.
func Because(cause error, code Code, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.Detail += ": " + cause.Error()
	e.cause = cause
	return e
}

// WithNext replaces the next step by one that fits the case better.
func (e *Error) WithNext(format string, args ...any) *Error {
	e.Next = fmt.Sprintf(format, args...)
	return e
}

// Error returns code and detail on one line.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Detail }

// Unwrap returns the cause, which does not cross a wire.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Kind returns the class of the error's code.
func (e *Error) Kind() Kind { return Lookup(e.Code).Kind }

// From finds the coded error in err's chain. An error without one becomes
// CRD-001, internal.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: "CRD-001", Detail: err.Error(), Next: Lookup("CRD-001").Next, cause: err}
}

// CodeOf returns the code in err's chain, or "" if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
