package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// waitingStage is the stage of a coordinator that waits for recovery.
const waitingStage = "waiting for recovery"

// maxSessionQuotes bounds how much evidence is made at once.
const maxSessionQuotes = 4

// recoverable reports whether a state that did not open could be opened by
// shares: nothing here has its key, and a document names holders. A state that is
// missing or damaged is not, nor one that is in use.
func (s *settings) recoverable(ctx context.Context, err error) bool {
	if !keyless(err) {
		return false
	}
	d, err := recovery.Read(ctx, s.files())
	return err == nil && d != nil
}

// keyless reports whether an error says that nothing here has the state's key.
func keyless(err error) bool {
	code := string(problem.CodeOf(err))
	return code == "STO-013" || code == "STO-015" || code == "STO-021" || strings.HasPrefix(code, "REC-04")
}

// waiting is a coordinator that nothing here opens. It implements api.Recovery.
type waiting struct {
	*recovery.Desk
	d      *daemon
	reason string
	open   func(context.Context, seal.Key) (*openedState, error)
	quotes chan struct{}
	once   sync.Mutex // held while shares are put to use
	opened chan *openedState
}

// await opens the client and the operations port and waits there for recovery.
// The ports are then free again, and their addresses the configuration's, so that
// the coordinator comes up at the same ones.
func (d *daemon) await(ctx context.Context, why error) (*openedState, error) {
	document, err := recovery.Read(ctx, d.s.files())
	if err != nil {
		return nil, err
	}
	client, err := listen("client-addr", d.s.ClientAddr)
	if err != nil {
		return nil, err
	}
	metrics, err := listen("metrics-addr", d.s.MetricsAddr)
	if err != nil {
		_ = client.Close() // nothing was served
		return nil, err
	}
	d.s.ClientAddr, d.s.MetricsAddr = client.Addr().String(), metrics.Addr().String()
	operations := d.operate(metrics, func() api.Probe { return api.Probe{Stage: waitingStage, Reason: problem.From(why).Error()} })
	defer d.work.Wait()
	defer operations.Close()
	return d.takeShares(ctx, client, &waiting{Desk: recovery.NewDesk(document, d.s.Now), reason: problem.From(why).Error(), open: d.openState})
}

// takeShares serves recovery on l until enough shares open the state, or ctx ends.
func (d *daemon) takeShares(ctx context.Context, l net.Listener, w *waiting) (*openedState, error) {
	w.d, w.quotes, w.opened = d, make(chan struct{}, maxSessionQuotes), make(chan *openedState, 1)
	most, err := api.ConnectionBudget()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	gate := api.NewGate(most)
	server, err := api.NewWaiting(api.WaitingConfig{Recovery: w, Gate: gate, Times: d.s.Times, Metrics: d.metrics, Log: d.s.Log, Now: d.s.Now,
		Names: d.s.names(), Reason: w.reason})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	serving := newParts()
	serving.run("client API", func() error { return api.ServeClient(server, l, gate) })
	defer func() {
		grace, end := context.WithTimeout(context.Background(), d.s.Grace)
		defer end()
		api.StopClient(grace, server, gate)
		serving.work.Wait()
		select {
		case o := <-w.opened:
			_ = o.store.Close() // it came too late, and nothing was written
		default:
		}
	}()
	document := w.Document()
	d.s.Log.Error("the state does not open: it waits for recovery", "reason", w.reason, "generation", document.Generation,
		"threshold", document.Threshold, "client", d.s.ClientAddr, "next", "ashlar recover status")
	if d.s.Waiting != nil {
		d.s.Waiting(Addresses{Client: d.s.ClientAddr, Metrics: d.s.MetricsAddr})
	}
	select {
	case o := <-w.opened:
		d.s.Log.Warn("the state was recovered", "holders", len(o.opening.Recovered.Approvals))
		return o, nil
	case err := <-d.failed:
		return nil, err
	case err := <-serving.failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Recovery implements api.Recovery.
func (w *waiting) Recovery(context.Context) (apiv1.Recovery, error) {
	return apiv1.Recovery{State: waitingStage, Reason: w.reason, Document: w.Document(), Sessions: w.Progress()}, nil
}

// RecoveryStatement implements api.Recovery.
func (w *waiting) RecoveryStatement(ctx context.Context, purpose string, nonce, tlsKey []byte) (apiv1.RecoveryStatement, error) {
	if purpose != apiv1.PurposeRecover {
		return apiv1.RecoveryStatement{}, problem.New("REC-001", "the state is not open, so nothing can be done for %.40q", purpose)
	}
	session, err := w.Session(purpose, nil)
	if err != nil {
		return apiv1.RecoveryStatement{}, err
	}
	return coordinator.AttestSession(ctx, coordinator.SessionConfig{Quote: w.quote, Endorse: w.d.config.Endorse, Now: w.d.config.Now}, session, nonce, tlsKey)
}

func (w *waiting) quote(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	select {
	case w.quotes <- struct{}{}:
	case <-ctx.Done():
		return attest.Evidence{}, problem.Because(ctx.Err(), "CRD-007", "waiting behind %d others for evidence", maxSessionQuotes)
	}
	defer func() { <-w.quotes }()
	return w.d.issue(ctx, b)
}

// issue asks the hardware for evidence.
func (d *daemon) issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	e, err := d.config.Issuer.Issue(ctx, b)
	if err != nil {
		return e, problem.Because(err, "CRD-005", "asking the %s", d.config.Issuer.TEE())
	}
	return e, nil
}

// TakeShare implements api.Recovery. The share that completes the session opens
// the state before it is answered.
func (w *waiting) TakeShare(ctx context.Context, m apiv1.RecoveryShare) (apiv1.RecoveryProgress, error) {
	progress, outcome, err := w.Take(m)
	if err != nil || outcome == nil {
		return progress, err
	}
	w.once.Lock()
	defer w.once.Unlock()
	o, err := w.open(context.WithoutCancel(ctx), outcome.Key)
	if err != nil {
		w.Forget(outcome.Session)
		w.d.s.Log.Error("the shares did not open the state", "error", err)
		return progress, fmt.Errorf("opening the state with the shares: %w", err)
	}
	o.opening.Recovered = outcome
	select {
	case w.opened <- o:
		return progress, nil
	default: // another session was faster
		return progress, errors.Join(problem.New("REC-031", "the state was recovered a moment ago"), o.store.Close())
	}
}

var _ api.Recovery = (*waiting)(nil)
