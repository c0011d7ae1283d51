package problem

// secretCodes are raised where secrets are written, rotated, used or fetched.
var secretCodes = []Entry{}
