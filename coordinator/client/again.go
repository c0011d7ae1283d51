package client

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Where several coordinators share a state, another one takes over when the
// active one ends. Meanwhile, for some seconds, connections are cut or lead
// nowhere.
const (
	firstRest = 200 * time.Millisecond
	maxRest   = time.Second
)

// rests are the pauses between tries, each longer than the one before.
type rests struct{ next time.Duration }

// rest waits for the next try; it reports at once that there is none, where it
// would come after ctx has ended.
func (r *rests) rest(ctx context.Context) bool {
	r.next = min(max(2*r.next, firstRest), maxRest)
	if end, ok := ctx.Deadline(); ok && time.Until(end) < r.next {
		return false
	}
	return pause.For(ctx, r.next)
}

// Operations of a net.OpError. Alerts of TLS have others: they are an answer.
var (
	underWay = map[string]bool{"read": true, "write": true}
	anywhere = map[string]bool{"dial": true, "read": true, "write": true}
)

// lost reports whether the network failed in one of the operations, rather than
// that something answered or that time ran out.
func lost(err error, in map[string]bool) bool {
	if code := problem.CodeOf(err); code != "" && code != "CRD-105" {
		return false
	}
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !op.Timeout() && in[op.Op]
}
