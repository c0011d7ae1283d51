//go:build linux

package cluster

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// stranger is a replica of a program that is as good as the others, and measured
// as another one.
func (s *site) stranger(name string, m *machine) *replica {
	s.t.Helper()
	r := s.replica(name, m)
	r.program = s.anotherBuild("ashlar-coordinator-" + name)
	return r
}

// anotherBuild is the coordinator with another measurement.
func (s *site) anotherBuild(name string) string {
	s.t.Helper()
	program, err := os.ReadFile(s.tools.coordinator)
	if err != nil {
		s.t.Fatal(err)
	}
	path := s.file(name)
	if err := os.WriteFile(path, append(program, 0), 0o700); err != nil { // nothing reads what stands behind an ELF file's end
		s.t.Fatal(err)
	}
	return path
}

// Replicas of other software and on other hardware than the manifest names are
// refused the key, with the table that says why, and it is nowhere to be found in
// clear. What the manifest names joins by itself.
func TestClusterRefusesReplicas(t *testing.T) {
	s := newSite(t, "first", "second", "third")
	first := s.replica("a", s.machines[0])
	first.init()
	first.start()
	room := map[string]any{"sim": map[string]any{"ppids": []string{s.machines[0].ppid(t), s.machines[1].ppid(t)}}}
	s.set(s.manifest("1h", func(doc map[string]any) {
		doc["platforms"] = map[string]any{"room": room}
		doc["coordinators"].(map[string]any)["platform"] = "room"
	}))
	s.shell.Must(0, "verify", "--policy", s.policyFile())
	key := s.dataKey(first)

	stranger, outside, debug := s.stranger("stranger", s.machines[1]), s.replica("outside", s.machines[2]), s.replica("debug", s.machines[1])
	for _, c := range []struct {
		replica *replica
		order   string // to the second machine
		field   string
	}{
		{stranger, `{}`, "sim.program"}, {outside, `{}`, "ppid"}, {debug, `{"debug": true}`, "debug"},
	} {
		s.machines[1].misbehave(t, c.order)
		c.replica.start()
		c.replica.until("refused", func(p says) bool { return !p.Ready && strings.Contains(p.Reason, "REP-021") })
		id := s.refusal(c.replica)
		got := s.shell.Must(0, append([]string{"explain", id}, s.as("alice")...)...)
		drive.Wants(t, got.Stdout, "was refused", c.field, "✗")
		if _, err := os.Stat(filepath.Join(c.replica.state(), "seal.json")); !os.IsNotExist(err) {
			t.Errorf("%s was refused, and has a sealed key (%v)", c.replica.name, err)
		}
	}
	drive.Wants(t, s.shell.Must(0, append([]string{"audit", "list", "--kind", "replicaRefused"}, s.as("alice")...)...).Stdout, "coordinators", "stranger was refused the key of the state")
	drive.Wants(t, s.shell.Must(0, "status").Stdout, "stranger", "joining")

	// What heals joins by itself.
	s.machines[1].misbehave(t, `{}`)
	debug.up()
	drive.Amend(s.t, s.connect(), func(doc map[string]any) {
		ref := doc["packages"].(map[string]any)["coordinator"].(map[string]any)["sim"].(map[string]any)
		digest := s.digest(stranger.program).String()
		ref["program"], ref["agent"] = append(ref["program"].([]any), digest), append(ref["agent"].([]any), digest)
		machines := doc["platforms"].(map[string]any)["room"].(map[string]any)["sim"].(map[string]any)
		machines["ppids"] = append(machines["ppids"].([]any), s.machines[2].ppid(t))
	})
	s.settled(3)
	if got := s.dataKey(stranger); !bytes.Equal(got, key) {
		t.Error("the stranger has sealed another key than the state's")
	}
	s.nowhere(key)
}

