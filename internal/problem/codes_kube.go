package problem

// kubeCodes are what the chart's installer, the injector and the checks of a
// cluster refuse or warn of.
var kubeCodes = []Entry{}
