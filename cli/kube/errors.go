package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// silence keeps the client library from writing to standard error by itself:
// what it has to say comes back as errors.
var silence = sync.OnceFunc(func() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
})

// noTime is how the client library says that it would have to wait for longer
// than the caller does before it asks; the error wraps none.
const noTime = "would exceed context deadline"

// explained gives a failure at the API server its code. What has one keeps it.
func (c *Cluster) explained(err error, doing string) error {
	var coded *problem.Error
	var status apierrors.APIStatus
	var network net.Error
	var address *url.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(err.Error(), noTime), errors.As(err, &network), errors.As(err, &address):
		return c.failure(err, "%s", doing)
	case !errors.As(err, &status):
		return problem.Because(err, "KUB-013", "%s", doing)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return problem.New("KUB-005", "%s: the API server refuses it: %s", doing, status.Status().Message)
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		return problem.New("KUB-015", "%s: %s", doing, status.Status().Message)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsTooManyRequests(err):
		return c.failure(err, "%s", doing)
	}
	return problem.New("KUB-013", "%s: %s", doing, status.Status().Message)
}
