package problem

// recoveryCodes are raised by sealing, recovery, backup and restore.
var recoveryCodes = []Entry{}
