package command

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/ashlar-mesh/ashlar/marble"
	"github.com/ashlar-mesh/ashlar/marble/envoy"
	"github.com/ashlar-mesh/ashlar/marble/program"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

// What to do with the program when the identity ends.
const (
	onCutKeep = "keep"
	onCutStop = "stop"
)

// The variables by which the program finds what the marble tells it.
const (
	envStageFile = "ASHLAR_STAGE_FILE"
	stageFile    = "stage.json"
	envSocket    = "ASHLAR_SOCKET"
	apiSocket    = "api.sock"
)

// obey stops the program when its identity was revoked, after removing what was
// written for it, or when it was cut and that was asked for.
func (r *runner) obey(ctx context.Context, m *marble.Marble, process *program.Process) {
	for {
		s, changed := r.tracker.Current()
		if r.o.onCut == onCutStop && s.Stage == stage.Cut && m.Revoked() == nil {
			r.log.Warn("the program is stopped: its identity has ended", "code", s.Code, "reason", s.Reason)
			r.stopped = stage.ExitCut
			process.Terminate(r.o.grace)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-m.Ended():
			r.log.Error("the program is stopped: its identity was revoked", "reason", m.Revoked().Detail)
			if err := r.files.RemoveAll(); err != nil {
				r.log.Error("a rendered file stays", "reason", err)
			}
			r.stopped = stage.ExitRevoked
			process.Terminate(r.o.grace)
			return
		case <-changed:
		}
	}
}

// drain has Envoy drain while the marble gets no new requests.
type drain struct {
	proxy *envoy.Proxy
	log   *slog.Logger
	on    bool // Envoy drains
}

func (d *drain) follow(ctx context.Context, s stage.Stage) {
	want := s == stage.Drained || s == stage.Cut
	if want == d.on {
		return
	}
	change, verb := d.proxy.Undrain, "takes requests again"
	if want {
		change, verb = d.proxy.Drain, "drains"
	}
	if err := change(ctx); err != nil {
		if ctx.Err() == nil {
			d.log.Warn("Envoy could not be told that it "+verb, "reason", err)
		}
		return // at the next tick again
	}
	d.on = want
	d.log.Info("Envoy " + verb)
}

// tellStage keeps a file in the runtime folder that says where the marble stands,
// as the probe does, and returns the variable by which the program finds it.
func (r *runner) tellStage(dir string) string {
	path := filepath.Join(dir, stageFile)
	quit := make(chan struct{})
	var writer sync.WaitGroup
	s, changed := r.tracker.Current()
	r.writeStage(path, s)
	writer.Go(func() {
		for {
			select {
			case <-quit:
				_ = os.Remove(path)
				return
			case <-changed:
			}
			s, changed = r.tracker.Current()
			r.writeStage(path, s)
		}
	})
	r.later(func() { close(quit); writer.Wait() })
	return envStageFile + "=" + path
}

// writeStage replaces the file as a whole. It need not survive a crash.
func (r *runner) writeStage(path string, s stage.Status) {
	text, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(path+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Warn("the stage file stays behind", "reason", err)
	}
}
