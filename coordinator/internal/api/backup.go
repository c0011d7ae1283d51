package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// backupTime bounds how long a backup may take to be sent.
const backupTime = 10 * time.Minute

// backup sends the sealed state. Once it has begun, a failure cuts it short:
// the last line, by which a backup is whole, is missing.
func (s *clientAPI) backup(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	user := s.user(r)
	if err := s.c.MayBackup(r.Context(), user); err != nil {
		return err
	}
	select {
	case s.bodies <- struct{}{}:
		defer func() { <-s.bodies }()
	default:
		return problem.New("CRD-115", "%d documents are being sent or received", cap(s.bodies))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), backupTime)
	defer cancel()
	stop := context.AfterFunc(r.Context(), func() {
		if r.Context().Err() == context.Canceled {
			cancel() // nobody reads any more; the request's own deadline is too short for this
		}
	})
	defer stop()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(backupTime)); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead {
		return nil
	}
	if err := s.c.Backup(ctx, user, w); err != nil {
		s.log.Error("a backup failed", "error", err)
	}
	return nil
}
