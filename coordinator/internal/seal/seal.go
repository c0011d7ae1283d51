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
	KeyID   string `json:"keyID"`   // Key.ID of the data key
	Wrapped []byte `json:"wrapped"` // 12-byte nonce, AES-256-GCM of the data key
}

// Create makes a random data key, wraps it and writes it to path, replacing
// what is there: callers make sure that it is nothing of value.
func Create(ctx context.Context, path string, source Source, random io.Reader) (Key, error) {
	wrapping, info, err := source.Key(ctx, nil)
	if err != nil {
		return Key{}, sourceFailed(source, err)
	}
	data, err := RandomKey(random)
	if err != nil {
		return Key{}, err
	}
	d := document{Version: formatVersion, Source: source.Name(), Info: info, KeyID: data.ID()}
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return Key{}, fmt.Errorf("reading random bytes: %w", err)
	}
	gcm, err := d.cipher(wrapping)
	if err != nil {
		return Key{}, err
	}
	d.Wrapped = gcm.Seal(nonce, nonce, data.Reveal(), d.associated())
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return Key{}, fmt.Errorf("encoding seal.json: %w", err)
	}
	if err := durable.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return Key{}, problem.Because(err, "STO-007", "storing the sealed key")
	}
	return data, nil
}

// Open reads the data key from path. The errors are STO-002 (missing), STO-013
// (no sealing key), STO-014 (damaged) and STO-015 (sealed elsewhere).
func Open(ctx context.Context, path string, source Source) (Key, error) {
	d, err := read(path)
	if err != nil {
		return Key{}, err
	}
	if d.Source != source.Name() {
		return Key{}, problem.New("STO-015", "wanted source %s, got %.64q", source.Name(), d.Source)
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
	key, err := NewKey(plain)
	if err != nil || key.ID() != d.KeyID {
		return Key{}, problem.New("STO-014", "%s holds another key than it names", path)
	}
	return key, nil
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
	if want := nonceSize + KeySize + 16; len(d.Wrapped) != want {
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
