package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// maxShare bounds the message with a share, in bytes.
const maxShare = 16 << 10

// Recovery is what the routes below /v1/recovery ask: a coordinator, or the one
// that waits to be recovered.
type Recovery interface {
	// Recovery says who holds shares, and how far sessions are.
	Recovery(ctx context.Context) (apiv1.Recovery, error)
	// RecoveryStatement attests a session.
	RecoveryStatement(ctx context.Context, purpose string, nonce, tlsKey []byte) (apiv1.RecoveryStatement, error)
	// TakeShare takes a holder's share.
	TakeShare(ctx context.Context, m apiv1.RecoveryShare) (apiv1.RecoveryProgress, error)
}

func (s *clientAPI) recoveryStatus(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	found, err := s.recovery.Recovery(r.Context())
	if err != nil {
		return err
	}
	return answer(w, found)
}

func (s *clientAPI) recoveryStatement(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "nonce", "purpose")
	if err != nil {
		return err
	}
	nonce, err := nonce(q, apiv1.NonceSize)
	if err != nil {
		return err
	}
	conn, _ := r.Context().Value(connKey{}).(*gated)
	if conn == nil || conn.served.Load() == nil {
		return problem.New("CRD-110", "a statement is given over TLS only")
	}
	if ok, after := s.statements.take(conn.host); !ok {
		retryAfter(w, after)
		return problem.New("CRD-115", "too many statements were asked for from this address")
	}
	statement, err := s.recovery.RecoveryStatement(r.Context(), q.Get("purpose"), nonce, *conn.served.Load())
	if err != nil {
		return err
	}
	return answer(w, statement)
}

// takeShare counts as a statement: each costs a decryption.
func (s *clientAPI) takeShare(w http.ResponseWriter, r *http.Request) error {
	m, err := s.share(w, r)
	if err != nil {
		unwanted(w, r)
		return err
	}
	progress, err := s.recovery.TakeShare(r.Context(), m)
	if err != nil {
		return err
	}
	return answer(w, progress)
}

func (s *clientAPI) share(w http.ResponseWriter, r *http.Request) (apiv1.RecoveryShare, error) {
	var m apiv1.RecoveryShare
	if _, err := query(r); err != nil {
		return m, err
	}
	if conn, _ := r.Context().Value(connKey{}).(*gated); conn != nil {
		if ok, after := s.statements.take(conn.host); !ok {
			retryAfter(w, after)
			return m, problem.New("CRD-115", "too many shares came from this address")
		}
	}
	if r.ContentLength > maxShare {
		return m, problem.New("REC-016", "wanted at most %d bytes", maxShare)
	}
	raw, err := s.read(w, r, maxShare)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, problem.Because(err, "REC-016", "reading it")
	}
	return m, nil
}

// WaitingConfig is what NewWaiting needs.
type WaitingConfig struct {
	Recovery Recovery
	Gate     *Gate
	Times    Times
	Metrics  *Metrics
	Log      *slog.Logger
	Now      func() time.Time
	Names    []string // of the serving certificate
	Reason   string   // why the state does not open
}

// NewWaiting returns the server of the client API of a coordinator that waits for
// recovery. Its certificate is self-signed, its key made here: evidence says whose
// it is. It has the routes below /v1/recovery; every other one is REC-001.
func NewWaiting(c WaitingConfig) (*http.Server, error) {
	cert, err := selfSigned(c.Names, c.Now())
	if err != nil {
		return nil, fmt.Errorf("making the serving certificate: %w", err)
	}
	s := &clientAPI{recovery: c.Recovery, log: c.Log, metrics: c.Metrics, times: c.Times.orDefault(),
		statements: newRate(statementRate, statementBurst, c.Now), bodies: make(chan struct{}, maxBodies), mux: http.NewServeMux()}
	for _, r := range routes {
		if strings.HasPrefix(r.path, "/v1/recovery") {
			s.mux.Handle(r.path, s.resource(r))
		}
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuseUnread(w, r, problem.New("REC-001", "%s", c.Reason))
	})
	return s.server(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if g, ok := hello.Conn.(*gated); ok {
				g.served.Store(&cert.Leaf.RawSubjectPublicKeyInfo)
			}
			return nil, nil
		}, Certificates: []tls.Certificate{*cert}}), nil
}

// waitingLife is how long the certificate of a waiting coordinator counts.
const waitingLife = 365 * 24 * time.Hour

func selfSigned(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Ashlar coordinator, waiting for recovery"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(waitingLife), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
