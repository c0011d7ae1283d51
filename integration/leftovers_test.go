//go:build linux

package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/cli/dev"
	"github.com/ashlar-mesh/ashlar/integration/drive"
)

// places are files and processes that somebody else may read.
type places struct {
	what    []string
	content [][]byte
}

// look collects every file below a folder.
func (p *places) look(t *testing.T, folder string) {
	t.Helper()
	drive.Files(t, folder, func(path string, content []byte) {
		p.what, p.content = append(p.what, path), append(p.content, content)
	})
}

// lookAt collects the command line and the environment of a process and of its
// children, except those of a program that may have been given secrets.
func (p *places) lookAt(t *testing.T, name string, pid int) {
	t.Helper()
	for _, part := range []string{"cmdline", "environ"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, part))
		if err != nil {
			t.Fatal(err)
		}
		p.what, p.content = append(p.what, name+"'s "+part), append(p.content, raw)
	}
}

// TestNothingSecretNothingLeft runs the shop through its whole life: no secret
// may lie anywhere but in the file that was rendered for its reader, and at the
// end nothing may be left of it.
func TestNothingSecretNothingLeft(t *testing.T) {
	d := up(t, nil)
	c := d.client()
	d.awaitSettled(c)
	key, err := os.ReadFile(d.SecretFile())
	if err != nil || len(key) != 32 {
		t.Fatalf("the cart's key: got %d bytes, %v, want 32", len(key), err)
	}
	if st, err := os.Stat(d.SecretFile()); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("the rendered file has mode %v, %v, want nothing for others", st.Mode(), err)
	}
	// A new leaf, a crash and a restart: more chances to let something slip.
	d.crash()
	d.start()
	if _, _, err := d.RunTampered(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.awaitSettled(d.client())
	t.Run("no secret", func(t *testing.T) { d.noSecret(t, key) })
	t.Run("nothing left", d.nothingLeft)
}

func (d *deployment) noSecret(t *testing.T, key []byte) {
	var all places
	all.look(t, d.Dir)
	all.look(t, d.WorkDir())
	for _, s := range d.Services {
		agent := d.Marble(s.Name).Pid()
		all.lookAt(t, s.Name+"'s agent", agent)
		for name, pid := range children(t, agent) {
			all.lookAt(t, s.Name+"/"+name, pid)
		}
	}
	all.lookAt(t, "the coordinator", d.Coordinator().Pid())
	forms := map[string]string{
		"raw": string(key), "hex": hex.EncodeToString(key), "HEX": strings.ToUpper(hex.EncodeToString(key)),
		"base64": base64.RawStdEncoding.EncodeToString(key), "base64url": base64.RawURLEncoding.EncodeToString(key),
		"a Go slice": strings.Trim(fmt.Sprint(key), "[]"), "a private key": "PRIVATE KEY",
	}
	found := false
	for i, content := range all.content {
		switch {
		case all.what[i] == d.SecretFile():
			found = bytes.Equal(content, key)
			continue
		case all.what[i] == d.KeyFile() || strings.HasPrefix(all.what[i], d.PlatformDir()):
			continue // the operator's own, and the simulated CPU's
		}
		for form, text := range forms {
			if bytes.Contains(content, []byte(text)) {
				t.Errorf("%s holds a secret: %s", all.what[i], form)
			}
		}
	}
	if !found {
		t.Errorf("the search did not find the key where it is, in %s", d.SecretFile())
	}
	t.Logf("%d files, command lines and environments were searched", len(all.what))
}

func (d *deployment) nothingLeft(t *testing.T) {
	work, addrs := d.WorkDir(), []string{dev.DefaultClient, dev.DefaultMesh, dev.DefaultMetrics, webInbound, catalogInbound,
		strings.TrimPrefix(gatewayToWeb, "http://"), strings.TrimPrefix(shopURL, "http://")}
	for _, s := range d.Services {
		addrs = append(addrs, s.Ready)
	}
	pids := map[int]bool{d.Coordinator().Pid(): true}
	for _, s := range d.Services {
		pids[d.Marble(s.Name).Pid()] = true
		for _, pid := range children(t, d.Marble(s.Name).Pid()) {
			pids[pid] = true
		}
	}
	if len(naming(t, work)) == 0 {
		t.Fatal("no process names the working folder: this test sees nothing")
	}
	began := time.Now()
	d.Close()
	t.Logf("everything was taken down in %s", time.Since(began).Round(time.Millisecond))
	for pid := range pids {
		if alive(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	for _, path := range []string{work, d.Dir} {
		if left := naming(t, path); len(left) > 0 {
			t.Errorf("processes that name %s are left:\n%s", path, strings.Join(left, "\n"))
		}
	}
	if _, err := os.Stat(work); !os.IsNotExist(err) {
		t.Errorf("%s: got %v, want it removed", work, err)
	}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("port %s is not free: %v", addr, err)
			continue
		}
		l.Close()
	}
}
