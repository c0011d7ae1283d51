// Package client verifies a coordinator and then talks to it. The command
// line, marbles and outside programs use it; it needs neither cgo nor an
// operating system's own trust store, and builds for Linux, macOS, Windows and
// WebAssembly.
//
// VerifyStatement is the whole of the trust decision and is pure. Dial does it
// over the network: every connection that a Client opens is TLS 1.3, and
// nothing is sent over it before the key at its other end has been attested on
// that very connection. The name in the address decides nothing.
//
// A Bundle holds all that one verification saw. VerifyBundle makes it again,
// later and elsewhere, with nothing but the reader's own policy and clock; it is
// pure too.
//
// WriteTrust keeps the outcome in a folder, with the newest state seen, so that
// an older or forked coordinator is refused later.
//
// The package never trusts a system root, never falls back to an unverified
// connection, and writes no file before everything passed.
package client
