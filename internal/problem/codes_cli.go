package problem

var cliCodes = []Entry{}
