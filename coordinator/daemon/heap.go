package daemon

import (
	"os"
	"runtime/debug"
)

// The heap is collected when it has grown by half of itself and heapFloor
// together: after about 20 MB of work where little is held, so not after every
// few activations, and with half of Go's usual slack where thousands of proxies
// are connected.
const (
	heapFloor  = 32 << 20 // bytes, allocated and never touched: address space, no memory
	heapGrowth = 50       // percent; the environment's GOGC has precedence
)

// floor returns what must be kept alive for as long as the coordinator runs.
func floor() []byte {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	return make([]byte, heapFloor)
}
