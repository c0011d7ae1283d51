// Package inject turns a pod with the label ashlar.dev/marble into a marble's
// pod: premain and Envoy, the instance's id, where the coordinator is, the
// devices or the runtime class of its TEE, and probes that say its stage.
//
// It owns what is added to a pod and the names of labels, annotations and
// volumes. It is pure: no socket, no clock, no cluster. It protects nothing:
// whoever controls the cluster can leave any of it out, and then the coordinator
// refuses the pod's evidence or never sees it.
package inject

// Names on pods and namespaces. docs/guides/kubernetes.md describes each.
const (
	Label     = "ashlar.dev/marble"    // on a pod: the marble's name in the manifest
	Injection = "ashlar.dev/injection" // on a namespace or a pod: "disabled" keeps the injector out

	Container = "ashlar.dev/container" // which container is the program; the first if absent
	Command   = "ashlar.dev/command"   // its command as a JSON array, where the image's ENTRYPOINT would be run
	Runtime   = "ashlar.dev/runtime"   // "wrap" or "image"
	TEE       = "ashlar.dev/tee"       // which of the package's TEEs
	ProfileOf = "ashlar.dev/profile"   // which row of the table of profiles
	EPC       = "ashlar.dev/epc"       // memory of the enclave, a quantity such as 64Mi
	Measure   = "ashlar.dev/measure"   // further files to measure, separated by commas
	Plain     = "ashlar.dev/plain"     // Secret volumes without sealed references, which stay where they are, separated by commas

	Injected = "ashlar.dev/injected"           // written by the injector: its version and a digest of its settings
	Policy   = "ashlar.dev/coordinator-policy" // written by the injector: the policy file by which the marble judges the coordinator

	// Attested is the condition and the readiness gate of a marble's pod.
	Attested = "ashlar.dev/attested"
)

// How the premain gets into the pod.
const (
	Wrap  = "wrap"  // the injector puts ashlar-marble before the container's command
	Image = "image" // the image starts as a marble by itself: an enclave, whose start is measured
)

// Settings are what the injector is told of the mesh; a JSON document.
type Settings struct {
	Coordinator string `json:"coordinator"` // HOST:PORT of the mesh port, as pods reach it
	// Policy is the text of the policy file that marbles judge the coordinator by.
	Policy     string `json:"policy"`
	Image      string `json:"image"`                // with ashlar-marble and Envoy
	PullPolicy string `json:"pullPolicy,omitempty"` // "IfNotPresent" if empty
	// Profiles is the table of profiles. Absent: the built-in one, whose rows the
	// chart's values begin with, so that a row which is taken out there is gone.
	Profiles map[string]Profile `json:"profiles,omitempty"`
	// Defaults names the profile of each TEE for pods that name none.
	Defaults map[string]string `json:"defaults"`
	// ReadinessGate keeps a pod from being ready until its condition Attested is
	// true, besides its readiness probe.
	ReadinessGate bool  `json:"readinessGate"`
	ReadyPort     int32 `json:"readyPort,omitempty"` // of the marble's probe; DefaultReadyPort if zero
}

// Profile is what a pod needs of a cluster to run in a TEE: a row of the table
// that the chart's value extends.
type Profile struct {
	TEE       string            `json:"tee"`                 // as ASHLAR_TEE: "sgx", "snp", "tdx", "snp:azure", "sim:sgx" and others
	Runtime   string            `json:"runtime"`             // Wrap or Image
	Resources map[string]string `json:"resources,omitempty"` // limits and requests, such as sgx.intel.com/enclave: "1"
	// EPC names the resource that the enclave's memory is asked for with, and its
	// unit: "bytes" takes a quantity as it is, "MiB" whole mebibytes.
	EPC          *EPCResource      `json:"epc,omitempty"`
	RuntimeClass string            `json:"runtimeClass,omitempty"`
	NodeLabels   map[string]string `json:"nodeLabels,omitempty"`  // required node affinity
	Tolerations  []string          `json:"tolerations,omitempty"` // keys, tolerated whatever their value
	HostPaths    []HostPath        `json:"hostPaths,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"` // of the pod; {container} stands for the program's container
	Env          map[string]string `json:"env,omitempty"`         // of the program's container
	// Privileged lets the program's container open devices and kernel settings of
	// a node that is a confidential VM: root of it, and nothing less will do
	// without a device plugin.
	Privileged bool `json:"privileged,omitempty"`
}

// EPCResource is how a cluster counts the memory of enclaves.
type EPCResource struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`    // "bytes" or "MiB"
	Default string `json:"default"` // a quantity
}

// HostPath is a device or socket of the node.
type HostPath struct {
	Path     string `json:"path"`
	Type     string `json:"type,omitempty"` // as Kubernetes' hostPath.type
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Marble is what the manifest in force says that matters to a pod.
type Marble struct {
	Name  string
	TEEs  []string // of its package, sorted
	Ports []int32  // that it serves, sorted
	Argv  bool     // the manifest gives its arguments
}
