package problem

// edgeCodes are raised where the coordinator meets the network: by its clients
// (CRD-100 and up), at its HTTP and gRPC edges (CRD-110 and up), and when it
// starts (CRD-130 and up).
var edgeCodes = []Entry{
	{"CRD-100", Refused, "the coordinator's evidence is refused", "do not use this coordinator; compare the refused field with the policy"},
	{"CRD-101", Refused, "the coordinator's statement contradicts itself", "do not use this coordinator: something between you and it changes what it says"},
	{"CRD-102", Refused, "another manifest is in force than the one wanted", "ashlar manifest get, compare, and set the one that should be in force"},
	{"CRD-103", Refused, "the coordinator shows an older or a forked state", "its state was rolled back or copied: restore the newest state, and do not use it until then"},
	{"CRD-104", Refused, "the coordinator has another root than the one remembered", "if it was set up anew on purpose, verify it into an empty folder; if not, do not use it"},
	{"CRD-105", Unavailable, "the coordinator cannot be reached", "check the address, and that the coordinator runs"},
	{"CRD-106", Unavailable, "the coordinator did not answer in time", "try again; look at the coordinator's load and log"},
	{"CRD-107", Internal, "the coordinator's answer is not understood", "use a client of the coordinator's version"},
	{"CRD-108", TooLarge, "the coordinator's answer is over the limit", "ask for a smaller page"},
	{"CRD-109", Invalid, "the trust folder cannot be used", "remove the folder and verify the coordinator again"},
	{"CRD-110", Usage, "request is malformed", "see docs/api.md for the request's form"},
	{"CRD-111", NotFound, "no such resource", "see docs/api.md for the paths"},
	{"CRD-112", Usage, "method is not allowed here", "use one of the methods in the Allow header"},
	{"CRD-113", TooLarge, "request is over the size limit", "send less: a manifest has at most 4 MiB"},
	{"CRD-114", Usage, "request has a body or a content type that is not accepted", "send the bytes of the document with its content type"},
	{"CRD-115", Busy, "too many requests", "try again after the time in Retry-After"},
	{"CRD-118", NotPermitted, "a marble's leaf is needed", "activate first, then open the session under the leaf"},
	{"CRD-119", Usage, "message is malformed", "use a marble of the coordinator's version"},
	{"CRD-120", Unavailable, "request took too long", "try again; look at the coordinator's load"},
	{"CRD-121", Invalid, "the bundle cannot be read", "have it made again: ashlar verify ADDR --bundle FILE"},
	{"CRD-122", Refused, "the log does not show that it accepted this manifest", "do not rely on this bundle: its proof was changed, or is of another log"},
	{"CRD-123", Refused, "the bundle holds another manifest than the evidence binds", "do not rely on this bundle; ask its maker for the manifest in force"},
	{"CRD-124", Refused, "the bundle is of a time that has not come", "check your clock; if it is right, the bundle's maker put it forward"},
	{"CRD-130", Usage, "configuration is not valid", "correct the field that is named"},
	{"CRD-133", Unavailable, "endorsements of this platform are not at hand", "put the vendor's documents into the endorsements folder, or point the coordinator at their source"},
	{"CRD-134", Unavailable, "a port cannot be opened", "stop what uses the port, or choose another"},
	{"CRD-135", NotPermitted, "the user may not import endorsements", "ask a user with a role that has the action manageEndorsements"},
	{"CRD-136", Unavailable, "endorsements end soon and were not renewed", "ashlar endorsements status; see why the source does not answer, or import newer ones"},
	{"CRD-137", Unavailable, "endorsements could not be renewed", "check the source that is named; what is at hand goes on being used until it ends"},
	{"CRD-140", Internal, "the state cannot be kept in this folder", "give a folder on a file system that the embedded store can map: under Gramine one mounted as type \"encrypted\"; EGo and Occlum have none"},
}
