package problem

var storeCodes = []Entry{}
