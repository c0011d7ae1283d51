// Package etcdtest starts real etcd servers for tests: one, or a cluster whose
// members can be killed and started again. It owns their processes and folders.
// Nothing that is shipped imports it.
package etcdtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Binary names the environment variable with the path of etcd. `make cluster`
// sets it; without it tests that need etcd are skipped.
const Binary = "ASHLAR_ETCD"

const startTime = 2 * time.Minute

// Cluster is a running etcd cluster on loopback.
type Cluster struct {
	t       testing.TB
	members []*member
	flags   []string
}

type member struct {
	name, client, peer, dir string // client and peer are HOST:PORT
	process                 *exec.Cmd
}

// Start starts a cluster of n members that the end of the test removes. The
// flags are added to each member's.
func Start(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	if os.Getenv(Binary) == "" {
		t.Skip(Binary + " is not set: make cluster runs this test")
	}
	c := &Cluster{t: t, flags: flags}
	for i := range n {
		c.members = append(c.members, &member{name: fmt.Sprint("etcd", i), client: Address(t), peer: Address(t), dir: filepath.Join(t.TempDir(), "etcd")})
	}
	t.Cleanup(c.stop)
	for _, m := range c.members {
		c.run(m)
	}
	for _, m := range c.members {
		c.await(m)
	}
	return c
}

// Address returns a free HOST:PORT, where the system has them of a loopback IP that
// nobody else uses: a port of 127.0.0.1 may be taken by an outgoing connection
// before somebody listens there, or while a member is dead.
func Address(t testing.TB) string {
	own := fmt.Sprintf("127.%d.%d.%d", 200+rand.N(50), 1+rand.N(250), 1+rand.N(250))
	for _, ip := range []string{own, "127.0.0.1"} {
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			continue // not every system has more than one
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("there is no free port on loopback")
	return ""
}

func (c *Cluster) run(m *member) {
	var all []string
	for _, o := range c.members {
		all = append(all, o.name+"=http://"+o.peer)
	}
	args := append([]string{"--name=" + m.name, "--data-dir=" + m.dir, "--log-level=error", "--heartbeat-interval=50", "--election-timeout=500",
		"--listen-client-urls=http://" + m.client, "--advertise-client-urls=http://" + m.client,
		"--listen-peer-urls=http://" + m.peer, "--initial-advertise-peer-urls=http://" + m.peer,
		"--initial-cluster=" + strings.Join(all, ",")}, c.flags...)
	m.process = exec.Command(os.Getenv(Binary), args...)
	m.process.Stderr = os.Stderr
	if err := m.process.Start(); err != nil {
		c.t.Fatalf("starting etcd: %v", err)
	}
}

// await waits until a member answers.
func (c *Cluster) await(m *member) {
	c.t.Helper()
	client := http.Client{Timeout: time.Second}
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get("http://" + m.client + "/health")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s did not become healthy within %s: %v", m.name, startTime, err)
		}
	}
}

// Endpoints are the clients' addresses of the members, HOST:PORT.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.client)
	}
	return all
}

// Location is where the state of a deployment is in this cluster.
func (c *Cluster) Location(prefix string) string {
	return "etcd://" + strings.Join(c.Endpoints(), ",") + "/" + prefix + "?tls=off"
}

// Kill kills a member, as SIGKILL does.
func (c *Cluster) Kill(i int) {
	m := c.members[i]
	_ = m.process.Process.Kill()
	_ = m.process.Wait() // it was killed, and says so
}

// Restart starts a member again that was killed, on the data that it left, and
// waits until it answers.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.run(c.members[i])
	c.await(c.members[i])
}

// KillAll kills every member.
func (c *Cluster) KillAll() {
	for i := range c.members {
		c.Kill(i)
	}
}

// Leader is the member that leads at present. It waits until there is one.
func (c *Cluster) Leader() int {
	c.t.Helper()
	client := http.Client{Timeout: time.Second}
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for i, m := range c.members {
			resp, err := client.Post("http://"+m.client+"/v3/maintenance/status", "application/json", strings.NewReader("{}"))
			if err != nil {
				continue // it is dead
			}
			var st struct {
				Header struct {
					Member string `json:"member_id"`
				} `json:"header"`
				Leader string `json:"leader"`
			}
			err = json.NewDecoder(resp.Body).Decode(&st)
			_ = resp.Body.Close()
			if err == nil && st.Leader != "" && st.Leader == st.Header.Member {
				return i
			}
		}
	}
	c.t.Fatalf("etcd has had no leader for %s", startTime)
	return -1
}

// Save copies what the members have on disk, all of which were killed. Load puts
// it back: the cluster is then what it was.
func (c *Cluster) Save() (saved string) {
	c.t.Helper()
	saved = c.t.TempDir()
	for _, m := range c.members {
		if err := os.CopyFS(filepath.Join(saved, m.name), os.DirFS(m.dir)); err != nil {
			c.t.Fatal(err)
		}
	}
	return saved
}

// Load has members that were killed hold what was saved.
func (c *Cluster) Load(saved string) {
	c.t.Helper()
	for _, m := range c.members {
		err := os.RemoveAll(m.dir)
		if err == nil {
			err = os.CopyFS(m.dir, os.DirFS(filepath.Join(saved, m.name)))
		}
		if err == nil {
			err = os.Chmod(m.dir, 0o700)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// RestartAll starts all members again that were killed, and waits for them.
func (c *Cluster) RestartAll() {
	c.t.Helper()
	for _, m := range c.members {
		c.run(m)
	}
	for _, m := range c.members {
		c.await(m)
	}
}

func (c *Cluster) stop() {
	for _, m := range c.members {
		if m.process != nil && m.process.Process != nil && m.process.ProcessState == nil {
			_ = m.process.Process.Kill()
			_ = m.process.Wait()
		}
	}
}
