package problem

var meshCodes = []Entry{}
