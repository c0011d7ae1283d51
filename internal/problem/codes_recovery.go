package problem

// recoveryCodes are raised by sealing, recovery, backup and restore.
var recoveryCodes = []Entry{
	{"REC-001", Unavailable, "the coordinator waits for recovery: nothing here opens its state", "ashlar recover status"},
	{"REC-002", Invalid, "the recovery document is damaged or from another version", "restore recovery.json from the same backup as state.db"},
	{"REC-003", Refused, "the recovery document was not made for this state", "treat the host as hostile; restore the state's folder from one backup"},
	{"REC-004", Refused, "the recovery document is older than the state", "put back the newest recovery.json: shares of former holders count no more"},
	{"REC-005", NotFound, "nobody holds a share", "add recovery to the manifest: keys and threshold"},
	{"REC-006", Refused, "the evidence is of another epoch than the statement", "ask the coordinator again; if it stays so, treat the host as hostile"},
	{"REC-007", Refused, "the evidence is of another recovery session", "ask the coordinator again; if it stays so, treat the host as hostile: send no share"},
	{"REC-010", Invalid, "that is no recovery key", "ashlar recover key makes one; age-keygen and openssl genrsa do too"},
	{"REC-011", Refused, "the share was not encrypted to this key", "use the private key that belongs to the public one in the manifest"},
	{"REC-012", NotFound, "the user holds no share", "ashlar recover status lists who does"},
	{"REC-013", Refused, "the share is of another deployment, generation or holder", "take the share that this coordinator's recovery document has for you"},
	{"REC-014", Refused, "the share is not the one that was given out", "take the share from the coordinator's recovery document; keep the wrong one for examination"},
	{"REC-015", Conflict, "the share is in already", "ashlar recover status lists whose are missing"},
	{"REC-016", Invalid, "the message with a share is malformed", "use ashlar recover share"},
	{"REC-017", Refused, "the signature is not the holder's", "pass the certificate and key that the manifest names for you"},
	{"REC-018", Conflict, "the share was sent to another session", "send it again: a session ends after an hour, at a restart, and when shares did not fit"},
	{"REC-019", Refused, "the share was signed at another time", "set the clocks right, and send it again"},
	{"REC-020", Busy, "too many shares of this holder were wrong", "wait an hour, and find out which is right: ashlar recover share checks before it sends"},
	{"REC-021", Refused, "the shares do not open the state", "check that state.db, seal.json and recovery.json are of one backup; all shares are needed again"},
	{"REC-030", Refused, "the state is behind: somebody has proof of a newer one", "put the newest state back, or accept this one: ashlar recover share --for accept-rollback"},
	{"REC-031", Conflict, "there is nothing to recover or to accept", "ashlar recover status"},
	{"REC-032", Refused, "nothing would open the state", "name recovery keys, start with --seal-source, or choose another seal"},
	{"REC-033", Unavailable, "the state's key is not sealed as the manifest says", "see the reason; it is tried again every ten seconds, and the state opens as before"},
}
