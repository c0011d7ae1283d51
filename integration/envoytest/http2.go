package envoytest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
)

// HTTP2 speaks HTTP/2 over a connection that has negotiated it.
func HTTP2(ctx context.Context, conn *tls.Conn) (*http.ClientConn, error) {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	t := &http.Transport{Protocols: &protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	return t.NewClientConn(ctx, "https", conn.RemoteAddr().String())
}
