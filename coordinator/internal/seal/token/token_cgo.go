//go:build cgo

package token

import (
	"crypto/rand"
	"errors"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// using is held while a module is loaded: C_Initialize is per process.
var using sync.Mutex

// with logs in to the token and runs f in a session.
func with(s Spec, pin string, f func(p *pkcs11.Ctx, session pkcs11.SessionHandle) error) error {
	using.Lock()
	defer using.Unlock()
	p := pkcs11.New(s.Module)
	if p == nil {
		return problem.New("REC-041", "%s cannot be loaded", s.Module)
	}
	defer p.Destroy()
	if err := p.Initialize(); err != nil {
		return problem.Because(err, "REC-041", "initialising %s", s.Module)
	}
	defer p.Finalize() //nolint:errcheck // the module is unloaded either way
	slot, err := find(p, s)
	if err != nil {
		return err
	}
	session, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return problem.Because(err, "REC-045", "opening a session with token %s", s.Token)
	}
	defer p.CloseSession(session) //nolint:errcheck // ends with Finalize
	if err := p.Login(session, pkcs11.CKU_USER, pin); err != nil {
		return problem.Because(err, "REC-043", "logging in to token %s, once", s.Token)
	}
	defer p.Logout(session) //nolint:errcheck // ends with Finalize
	return f(p, session)
}

// find returns the slot of the token with the label. A token that counts its last
// try is left alone.
func find(p *pkcs11.Ctx, s Spec) (uint, error) {
	slots, err := p.GetSlotList(true)
	if err != nil {
		return 0, problem.Because(err, "REC-045", "looking for tokens")
	}
	var found []uint
	for _, slot := range slots {
		info, err := p.GetTokenInfo(slot)
		if err != nil || info.Label != s.Token {
			continue
		}
		if info.Flags&(pkcs11.CKF_USER_PIN_LOCKED|pkcs11.CKF_USER_PIN_FINAL_TRY) != 0 {
			return 0, problem.New("REC-043", "token %s is locked, or has one try left", s.Token)
		}
		found = append(found, slot)
	}
	switch len(found) {
	case 0:
		return 0, problem.New("REC-042", "no token is called %s", s.Token)
	case 1:
		return found[0], nil
	}
	return 0, problem.New("REC-042", "%d tokens are called %s", len(found), s.Token)
}

// object returns the one secret key with the label; REC-044.
func object(p *pkcs11.Ctx, session pkcs11.SessionHandle, s Spec) (pkcs11.ObjectHandle, error) {
	err := p.FindObjectsInit(session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, s.Key),
	})
	if err != nil {
		return 0, problem.Because(err, "REC-045", "looking for key %s", s.Key)
	}
	found, _, err := p.FindObjects(session, 2)
	if ferr := p.FindObjectsFinal(session); err == nil {
		err = ferr
	}
	if err != nil {
		return 0, problem.Because(err, "REC-045", "looking for key %s", s.Key)
	}
	if len(found) != 1 {
		return 0, problem.New("REC-044", "token %s has %d keys called %s, wanted one", s.Token, len(found), s.Key)
	}
	return found[0], nil
}

// mechanism is AES-GCM with a tag of 16 bytes (PKCS #11 3.0, section 2.12.3).
func mechanism(iv []byte) ([]*pkcs11.Mechanism, *pkcs11.GCMParams) {
	params := pkcs11.NewGCMParams(iv, []byte(associated), 128)
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, params
}

// ask decrypts the secret of info, or makes a new one. Info is a 12-byte IV and
// what the token made of the secret.
func ask(s Spec, pin string, info []byte) (secret, newInfo []byte, err error) {
	if info != nil && len(info) != ivSize+secretSize+16 {
		return nil, nil, problem.New("REC-045", "wanted %d bytes to decrypt, got %d", ivSize+secretSize+16, len(info))
	}
	err = with(s, pin, func(p *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		key, err := object(p, session, s)
		if err != nil {
			return err
		}
		if info != nil {
			newInfo = info
			secret, err = decrypt(p, session, key, info)
			return err
		}
		secret, newInfo, err = encrypt(p, session, key)
		return err
	})
	return secret, newInfo, err
}

func decrypt(p *pkcs11.Ctx, session pkcs11.SessionHandle, key pkcs11.ObjectHandle, info []byte) ([]byte, error) {
	m, params := mechanism(info[:ivSize])
	defer params.Free()
	if err := p.DecryptInit(session, m, key); err != nil {
		return nil, problem.Because(err, "REC-045", "decrypting the sealing key")
	}
	secret, err := p.Decrypt(session, info[ivSize:])
	if err != nil {
		return nil, problem.Because(err, "REC-044", "the key does not open it: it is another one of the same name, or seal.json was changed")
	}
	return secret, nil
}

func encrypt(p *pkcs11.Ctx, session pkcs11.SessionHandle, key pkcs11.ObjectHandle) (secret, info []byte, err error) {
	random := make([]byte, secretSize+ivSize)
	rand.Read(random) // never fails (crypto/rand)
	secret, iv := random[:secretSize:secretSize], random[secretSize:]
	m, params := mechanism(iv)
	defer params.Free()
	if err := p.EncryptInit(session, m, key); err != nil {
		return nil, nil, problem.Because(err, "REC-045", "encrypting the sealing key")
	}
	sealed, err := p.Encrypt(session, secret)
	if err != nil {
		return nil, nil, problem.Because(err, "REC-045", "encrypting the sealing key")
	}
	if used := params.IV(); len(used) == ivSize { // some tokens choose their own
		iv = used
	}
	return secret, append(append([]byte{}, iv...), sealed...), nil
}

// makeKey makes an AES-256 key that cannot be read or wrapped.
func makeKey(s Spec, pin string) error {
	return with(s, pin, func(p *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		_, err := object(p, session, s)
		if err == nil {
			return nil
		}
		var missing *problem.Error
		if !errors.As(err, &missing) || missing.Code != "REC-044" {
			return err
		}
		_, err = p.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_LABEL, s.Key), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_WRAP, false), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		})
		if err != nil {
			return problem.Because(err, "REC-045", "making key %s on token %s", s.Key, s.Token)
		}
		return nil
	})
}
