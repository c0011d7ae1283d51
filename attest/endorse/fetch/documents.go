package fetch

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxDocuments bounds what Documents returns.
const maxDocuments = 4096

// Documents returns every endorsement at a path: in a bundle, in a file named by
// its kind, or in a folder and the folders below, each with its issuer's chain
// where that stands beside it. It does not matter what they are of. Nothing
// found is ATT-067, what cannot be read ATT-065.
func Documents(path string) ([]attest.Endorsement, error) {
	var all []attest.Endorsement
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		found, err := documentsIn(name, name == path)
		all = append(all, found...)
		if len(all) > maxDocuments {
			return problem.New("ATT-065", "%s: over %d endorsements", path, maxDocuments)
		}
		return err
	})
	switch {
	case problem.CodeOf(err) != "":
		return nil, err
	case err != nil:
		return nil, problem.Because(err, "ATT-065", "reading endorsements at %s", path)
	case len(all) == 0:
		return nil, problem.New("ATT-067", "%s has none: no bundle, and no file named %s, …", path, attest.KindTCBInfo)
	}
	return all, nil
}

var kinds = map[string]bool{
	attest.KindTCBInfo: true, attest.KindQEIdentity: true, attest.KindPCKCRL: true, attest.KindRootCRL: true,
	attest.KindVCEK: true, attest.KindVLEK: true, attest.KindAMDChain: true, attest.KindAMDCRL: true,
}

// documentsIn reads one file. One that was asked for by name, and has none of
// the names, is a bundle.
func documentsIn(name string, asked bool) ([]attest.Endorsement, error) {
	kind := filepath.Base(name)
	if !kinds[kind] {
		if !asked && !strings.HasSuffix(name, ".bundle.json") {
			return nil, nil
		}
		b, err := readBundle(name)
		if err != nil {
			return nil, err
		}
		var all []attest.Endorsement
		for _, s := range b.Sets() {
			all = append(all, s.Endorsements.Items()...)
		}
		return all, nil
	}
	body, err := readFile(name, endorse.MaxDocument)
	if err != nil {
		return nil, err
	}
	it := attest.Endorsement{Kind: kind, Body: body}
	if chain := chainFiles[kind]; chain != "" {
		it.Chain, err = readFile(filepath.Join(filepath.Dir(name), chain), endorse.MaxDocument)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return []attest.Endorsement{it}, err
}
