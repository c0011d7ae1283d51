package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/coordinator/backup"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/recovery"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest"
)

const maxRestored = 64 // bytes of the mark of a restore that count

func (s *settings) checkSeal() error {
	switch manifest.SealMode(s.Seal) {
	case manifest.SealProduct, manifest.SealUnique:
		return nil
	case manifest.SealNone:
		if s.SealSource != "" {
			return nil
		}
		return invalid("seal", "%s needs --seal-source; without one a manifest that names recovery keys may ask for it", s.Seal)
	}
	return invalid("seal", "wanted %s, %s or %s, got %q", issuer.SealProduct, issuer.SealUnique, manifest.SealNone, s.Seal)
}

// source returns what a mode seals by; "" is the mode of the configuration. With
// an external source, TEE and source are both needed; without the TEE it is
// enough alone.
func (s *settings) source(mode manifest.SealMode) seal.Source {
	if mode == "" {
		mode = manifest.SealMode(s.Seal)
	}
	platform := seal.Platform(string(s.TEE), string(mode), s.sealKey)
	switch {
	case mode == manifest.SealNone && s.kms == nil:
		return seal.NoSource()
	case mode == manifest.SealNone:
		return s.kms
	case s.kms != nil:
		return seal.Both(platform, s.kms)
	}
	return platform
}

// sources are all that a state could have been sealed by here: also without the
// external source, which then is added, and in another mode.
func (s *settings) sources() []seal.Source {
	var all []seal.Source
	for _, mode := range []manifest.SealMode{manifest.SealProduct, manifest.SealUnique} {
		all = append(all, seal.Platform(string(s.TEE), string(mode), s.sealKey))
		if s.kms != nil {
			all = append(all, s.source(mode))
		}
	}
	if s.kms != nil {
		all = append(all, s.kms)
	}
	return all
}

// files holds the documents beside the state.
func (s *settings) files() recovery.Files { return recovery.Folder(s.State) }

// openedState is a state with what keeps it open.
type openedState struct {
	store   *store.Store
	keeper  *recovery.Keeper
	opening coordinator.Opening
	files   recovery.Files
}

// openState opens the state with a key, or with the zero key by what it is sealed
// by.
func (d *daemon) openState(ctx context.Context, key seal.Key) (*openedState, error) {
	o := &openedState{files: d.s.files()}
	unlock := func(ctx context.Context, path string) (_ seal.Key, err error) {
		if !key.Valid() {
			key, err = seal.Open(ctx, path, d.s.sources()...)
		}
		return key, err
	}
	var err error
	if o.store, err = bolt.Open(ctx, bolt.Config{Dir: d.s.State, Unlock: unlock, Random: rand.Reader, Observe: d.commits}); err != nil {
		return nil, err
	}
	if err := d.keep(ctx, o, key); err != nil {
		return nil, errors.Join(err, o.store.Close())
	}
	return o, nil
}

// keep opens what stands beside the store.
func (d *daemon) keep(ctx context.Context, o *openedState, key seal.Key) error {
	mark, err := coordinator.RecoveryMark(ctx, o.store)
	if err != nil {
		return err
	}
	o.keeper, err = recovery.Open(ctx, recovery.Config{Files: o.files, SealPath: d.s.sealPath(), Key: key,
		Source: d.s.source, Random: rand.Reader, Now: d.s.Now}, mark)
	if err != nil {
		return err
	}
	restored, err := o.files.Read(ctx, backup.MarkFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return problem.Because(err, "STO-007", "reading the mark of a restore")
	}
	o.opening.Restored = strings.TrimSpace(string(restored[:min(len(restored), maxRestored)]))
	return nil
}

// finish removes the mark of a restore, once the state has its epoch.
func (o *openedState) finish(ctx context.Context) error {
	if o.opening.Restored == "" {
		return nil
	}
	if err := o.files.Remove(ctx, backup.MarkFile); err != nil {
		return problem.Because(err, "STO-007", "removing the mark of a restore")
	}
	return nil
}
