package problem

var marbleCodes = []Entry{}
