package api

import "github.com/ashlar-mesh/ashlar/internal/problem"

const (
	reservedDescriptors = 64      // store, log, listeners, platform socket, metrics
	maxConnections      = 50_000  // of one port, however many descriptors there are
	minConnections      = 16      // of one port; with fewer there is no service
	unknownDescriptors  = 1 << 14 // assumed where the limit cannot be known

	// OperationsConnections is how many connections the port of metrics and
	// probes may hold.
	OperationsConnections = 16
)

// ConnectionBudget returns how many connections each of the two public ports
// may hold, so that descriptors stay in reserve for the store whatever peers
// do. It raises the process's soft limit to the hard one.
func ConnectionBudget() (int, error) {
	n := descriptors()
	if n == 0 {
		n = unknownDescriptors
	}
	return budget(n)
}

func budget(descriptors uint64) (int, error) {
	reserve := max(reservedDescriptors, descriptors/16)
	if descriptors < reserve+2*minConnections {
		return 0, problem.New("CRD-130", "the limit of open files is %d, and at least %d are needed", descriptors, reserve+2*minConnections).
			WithNext("raise the limit of open files (ulimit -n)")
	}
	return int(min((descriptors-reserve)/2, maxConnections)), nil
}
