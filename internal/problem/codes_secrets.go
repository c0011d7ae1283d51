package problem

// secretCodes are raised where secrets are written, rotated, used or fetched.
var secretCodes = []Entry{
	{"SEC-001", NotFound, "no such secret", "see the names: ashlar secret list"},
	{"SEC-002", NotPermitted, "the marble may not do that with the secret", "add the marble to the secret's readers, or to its depositors, in the manifest"},
	{"SEC-003", Unavailable, "the secret was not supplied yet", "supply it: ashlar secret set NAME --file FILE; the marble tries again by itself"},
	{"SEC-004", NotPermitted, "the key is for use only and never leaves the coordinator", "have the coordinator use it, or leave out operations in the manifest"},
	{"SEC-005", Usage, "the secret has no such operation", "see its type and operations: ashlar secret list"},
	{"SEC-006", Invalid, "the input is not what the operation takes", "check the ciphertext and what was authenticated with it, or the name of the hash"},
	{"SEC-007", NotFound, "the version of the secret does not count any more", "encrypt anew with the newest version, or lengthen rotation.overlap in the manifest"},
	{"SEC-008", TooLarge, "a value or an input over its limit", "see the limits in docs/api.md"},
	{"SEC-009", Busy, "the instance asks too often", "try again in a moment; keep what was fetched"},
	{"SEC-010", NotPermitted, "the user may not do that with the secret", "ashlar manifest who-can NAME names who may"},
	{"SEC-011", Conflict, "the secret has another version by now", "look at it again (ashlar secret list), and repeat"},
	{"SEC-012", Usage, "the predecessor of the value is not named", "send If-Match with the newest version in quotes; \"0\" for the first"},
	{"SEC-013", Refused, "the value cannot be opened", "encrypt it again to the key of a fresh statement: ashlar secret set does"},
	{"SEC-014", Usage, "the secret is not of a type for that", "see the types: ashlar secret list"},
	{"SEC-015", Refused, "evidence vouches for another key for secrets", "do not send this coordinator a secret; ask its operator"},
	{"SEC-016", TooLarge, "the counter can count no further", "use another counter"},
	{"SEC-017", Conflict, "the secret has no value yet", "a value is made when the first reader asks for it, or supplied with ashlar secret set"},
}
