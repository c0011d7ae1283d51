package inject

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Result is a pod as a marble.
type Result struct {
	Pod *corev1.Pod
	// Profile is the row of the table that was taken.
	Profile string
	// Warnings are for whoever creates the pod: what works, but not as it looks.
	Warnings []string
}

// Labelled returns the name of the marble that a pod is to be. A pod with the
// label ashlar.dev/injection: disabled is none.
func Labelled(pod *corev1.Pod) (name string, ok bool) {
	name, ok = pod.Labels[Label]
	return name, ok && pod.Labels[Injection] != "disabled"
}

// Pod returns a copy of the pod that starts as the marble m. It is idempotent: of
// its own result, also after other injectors changed it, it changes nothing that
// is there. A pod that claims to be injected is judged by what it is. All that
// keeps the pod from being a marble is in one error; codes KUB-050 to KUB-061.
func Pod(pod *corev1.Pod, m Marble, s Settings) (Result, error) {
	if what, n, limit := oversized(pod); n > limit {
		return Result{}, problem.New("KUB-061", "the pod has %d %s, limit %d", n, what, limit)
	}
	in := &injection{pod: pod.DeepCopy(), marble: m, settings: s}
	in.judge()
	in.choose()
	in.find()
	if in.program != nil {
		in.again = in.injectedBefore()
		in.start()
		in.probes()
		in.ports()
		in.secrets()
		in.mounts()
		in.environment()
		in.devices()
	}
	in.schedule()
	in.annotate()
	if err := in.refused.err("pod " + in.name() + " cannot be the marble " + m.Name); err != nil {
		return Result{}, err
	}
	in.warn()
	if most := 20; len(in.warnings) > most {
		in.warnings = append(in.warnings[:most], fmt.Sprintf("and %d further warnings", len(in.warnings)-most))
	}
	return Result{Pod: in.pod, Profile: in.profileName, Warnings: in.warnings}, nil
}

// oversized returns what a pod has too much of: each is looked through for each
// of another, and whoever may create a pod must not keep the injector busy. What
// is injected has twice as many volumes and mounts at most, and some of ours.
func oversized(pod *corev1.Pod) (what string, n, limit int) {
	spec, volumes := &pod.Spec, 1000
	if _, claimed := pod.Annotations[Injected]; claimed {
		volumes = 2*volumes + 100
	}
	bound := func(name string, count, most int) {
		if n <= limit && count > most {
			what, n, limit = name, count, most
		}
	}
	bound("containers", len(spec.Containers)+len(spec.InitContainers), 200)
	bound("volumes", len(spec.Volumes), volumes)
	bound("tolerations", len(spec.Tolerations), 1000)
	for _, c := range slices.Concat(spec.Containers, spec.InitContainers) {
		bound("mounts in one container", len(c.VolumeMounts), volumes)
		bound("variables in one container", len(c.Env), 5000)
		bound("ports in one container", len(c.Ports), 1000)
	}
	for i := range spec.Volumes {
		if p := spec.Volumes[i].Projected; p != nil {
			bound("sources of one volume", len(p.Sources), 100)
		}
	}
	return what, n, limit
}

// injection is one pod on its way to be a marble.
type injection struct {
	pod      *corev1.Pod
	marble   Marble
	settings Settings

	profile     Profile
	profileName string // empty: none could be chosen
	program     *corev1.Container
	handed      map[string]handed // the probes that the marble asks, by kind
	again       bool              // the container has been injected before: what is ours is replaced

	refused  refusals
	warnings []string
}

func (in *injection) name() string {
	if in.pod.Name != "" {
		return in.pod.Name
	}
	return in.pod.GenerateName + "*"
}

func (in *injection) warning(format string, args ...any) {
	in.warnings = append(in.warnings, fmt.Sprintf(format, args...))
}

// mirrored marks the picture of a static pod, which a node runs whatever the API
// server says.
const mirrored = "kubernetes.io/config.mirror"

// judge looks at what no profile can mend.
func (in *injection) judge() {
	spec := &in.pod.Spec
	if in.pod.Labels[Label] != in.marble.Name {
		in.refused.add("KUB-051", "the label %s is %.64q, wanted %q", Label, in.pod.Labels[Label], in.marble.Name)
	}
	if spec.HostNetwork {
		in.refused.add("KUB-061", "hostNetwork is true: the marble's address would be the node's, and every process of the node could call its program")
	}
	if spec.OS != nil && spec.OS.Name != corev1.Linux {
		in.refused.add("KUB-061", "os.name is %.32q, wanted linux", spec.OS.Name)
	}
	if _, static := in.pod.Annotations[mirrored]; static {
		in.refused.add("KUB-061", "it is the mirror of a static pod, which its node has started already")
	}
}

