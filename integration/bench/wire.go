package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/probe"
	"github.com/ashlar-mesh/ashlar/marble/marblepb"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// wire makes unary gRPC calls over one TLS connection, one after the other, in
// the goroutine that calls. The load generator shares the machine with what it
// measures, and a gRPC client for two calls costs as much as the coordinator.
type wire struct {
	conn   *tls.Conn
	out    *bufio.Writer
	framer *http2.Framer
	header bytes.Buffer
	encode *hpack.Encoder
	stream uint32 // of the last call
}

// dialWire opens a connection from a local IP.
func dialWire(ctx context.Context, from string) (*wire, *probe.Client, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	raw, err := dialer.DialContext(ctx, "tcp", dev.DefaultMesh)
	if err != nil {
		return nil, nil, err
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
	exporter, err := open(ctx, conn)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	w := &wire{conn: conn, out: bufio.NewWriter(conn)}
	w.framer = http2.NewFramer(w.out, conn)
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.encode = hpack.NewEncoder(&w.header)
	_, err = w.out.WriteString(http2.ClientPreface)
	if err = errors.Join(err, w.framer.WriteSettings()); err != nil {
		raw.Close()
		return nil, nil, err
	}
	return w, &probe.Client{API: marblepb.NewMarbleClient(w), Exporter: exporter}, nil
}

func open(ctx context.Context, conn *tls.Conn) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return ratls.Exporter(conn.ConnectionState())
}

// NewStream makes wire a grpc.ClientConnInterface.
func (w *wire) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.ErrUnsupported
}

// Invoke makes one call. The deadline is the connection's.
func (w *wire) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if err := w.send(method, args.(proto.Message)); err != nil {
		return err
	}
	var body []byte
	for {
		f, err := w.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = w.framer.WriteSettingsAck() // goes out with the next call
			}
		case *http2.DataFrame:
			body = append(body, f.Data()...)
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				return finish(f, body, reply.(proto.Message))
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			err = fmt.Errorf("the coordinator ended the call: %v", f)
		}
		if err != nil {
			return err
		}
	}
}

func (w *wire) send(method string, m proto.Message) error {
	w.stream += 2
	w.header.Reset()
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", method}, {":authority", dev.DefaultMesh},
		{"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := w.encode.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return err
		}
	}
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5, 8<<10), m)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-5))
	id := w.stream - 1
	return errors.Join(
		w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.header.Bytes(), EndHeaders: true}),
		w.framer.WriteData(id, true, body), w.out.Flush())
}

// finish judges the trailers.
func finish(f *http2.MetaHeadersFrame, body []byte, reply proto.Message) error {
	var code, text string
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "grpc-status":
			code = h.Value
		case "grpc-message":
			text = h.Value
		}
	}
	if code != "0" {
		return status.Error(codes.Unknown, "status "+code+": "+text)
	}
	if len(body) < 5 {
		return io.ErrUnexpectedEOF
	}
	return proto.Unmarshal(body[5:], reply)
}
