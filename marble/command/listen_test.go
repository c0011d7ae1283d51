package command

import (
	"net"
	"os"
	"testing"

	"github.com/ashlar-mesh/ashlar/marble/marbletest"
)

// TestReadyWhenTheProgramListens: a program that runs, but accepts no connection
// yet, is not ready to be sent work.
func TestReadyWhenTheProgramListens(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := held.Addr().(*net.TCPAddr).Port
	held.Close()
	x := newBench(t, marbletest.Behaviour{})
	x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil), Serves: []uint32{uint32(port)}})
	p := x.start(nil, os.Args[0])
	x.await("the program runs and does not listen", p, func() bool {
		status, stage := x.stage()
		_, runs := x.seen()
		return runs && status == 503 && stage == "starting-program"
	})
	l, err := net.Listen("tcp", held.Addr().String()) // in the program's stead
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x.await("it is ready", p, func() bool {
		status, stage := x.stage()
		return status == 200 && stage == "running"
	})
}

func TestServedPortsAreChecked(t *testing.T) {
	for _, serves := range [][]uint32{{0}, {70000}, make([]uint32, 1000)} {
		x := newBench(t, marbletest.Behaviour{})
		x.coordinator.Behave(marbletest.Behaviour{Parameters: x.parameters(nil), Serves: serves})
		if code := x.start(nil, os.Args[0]).code(t); code != 6 {
			t.Errorf("%.3v: exit code %d, want 6 (MRB-009)", serves, code)
		}
	}
}