// refusal is the id of the newest decision that refused a replica.
func (s *site) refusal(r *replica) string {
	s.t.Helper()
	all, err := s.connect().Decisions(s.t.Context(), "coordinators", 50)
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d apiv1.Decision) bool { return d.Instance == r.name && !d.Accepted && d.Purpose == "replica" })
	if i < 0 {
		s.t.Fatalf("no decision refused %s: %+v", r.name, all)
	}
	return all[i].ID
}

// ppid names a machine as its evidence does.
func (m *machine) ppid(t *testing.T) string {
	t.Helper()
	e, err := m.issuer().Issue(t.Context(), attest.Bind([]byte("who are you")))
	if err != nil {
		t.Fatal(err)
	}
	en, err := m.tee.Endorsements(attest.SimSGX)
	if err != nil {
		t.Fatal(err)
	}
	vs, err := sim.NewVerifiers(m.tee.Root())
	if err != nil {
		t.Fatal(err)
	}
	verdict := attest.Judge(attest.NewVerifiers(vs...), e, attest.Bind([]byte("who are you")), en, attest.Policy{}, time.Now())
	if len(verdict.Claims.TCB.PPID) != 16 {
		t.Fatalf("the evidence names no machine: %+v", verdict)
	}
	return verdict.Claims.TCB.PPID.String()
}

// dataKey opens a replica's seal.json as the replica itself does: on its machine,
// by the sealing key for all releases.
func (s *site) dataKey(r *replica) []byte {
	t := s.t
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.state(), "seal.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Version int    `json:"version"`
		Source  string `json:"source"`
		Info    []byte `json:"info,omitempty"`
		KeyID   string `json:"keyID"`
		Wrapped []byte `json:"wrapped"`
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	platform, _, err := sim.Client{Socket: r.machine.socket}.SealKeyAt(t.Context(), sim.SealProduct, d.Info)
	if err != nil {
		t.Fatal(err)
	}
	derive := func(secret []byte, info string) []byte {
		k, err := hkdf.Key(sha256.New, secret, nil, info, 32)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	block, err := aes.NewCipher(derive(derive(platform[:], "ashlar platform seal v1 "+d.Source), "ashlar seal v1"))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := d.Wrapped
	d.Wrapped = nil
	associated, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	key, err := gcm.Open(nil, wrapped[:12], wrapped[12:], append([]byte("ashlar seal v1\x00"), associated...))
	if err != nil {
		t.Fatalf("seal.json of %s does not open on its machine: %v", r.name, err)
	}
	return key
}

// nowhere looks for the key of the state in every file of the site, in all that
// etcd has written, and in the arguments and environments of all processes.
func (s *site) nowhere(key []byte) {
	s.t.Helper()
	forms := map[string][]byte{"raw": key, "hex": []byte(hex.EncodeToString(key)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(key)))}
	for i := range 3 { // wherever it begins in what was encoded
		inner := base64.StdEncoding.EncodeToString(append(make([]byte, i), key...))
		forms[fmt.Sprint("base64 ", i)] = []byte(inner[4 : len(inner)-4])
		forms[fmt.Sprint("base64url ", i)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(inner[4 : len(inner)-4]))
	}
	looked := 0
	look := func(where string, content []byte) {
		looked++
		for form, text := range forms {
			if bytes.Contains(content, text) {
				s.t.Errorf("the key of the state, %s, is in %s", form, where)
			}
		}
	}
	for _, glob := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		files, _ := filepath.Glob(glob) // of a pattern that is right
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil { // it may have ended
				look(f, b)
			}
		}
	}
	s.etcd.KillAll()
	for _, root := range []string{s.dir, s.etcd.Save()} {
		drive.Files(s.t, root, look)
	}
	s.etcd.RestartAll()
	s.t.Logf("the key is in none of %d files, etcd's among them, and command lines", looked)
	if looked < 50 || !slices.ContainsFunc(s.replicas, func(r *replica) bool { return r.running() }) {
		s.t.Errorf("only %d were looked at", looked)
	}
}
