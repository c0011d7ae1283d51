package problem

// marbleCodes are raised by a marble: ashlar-marble and the library marble.
var marbleCodes = []Entry{
	{"MRB-001", Usage, "command line is not valid", "see `ashlar-marble run --help`"},
	{"MRB-002", Invalid, "program cannot be opened", "name an executable file, by path or found in PATH"},
	{"MRB-003", Usage, "program is a script", "name its interpreter, and measure the script: --measure SCRIPT -- INTERPRETER SCRIPT"},
	{"MRB-004", Unavailable, "coordinator cannot be reached", "check ASHLAR_COORDINATOR (the mesh port) and the network; the marble keeps trying"},
	{"MRB-005", Refused, "coordinator is not the pinned one", "run `ashlar verify` and give the root it writes, or find out who answers on that address"},
	{"MRB-006", Refused, "coordinator's statement is refused by the policy", "find out who answers on that address; compare the policy with `ashlar verify`"},
	{"MRB-007", Unavailable, "TEE gives no evidence", "check the TEE's device, or the simulation socket (ASHLAR_SIM_SOCKET); the marble keeps trying"},
	{"MRB-008", Refused, "coordinator refused the marble", "see the table; `ashlar explain` shows the decision"},
	{"MRB-009", Invalid, "coordinator's answer is malformed", "use a coordinator and a marble of the same release"},
	{"MRB-010", TooLarge, "coordinator's answer is larger than 4 MiB", "shorten the marble's parameters in the manifest"},
	{"MRB-011", Invalid, "parameters cannot be rendered", "mend the template in the manifest's parameters"},
	{"MRB-012", Internal, "rendered file cannot be written", "check the path, its permissions and free space; tmpfs is best"},
	{"MRB-013", Refused, "path of a rendered file is not safe", "name a regular file by its real absolute path, without symbolic links"},
	{"MRB-016", Internal, "program cannot be started", "check that the file can be executed on this machine"},
	{"MRB-017", NotPermitted, "process at the agent's socket is of another user", "run Envoy as the user of ashlar-marble"},
	{"MRB-018", NotPermitted, "secret is not one that this marble owns", "ask for default, ROOTCA, ALL, or the marble's own SPIFFE ID or trust domain"},
	{"MRB-019", Refused, "coordinator pushed a secret", "keys are made in the marble alone: find out who runs the coordinator"},
	{"MRB-020", Unavailable, "renewal failed; the lease in hand still holds", "see the reason; the marble keeps trying until the lease ends"},
	{"MRB-021", Unavailable, "lease has ended", "peers refuse this marble; it asks for a new activation until one is granted"},
	{"MRB-023", Refused, "runtime folder is not safe", "use a folder of this user with mode 0700 that is no symbolic link"},
	{"MRB-024", Unavailable, "stopped before the program started", "start it again"},
	{"MRB-025", Internal, "probe cannot listen", "give a free --ready-addr"},
	{"MRB-026", NotPermitted, "request that the agent does not relay", "use delta ADS through the agent's socket"},
	{"MRB-027", Refused, "peer is not the expected one", "check which marble answers on that address"},
}
