// Package daemon makes a coordinator out of its parts and runs it: state and
// sealing key, the TEE it runs in, the verifiers and where endorsements come
// from, the three ports, and an orderly end.
//
// It owns the configuration and the lifecycle. It decides nothing about trust:
// simulated evidence is verified only under a root that the configuration names,
// and state is made by Init alone, never because it is missing.
package daemon

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/api"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/seal/token"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Version is set when the program is linked.
var Version = "devel"

// Default listening addresses.
const (
	DefaultClientAddr  = ":4433"
	DefaultMeshAddr    = ":2001"
	DefaultMetricsAddr = "127.0.0.1:9944"
)

// Config says where a coordinator keeps its state, what it runs in, and where
// it listens. Each field is a flag of ashlar-coordinator, named in the errors.
type Config struct {
	State        string     // --state: folder
	Store        string     // --store: where several coordinators keep one state, "etcd://…"; empty keeps it in State
	Replica      string     // --replica: name among them; the host's if empty
	Reach        string     // --reach: name or IP by which the others reach the client and mesh ports
	TEE          attest.TEE // --tee; issuer.Auto if empty
	Seal         string     // --seal: "product", "unique" or "none", until a manifest says otherwise; "product" if empty
	SealSource   string     // --seal-source: an external source of the sealing key, "pkcs11:…"; none if empty
	SimSocket    string     // --sim-socket: of the simulation platform
	SimRoot      string     // --sim-root: PEM file; without it no simulated evidence is accepted; goes with SimSocket
	TPMRoots     string     // --tpm-roots: PEM file with the CAs that may stand for a TPM's key; without it packages have to list keys
	PCCS         []string   // --pccs: addresses of services like Intel's, in the order in which they are asked
	KDS          []string   // --kds: addresses of services like AMD's
	Endorsements string     // --endorsements: folder TEE/FMSPC/, snp/CHIPID/, snp/vlek/ with the vendors' documents; what is fetched is kept in it
	Owner        string     // --owner: PEM certificate of who alone may set the first manifest
	ClientAddr   string     // --client-addr
	MeshAddr     string     // --mesh-addr
	MetricsAddr  string     // --metrics-addr
	Advertise    []string   // --advertise: DNS names and IPs of the serving certificate

	Machine *issuer.Machine // whose TEE it is; issuer.Host if nil

	Grace time.Duration // for running requests at the end; 10 s if zero
	Times api.Times
	// Plugins verify further TEEs. They are compiled in, so that whom the
	// coordinator trusts is measured with it: no flag names them. None may be for
	// a TEE that is verified anyway.
	Plugins []attest.Verifier
	Log     *slog.Logger
	Now     func() time.Time // time.Now if nil
	Ready   func(Addresses)  // called once when every port answers; may be nil
	Waiting func(Addresses)  // called once if the state waits for recovery, when that can be asked for; may be nil
	// Force ends the grace at once when it is closed; may be nil.
	Force <-chan struct{}

	pace pace // of a replica
}

// Addresses are where a running coordinator listens.
type Addresses struct{ Client, Mesh, Metrics string }

// settings is a Config that was checked, with its files read.
type settings struct {
	Config
	simRoot *x509.Certificate // nil: no simulated evidence is accepted
	owner   *x509.Certificate

	issuer  attest.Issuer    // set by enter, with TEE and
	sealKey seal.PlatformKey // the sealing key of the TEE
	token   *token.Spec      // nil without --seal-source
	kms     seal.Source      // of that token
	shared  etcd.Location    // of --store

	endorsements *endorsements // set by core
}

