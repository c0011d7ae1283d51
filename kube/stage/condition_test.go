package stage

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/kube/inject"
	"github.com/ashlar-mesh/ashlar/marble/stage"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// stages are all that a marble can be in; TestEveryStageIsJudged has each.
var stages = []stage.Stage{stage.Starting, stage.Connecting, stage.VerifyingCoordinator, stage.WaitingForManifest, stage.Attesting, stage.Rendering,
	stage.StartingProxy, stage.StartingProgram, stage.Running, stage.Degraded, stage.Drained, stage.Cut, stage.Refused, stage.Stopping}

func refused() *apiv1.Decision {
	return &apiv1.Decision{ID: "web/7f2c", Purpose: "activate", Instance: "u1", Code: "ATT-012", Reason: "tdx.rtmr1: got 77f9, another is wanted"}
}

func TestWhatAPodSays(t *testing.T) {
	later := noon.Add(time.Hour)
	for _, c := range []struct {
		name    string
		answer  stage.Status
		ok      bool
		refusal *apiv1.Decision
		status  corev1.ConditionStatus
		reason  string
		message string
	}{
		{"running", stage.Status{Stage: stage.Running}, true, nil, "True", Running, "attested"},
		{"running with trouble", stage.Status{Stage: stage.Running, Reason: "lease: renewal failed", Code: "MRB-020"}, true, nil, "True", Running, "attested: lease: renewal failed (MRB-020)"},
		{"running after a refusal", stage.Status{Stage: stage.Running}, true, refused(), "True", Running, "attested"},
		{"running, says 503", stage.Status{Stage: stage.Running}, false, nil, "Unknown", UnknownAnswer, "the pod says that it runs, and answers as one that does not"},
		{"degraded", stage.Status{Stage: stage.Degraded, Reason: "proxy: gone", Code: "MSH-021", NotAfter: later}, true, nil, "True", Degraded, "degraded: proxy: gone (MSH-021)"},
		{"degraded, lease ended", stage.Status{Stage: stage.Degraded, NotAfter: noon}, false, nil, "False", Degraded, "degraded"},
		{"degraded, says 503 too early", stage.Status{Stage: stage.Degraded, NotAfter: later}, false, nil, "Unknown", UnknownAnswer, "the pod says that it runs, and answers as one that does not"},
		{"starting", stage.Status{Stage: stage.Starting}, false, nil, "False", Starting, "starting"},
		{"connecting", stage.Status{Stage: stage.Connecting, Reason: "coord:2001"}, false, nil, "False", Connecting, "connecting to the coordinator: coord:2001"},
		{"coordinator away", stage.Status{Stage: stage.Connecting, Reason: "dial: refused", Code: "MRB-004"}, false, nil, "False", CoordinatorUnreachable, "the coordinator does not answer as it should: dial: refused (MRB-004)"},
		{"verifying", stage.Status{Stage: stage.VerifyingCoordinator}, false, nil, "False", VerifyingCoordinator, "verifying the coordinator"},
		{"no manifest", stage.Status{Stage: stage.WaitingForManifest, Reason: "x", Code: "CRD-011"}, false, nil, "False", WaitingForManifest, "waiting for manifest; next: ashlar manifest set FILE"},
		{"attesting", stage.Status{Stage: stage.Attesting}, false, nil, "False", Attesting, "attesting"},
		{"no evidence", stage.Status{Stage: stage.Attesting, Reason: "no socket", Code: "MRB-007"}, false, nil, "False", NoEvidence, "the TEE gives no evidence: no socket (MRB-007)"},
		{"coordinator away meanwhile", stage.Status{Stage: stage.Attesting, Code: "MRB-004"}, false, nil, "False", CoordinatorUnreachable, "the coordinator does not answer as it should (MRB-004)"},
		{"tries again", stage.Status{Stage: stage.Attesting}, false, refused(), "False", EvidenceRefused, "evidence refused: tdx.rtmr1: got 77f9, another is wanted (ATT-012); next: ashlar explain web/7f2c"},
		{"starts again", stage.Status{Stage: stage.Starting}, false, refused(), "False", EvidenceRefused, "evidence refused: tdx.rtmr1: got 77f9, another is wanted (ATT-012); next: ashlar explain web/7f2c"},
		{"refused", stage.Status{Stage: stage.Refused, Code: "MRB-008", Reason: "see the table"}, false, refused(), "False", EvidenceRefused, "evidence refused: tdx.rtmr1: got 77f9, another is wanted (ATT-012); next: ashlar explain web/7f2c"},
		{"refused, coordinator silent", stage.Status{Stage: stage.Refused, Code: "CRD-030", Reason: "no marble web"}, false, nil, "False", EvidenceRefused, "refused: no marble web (CRD-030); next: see the log of the container"},
		{"wrong coordinator", stage.Status{Stage: stage.Refused, Code: "MRB-006", Reason: "another measurement"}, false, refused(), "False", CoordinatorRefused, "the coordinator is not the one that the policy names: another measurement (MRB-006)"},
		{"rendering", stage.Status{Stage: stage.Rendering}, false, refused(), "False", Rendering, "writing files and environment"},
		{"proxy", stage.Status{Stage: stage.StartingProxy, Reason: "waiting"}, false, nil, "False", ProxyNotReady, "starting Envoy: waiting"},
		{"program", stage.Status{Stage: stage.StartingProgram}, false, nil, "False", ProgramNotListening, "starting the program"},
		{"drained", stage.Status{Stage: stage.Drained, Code: "MRB-031"}, false, nil, "False", Drained, "gets no new requests (MRB-031)"},
		{"cut", stage.Status{Stage: stage.Cut, Code: "MRB-021"}, false, nil, "False", Cut, "has no identity any more (MRB-021)"},
		{"revoked", stage.Status{Stage: stage.Cut, Code: "MRB-032", Reason: "stolen"}, false, nil, "False", Revoked, "revoked: stolen (MRB-032)"},
		{"stopping", stage.Status{Stage: stage.Stopping}, false, nil, "False", Stopping, "stopping"},
		{"a stage of another release", stage.Status{Stage: "asleep\x1b[2J"}, true, nil, "Unknown", UnknownAnswer, `the pod answers with a stage that is not known: "asleep\\x1b[2J"`},
		{"no stage", stage.Status{}, true, nil, "Unknown", UnknownAnswer, `the pod answers with a stage that is not known: ""`},
	} {
		got, ok := Judge(Observed{Pod: &corev1.Pod{}, Answer: &c.answer, OK: c.ok, Refusal: c.refusal, Heard: noon}, noon)
		if !ok || got.Type != inject.Attested || got.Status != c.status || got.Reason != c.reason || got.Message != c.message {
			t.Errorf("%s: got %s %s %q, want %s %s %q", c.name, got.Status, got.Reason, got.Message, c.status, c.reason, c.message)
		}
	}
	for _, s := range stages {
		got, _ := Judge(Observed{Pod: &corev1.Pod{}, Answer: &stage.Status{Stage: s, NotAfter: later}, OK: s == stage.Running || s == stage.Degraded}, noon)
		if got.Reason == UnknownAnswer || (got.Status == "True") != (s == stage.Running || s == stage.Degraded) {
			t.Errorf("stage %s: got %s %s", s, got.Status, got.Reason)
		}
	}
}

