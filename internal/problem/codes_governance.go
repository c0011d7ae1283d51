package problem

// governanceCodes are raised where a change waits for, or lacks, what it needs: rights,
// approvals, accepted risks.
var governanceCodes = []Entry{
	{"GOV-001", NotPermitted, "the user has the right to no part of the change", "ask one of those named to propose it"},
	{"GOV-002", NotPermitted, "the change needs more users than have the right to it", "nobody can make this change under the manifest in force: leave that part as it is"},
	{"GOV-003", Busy, "too much waits for approval", "approve, withdraw or reject what is open: ashlar manifest proposals"},
	{"GOV-004", NotFound, "no such proposal is open", "ashlar manifest proposals; ashlar manifest history shows what took effect"},
	{"GOV-005", Refused, "the signature under a proposal does not hold", "sign the proposal as it is now, with the key of your certificate in the manifest in force: ashlar manifest approve"},
	{"GOV-006", Conflict, "another proposal of the same digest is open", "read it again: its id, time and risks may differ"},
	{"GOV-007", Conflict, "the proposal has expired", "propose it again: ashlar manifest set"},
	{"GOV-008", NotPermitted, "the user has no say in the proposal", "ask one of those named"},
	{"GOV-009", Refused, "a destructive effect was not accepted by its name", "accept it by name if it is meant: --accept=RISK"},
	{"GOV-010", NotFound, "the user has not approved that", "ashlar manifest proposals shows who has"},
	{"GOV-011", Unavailable, "a change waits for approvals", "ashlar manifest proposals"},
	{"GOV-012", Usage, "the request does not say which proposal it is about", "send the proposal's id as If-Match"},
	{"GOV-013", NotFound, "no such revision", "ashlar manifest history"},
	{"GOV-014", Refused, "the coordinator showed another proposal than was asked for", "sign nothing: something between you and the coordinator, or the coordinator, changes what it says"},
}
