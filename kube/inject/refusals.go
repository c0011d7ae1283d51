package inject

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// refusals collects all that is wrong, so that one answer names everything.
type refusals []*problem.Error

func (r *refusals) add(code problem.Code, format string, args ...any) *problem.Error {
	e := problem.New(code, format, args...)
	*r = append(*r, e)
	return e
}

// addIf takes over what another collection found.
func (r *refusals) addIf(err error) {
	var several refusals
	switch {
	case err == nil:
	case errors.As(err, &several):
		*r = append(*r, several...)
	default:
		*r = append(*r, problem.From(err))
	}
}

// err is nil without refusals, the one if there is one, else KUB-050 around all.
func (r refusals) err(what string) error {
	switch len(r) {
	case 0:
		return nil
	case 1:
		return r[0]
	}
	return problem.New("KUB-050", "%s: %d things are wrong%v", what, len(r), r)
}

// Refusals are the single refusals in errors, each with its code and next step.
func Refusals(errs ...error) []*problem.Error {
	var r refusals
	for _, err := range errs {
		r.addIf(err)
	}
	return r
}

// Error lists the refusals, each with its code and its next step.
func (r refusals) Error() string {
	var b strings.Builder
	for _, e := range r {
		fmt.Fprintf(&b, "\n  %s: %s", e.Code, e.Detail)
		if e.Next != "" {
			fmt.Fprintf(&b, " (%s)", e.Next)
		}
	}
	return b.String()
}

// Unwrap lets errors.Is and errors.As find each refusal.
func (r refusals) Unwrap() []error {
	errs := make([]error, len(r))
	for i, e := range r {
		errs[i] = e
	}
	return errs
}
