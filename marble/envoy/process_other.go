//go:build !linux

package envoy

import "syscall"

// processAttributes is empty where the kernel cannot tie the two together.
func processAttributes() *syscall.SysProcAttr { return nil }
