package problem

var manifestCodes = []Entry{}