// check reads and judges the configuration once; an error names the flag.
func (c Config) check() (settings, error) {
	s := settings{Config: c}
	s.defaults()
	if s.State == "" {
		return s, invalid("state", "name the folder of the state")
	}
	known := append(issuer.Kinds(), issuer.Auto, attest.SimSGX, attest.SimTDX)
	var err error
	switch {
	case !slices.Contains(known, s.TEE):
		return s, invalid("tee", "no evidence can be made for %q; wanted one of %s", s.TEE, strings.Trim(fmt.Sprint(known), "[]"))
	case s.TEE.Simulated() && s.SimSocket == "":
		return s, invalid("sim-socket", "%s needs the socket of the simulation platform", s.TEE)
	case s.TEE.Simulated() && s.SimRoot == "":
		return s, invalid("sim-root", "%s needs the root of the simulation platform in a file", s.TEE)
	case (s.SimSocket == "") != (s.SimRoot == ""):
		return s, invalid("sim-root", "simulated evidence is accepted with --sim-root and --sim-socket together, or not at all")
	}
	if err := s.checkSeal(); err != nil {
		return s, err
	}
	if s.SealSource != "" {
		spec, err := token.Parse(s.SealSource)
		if err != nil {
			return s, err
		}
		s.token, s.kms = &spec, token.New(spec)
	}
	if s.SimRoot != "" {
		if s.simRoot, err = certificate(s.SimRoot); err != nil {
			return s, invalid("sim-root", "%v", err)
		}
	}
	if s.Owner != "" {
		if s.owner, err = certificate(s.Owner); err != nil {
			return s, invalid("owner", "%v", err)
		}
	}
	if err := s.checkAddresses(); err != nil {
		return s, err
	}
	return s, s.checkShared()
}

func (s *settings) defaults() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set((*string)(&s.TEE), string(issuer.Auto))
	set(&s.Seal, string(issuer.SealProduct))
	set(&s.ClientAddr, DefaultClientAddr)
	set(&s.MeshAddr, DefaultMeshAddr)
	set(&s.MetricsAddr, DefaultMetricsAddr)
	if s.Grace <= 0 {
		s.Grace = 10 * time.Second
	}
	if s.Machine == nil {
		host := issuer.Host()
		s.Machine = &host
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.simulated() {
		s.Log = s.Log.With("tee", "SIMULATION")
	}
}

func (s *settings) simulated() bool { return s.TEE.Simulated() || s.SimRoot != "" }

func (s *settings) checkAddresses() error {
	for flag, addr := range map[string]string{"client-addr": s.ClientAddr, "mesh-addr": s.MeshAddr, "metrics-addr": s.MetricsAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return invalid(flag, "wanted HOST:PORT or :PORT, got %q", addr)
		}
	}
	for _, name := range s.Advertise {
		if name == "" || strings.ContainsAny(name, " \t/*") {
			return invalid("advertise", "%q is neither a DNS name nor an IP address", name)
		}
	}
	return nil
}

// checkShared judges what several coordinators need to find one another.
func (s *settings) checkShared() (err error) {
	if s.Store == "" {
		switch {
		case s.Replica != "":
			return invalid("replica", "it goes with --store")
		case s.Reach != "":
			return invalid("reach", "it goes with --store")
		}
		return nil
	}
	if s.shared, err = etcd.ParseLocation(s.Store); err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	if s.Replica == "" {
		host, err := os.Hostname()
		if err != nil {
			return invalid("replica", "the host has no name: %v", err)
		}
		s.Replica, _, _ = strings.Cut(host, ".")
	}
	if !apiv1.IsReplicaName(s.Replica) {
		return invalid("replica", "wanted 1 to 63 letters, digits and dashes, got %.80q", s.Replica)
	}
	if s.Reach == "" {
		s.Reach = specific(s.ClientAddr, s.MeshAddr)
	}
	if net.ParseIP(s.Reach) == nil && strings.ContainsAny(s.Reach, " \t/*:[]@") || len(s.Reach) > 253 {
		return invalid("reach", "wanted a DNS name or an IP address without a port, got %.80q", s.Reach)
	}
	return nil
}

// specific returns the one IP that both addresses listen on; "" if they do not.
func specific(client, mesh string) string {
	host, _, _ := net.SplitHostPort(client)
	other, _, _ := net.SplitHostPort(mesh)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() || other != host {
		return ""
	}
	return host
}

func invalid(flag, format string, args ...any) error {
	e := problem.New("CRD-130", format, args...)
	e.Detail = "--" + flag + ": " + e.Detail
	return e.WithNext("ashlar-coordinator help")
}

// certificate reads one PEM certificate.
func certificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, problem.New("CRD-130", "%s does not hold one PEM certificate", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// names are what the serving certificate is valid for.
func (s *settings) names() []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, s.Advertise...)
	if host, err := os.Hostname(); err == nil && host != "" {
		names = append(names, host)
	}
	return names
}
