package fetch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Folder is a source that somebody fills by hand: for each platform a folder
// (endorse.Need.Folder) below Root, with each document in a file named by its
// kind, and its issuer's chain beside it. Files *.bundle.json in Root itself are
// bundles, whose sets count where the folders have nothing.
type Folder struct{ Root string }

// chainFiles names the files of issuers' chains; kinds without one have none.
var chainFiles = map[string]string{
	attest.KindTCBInfo:    "tcb_info_issuer_chain.pem",
	attest.KindQEIdentity: "qe_identity_issuer_chain.pem",
	attest.KindPCKCRL:     "pck_crl_issuer_chain.pem",
}

// Name implements Source.
func (f Folder) Name() string { return f.Root }

// Fetch implements Source.
func (f Folder) Fetch(_ context.Context, n endorse.Need, _ attest.Endorsements) (attest.Endorsements, error) {
	items, err := f.documents(n)
	if err != nil {
		return attest.Endorsements{}, problem.Because(err, "ATT-065", "reading endorsements of %s", n.Key())
	}
	bundled, err := f.bundles(n)
	en := attest.NewEndorsements(append(bundled, items...)...)
	if missing := n.Missing(en); len(missing) > 0 && err == nil {
		err = problem.New("ATT-067", "%s has no %v", filepath.Join(f.Root, filepath.FromSlash(n.Folder())), missing)
	}
	return en, err
}

func (f Folder) documents(n endorse.Need) ([]attest.Endorsement, error) {
	dir := filepath.Join(f.Root, filepath.FromSlash(n.Folder()))
	var items []attest.Endorsement
	for _, kind := range append(n.Wanted(), attest.KindAMDChain) {
		body, err := readFile(filepath.Join(dir, kind), endorse.MaxDocument)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		it := attest.Endorsement{Kind: kind, Body: body}
		if chain := chainFiles[kind]; chain != "" {
			if it.Chain, err = readFile(filepath.Join(dir, chain), endorse.MaxDocument); err != nil {
				return nil, err
			}
		}
		items = append(items, it)
	}
	return items, nil
}

// bundles returns the documents of the first bundle that has the set.
func (f Folder) bundles(n endorse.Need) ([]attest.Endorsement, error) {
	names, err := filepath.Glob(filepath.Join(f.Root, "*.bundle.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := readBundle(name)
		if err != nil {
			return nil, err
		}
		if en, ok := b.Get(n); ok {
			return en.Items(), nil
		}
	}
	return nil, nil
}

// WriteFolder writes a set as Folder reads it, below root.
func WriteFolder(root string, s endorse.Set) error {
	if err := s.Need.Check(); err != nil {
		return err
	}
	dir := filepath.Join(root, filepath.FromSlash(s.Need.Folder()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, it := range s.Endorsements.Items() {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(it.Kind)), it.Body, 0o644); err != nil {
			return err
		}
		if chain := chainFiles[it.Kind]; chain != "" {
			if err := os.WriteFile(filepath.Join(dir, chain), it.Chain, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
