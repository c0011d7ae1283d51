package main

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"
)

// wallclock/wallclock.c shifts the wall clock of a program that knows nothing of it.
//
//go:embed wallclock/wallclock.c
var wallclockSource []byte

// clock goes with time and can be put forward, for everything in this process
// and for every Envoy alike. Timers and time-outs go on as they are.
type clock struct {
	ahead atomic.Int64 // nanoseconds
	file  string       // what Envoys read ahead from
	lib   string       // wallclock.c, compiled
}

// newClock compiles the library for Envoys.
func newClock(dir string) (*clock, error) {
	c := &clock{file: filepath.Join(dir, "wallclock.shift"), lib: filepath.Join(dir, "wallclock.so")}
	source := filepath.Join(dir, "wallclock.c")
	if err := os.WriteFile(source, wallclockSource, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-o", c.lib, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling wallclock.c: %w: %s", err, out)
	}
	return c, c.write(0)
}

// now is the simulated time.
func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// advance puts the clock forward: of the Envoys first, which a leaf that is
// issued a moment later must not be early for.
func (c *clock) advance(d time.Duration) error {
	ahead := c.ahead.Load() + int64(d)
	if err := c.write(ahead); err != nil {
		return err
	}
	c.ahead.Store(ahead)
	return nil
}

// write changes the 8 bytes in place: Envoys have them mapped.
func (c *clock) write(ahead int64) error {
	f, err := os.OpenFile(c.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], uint64(ahead))
	if _, err = f.WriteAt(b[:], 0); err != nil {
		return err
	}
	return f.Sync()
}

// envoy writes a command that starts Envoy under the clock.
func (c *clock) envoy(dir, binary string) (string, error) {
	path := filepath.Join(dir, "envoy")
	script := fmt.Sprintf("#!/bin/sh\nWALLCLOCK_SHIFT='%s' LD_PRELOAD='%s' exec '%s' \"$@\"\n", c.file, c.lib, binary)
	return path, os.WriteFile(path, []byte(script), 0o700)
}
