package problem

// incidentCodes are raised by revocation, quarantine and break-glass.
var incidentCodes = []Entry{}
