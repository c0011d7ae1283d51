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
	{"LOG-010", NotFound, "the log has no such checkpoint or entry", "GET /v1/log/checkpoint says how long the log is"},
	{"LOG-011", Invalid, "this is no entry of a log", "fetch it again; docs/wire.md describes the form"},
	{"LOG-012", Refused, "this is not the private part of the entry", "keep both: somebody has altered what the log shows to users"},
	{"LOG-050", Refused, "the log is shorter than it was", "treat the coordinator as rolled back to an older state: ask its operators why, and rely on nothing that it says"},
	{"LOG-051", Refused, "the log is not the one that was seen before", "keep both checkpoints: somebody runs a second history of this deployment, or the first was rewritten"},
	{"LOG-055", Refused, "the log served tiles that do not belong to its checkpoint", "try again; if it stays, keep what was served: the log was altered, or somebody between you and it alters answers"},
	{"LOG-056", Refused, "the log served another entry than the one in its tree", "try again; if it stays, keep what was served: an entry was altered, dropped or put in"},
	{"LOG-080", Invalid, "this is no key of a witness", "copy the verifier key that the witness publishes: NAME+ID+BASE64, of type 4"},
	{"LOG-081", Refused, "the co-signature is not one of this witness over this checkpoint", "compare the witness's key with the one that it publishes"},
	{"LOG-083", Unavailable, "the witness gives no co-signature", "make sure that the witness knows the log key and is up; the log is submitted again by itself"},
	{"LOG-084", Refused, "a witness has seen another history of this log", "compare the witness's checkpoint with the log's: the coordinator was rolled back, restored or forked"},
	{"LOG-085", Invalid, "this is no request for a co-signature", "send what c2sp.org/tlog-witness describes"},
}
