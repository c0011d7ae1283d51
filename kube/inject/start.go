package inject

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Where things lie in a marble's pod.
const (
	ashlarDir  = "/ashlar"
	binDir     = ashlarDir + "/bin"
	runDir     = ashlarDir + "/run"
	policyDir  = ashlarDir + "/policy"
	policyFile = "policy.json"
	references = ashlarDir + "/references"

	marblePath = binDir + "/ashlar-marble"
	envoyPath  = binDir + "/envoy"
)

// Names of what is added to a pod.
const (
	ours          = "ashlar-" // begins every name of ours
	installName   = ours + "install"
	binVolume     = ours + "bin"
	runVolume     = ours + "run"
	policyVolume  = ours + "policy"
	filesVolume   = ours + "files-"
	hostVolume    = ours + "host-"
	simSocket     = "ASHLAR_SIM_SOCKET"
	defaultGrace  = 30 // seconds, Kubernetes' own default
	maxAnnotation = 64 << 10
)

// start puts ashlar-marble before the program, and the container that brings it
// before all others. An image that is a marble by itself is left alone.
func (in *injection) start() {
	if in.profileName == "" || in.profile.Runtime != Wrap {
		return
	}
	argv, ok := in.argv()
	if !ok {
		return
	}
	args := []string{"run", "--grace", strconv.FormatInt(in.grace(), 10) + "s"}
	for _, file := range in.measured() {
		args = append(args, "--measure", file)
	}
	in.judgeProgram(argv)
	in.program.Command, in.program.Args = []string{marblePath}, append(append(args, "--"), argv...)
	in.install()
}

// argv returns what the container would have run.
func (in *injection) argv() ([]string, bool) {
	given, ok := in.entrypoint()
	if !ok {
		return nil, false
	}
	if argv, wrapped := unwrap(in.program); wrapped {
		if len(argv) == 0 || !slices.Equal(given, argv[:min(len(given), len(argv))]) {
			in.refused.add("KUB-056", "container %s runs %s, but not the command of the annotation %s", in.program.Name, marblePath, Command)
			return nil, false
		}
		return argv, true
	}
	both := slices.Concat(in.program.Command, in.program.Args)
	switch {
	case slices.Contains(both, marblePath):
		in.refused.add("KUB-058", "container %s runs %s behind something else: another injector has wrapped it; have that one come first", in.program.Name, marblePath)
	case len(in.program.Command) > 0 && given != nil:
		in.refused.add("KUB-056", "container %s has a command, and the annotation %s gives another", in.program.Name, Command)
	case len(in.program.Command) == 0 && given == nil:
		in.refused.add("KUB-056", "container %s has no command: an image's ENTRYPOINT cannot be seen here", in.program.Name)
	default:
		return slices.Concat(given, both), true
	}
	return nil, false
}

// entrypoint reads the annotation that stands for the image's ENTRYPOINT.
func (in *injection) entrypoint() (argv []string, ok bool) {
	text, there := in.pod.Annotations[Command]
	if !there {
		return nil, true
	}
	err := json.Unmarshal([]byte(text), &argv)
	if err != nil || len(argv) == 0 || argv[0] == "" || len(text) > maxAnnotation {
		in.refused.add("KUB-057", `the annotation %s is %.64q, wanted a JSON array such as ["/app/web"]`, Command, text)
		return nil, false
	}
	return argv, true
}

// unwrap returns the program of a container that ashlar-marble starts.
func unwrap(c *corev1.Container) ([]string, bool) {
	if len(c.Command) != 1 || c.Command[0] != marblePath || len(c.Args) == 0 || c.Args[0] != "run" {
		return nil, false
	}
	i := slices.Index(c.Args, "--")
	if i < 0 {
		return nil, true
	}
	return slices.Clone(c.Args[i+1:]), true
}

// grace is how long the program may take to end: as long as the kubelet gives.
func (in *injection) grace() int64 {
	if g := in.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return max(1, *g)
	}
	return defaultGrace
}

// measured are the further files that a simulation measures.
func (in *injection) measured() []string {
	files := in.list(Measure)
	if len(files) > 0 && !attest.TEE(in.profile.TEE).Simulated() {
		in.warning("the annotation %s counts in a simulation alone: %s measures the VM as a whole", Measure, in.profile.TEE)
		return nil
	}
	for i, f := range files {
		if name, file, named := strings.Cut(f, "="); !path.IsAbs(f) && (!named || name == "" || !path.IsAbs(file)) || slices.Contains(files[:i], f) {
			in.refused.add("KUB-057", "the annotation %s has %.64q, wanted an absolute path or NAME=PATH, each once", Measure, f)
		}
	}
	return files
}

// Programs that run what their command line names, and endings of scripts.
var (
	interpreters = []string{"sh", "bash", "dash", "ash", "busybox", "python", "python3", "node", "java", "ruby", "perl", "php", "dotnet"}
	scripts      = []string{".sh", ".py", ".js", ".mjs", ".rb", ".pl", ".php"}
)

// judgeProgram warns of what ashlar-marble will not start, or not as it looks.
func (in *injection) judgeProgram(argv []string) {
	program := path.Base(argv[0])
	switch {
	case slices.Contains(scripts, path.Ext(program)):
		in.warning("%s looks like a script, which ashlar-marble refuses (MRB-003): name the interpreter, and the script in the annotation %s", argv[0], Measure)
	case slices.Contains(interpreters, program) && !in.marble.Argv:
		in.warning("%s runs whatever the command line names, and a pod's command line is not attested: give marble %s its parameters.argv in the manifest", argv[0], in.marble.Name)
	}
}

// install adds the init container that brings ashlar-marble and Envoy, as the
// first; one that is there keeps its place and what others added to it.
func (in *injection) install() {
	spec := &in.pod.Spec
	command := []string{"ashlar-marble", "install", binDir}
	i := slices.IndexFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == installName })
	if i < 0 {
		spec.InitContainers = slices.Insert(spec.InitContainers, 0, corev1.Container{Name: installName, Command: command,
			Resources: in.share(), SecurityContext: in.restricted()})
		i = 0
	}
	c := &spec.InitContainers[i]
	if !slices.Equal(slices.Concat(c.Command, c.Args), command) || in.container(installName) != nil {
		in.refused.add("KUB-058", "the container %s is not the injector's: give it another name", installName)
		return
	}
	c.Image, c.ImagePullPolicy = in.settings.Image, corev1.PullPolicy(in.settings.PullPolicy)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
	}
	in.mount(c, corev1.VolumeMount{Name: binVolume, MountPath: binDir})
}

// share is what copying takes. Limits equal to requests leave the pod's quality
// of service as it is, and satisfy a namespace with quotas. A pod that bounds
// its resources as a whole bounds these too.
func (in *injection) share() corev1.ResourceRequirements {
	if in.pod.Spec.Resources != nil {
		return corev1.ResourceRequirements{}
	}
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	return corev1.ResourceRequirements{Limits: list, Requests: list.DeepCopy()}
}

// restricted is what Pod Security's level "restricted" demands.
func (in *injection) restricted() *corev1.SecurityContext {
	yes, no := true, false
	sc := &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	if pod := in.pod.Spec.SecurityContext; pod == nil || pod.RunAsUser == nil || *pod.RunAsUser != 0 {
		sc.RunAsNonRoot = &yes
	}
	return sc
}
