package problem

// replicaCodes are raised where several coordinators share a state.
var replicaCodes = []Entry{
	{"REP-001", Conflict, "another replica has this name", "give each replica a name of its own, or stop the other one"},
	{"REP-002", Unavailable, "this replica is out of contact with the others", "see that most members of the etcd cluster run and can be reached from here; the replica goes on by itself"},
	{"REP-003", Usage, "other replicas could not reach this one", "give the replica a name and addresses that the others can reach it by"},
	{"REP-010", Unavailable, "nobody has the key of the state", "start a replica that has it sealed, or have the holders of shares recover it: ashlar recover status"},
	{"REP-011", Unavailable, "a replica cannot take over", "see its reason; another one may, and it tries again by itself"},
	{"REP-020", Unavailable, "the manifest admits no further coordinators", "set a manifest with coordinators: package and platform; the replica tries again by itself"},
	{"REP-021", Refused, "the coordinator was refused the key of the state", "see the decision: ashlar explain coordinators"},
	{"REP-022", Unavailable, "this coordinator has no key of the state that it could hand over", "ask the active one"},
	{"REP-023", Unavailable, "a replica waits for the key of the state", "see its reason; it tries again by itself"},
	{"REP-024", Usage, "the request for the state's key is malformed", "a name of 1 to 63 letters, digits and dashes, and an X25519 key of 32 bytes"},
	{"REP-025", Refused, "a coordinator that got the key of the state counts no more", "end it; what it has seen it knows: rotate the CAs and secrets, or set the deployment up anew"},
	{"REP-030", Refused, "the manifest does not admit the coordinator that gave the key", "treat the host as hostile; nothing was taken over from it"},
	{"REP-031", Refused, "the state went back: this replica has seen a newer one", "put the newest state back, have the holders of shares accept this one, or end this replica to forget what it has seen"},
	{"REP-032", Refused, "the state has forked: its log is not the one that this replica has seen", "put the state back that went on from the one seen, have the holders of shares accept this one, or end this replica to forget what it has seen"},
	{"REP-033", Refused, "the state is not the one that the giver of the key attested", "it is asked again; if it stays so, treat the host as hostile"},
	{"REP-034", Refused, "the key that came cannot be opened", "it is asked again; if it stays so, treat the host as hostile"},
}