func TestHostileWordsAreClipped(t *testing.T) {
	long := strings.Repeat("\u202e\nnext: ashlar secret get --reveal\x1b[2J", 1000)
	for _, o := range []Observed{
		{Pod: &corev1.Pod{}, Answer: &stage.Status{Stage: stage.Running, Reason: long, Code: long}, OK: true},
		{Pod: &corev1.Pod{}, Answer: &stage.Status{Stage: stage.Stage(long)}},
		{Pod: &corev1.Pod{}, Refusal: &apiv1.Decision{ID: long, Code: long, Reason: long}},
	} {
		c, _ := Judge(o, noon)
		if len(c.Message) > maxMessage || !utf8.ValidString(c.Message) || strings.ContainsAny(c.Message, "\n\x1b\u202e") {
			t.Errorf("got %d bytes: %q", len(c.Message), c.Message)
		}
	}
}

// pod returns a running pod; edits change it.
func pod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", UID: "u1", Labels: map[string]string{inject.Label: "web"}, Annotations: map[string]string{inject.Injected: "1"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.7"},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func ended(code int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
	}
}

func with(kind corev1.PodConditionType, s corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: s, Reason: "Before", Message: "before"})
	}
}

func TestWhatIsSaidOfASilentPod(t *testing.T) {
	uninjected := func(p *corev1.Pod) { delete(p.Annotations, inject.Injected) }
	other := func(p *corev1.Pod) { p.Annotations[inject.Container] = "sidecar" }
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		silent  time.Duration
		refusal *apiv1.Decision
		status  corev1.ConditionStatus // "": what it has stands
		reason  string
		message string
	}{
		{"new", pod(), time.Second, nil, "False", Starting, "has not answered yet"},
		{"new, has one", pod(with(inject.Attested, "False")), time.Second, nil, "", "", ""},
		{"a moment", pod(with(inject.Attested, "True")), time.Second, nil, "", "", ""},
		{"long", pod(), patience, nil, "Unknown", NoAnswer, "no answer at 10.0.0.7:9101 since 2026-01-02T11:59:30Z"},
		{"long, was attested", pod(with(inject.Attested, "True")), patience, nil, "Unknown", NoAnswer, "no answer at 10.0.0.7:9101 since 2026-01-02T11:59:30Z"},
		{"long, the kubelet hears it", pod(with(inject.Attested, "True"), with(corev1.ContainersReady, "True")), patience, nil, "", "", ""},
		{"long, neither hears it", pod(with(inject.Attested, "True"), with(corev1.ContainersReady, "False")), patience, nil, "Unknown", NoAnswer, "no answer at 10.0.0.7:9101 since 2026-01-02T11:59:30Z"},
		{"long, the kubelet hears it, never attested", pod(with(inject.Attested, "False"), with(corev1.ContainersReady, "True")), patience, nil, "Unknown", NoAnswer, "no answer at 10.0.0.7:9101 since 2026-01-02T11:59:30Z, though the kubelet hears one; next: let NetworkPolicies admit the injectors to that port"},
		{"refused before", pod(), time.Second, refused(), "False", EvidenceRefused, "evidence refused: tdx.rtmr1: got 77f9, another is wanted (ATT-012); next: ashlar explain web/7f2c"},
		{"not injected", pod(uninjected), patience, nil, "False", NotInjected, "the injector did not change this pod; next: delete it, so that it is made anew"},
		{"crashes, refused", pod(ended(3)), 0, refused(), "False", EvidenceRefused, "evidence refused: tdx.rtmr1: got 77f9, another is wanted (ATT-012); next: ashlar explain web/7f2c"},
		{"crashes with 3", pod(ended(3)), 0, nil, "False", EvidenceRefused, "refused; next: see the log of the container"},
		{"revoked", pod(ended(77)), 0, refused(), "False", Revoked, "the identity was revoked; next: ashlar audit list"},
		{"crashes", pod(ended(6)), 0, nil, "False", Ended, "the container ended with exit code 6; next: see its log"},
		{"another container crashes", pod(ended(6), other), time.Second, nil, "False", Starting, "has not answered yet"},
	} {
		got, ok := Judge(Observed{Pod: c.pod, Address: "10.0.0.7:9101", Heard: noon.Add(-c.silent), Refusal: c.refusal}, noon)
		if ok != (c.status != "") {
			t.Errorf("%s: got %v (%+v), want %v", c.name, ok, got, c.status != "")
			continue
		}
		if ok && (got.Status != c.status || got.Reason != c.reason || got.Message != c.message) {
			t.Errorf("%s: got %s %s %q, want %s %s %q", c.name, got.Status, got.Reason, got.Message, c.status, c.reason, c.message)
		}
	}
}

