package problem

// meshCodes are raised while handing out configuration (MSH-001 to MSH-009),
// compiling it (MSH-010 to MSH-019) and running a proxy (MSH-020 and up).
var meshCodes = []Entry{
	{"MSH-001", NotPermitted, "proxy stream without a marble's certificate", "connect with the leaf that the coordinator issued"},
	{"MSH-002", NotPermitted, "proxy stream of an instance without a live lease", "attest again, then connect"},
	{"MSH-003", NotPermitted, "proxy stream asked for secrets", "serve certificates and bundles from the marble's own agent"},
	{"MSH-004", Usage, "proxy stream of a protocol or resource type that is not served", "use delta ADS for clusters, endpoints, listeners and routes"},
	{"MSH-005", NotPermitted, "proxy stream ended because the lease under it ended", "connect again with the renewed leaf"},
	{"MSH-006", Busy, "too many proxy streams or subscriptions", "let one agent hold one stream for each instance"},
	{"MSH-007", Unavailable, "configuration is not available yet", "try again; the coordinator is starting or has no manifest"},
	{"MSH-010", NotFound, "configuration for something that the manifest or the leases do not have", "compare the marble's name with the manifest; attest again"},
	{"MSH-011", Internal, "configuration does not hang together and was not sent", "report it with the manifest; proxies keep what they have"},
	{"MSH-012", Invalid, "an instance reports an address that cannot be used", "start the marble with its own IP address, and a loopback address for its program"},
	{"MSH-013", Invalid, "a route is not of the form METHOD /path", "write routes such as \"GET /items/*\""},
	{"MSH-020", Unavailable, "Envoy cannot be started", "install Envoy and name its path; see the proxy's log"},
	{"MSH-021", Unavailable, "Envoy is not ready", "see the proxy's log and the coordinator's status for what it refused"},
}
