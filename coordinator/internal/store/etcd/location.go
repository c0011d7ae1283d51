// Package etcd is the cluster engine of the store: the sealed records of one
// deployment under a prefix of an etcd cluster, which several coordinators share.
//
// It owns where that is and the layout below the prefix. etcd is the host's: it
// is trusted to be there, and with nothing else. What it holds is sealed, every
// commit compares the revision that it was made on, and which coordinator writes
// is not decided here: a second writer is refused (store.ErrConflict).
package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// scheme begins every location.
const scheme = "etcd"

// Location is where the state of a deployment is:
//
//	etcd://HOST:PORT,HOST:PORT/PREFIX?ca=FILE&cert=FILE&key=FILE
//	etcd://HOST:PORT/PREFIX?tls=off
//
// Without ca the system's roots count. TLS keeps others from the state's
// availability; its secrecy does not rest on it.
type Location struct {
	Endpoints []string // HOST:PORT, one to nine
	Prefix    string   // "/PREFIX/": every key begins with it
	CA        string   // file with PEM certificates
	Cert, Key string   // files of the client's certificate, both or none
	Plain     bool     // no TLS
}

// ParseLocation reads a location; STO-030.
func ParseLocation(text string) (Location, error) {
	wrong := func(format string, args ...any) (Location, error) {
		return Location{}, problem.New("STO-030", format, args...)
	}
	// net/url takes no list of hosts with ports.
	rest, ok := strings.CutPrefix(text, scheme+"://")
	if !ok {
		return wrong("wanted etcd://HOST:PORT/PREFIX, got %.80q", text)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	path, query, _ := strings.Cut(path, "?")
	l := Location{Prefix: "/" + strings.Trim(path, "/") + "/"}
	if l.Prefix == "//" || strings.ContainsAny(path, " \t#%") {
		return wrong("wanted a prefix such as /ashlar/shop after the hosts, got %.80q", "/"+path)
	}
	for host := range strings.SplitSeq(hosts, ",") {
		name, port, err := net.SplitHostPort(host)
		if err != nil || name == "" || port == "" || strings.ContainsAny(host, "@ ?#") {
			return wrong("wanted HOST:PORT, got %.80q", host)
		}
		l.Endpoints = append(l.Endpoints, host)
	}
	if len(l.Endpoints) > 9 {
		return wrong("wanted at most 9 hosts, got %d", len(l.Endpoints))
	}
	return l, l.options(query)
}

// options reads what follows the question mark.
func (l *Location) options(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return problem.New("STO-030", "what follows the question mark does not parse")
	}
	into := map[string]*string{"ca": &l.CA, "cert": &l.Cert, "key": &l.Key}
	for name, all := range values {
		switch to := into[name]; {
		case len(all) != 1 || all[0] == "":
			return problem.New("STO-030", "%s: wanted one value, got %d", name, len(all))
		case to != nil:
			*to = all[0]
		case name == "tls" && all[0] == "off":
			l.Plain = true
		default:
			return problem.New("STO-030", "unknown option %.40q; wanted ca, cert, key or tls=off", name+"="+all[0])
		}
	}
	if (l.Cert == "") != (l.Key == "") {
		return problem.New("STO-030", "cert and key go together")
	}
	if l.Plain && (l.CA != "" || l.Cert != "") {
		return problem.New("STO-030", "tls=off goes with no certificate")
	}
	return nil
}

// String returns hosts and prefix, without the files.
func (l Location) String() string {
	return scheme + "://" + strings.Join(l.Endpoints, ",") + strings.TrimSuffix(l.Prefix, "/")
}

// tls reads the certificates; nil without TLS. The client's certificate is read
// anew for each connection, so that a renewed one counts.
func (l Location) tls() (*tls.Config, error) {
	if l.Plain {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if l.CA != "" {
		b, err := os.ReadFile(filepath.Clean(l.CA))
		if err != nil {
			return nil, problem.Because(err, "STO-030", "ca")
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, problem.New("STO-030", "ca: %s holds no PEM certificate", l.CA)
		}
	}
	if l.Cert == "" {
		return c, nil
	}
	read := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(l.Cert, l.Key)
		return &pair, err
	}
	if _, err := read(); err != nil {
		return nil, problem.Because(err, "STO-030", "cert and key")
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := read()
		if err != nil {
			return nil, fmt.Errorf("reading the certificate for etcd: %w", err)
		}
		return pair, nil
	}
	return c, nil
}

// urls are the endpoints as etcd's client takes them.
func (l Location) urls() []string {
	all := slices.Clone(l.Endpoints)
	for i := range all {
		if l.Plain {
			all[i] = "http://" + all[i]
		} else {
			all[i] = "https://" + all[i]
		}
	}
	return all
}