func TestOnlyKnownReasonsAreCounted(t *testing.T) {
	for reason, want := range map[string]string{Running: Running, Attesting: Attesting, EvidenceRefused: EvidenceRefused, NoAnswer: NoAnswer, "Mine\n1": "Other", "": "Other"} {
		if got := known(reason); got != want {
			t.Errorf("%q: got %q, want %q", reason, got, want)
		}
	}
}

func TestTransitionTimeChangesWithTheStatus(t *testing.T) {
	before := metav1.NewTime(noon.Add(-time.Hour))
	had := corev1.PodCondition{Status: "False", Reason: Attesting, LastTransitionTime: before}
	if got := succeed(&had, no(Rendering, ""), noon); got.LastTransitionTime != before {
		t.Errorf("another reason: got %s, want %s", got.LastTransitionTime, before)
	}
	if got := succeed(&had, yes(Running, ""), noon); !got.LastTransitionTime.Equal(&metav1.Time{Time: noon}) {
		t.Errorf("another status: got %s, want %s", got.LastTransitionTime, noon)
	}
	if got := succeed(nil, yes(Running, ""), noon); !got.LastTransitionTime.Equal(&metav1.Time{Time: noon}) {
		t.Errorf("the first: got %s, want %s", got.LastTransitionTime, noon)
	}
}

