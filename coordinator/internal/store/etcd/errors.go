package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// errMoved is that a commit was made since what is being read, and that etcd has
// forgotten how it was before.
var errMoved = errors.New("a commit was made meanwhile, and etcd keeps no older revision")

// coded says what an error of etcd means.
func (c *Cluster) coded(err error, format string, args ...any) error {
	if problem.CodeOf(err) != "" || errors.Is(err, store.ErrConflict) {
		return err
	}
	code := problem.Code("STO-031")
	switch kind := codeOf(err); {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errMoved):
		code = "STO-036"
	case errors.Is(err, rpctypes.ErrNoSpace):
		code = "STO-032"
	case kind == codes.PermissionDenied, kind == codes.Unauthenticated, errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty):
		code = "STO-033"
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		code = "STO-034"
	}
	return problem.Because(err, code, format, args...)
}

// uncertain reports whether what was asked for may have been done, or be done
// later, although etcd's client gave err.
func uncertain(err error) bool {
	switch codeOf(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal, codes.Aborted:
		return true
	}
	return false
}

func codeOf(err error) codes.Code {
	var of rpctypes.EtcdError
	if errors.As(err, &of) {
		return of.Code()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	return status.Code(err)
}
