package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	freshFor       = 5 * time.Second  // how long what a source said is not asked for again
	fetchTimeout   = 10 * time.Second // of one question to a source
	maxEndorsement = 1 << 20          // bytes of a document
	maxPlatforms   = 256              // sets held in memory
)

// refresher keeps what a source of endorsements said last, for each TEE. While
// the source does not answer, the last word counts: it carries its own end.
type refresher struct {
	ask   func(context.Context, attest.TEE) (attest.Endorsements, error)
	now   func() time.Time
	log   *slog.Logger
	group singleflight.Group

	mu   sync.Mutex // guards last
	last map[attest.TEE]answer
}

type answer struct {
	set attest.Endorsements
	at  time.Time
}

func newRefresher(ask func(context.Context, attest.TEE) (attest.Endorsements, error), now func() time.Time, log *slog.Logger) *refresher {
	return &refresher{ask: ask, now: now, log: log, last: map[attest.TEE]answer{}}
}

func (r *refresher) get(ctx context.Context, tee attest.TEE) (attest.Endorsements, error) {
	r.mu.Lock()
	last, known := r.last[tee]
	r.mu.Unlock()
	if known && r.now().Sub(last.at) < freshFor {
		return last.set, nil
	}
	wait := r.group.DoChan(string(tee), func() (any, error) {
		// Not the asker's context: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		set, err := r.ask(ctx, tee)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last[tee] = answer{set, r.now()}
		return set, nil
	})
	select {
	case got := <-wait:
		if got.Err == nil {
			return got.Val.(attest.Endorsements), nil
		}
		if known {
			r.log.Warn("endorsements could not be refreshed", "of", string(tee), "since", last.at, "error", got.Err)
			return last.set, nil
		}
		return attest.Endorsements{}, problem.Because(got.Err, "CRD-133", "asking for the endorsements of %s", tee)
	case <-ctx.Done():
		return attest.Endorsements{}, ctx.Err()
	}
}

// folder finds a vendor's documents in files with the names of an evidence
// folder: Intel's in ROOT/TEE/FMSPC/, AMD's in ROOT/snp/CHIPID/ (128 digits, as in
// the report) and for keys of a provider in ROOT/snp/vlek/. A set is read again
// when one of its files has changed.
type folder struct {
	root      string
	verifiers attest.Verifiers
	now       func() time.Time

	mu   sync.Mutex // guards sets
	sets map[string]loaded
}

type loaded struct {
	set   attest.Endorsements
	stamp string // names, sizes and times of the files
}

// documents names the files of a set: the document and its issuer's chain.
var documents = []struct{ kind, chain string }{
	{attest.KindTCBInfo, "tcb_info_issuer_chain.pem"},
	{attest.KindQEIdentity, "qe_identity_issuer_chain.pem"},
	{attest.KindPCKCRL, "pck_crl_issuer_chain.pem"},
	{attest.KindRootCRL, ""},
	{attest.KindVCEK, ""},
	{attest.KindVLEK, ""},
	{attest.KindAMDChain, ""},
	{attest.KindAMDCRL, ""},
}

func (f *folder) get(e attest.Evidence) (attest.Endorsements, error) {
	verifier, ok := f.verifiers[e.TEE]
	if !ok || len(e.Raw) > attest.MaxEvidence {
		return attest.Endorsements{}, nil // the verdict says why
	}
	// What platform it is, the evidence says; whether that is true, the verdict.
	claims, _ := verifier.Verify(e, attest.Endorsements{}, f.now())
	machine := machineOf(claims)
	if machine == "" {
		return attest.Endorsements{}, nil
	}
	if f.root == "" {
		return attest.Endorsements{}, problem.New("CRD-133", "platform %s/%s: no folder of endorsements is configured", e.TEE, machine).
			WithNext("start the coordinator with --endorsements DIR")
	}
	set, err := f.load(filepath.Join(f.root, string(e.TEE), machine))
	if err != nil {
		return attest.Endorsements{}, problem.Because(err, "CRD-133", "platform %s/%s", e.TEE, machine)
	}
	return set, nil
}

// machineOf names the folder of what the claims are of; "" if they do not say.
func machineOf(c attest.Claims) string {
	switch {
	case c.SNP != nil && c.SNP.Signer == "VLEK":
		return "vlek"
	case c.SNP != nil:
		return hex.EncodeToString(c.SNP.ChipID)
	}
	return hex.EncodeToString(c.TCB.FMSPC)
}

func (f *folder) load(dir string) (attest.Endorsements, error) {
	stamp, err := stampOf(dir)
	if err != nil {
		return attest.Endorsements{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l, ok := f.sets[dir]; ok && l.stamp == stamp {
		return l.set, nil
	}
	var items []attest.Endorsement
	for _, d := range documents {
		body, err := readLimited(filepath.Join(dir, d.kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the verdict names what is missing
		}
		if err != nil {
			return attest.Endorsements{}, err
		}
		item := attest.Endorsement{Kind: d.kind, Body: body}
		if d.chain != "" {
			if item.Chain, err = readLimited(filepath.Join(dir, d.chain)); err != nil {
				return attest.Endorsements{}, err
			}
		}
		items = append(items, item)
	}
	if len(f.sets) >= maxPlatforms || f.sets == nil {
		f.sets = map[string]loaded{}
	}
	f.sets[dir] = loaded{attest.NewEndorsements(items...), stamp}
	return f.sets[dir].set, nil
}

// stampOf changes whenever a file in dir does.
func stampOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxEndorsement+1))
	if err == nil && len(b) > maxEndorsement {
		err = fmt.Errorf("%s has more than %d bytes", path, maxEndorsement)
	}
	return b, err
}
