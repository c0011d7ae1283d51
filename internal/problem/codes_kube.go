package problem

// kubeCodes are what the chart's installer, the injector and the checks of a
// cluster refuse or warn of.
var kubeCodes = []Entry{
	{"KUB-020", Invalid, "no cluster is configured", "name a kubeconfig with --kubeconfig or KUBECONFIG, and a context with --context"},
	{"KUB-021", Unavailable, "the cluster's API server does not answer as one", "check the address in the kubeconfig and whether the cluster runs: kubectl version"},
	{"KUB-022", NotPermitted, "the cluster does not let you do this", "use an account that may: kubectl auth can-i --list"},
	{"KUB-050", Invalid, "several things are wrong with a pod or with the injector's settings", "mend each of them"},
	{"KUB-051", Invalid, "a pod's label does not name a marble", "set the label ashlar.dev/marble to the marble's name in the manifest"},
	{"KUB-052", NotFound, "a pod is to be a marble that the manifest in force does not have", "add the marble to the manifest and set it, or correct the label ashlar.dev/marble"},
	{"KUB-053", Invalid, "it is not decided which TEE a pod runs in", "name a TEE of the marble's package in the annotation ashlar.dev/tee"},
	{"KUB-054", Invalid, "no profile fits a pod's TEE", "name a profile in the annotation ashlar.dev/profile; the value tee.profiles adds some"},
	{"KUB-055", Invalid, "the container of a pod that is to be the marble was not found", "name it in the annotation ashlar.dev/container"},
	{"KUB-056", Invalid, "it is not known which command a marble's container runs", "set the container's command, or give the image's ENTRYPOINT in the annotation ashlar.dev/command, as a JSON array"},
	{"KUB-057", Invalid, "an annotation of a pod does not say what it should", "see the annotations in docs/guides/kubernetes.md"},
	{"KUB-058", Conflict, "a pod has a name, path, variable or port that the injector uses", "rename it, or take it out"},
	{"KUB-059", Invalid, "a probe or hook of a pod cannot be handed to its marble", "use httpGet without headers, tcpSocket or exec for probes, and exec or sleep for hooks"},
	{"KUB-060", Conflict, "a pod contradicts what its profile or its references need", "take the pod's own setting out, choose another profile, or mount the whole Secret at a folder of its own; the annotation ashlar.dev/plain leaves a Secret where it is"},
	{"KUB-061", Invalid, "a pod of this kind cannot be a marble", "run it as a pod of the API server's, with a network of its own, on Linux"},
	{"KUB-062", Invalid, "the injector's settings are not valid", "correct the chart's values"},
	{"KUB-063", Invalid, "a profile contradicts itself", "correct the row of the chart's value tee.profiles"},
}
