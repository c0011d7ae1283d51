package problem

// governanceCodes are raised where a change waits for, or lacks, what it needs: rights,
// approvals, accepted risks.
var governanceCodes = []Entry{}
