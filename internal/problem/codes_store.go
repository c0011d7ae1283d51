package problem

var storeCodes = []Entry{
	{"STO-001", Conflict, "a state exists here already", "start without creating, or choose an empty directory"},
	{"STO-002", NotFound, "no state here", "check the state directory and its volume; create a new state only if this deployment never had one"},
	{"STO-003", Invalid, "not an Ashlar state", "check the state directory; use the release that wrote it"},
	{"STO-004", Refused, "the state is sealed under another key", "put back the seal.json that belongs to this state.db"},
	{"STO-005", Invalid, "the state is damaged", "restore seal.json and state.db from the same backup"},
	{"STO-006", Refused, "the state was altered: a record was rolled back, dropped or inserted", "treat the host as hostile; restore seal.json and state.db from a backup you trust"},
	{"STO-007", Unavailable, "the state cannot be read or written", "free space on the state volume or mend it; the next write succeeds by itself"},
	{"STO-008", Conflict, "the state is in use by another process", "stop the other coordinator, or give this one a directory of its own"},
	{"STO-009", TooLarge, "over a size or count limit of the state", "make the value smaller or delete what is no longer needed"},
	{"STO-010", Unavailable, "the store is shut down", "retry when the coordinator is up again"},
	{"STO-011", Internal, "a state change panicked and was rolled back", "report it with the coordinator's log"},
	{"STO-012", Unavailable, "the creation of this state was interrupted", "create it again: nothing was stored yet"},
	{"STO-013", Refused, "the platform gave no usable sealing key", "run on a platform with a sealing key; check that the enclave is not started in a debug or simulation mode"},
	{"STO-014", Invalid, "seal.json is damaged or from another version", "restore seal.json and state.db from the same backup"},
	{"STO-015", Refused, "the data key was sealed by another source or platform", "start on the platform and with the software identity that created this state"},
	{"STO-016", Refused, "the audit log's chain is broken", "treat the host as hostile; keep the files for examination"},
	{"STO-017", Internal, "a stored value does not decode", "use the release that wrote this state, or a newer one"},
	{"STO-018", Conflict, "another writer changed the state", "let only one coordinator write to it, then restart this one"},
	{"STO-019", Unavailable, "gave up while waiting to write", "retry; nothing was written"},
	{"STO-020", NotFound, "no such decision in the log", "list recent decisions to see their ids"},
}
