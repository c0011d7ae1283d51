package problem

var coordinatorCodes = []Entry{
	{"CRD-001", Internal, "unexpected failure", "report it with the request id and the coordinator's log"},
}
