package sim

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Client asks the platform that listens on a unix socket. It is safe for
// concurrent use. Its errors are coded: ATT-090 when the platform cannot be
// reached, else what the platform answered.
type Client struct {
	Socket string // path
}

// Evidence asks for a quote of shape tee with the report data b. The platform
// measures this process, the program and the files by itself.
func (c Client) Evidence(ctx context.Context, tee attest.TEE, b attest.Binding, program *Program, files []File) (attest.Evidence, error) {
	r, err := c.ask(ctx, Request{Op: OpEvidence, TEE: tee, Binding: b[:], Program: program, Files: files})
	if err != nil {
		return attest.Evidence{}, err
	}
	if r.Evidence == nil {
		return attest.Evidence{}, c.unreadable(errors.New("no evidence in the answer"))
	}
	return *r.Evidence, nil
}

// Endorsements returns what the simulated vendor says at present about the
// platform's evidence of shape tee.
func (c Client) Endorsements(ctx context.Context, tee attest.TEE) (attest.Endorsements, error) {
	r, err := c.ask(ctx, Request{Op: OpEndorsements, TEE: tee})
	if err != nil {
		return attest.Endorsements{}, err
	}
	if r.Endorsements == nil {
		return attest.Endorsements{}, c.unreadable(errors.New("no endorsements in the answer"))
	}
	return *r.Endorsements, nil
}

// Endorse returns the endorsements for a piece of evidence.
func (c Client) Endorse(ctx context.Context, e attest.Evidence) (attest.Endorsements, error) {
	return c.Endorsements(ctx, e.TEE)
}

// Root returns the throw-away root of the platform. Whoever trusts it trusts
// the machine that the platform runs on.
func (c Client) Root(ctx context.Context) (*x509.Certificate, error) {
	r, err := c.ask(ctx, Request{Op: OpRoot})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(r.Root))
	if block == nil {
		return nil, c.unreadable(errors.New("no certificate in the answer"))
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, c.unreadable(err)
	}
	return root, nil
}

// SealKey returns the newest sealing key of this process under a policy. It is
// the same after a restart of the platform.
func (c Client) SealKey(ctx context.Context, policy SealPolicy) (SealKey, error) {
	key, _, err := c.SealKeyAt(ctx, policy, nil)
	return key, err
}

// SealKeyAt returns the sealing key of the security versions that info names, an
// earlier newInfo; with nil the newest, and what gives it again after the
// platform was updated.
func (c Client) SealKeyAt(ctx context.Context, policy SealPolicy, info []byte) (key SealKey, newInfo []byte, err error) {
	r, err := c.ask(ctx, Request{Op: OpSealKey, Policy: policy, Info: info})
	if err != nil {
		return SealKey{}, nil, err
	}
	if len(r.SealKey) != len(SealKey{}) {
		return SealKey{}, nil, c.unreadable(fmt.Errorf("sealing key of %d bytes in the answer", len(r.SealKey)))
	}
	return SealKey(r.SealKey), r.SealInfo, nil
}

func (c Client) ask(ctx context.Context, req Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return Response{}, problem.Because(err, "ATT-090", "asking the simulation platform at %s", c.Socket)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	resp, err := exchange(conn, req)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Response{}, c.unreadable(err)
	}
	if resp.Problem != nil {
		return Response{}, resp.Problem
	}
	return resp, nil
}

func (c Client) unreadable(err error) error {
	return problem.Because(err, "ATT-090", "reading the answer of the simulation platform at %s", c.Socket)
}

func exchange(conn io.ReadWriter, req Request) (Response, error) {
	if err := WriteMessage(conn, req, MaxRequest); err != nil {
		return Response{}, err
	}
	var resp Response
	err := ReadMessage(conn, &resp, MaxResponse)
	return resp, err
}

// WriteMessage writes v as JSON behind its length; above limit it is an error.
func WriteMessage(w io.Writer, v any, limit int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > limit {
		return fmt.Errorf("message of %d bytes, limit %d", len(body), limit)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// ReadMessage reads what WriteMessage wrote, strictly: no unknown field, no
// more than limit bytes.
func ReadMessage(r io.Reader, v any, limit int) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return fmt.Errorf("reading the length of a message: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if int64(n) > int64(limit) {
		return fmt.Errorf("message of %d bytes, limit %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("reading a message of %d bytes: %w", n, err)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("reading a message: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the message")
	}
	return nil
}
