package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
)

// TestMain lets the test binary play the processes that ask the platform.
func TestMain(m *testing.M) {
	switch os.Getenv("SIM_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "asker":
		if err := ask(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "connect": // connects and stays until its input ends
		conn, err := net.Dial("unix", os.Getenv("SIM_TEST_SOCKET"))
		if err != nil {
			os.Exit(1)
		}
		defer conn.Close()
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "idle": // a program that runs until its input ends
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// order is what a child is to ask for; it comes in SIM_TEST_ORDER.
type order struct {
	Socket  string
	TEE     attest.TEE
	Binding attest.Hex
	Program string            // path, opened and named by descriptor
	Child   string            // path, started and named by process id
	PID     int               // named as it is
	FD      *int              // named as it is
	Files   map[string]string // name to path
	Seal    sim.SealPolicy    // asks for a key instead
}

func ask() error {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv("SIM_TEST_ORDER")), &o); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if o.Seal != "" {
		key, err := sim.Client{Socket: o.Socket}.SealKey(ctx, o.Seal)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(key[:])
		return err
	}
	config := sim.Config{Socket: o.Socket, Shape: o.TEE}
	if o.PID != 0 {
		config.Program = sim.ByPID(o.PID)
	}
	if o.FD != nil {
		config.Program = &sim.Program{FD: o.FD, PID: o.PID}
	}
	if o.Program != "" {
		f, err := os.Open(o.Program)
		if err != nil {
			return err
		}
		defer f.Close()
		config.Program = sim.ByFD(f.Fd())
	}
	for name, path := range o.Files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		config.Files = append(config.Files, sim.File{Name: name, FD: int(f.Fd())})
	}
	if o.Child != "" {
		stop, pid, err := start(o.Child)
		if err != nil {
			return err
		}
		defer stop()
		config.Program = sim.ByPID(pid)
	}
	issuer, err := sim.NewIssuer(config)
	if err != nil {
		return err
	}
	e, err := issuer.Issue(ctx, attest.Binding(o.Binding))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(e)
}

// start runs an idle program; os/exec returns after its execve.
func start(path string) (stop func(), pid int, err error) {
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "SIM_TEST_ROLE=idle", "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	return func() { _ = in.Close(); _ = cmd.Wait() }, cmd.Process.Pid, nil
}
