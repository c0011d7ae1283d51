// Package token is a source of sealing keys on a PKCS #11 token, such as an HSM.
//
// It owns how a token is named and what is asked of it: an AES-256 key that is
// made there and never leaves it encrypts a random secret, and only that token
// decrypts it again. It makes a key only when a state is made, tries a PIN once,
// and never reads one from a command line. Where the program was built without
// cgo, no token can be used, and it says so.
package token

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxPIN     = 256
	maxName    = 64
	secretSize = 32
	ivSize     = 12
)

// associated is what the token authenticates with the secret.
const associated = "ashlar token seal v1"

// Spec names a key on a token. It holds no PIN.
type Spec struct {
	Module string // path of the library, absolute
	Token  string // label of the token
	Key    string // label of the key
	// Where the PIN is: one of a file and an environment variable.
	PINFile, PINEnv string
}

// Parse reads "pkcs11:module=PATH,token=LABEL,key=LABEL,pin-file=PATH" or, in
// place of pin-file, "pin-env=NAME". The error is REC-040.
func Parse(text string) (Spec, error) {
	var s Spec
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return s, problem.New("REC-040", "wanted pkcs11:module=PATH,token=LABEL,key=LABEL,pin-file=PATH; got %.20q", text)
	}
	fields := map[string]*string{"module": &s.Module, "token": &s.Token, "key": &s.Key, "pin-file": &s.PINFile, "pin-env": &s.PINEnv}
	for _, part := range strings.Split(rest, ",") {
		name, value, _ := strings.Cut(part, "=")
		field := fields[name]
		switch {
		case name == "pin":
			return s, problem.New("REC-040", "a PIN does not belong on a command line: name a file with pin-file, or a variable with pin-env")
		case field == nil:
			return s, problem.New("REC-040", "%.20q is no part of it", name)
		case *field != "" || value == "":
			return s, problem.New("REC-040", "%s is empty, or there twice", name)
		}
		*field = value
	}
	switch {
	case s.Module == "" || s.Token == "" || s.Key == "":
		return s, problem.New("REC-040", "module, token and key are needed")
	case !filepath.IsAbs(s.Module):
		return s, problem.New("REC-040", "module: wanted an absolute path, got %.80q", s.Module)
	case len(s.Token) > 32 || len(s.Key) > maxName:
		return s, problem.New("REC-040", "a token's label has at most 32 bytes, a key's %d", maxName)
	case (s.PINFile == "") == (s.PINEnv == ""):
		return s, problem.New("REC-040", "wanted one of pin-file and pin-env")
	}
	return s, nil
}

// pin reads the PIN.
func (s Spec) pin() (string, error) {
	if s.PINEnv != "" {
		if pin := os.Getenv(s.PINEnv); pin != "" && len(pin) <= maxPIN {
			return pin, nil
		}
		return "", problem.New("REC-043", "the variable %s holds no PIN", s.PINEnv)
	}
	b, err := os.ReadFile(s.PINFile)
	if err != nil {
		return "", problem.Because(err, "REC-043", "reading the PIN")
	}
	pin := strings.TrimRight(string(b), "\r\n")
	if pin == "" || len(pin) > maxPIN {
		return "", problem.New("REC-043", "%s holds no PIN of 1 to %d bytes", s.PINFile, maxPIN)
	}
	return pin, nil
}

// New returns the source of a token. Each call logs in and out again, so that a
// token that is taken away is missed at once. A PIN that was refused is not tried
// again.
func New(s Spec) seal.Source { return &source{spec: s} }

type source struct {
	spec    Spec
	refused atomic.Bool // the PIN
}

// Name names token and key; another module for the same token is the same source.
func (s *source) Name() string { return "pkcs11:" + s.spec.Token + ":" + s.spec.Key }

// Key implements seal.Source. Errors: REC-041 (no module, or no cgo), REC-042 (no
// such token), REC-043 (PIN), REC-044 (no such key), REC-045 (the token failed).
func (s *source) Key(ctx context.Context, info []byte) (seal.Key, []byte, error) {
	if err := ctx.Err(); err != nil {
		return seal.Key{}, nil, err
	}
	pin, err := s.spec.pin()
	if err != nil {
		return seal.Key{}, nil, err
	}
	if s.refused.Load() {
		return seal.Key{}, nil, problem.New("REC-043", "token %s refused the PIN before: it is not tried again until the next start", s.spec.Token)
	}
	secret, newInfo, err := ask(s.spec, pin, info)
	if err != nil {
		s.refused.Store(problem.CodeOf(err) == "REC-043")
		return seal.Key{}, nil, err
	}
	key, err := seal.NewKey(secret)
	if err != nil {
		return seal.Key{}, nil, problem.Because(err, "REC-045", "what token %s decrypted", s.spec.Token)
	}
	return key, newInfo, nil
}

// MakeKey makes the key on the token, unless it is there. Only the command that
// makes a state calls it.
func MakeKey(s Spec) error {
	pin, err := s.pin()
	if err != nil {
		return err
	}
	return makeKey(s, pin)
}
