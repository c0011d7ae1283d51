package marble

import (
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
)

// retrier counts attempts.
type retrier struct {
	backoff Backoff
	failed  int
}

// next returns how long to wait before the next attempt.
func (r *retrier) next() time.Duration {
	wait := r.backoff.Max
	if r.failed < 20 {
		wait = min(wait, r.backoff.Min<<r.failed)
	}
	r.failed++
	return wait/2 + rand.N(wait/2+1)
}

func (r *retrier) reset() { r.failed = 0 }

// retryable reports whether another attempt may succeed without anybody's doing:
// the coordinator is away, busy or without a manifest, or the challenge ended
// while it restarted.
func retryable(e *problem.Error) bool {
	return e.Kind() == problem.Unavailable || e.Kind() == problem.Busy || e.Code == "CRD-020" || e.Code == "CRD-021"
}

// waiting reports whether the coordinator has no manifest yet.
func waiting(e *problem.Error) bool { return e.Code == "CRD-011" }

// leafIsOver reports whether the coordinator no longer takes the leaf, so that
// only a new activation helps.
func leafIsOver(e *problem.Error) bool {
	return e.Code == "CRD-033" || e.Code == "CRD-034"
}

// callError gives the failure of a call to the coordinator its code: the
// coordinator's own if it sent one.
func (m *Marble) callError(err error, doing string) error {
	if e, ok := marblepb.Problem(err); ok {
		return e
	}
	s := status.Convert(err)
	text := short(s.Message())
	switch s.Code() {
	case codes.Unavailable, codes.Canceled:
		return problem.New("MRB-004", "%s at %s: %s", doing, m.cfg.Coordinator, text)
	case codes.DeadlineExceeded:
		return problem.New("MRB-004", "%s at %s: no answer within %s", doing, m.cfg.Coordinator, m.timeout())
	case codes.ResourceExhausted: // the coordinator's own limits come with a code
		return problem.New("MRB-010", "%s: %s", doing, text)
	case codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated:
		return problem.New("MRB-008", "%s: %s", doing, text)
	}
	return problem.New("MRB-009", "%s: %s: %s", doing, s.Code(), text)
}
