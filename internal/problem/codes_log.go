package problem

// logCodes are raised where the log, its proofs and its checkpoints are read and
// verified.
var logCodes = []Entry{}
