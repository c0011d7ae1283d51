package ratls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/attest/sim/platform"
	"github.com/ashlar-mesh/ashlar/ratls"
)

// Two programs talk over TLS, and the client accepts the server for what it is,
// not for its name: the evidence in the server's certificate is judged. The
// software TEE stands in for hardware here.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	machine, err := platform.New(platform.Config{})
	if err != nil {
		log.Fatal(err)
	}
	program := attest.Hex("SHA-256 of the server's program.")

	// The server makes a key, and its TEE vouches for it.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	issuer := machine.NewInsecureIssuer(attest.SimSGX, platform.Measurement{Program: program, Agent: program})
	cert, err := ratls.CreateCertificate(ctx, issuer, key, ratls.Template{CommonName: "server", NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		log.Fatal(err)
	}
	server := ratls.ServerConfig(ratls.Settings{AllowAnonymous: true,
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Verify:      func(tls.ConnectionState) error { return nil }, // anybody may connect
	})

	// The client says which program it wants to talk to.
	verifiers, err := sim.NewVerifiers(machine.Root())
	if err != nil {
		log.Fatal(err)
	}
	peer := ratls.Peer{Verifiers: attest.NewVerifiers(verifiers...), Endorse: machine.Endorse, Now: time.Now,
		Policy: attest.Policy{Package: attest.Package{Sim: &attest.SimReference{Program: []attest.Hex{program}, Agent: []attest.Hex{program}}}}}
	client := ratls.ClientConfig(ratls.Settings{Verify: peer.VerifyConnection})

	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).HandshakeContext(ctx) }()
	err = tls.Client(b, client).HandshakeContext(ctx)
	fmt.Println("client accepted the server:", err == nil && <-done == nil)
	// Output: client accepted the server: true
}