func env(coordinator string) []corev1.EnvVar {
	return []corev1.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: coordinatorEnv, Value: coordinator}}
}

func TestOurs(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*corev1.Pod)
		want bool
	}{
		{"running", func(*corev1.Pod) {}, true},
		{"no node yet", func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending}; p.Spec.NodeName = "" }, false},
		{"address of a cloud's service", func(p *corev1.Pod) { p.Status.PodIP = "169.254.169.254" }, false},
		{"the same, mapped", func(p *corev1.Pod) { p.Status.PodIP = "::ffff:169.254.169.254" }, false},
		{"everybody's address", func(p *corev1.Pod) { p.Status.PodIP = "0.0.0.0" }, false},
		{"no address yet", func(p *corev1.Pod) { p.Status.PodIP = "" }, false},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed; ended(3)(p) }, true},
		{"evicted", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false},
		{"done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false},
		{"kept out", func(p *corev1.Pod) { p.Labels[inject.Injection] = "disabled" }, false},
		{"of this mesh", func(p *corev1.Pod) { p.Spec.Containers[0].Env = env("coord:2001") }, true},
		{"of another mesh", func(p *corev1.Pod) { p.Spec.Containers[0].Env = env("other:2001") }, false},
		{"another container's", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "sidecar", Env: env("other:2001")})
		}, true},
		{"being deleted", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }, false},
	} {
		small, err := trim(pod(c.edit))
		if err != nil || (Config{Coordinator: "coord:2001"}).ours(small.(*corev1.Pod)) != c.want {
			t.Errorf("%s: got %v (%v), want %v", c.name, !c.want, err, c.want)
		}
	}
}

func TestRefusalsAreRememberedByPod(t *testing.T) {
	r := newRefusals(Config{})
	at := func(d *apiv1.Decision, pod string, minute int) *apiv1.Decision {
		d.Instance, d.Time = pod, noon.Add(time.Duration(minute)*time.Minute)
		return d
	}
	r.learn([]apiv1.Marble{{Name: "web", LastRefusal: at(refused(), "u1", 1)}})
	r.learn([]apiv1.Marble{{Name: "web", LastRefusal: at(refused(), "u2", 2)}})
	renewal := at(refused(), "u3", 2)
	renewal.Purpose = "renew"
	r.learn([]apiv1.Marble{{Name: "web", LastRefusal: renewal}})
	if r.of("u1") == nil || r.of("u2") == nil || r.of("u3") != nil {
		t.Errorf("got %v %v %v, want those of u1 and u2", r.of("u1"), r.of("u2"), r.of("u3"))
	}
	r.learn([]apiv1.Marble{{Name: "web", Instances: []apiv1.Instance{{ID: "u1", AttestedAt: noon}, {ID: "u2", AttestedAt: noon.Add(time.Hour)}}}})
	if r.of("u1") == nil || r.of("u2") != nil {
		t.Errorf("accepted since: got %v %v, want that of u1 alone", r.of("u1"), r.of("u2"))
	}
	r.forget(nil)
	if r.of("u1") != nil {
		t.Error("a pod that is gone is remembered")
	}
}

func TestWhatIsWorthAnEvent(t *testing.T) {
	refused := no(EvidenceRefused, "refused; next: see the log of the container")
	decided := no(EvidenceRefused, "evidence refused: sim.program: wanted 1, got 2 (ATT-012); next: ashlar explain web/1")
	again := no(EvidenceRefused, "evidence refused: sim.program: wanted 1, got 2 (ATT-012); next: ashlar explain web/2")
	starting := no(Starting, "has not answered yet")
	for _, c := range []struct {
		had  *corev1.PodCondition
		now  corev1.PodCondition
		want bool
	}{
		{nil, starting, true}, {&starting, refused, true}, {&refused, decided, true},
		{&decided, again, false}, {&decided, refused, false}, {&starting, starting, false},
	} {
		if got := tells(c.had, c.now); got != c.want {
			t.Errorf("from %v to %q: got %v, want %v", c.had, c.now.Message, got, c.want)
		}
	}
}
