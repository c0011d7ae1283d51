package problem

// logCodes are raised where the log, its proofs and its checkpoints are read and
// verified.
var logCodes = []Entry{
	{"LOG-001", Invalid, "this is no checkpoint of a log", "fetch it again: GET /v1/log/checkpoint; its format is c2sp.org/tlog-checkpoint"},
	{"LOG-002", Refused, "the log has not signed this checkpoint", "compare the log key with the one you verified: ashlar verify shows it"},
	{"LOG-003", Invalid, "this is no log key", "copy the whole line that ashlar verify or GET /v1/log/key gives: name+hash+key"},
	{"LOG-004", Refused, "the proof does not show this entry in the log", "keep the entry, the proof and the checkpoint: the log was altered, or they are not of one log"},
	{"LOG-005", Refused, "the newer log does not begin with the older one", "keep both checkpoints: the log was rolled back, rewritten or forked"},
	{"LOG-006", Invalid, "the proof cannot be read", "fetch it again"},
	{"LOG-007", NotFound, "the log has no such tile", "paths are those of c2sp.org/tlog-tiles, up to the size in /v1/log/checkpoint"},
	{"LOG-008", Invalid, "the tile of entries cannot be read", "fetch it again; its format is c2sp.org/tlog-tiles"},
	{"LOG-009", Refused, "the log has not given this promise", "compare the log key with the one you verified; a certificate without a valid promise is not in the log"},
}
