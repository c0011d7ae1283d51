package problem

var attestCodes = []Entry{}
