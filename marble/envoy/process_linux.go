package envoy

import "syscall"

// processAttributes keeps the terminal's signals away from Envoy, and has the
// kernel end it should its supervisor die without a chance to.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
