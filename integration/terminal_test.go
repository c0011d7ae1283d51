package integration

import (
	"io"
	"os/exec"
	"strings"

	"github.com/ashlar-mesh/ashlar/integration/drive"
	"github.com/ashlar-mesh/ashlar/internal/transcript"
)

// atTerminal is a command on a terminal of its own.
type atTerminal struct {
	o     *operator
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   transcript.Buffer
}

// terminal starts a command under script(1).
func (o *operator) terminal(args ...string) *atTerminal {
	o.T.Helper()
	script, err := exec.LookPath("script")
	if err != nil {
		o.T.Skip("script(1) is not here: no terminal to try")
	}
	a := &atTerminal{o: o, cmd: exec.CommandContext(o.T.Context(), script, "-qec", o.Program+" "+strings.Join(args, " "), "/dev/null")}
	a.cmd.Dir, a.cmd.Env = o.Dir, append(o.Env, "NO_COLOR=1")
	a.cmd.Stdout = &a.out
	if a.stdin, err = a.cmd.StdinPipe(); err != nil {
		o.T.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		o.T.Fatal(err)
	}
	return a
}

func (a *atTerminal) await(text string) {
	a.o.T.Helper()
	drive.Eventually(a.o.T, patience, func() string {
		if !strings.Contains(a.out.String(), text) {
			return "on the terminal: " + a.out.String()
		}
		return ""
	})
}

// answer types a line and returns the exit code.
func (a *atTerminal) answer(line string) int {
	a.o.T.Helper()
	if _, err := io.WriteString(a.stdin, line); err != nil {
		a.o.T.Fatal(err)
	}
	_ = a.cmd.Wait() // the exit code is what matters
	return a.cmd.ProcessState.ExitCode()
}
