package problem

var replicaCodes = []Entry{
	{"REP-001", Conflict, "another replica has this name", "give each replica a name of its own, or stop the other one"},
	{"REP-002", Unavailable, "this replica is out of contact with the others", "see that most members of the etcd cluster run and can be reached from here; the replica goes on by itself"},
	{"REP-003", Usage, "other replicas could not reach this one", "give the replica a name and addresses that the others can reach it by"},
}
