package problem

var cliCodes = []Entry{
	{"CLI-001", Internal, "the command failed", "run it again with -v, and report it if it persists"},
	{"CLI-002", Usage, "the command line is wrong", "see --help"},
	{"CLI-003", Invalid, "a file cannot be read or is not what was expected", "check the path and the format"},
	{"CLI-004", Unavailable, "no answer in time", "check the address, or raise --timeout"},
	{"CLI-005", Internal, "interrupted", ""},
	{"CLI-006", Usage, "a question cannot be asked without a terminal", "pass --yes, or --accept=RISK for a named risk"},
	{"CLI-007", Usage, "no coordinator address is known", "pass --address HOST:PORT, set ASHLAR_ADDRESS, or run ashlar verify first"},
	{"CLI-008", Refused, "no trust was established with this coordinator", "ashlar verify ADDR --policy FILE"},
	{"CLI-009", Conflict, "the file exists already", "choose another name, or remove it first"},
	{"CLI-010", Unavailable, "a program that the command needs is missing", "install it, or name it with its flag"},
	{"CLI-011", Refused, "the user declined", ""},
}
