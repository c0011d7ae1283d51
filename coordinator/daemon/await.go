package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
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
	code := string(problem.CodeOf(err))
	if code != "STO-013" && code != "STO-015" && code != "STO-021" && !strings.HasPrefix(code, "REC-04") {
		return false
	}
	d, err := recovery.Read(ctx, s.files())
	return err == nil && d != nil
}

// waiting is a coordinator that nothing here opens. It implements api.Recovery.
type waiting struct {
	*recovery.Desk
	d      *daemon
	reason string
	quotes chan struct{}
	once   sync.Mutex // held while shares are put to use
	opened chan *openedState
}

// await serves what recovery needs until enough shares open the state, or ctx
// ends. The ports are then free again.
func (d *daemon) await(ctx context.Context, why error) (*openedState, error) {
	document, err := recovery.Read(ctx, d.s.files())
	if err != nil {
		return nil, err
	}
	w := &waiting{Desk: recovery.NewDesk(document, d.s.Now), d: d, reason: problem.From(why).Error(),
		quotes: make(chan struct{}, maxSessionQuotes), opened: make(chan *openedState, 1)}
	stop, err := w.serve()
	if err != nil {
		return nil, err
	}
	defer stop()
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
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve opens the client and the operations port. Their addresses become the
// configuration's, so that the coordinator comes up at the same ones.
func (w *waiting) serve() (stop func(), err error) {
	d := w.d
	most, err := api.ConnectionBudget()
	if err != nil {
		return nil, err
	}
	client, err := net.Listen("tcp", d.s.ClientAddr)
	if err != nil {
		return nil, problem.Because(err, "CRD-134", "--client-addr %s", d.s.ClientAddr)
	}
	metrics, err := net.Listen("tcp", d.s.MetricsAddr)
	if err != nil {
		_ = client.Close() // nothing was served
		return nil, problem.Because(err, "CRD-134", "--metrics-addr %s", d.s.MetricsAddr)
	}
	gate, operationsGate := api.NewGate(most), api.NewGate(api.OperationsConnections)
	server, err := api.NewWaiting(api.WaitingConfig{Recovery: w, Gate: gate, Times: d.s.Times, Metrics: d.metrics, Log: d.s.Log, Now: d.s.Now,
		Names: d.s.names(), Reason: w.reason})
	if err != nil {
		return nil, errors.Join(err, client.Close(), metrics.Close())
	}
	operations := api.NewOperations(d.metrics, func() api.Probe { return api.Probe{Stage: waitingStage, Reason: w.reason} })
	d.s.ClientAddr, d.s.MetricsAddr = client.Addr().String(), metrics.Addr().String()
	d.run("client API", func() error { return api.ServeClient(server, client, gate) })
	d.run("operations", func() error { return api.ServeOperations(operations, metrics, operationsGate) })
	return func() { w.stop(server, operations, gate) }, nil
}

func (w *waiting) stop(server, operations *http.Server, gate *api.Gate) {
	grace, end := context.WithTimeout(context.Background(), w.d.s.Grace)
	defer end()
	api.StopClient(grace, server, gate)
	_ = operations.Close()
	w.d.work.Wait()
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
	e, err := w.d.config.Issuer.Issue(ctx, b)
	if err != nil {
		return e, problem.Because(err, "CRD-005", "asking the %s", w.d.config.Issuer.TEE())
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
	o, err := w.d.openState(context.WithoutCancel(ctx), outcome.Key)
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
