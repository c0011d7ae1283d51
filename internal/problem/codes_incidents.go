package problem

// incidentCodes are raised by revocation, quarantine and break-glass.
var incidentCodes = []Entry{
	{"INC-001", Refused, "the marble is revoked", "ashlar revoke list shows why; who revoked it can lift it: ashlar revoke --lift ID"},
	{"INC-002", Refused, "the instance is revoked", "start another instance once the machine and its program are trusted again, or lift the revocation"},
	{"INC-003", Refused, "the package is revoked", "deploy another release of the software; ashlar revoke list shows why"},
	{"INC-004", Refused, "the measurement is revoked", "deploy another release of the software; ashlar revoke list shows why"},
	{"INC-005", Refused, "the platform is revoked", "move the marble to another platform; ashlar revoke list shows why"},
	{"INC-006", Refused, "the machine is revoked", "start the marble on another machine; ashlar revoke list shows why"},
	{"INC-007", NotPermitted, "the user is revoked", "ask another user: ashlar revoke list shows who revoked it and why"},
	{"INC-008", Refused, "it is in quarantine", "ashlar quarantine list shows why; who set it can lift it: ashlar quarantine --lift ID"},
	{"INC-010", NotFound, "nothing of that name can be revoked", "names are those of the manifest and of ashlar status: see also ashlar revoke --help"},
	{"INC-011", NotFound, "there is no such incident", "ashlar revoke list, ashlar quarantine list and ashlar break-glass list show those that stand"},
	{"INC-012", Usage, "the request about an incident is malformed", "see ashlar revoke --help and docs/api.md"},
	{"INC-013", Conflict, "nobody would be left to change this deployment", "give somebody else the right first, or accept it by name: --accept=lock-out"},
	{"INC-014", TooLarge, "too many incidents stand", "lift those that are over, or change the manifest: it is the place for what stays"},
	{"INC-020", Usage, "the rule cannot be lifted", "a hop is FROM:TO/PORT, a status one that platforms know; see ashlar break-glass --help"},
	{"INC-021", Usage, "break-glass is for a limited time", "give --for between 1m and 24h"},
	{"INC-022", Refused, "break-glass: a rule of the manifest is lifted for a while", "ashlar break-glass list shows why; ashlar break-glass --end ID ends it; ashlar verify --allow-break-glass accepts it"},
	{"INC-023", Refused, "the evidence binds other lifted rules than the statement has", "treat the host as hostile: what it shows is not what the coordinator said"},
}
