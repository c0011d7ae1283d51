package attest

import "time"

// Judge makes the one decision: is this evidence genuine, does it bind what we
// asked it to bind, and does it meet the policy? It is pure.
//
// Order: size and parse, signatures and chains, revocation, windows, TCB status
// as data, binding, debug, policy. Every check that can still be made is made.
func Judge(v Verifiers, e Evidence, want Binding, en Endorsements, p Policy, at time.Time) Verdict {
	panic("judge: being written")
}

// Check compares claims with the policy: every constrained field, each as a
// step. A constraint on a claim that is missing fails.
func (p Policy) Check(c Claims) []Step {
	panic("check: being written")
}

// FilesDigest is SHA-256 over the sorted files: for each, the length of its
// name (8 bytes, big endian), the name, and SHA-256 of its content. Without
// files it is 32 zero bytes.
func FilesDigest(files map[string]Hex) [32]byte {
	panic("files digest: being written")
}