// choose finds the row of the table: by name, by TEE, or the only one that fits.
func (in *injection) choose() {
	name, tee := in.pod.Annotations[ProfileOf], in.pod.Annotations[TEE]
	table := in.settings.Table()
	switch {
	case name != "":
		row, ok := table[name]
		if !ok {
			in.refused.add("KUB-054", "the annotation %s names %.64q, which is not in the table%s", ProfileOf, name, meant(name, table))
			return
		}
		if tee != "" && tee != row.TEE {
			in.refused.add("KUB-054", "the annotation %s names %s, which is of TEE %s, and %s says %.32q", ProfileOf, name, row.TEE, TEE, tee)
			return
		}
		tee = row.TEE
	case tee == "":
		tee = in.onlyTEE()
	}
	if tee == "" {
		return
	}
	if !slices.Contains(in.marble.TEEs, tee) {
		in.refused.add("KUB-053", "TEE %.32q: the package of marble %s may run in %s", tee, in.marble.Name, few(in.marble.TEEs))
		return
	}
	if name == "" {
		name = in.settings.Defaults[tee]
	}
	row, ok := table[name]
	if !ok {
		in.refused.add("KUB-054", "this cluster has no default profile for TEE %s: name one in the annotation %s, or in the value tee.defaults", tee, ProfileOf)
		return
	}
	in.profile, in.profileName = row, name
	in.runtime()
}

// onlyTEE returns the TEE of the package, if it has one, or the only one of them
// that the cluster has a default for.
func (in *injection) onlyTEE() string {
	tees := in.marble.TEEs
	if len(tees) > 1 {
		tees = slices.DeleteFunc(slices.Clone(tees), func(t string) bool { return in.settings.Defaults[t] == "" })
	}
	switch {
	case len(tees) == 1:
		return tees[0]
	case len(in.marble.TEEs) == 0:
		in.refused.add("KUB-053", "the package of marble %s names no TEE", in.marble.Name)
	case len(tees) == 0:
		in.refused.add("KUB-053", "the package of marble %s may run in %s, and there is a default profile for none of them", in.marble.Name, few(in.marble.TEEs)).
			WithNext("name a profile: by the value tee.defaults, the annotation %s, or --profile of ashlar inject", ProfileOf)
	default:
		in.refused.add("KUB-053", "the package of marble %s may run in %s, and this cluster has default profiles for several of them", in.marble.Name, few(tees))
	}
	return ""
}

// runtime lets an annotation say that an image is a marble by itself, or is not.
func (in *injection) runtime() {
	switch r := in.pod.Annotations[Runtime]; {
	case r == "":
	case r != Wrap && r != Image:
		in.refused.add("KUB-057", "the annotation %s is %.32q, wanted %q or %q", Runtime, r, Wrap, Image)
	case r == Wrap && in.profile.TEE == "sgx":
		in.refused.add("KUB-057", "the annotation %s is %q: an enclave's start is measured, so nothing can be put before it", Runtime, r)
	default:
		in.profile.Runtime = r
	}
}

// find finds the program's container: the one that is named, else one that was
// injected before, else the one that kubectl takes, else the first.
func (in *injection) find() {
	containers := in.pod.Spec.Containers
	if name, named := in.pod.Annotations[Container]; named {
		in.program = in.container(name)
		if in.program != nil {
			return
		}
		var names []string
		for i := range containers {
			names = append(names, containers[i].Name)
		}
		e := in.refused.add("KUB-055", "the annotation %s names %.64q; the pod has %s", Container, name, few(names))
		if near := nearest.Word(name, names); near != "" {
			e.Detail += ": did you mean " + near + "?"
		}
		return
	}
	for i := range containers {
		if in.program == nil && slices.ContainsFunc(containers[i].Env, func(e corev1.EnvVar) bool { return e.Name == "ASHLAR_MARBLE" }) {
			in.program = &containers[i]
		}
	}
	if in.program == nil {
		in.program = in.container(in.pod.Annotations["kubectl.kubernetes.io/default-container"])
	}
	if in.program == nil && len(containers) > 0 {
		in.program = &containers[0]
	}
	if in.program == nil {
		in.refused.add("KUB-055", "it has no container")
	}
}

func (in *injection) container(name string) *corev1.Container {
	for i := range in.pod.Spec.Containers {
		if c := &in.pod.Spec.Containers[i]; c.Name == name {
			return c
		}
	}
	return nil
}

// injectedBefore says whether the container has the shape that this package
// gives. The annotation alone is no proof: anybody can write it.
func (in *injection) injectedBefore() bool {
	_, claimed := in.pod.Annotations[Injected]
	ready := slices.ContainsFunc(in.program.Env, func(e corev1.EnvVar) bool { return e.Name == "ASHLAR_READY_ADDR" })
	_, wrapped := unwrap(in.program)
	return claimed && ready && (wrapped || in.profile.Runtime == Image)
}

// list reads an annotation of names separated by commas.
func (in *injection) list(annotation string) []string {
	var names []string
	for name := range strings.SplitSeq(in.pod.Annotations[annotation], ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// annotate pins what was chosen, and says who did it.
func (in *injection) annotate() {
	set := func(key, value string) {
		if in.pod.Annotations == nil {
			in.pod.Annotations = make(map[string]string)
		}
		in.pod.Annotations[key] = value
	}
	if in.program == nil || in.profileName == "" {
		return
	}
	set(Container, in.program.Name)
	set(Policy, in.settings.Policy)
	set(Injected, version+" "+in.settings.Digest())
	for key, value := range in.profile.Annotations {
		if _, own := in.pod.Annotations[key]; !own {
			set(key, strings.ReplaceAll(value, "{container}", in.program.Name))
		}
	}
	if in.settings.ReadinessGate && !slices.ContainsFunc(in.pod.Spec.ReadinessGates,
		func(g corev1.PodReadinessGate) bool { return g.ConditionType == Attested }) {
		in.pod.Spec.ReadinessGates = append(in.pod.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: Attested})
	}
}

// version is of the shape that this package gives a pod.
const version = "v1"
