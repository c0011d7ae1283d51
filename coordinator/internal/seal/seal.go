// Package seal answers where a state's data key comes from.
//
// It owns seal.json: a random data key, wrapped under a key that a Source gives
// out only to the right software on the right platform. It refuses keys that
// are no secret (all zero) and never makes a new data key where an old one was
// expected.
package seal

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/durable"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	formatVersion = 1
	maxFile       = 64 << 10 // bytes of seal.json
	nonceSize     = 12
)

// Source gives out the key that wraps a data key.
type Source interface {
	// Name says what the source is, such as "sgx:product". It is stored in
	// clear and must be the same when the data key is unwrapped.
	Name() string

	// Key returns the wrapping key. With info nil it is the newest one, with
	// what the source needs to find it again (at most 4 KiB, stored in
	// clear). With that info it is the same key as then, for example after
	// the platform's firmware was updated.
	Key(ctx context.Context, info []byte) (key Key, newInfo []byte, err error)
}

// document is seal.json, version 1 (2026-11).
type document struct {
	Version int    `json:"version"`
	Source  string `json:"source"`
	Info    []byte `json:"info,omitempty"`
	KeyID   string `json:"keyID"` // Key.ID of the data key
	// Wrapped is a 12-byte nonce and AES-256-GCM of the data key; null where
	// Source is None.
	Wrapped []byte `json:"wrapped"`
}

// Create makes a random data key, wraps it and writes it to path, replacing
// what is there: callers make sure that it is nothing of value.
func Create(ctx context.Context, path string, source Source, random io.Reader) (Key, error) {
	data, err := RandomKey(random)
	if err != nil {
		return Key{}, err
	}
	return data, Keep(ctx, path, data, source, random)
}

// Keep wraps a data key that exists already and writes it to path, replacing what
// is there: callers make sure that it is nothing of value.
func Keep(ctx context.Context, path string, data Key, source Source, random io.Reader) error {
	d, err := wrap(ctx, data, source, random)
	if err != nil {
		return err
	}
	return d.write(path)
}

// wrap wraps the data key under the source's newest key, and finds out whether
// the source gives that key again.
func wrap(ctx context.Context, data Key, source Source, random io.Reader) (document, error) {
	d := document{Version: formatVersion, Source: source.Name(), KeyID: data.ID()}
	if d.Source == None {
		return d, nil
	}
	wrapping, info, err := source.Key(ctx, nil)
	if err != nil {
		return d, sourceFailed(source, err)
	}
	d.Info = info
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return d, fmt.Errorf("reading random bytes: %w", err)
	}
	gcm, err := d.cipher(wrapping)
	if err != nil {
		return d, err
	}
	d.Wrapped = gcm.Seal(nonce, nonce, data.Reveal(), d.associated())
	again, err := d.unwrap(ctx, source)
	if err == nil && again.ID() != d.KeyID {
		err = problem.New("STO-013", "source %s does not give the same key again", source.Name())
	}
	return d, err
}

func (d document) write(path string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding seal.json: %w", err)
	}
	if err := durable.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return problem.Because(err, "STO-007", "storing the sealed key")
	}
	return nil
}

// KeyIDOf returns the Key.ID of the data key that path names, which is the host's
// word until it is opened.
func KeyIDOf(path string) (string, error) {
	d, err := read(path)
	return d.KeyID, err
}

// Rewrap seals the data key by source and replaces path, unless it is sealed by
// the newest key of that source already. Whatever fails or crashes, path opens as
// it did before or by the new source: a file that does not open is never written.
func Rewrap(ctx context.Context, path string, data Key, source Source, random io.Reader) (changed bool, err error) {
	old, err := read(path)
	if err != nil {
		return false, err
	}
	d, err := wrap(ctx, data, source, random)
	if err != nil {
		return false, err
	}
	if old.Source == d.Source && old.KeyID == d.KeyID && bytes.Equal(old.Info, d.Info) {
		if again, err := old.unwrap(ctx, source); d.Source == None || err == nil && again.ID() == d.KeyID {
			return false, nil
		}
	}
	return true, d.write(path)
}

