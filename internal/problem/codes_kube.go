package problem

// kubeCodes are what the chart's installer, the injector and the checks of a
// cluster refuse or warn of.
var kubeCodes = []Entry{
	{"KUB-020", Invalid, "no cluster is configured", "name a kubeconfig with --kubeconfig or KUBECONFIG, and a context with --context"},
	{"KUB-021", Unavailable, "the cluster's API server does not answer as one", "check the address in the kubeconfig and whether the cluster runs: kubectl version"},
	{"KUB-022", NotPermitted, "the cluster does not let you do this", "use an account that may: kubectl auth can-i --list"},
}
