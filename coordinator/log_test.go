package coordinator

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/internal/audit"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func witness(t *testing.T, name string) *transparency.Cosigner {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w, err := transparency.NewCosigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func cosign(t *testing.T, signed []byte, at time.Time, by ...*transparency.Cosigner) []byte {
	t.Helper()
	all := bytes.Clone(signed)
	for _, w := range by {
		line, err := w.Cosign(signed, at)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line...)
	}
	return all
}

// TestCosignatures keeps what witnesses of the manifest have signed, of the
// newest checkpoint, also over a restart.
func TestCosignatures(t *testing.T) {
	d := newDeployment(t)
	one, two, stranger := witness(t, "one.example"), witness(t, "two.example"), witness(t, "stranger.example")
	latest := func() []byte {
		t.Helper()
		signed, err := d.LatestCheckpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	now := d.clock.Now()
	wantCode(t, d.AddCosignature(t.Context(), cosign(t, latest(), now, one)), "LOG-015")
	d.mustSet(shop(t, func(m object) {
		m["witnesses"] = object{"one": object{"key": one.Key().String()}, "two": object{"key": two.Key().String()}}
	}))
	_, err := d.WitnessedCheckpoint(t.Context())
	wantCode(t, err, "LOG-015")

	fork, err := d.sign(audit.Checkpoint{Size: 1, Root: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	long, err := d.sign(audit.Checkpoint{Size: 1000, Root: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	first := latest()
	for name, c := range map[string]struct {
		signed []byte
		code   problem.Code
	}{
		"nobody":                           {first, "LOG-015"},
		"a stranger":                       {cosign(t, first, now, stranger), "LOG-015"},
		"a fork":                           {cosign(t, fork, now, one), "LOG-014"},
		"a longer log":                     {cosign(t, long, now, one), "LOG-010"},
		"another log":                      {[]byte(strings.Replace(string(first), "ashlar-log", "ashlar-lag", 1)), "LOG-002"},
		"one's signature under two's name": {append(bytes.Clone(first), renamed(t, first, one, two)...), "LOG-081"},
	} {
		if err := d.AddCosignature(t.Context(), c.signed); problem.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	_, err = d.WitnessedCheckpoint(t.Context())
	wantCode(t, err, "LOG-015")

	check := func(what string, signed []byte, size uint64, want ...string) {
		t.Helper()
		at, by, err := transparency.OpenCosigned(signed, d.LogKey(), []transparency.WitnessKey{one.Key(), two.Key(), stranger.Key()})
		var names []string
		for _, co := range by {
			names = append(names, fmt.Sprint(co.Witness, co.Time.Sub(now.Truncate(time.Second))))
		}
		if err != nil || at.Size != size || strings.Join(names, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got size %d by %v, %v, want %d by %v", what, at.Size, names, err, size, want)
		}
	}
	at, err := transparency.Open(first, d.LogKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, signed := range [][]byte{cosign(t, first, now, two, stranger), cosign(t, first, now, one), cosign(t, first, now.Add(time.Minute), two)} {
		if err := d.AddCosignature(t.Context(), signed); err != nil {
			t.Fatal(err)
		}
	}
	check("newest", latest(), at.Size, "one.example0s", "two.example1m0s")
	d.mustActivate("web", "one")
	check("newest, grown", latest(), at.Size+1)
	witnessed, err := d.WitnessedCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check("witnessed", witnessed, at.Size, "one.example0s", "two.example1m0s")
	if err := d.AddCosignature(t.Context(), cosign(t, latest(), now, one)); err != nil {
		t.Fatal(err)
	}
	if err := d.AddCosignature(t.Context(), cosign(t, first, now, two)); err != nil { // older: nothing changes
		t.Fatal(err)
	}
	d.restart()
	if witnessed, err = d.WitnessedCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after a restart", witnessed, at.Size+1, "one.example0s")
	d.check()
}

// renamed is a co-signature of one that bears name and ID of two.
func renamed(t *testing.T, signed []byte, one, two *transparency.Cosigner) string {
	t.Helper()
	line, err := one.Cosign(signed, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Fields(string(line))[2])
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(raw, two.Key().KeyHash())
	return "— " + two.Key().Name() + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// TestLogKeyIsKept: a restart changes neither key nor name of the log, and
// another coordinator has another.
func TestLogKeyIsKept(t *testing.T) {
	d, other := newDeployment(t), newDeployment(t)
	key := d.LogKey()
	d.restart()
	if d.LogKey() != key || other.LogKey() == key {
		t.Errorf("got %s after a restart and %s elsewhere, want %s and another", d.LogKey(), other.LogKey(), key)
	}
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v", d.signer, d.signer, d.signer), fmt.Sprintf("%+v", keyRecord{State: []byte("secret")})} {
		if strings.Contains(printed, "PRIVATE") || strings.Contains(printed, "secret") || strings.Contains(printed, "key:") {
			t.Errorf("prints %q", printed)
		}
	}
}