// Open reads the data key from path with the source that it is sealed by. The
// errors are STO-002 (missing), STO-013 (no sealing key), STO-014 (damaged),
// STO-015 (sealed elsewhere) and STO-021 (sealed by nothing).
func Open(ctx context.Context, path string, sources ...Source) (Key, error) {
	d, err := read(path)
	if err != nil {
		return Key{}, err
	}
	if d.Source == None {
		return Key{}, problem.New("STO-021", "%s holds no key: it was sealed with the mode none", path)
	}
	var names []string
	for _, source := range sources {
		if source.Name() != d.Source {
			names = append(names, source.Name())
			continue
		}
		key, err := d.unwrap(ctx, source)
		if err == nil && key.ID() != d.KeyID {
			err = problem.New("STO-014", "%s holds another key than it names", path)
		}
		return key, err
	}
	return Key{}, problem.New("STO-015", "wanted source %s, got %.64q", strings.Join(names, " or "), d.Source)
}

func (d document) unwrap(ctx context.Context, source Source) (Key, error) {
	if len(d.Wrapped) == 0 {
		return Key{}, nil
	}
	wrapping, _, err := source.Key(ctx, d.Info)
	if err != nil {
		return Key{}, sourceFailed(source, err)
	}
	gcm, err := d.cipher(wrapping)
	if err != nil {
		return Key{}, err
	}
	plain, err := gcm.Open(nil, d.Wrapped[:nonceSize], d.Wrapped[nonceSize:], d.associated())
	if err != nil {
		return Key{}, problem.New("STO-015", "the sealing key of %s does not open it: other software, another platform or a changed file", source.Name())
	}
	return NewKey(plain)
}

func read(path string) (document, error) {
	var d document
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, problem.New("STO-002", "%s does not exist", path)
	}
	if err != nil {
		return d, problem.Because(err, "STO-007", "reading the sealed key")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return d, problem.Because(err, "STO-007", "reading the sealed key")
	}
	return parse(text)
}

// parse reads seal.json strictly: it is the host's to change.
func parse(text []byte) (document, error) {
	var d document
	if len(text) > maxFile {
		return d, problem.New("STO-014", "seal.json has more than %d bytes", maxFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, problem.Because(err, "STO-014", "seal.json does not parse")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return d, problem.New("STO-014", "seal.json goes on after its end")
	}
	if d.Version != formatVersion {
		return d, problem.New("STO-014", "wanted version %d, got %d", formatVersion, d.Version)
	}
	want := nonceSize + KeySize + 16
	if d.Source == None {
		want = 0
	}
	if len(d.Wrapped) != want {
		return d, problem.New("STO-014", "wanted %d wrapped bytes, got %d", want, len(d.Wrapped))
	}
	return d, nil
}

// cipher derives the cipher that wraps a data key from the source's key.
func (d document) cipher(wrapping Key) (cipher.AEAD, error) {
	if !wrapping.Valid() {
		return nil, problem.New("STO-013", "source %s gave no key", d.Source)
	}
	k, err := hkdf.Key(sha256.New, wrapping.Reveal(), nil, "ashlar seal v1", KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving the wrapping key: %w", err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// associated is everything beside the wrapped key, so that it cannot be
// exchanged.
func (d document) associated() []byte {
	d.Wrapped = nil
	text, err := json.Marshal(d)
	if err != nil {
		panic(err) // a struct of strings and bytes always encodes
	}
	return append([]byte("ashlar seal v1\x00"), text...)
}

func sourceFailed(source Source, err error) error {
	if problem.CodeOf(err) != "" {
		return err
	}
	return problem.Because(err, "STO-013", "source %s", source.Name())
}
