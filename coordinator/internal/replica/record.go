package replica

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/internal/plain"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	maxRecord = 4 << 10 // bytes of one value in etcd
	maxReason = 2 << 10 // bytes of a role's reason that others are shown
	maxWord   = 128     // bytes of a version and of the name of a TEE
)

// Record is what the holder of an election says of itself. Name and addresses have
// the form of such; whether they are true is for whoever connects to find out.
type Record struct {
	Name   string `json:"name"`
	Client string `json:"client"` // HOST:PORT of its client port
	Mesh   string `json:"mesh"`   // and of its mesh port
}

// entry is a replica in the registry.
type entry struct {
	apiv1.Replica
	Client string `json:"client"`
	Mesh   string `json:"mesh"`
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?$`)

// check refuses what other replicas would drop; REP-003.
func (s Self) check() error {
	if err := (Record{Name: s.Name, Client: s.Client, Mesh: s.Mesh}).check(); err != nil {
		return problem.Because(err, "REP-003", "what this replica says of itself")
	}
	if len(s.Version) > maxWord || len(s.TEE) > maxWord {
		return problem.New("REP-003", "version and TEE have at most %d bytes, got %d and %d", maxWord, len(s.Version), len(s.TEE))
	}
	if s.Now == nil {
		return errors.New("a replica needs a clock")
	}
	return nil
}

func (r Record) check() error {
	if !apiv1.IsReplicaName(r.Name) {
		return fmt.Errorf("name: wanted 1 to 63 letters, digits and dashes, got %.80q", r.Name)
	}
	if err := checkAddress(r.Client); err != nil {
		return fmt.Errorf("client address: %w", err)
	}
	if err := checkAddress(r.Mesh); err != nil {
		return fmt.Errorf("mesh address: %w", err)
	}
	return nil
}

// checkAddress accepts HOST:PORT that another machine can dial.
func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("wanted HOST:PORT, got %.80q", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return fmt.Errorf("wanted a port from 1 to 65535, got %.80q", addr)
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return fmt.Errorf("wanted an address that others can reach, got %.80q", addr)
	case err != nil && !hostForm.MatchString(host):
		return fmt.Errorf("wanted a host's name or IP address, got %.80q", addr)
	}
	return nil
}

// parseRecord reads a record from etcd.
func parseRecord(b []byte) (Record, error) {
	var r Record
	if err := decode(b, &r); err != nil {
		return Record{}, err
	}
	return r, r.check()
}

// parseEntry reads a replica of the registry that has its place under name.
func parseEntry(name string, b []byte) (entry, error) {
	var e entry
	if err := decode(b, &e); err != nil {
		return entry{}, err
	}
	if e.Name != name {
		return entry{}, fmt.Errorf("wanted the name %.80q, got %.80q", name, e.Name)
	}
	switch e.Role {
	case apiv1.ReplicaActive, apiv1.ReplicaStandby, apiv1.ReplicaJoining:
	default:
		return entry{}, fmt.Errorf("unknown role %.40q", e.Role)
	}
	e.Reason, e.Version, e.TEE = plain.Clip(e.Reason, maxReason), plain.Clip(e.Version, maxWord), plain.Clip(e.TEE, maxWord)
	return e, Record{Name: e.Name, Client: e.Client, Mesh: e.Mesh}.check()
}

// decode reads one JSON value. Fields that it does not know are a newer release's.
func decode(b []byte, into any) error {
	if len(b) > maxRecord {
		return fmt.Errorf("wanted at most %d bytes, got %d", maxRecord, len(b))
	}
	if !bytes.HasPrefix(b, []byte("{")) {
		return errors.New("wanted a JSON object")
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	return nil
}

// encode is what parseEntry reads.
func (e entry) encode() (string, error) {
	e.Reason = plain.Clip(e.Reason, maxReason)
	b, err := json.Marshal(e)
	if err == nil && len(b) > maxRecord {
		e.Reason = "" // of characters that JSON escapes
		b, err = json.Marshal(e)
	}
	return string(b), err
}

// byName orders replicas.
func byName(a, b apiv1.Replica) int { return cmp.Compare(a.Name, b.Name) }
