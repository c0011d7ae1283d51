// Package api is the coordinator's edge: the client API /v1 over HTTPS, the
// marble API over gRPC, and metrics and probes on a loopback port.
//
// It owns limits (sizes, times, connections, descriptors), the mapping of coded
// errors to RFC 9457 problems and gRPC statuses, and who a connection belongs
// to. Every decision is package coordinator's; nothing here touches state.
//
// It refuses before it reads: a body that is too large, or that its sender may
// not send, is answered without taking it in.
package api
