package derive

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/manifest/importer"
)

// Cluster is what was read.
type Cluster struct {
	order      map[string]int // of files
	documents  int
	seen       map[string]Place // by kind, namespace and name
	lines      []Line           // of what was read and means nothing, or less than it says
	workloads  []*workload
	services   []service
	serviceAt  map[object]int // index in services
	policies   []policy
	scalers    []scaler
	namespaces map[string]map[string]string // labels by name
	configs    map[object]map[string]string // data of ConfigMaps
	secretKeys map[object][]string          // keys of Secrets, sorted; their values are dropped
}

// object names an object of a namespace.
type object struct{ namespace, name string }

type service struct {
	at  Place
	svc *corev1.Service
}

type policy struct {
	at Place
	np *networkingv1.NetworkPolicy
}

// scaler is a HorizontalPodAutoscaler.
type scaler struct {
	at         Place
	namespace  string
	kind, name string // of what it scales
	max        int32
}

func newCluster() *Cluster {
	return &Cluster{order: map[string]int{}, seen: map[string]Place{}, serviceAt: map[object]int{}, namespaces: map[string]map[string]string{}, configs: map[object]map[string]string{},
		secretKeys: map[object][]string{}}
}

// decoder decodes the kinds that a manifest is made of. It is strict: names of
// fields count in their case, and what is unknown is an error beside the object.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme, autoscalingv1.AddToScheme, autoscalingv2.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // the tables of a library
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// kinds are those that are decoded.
var kinds = []string{"v1/Pod", "v1/Service", "v1/Secret", "v1/ConfigMap", "v1/Namespace", "apps/v1/Deployment", "apps/v1/StatefulSet", "apps/v1/DaemonSet",
	"apps/v1/ReplicaSet", "batch/v1/Job", "batch/v1/CronJob", "networking.k8s.io/v1/NetworkPolicy", "networking.k8s.io/v1/Ingress",
	"autoscaling/v1/HorizontalPodAutoscaler", "autoscaling/v2/HorizontalPodAutoscaler"}

// silent are kinds that have no part in a manifest and lose nothing.
var silent = []string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "PersistentVolumeClaim", "PersistentVolume", "StorageClass",
	"PodDisruptionBudget", "ResourceQuota", "LimitRange", "PriorityClass", "Event", "Endpoints", "EndpointSlice", "ControllerRevision", "CustomResourceDefinition"}

// object reads one object.
func (c *Cluster) object(at Place, version, kind string, raw json.RawMessage) error {
	if !slices.Contains(kinds, version+"/"+kind) {
		if !slices.Contains(silent, kind) {
			c.skip(at.at("kind"), "a %s (%s) means nothing to a manifest", kind, version)
		}
		return nil
	}
	o, _, err := decoder.Decode(raw, nil, nil)
	if err != nil && !runtime.IsStrictDecodingError(err) || o == nil {
		return problem.New("KUB-090", "%s: it does not decode as a %s of %s", at, kind, version)
	}
	if err != nil {
		// The error names fields, and no values.
		if kind == "NetworkPolicy" {
			return problem.New("KUB-094", "%s: a NetworkPolicy with a field that is not known would be read as another one: %s", at, fieldsOf(err))
		}
		c.lines = append(c.lines, Line{at, "", importer.Dropped, "fields that are not known: " + fieldsOf(err)})
	}
	m, ok := o.(metav1.Object)
	if !ok {
		return problem.New("KUB-090", "%s: the %s has no metadata", at, kind)
	}
	if m.GetNamespace() == "" {
		m.SetNamespace(metav1.NamespaceDefault)
	}
	id := kind + " " + m.GetNamespace() + "/" + m.GetName()
	if first, twice := c.seen[id]; twice && m.GetName() != "" {
		return problem.New("KUB-090", "%s: %s %s is at %s already: it is not clear which of the two counts", at, kind, m.GetName(), first).WithNext("read the folder of one deployment at a time")
	}
	c.seen[id] = at
	return c.take(at, o)
}

// fieldsOf returns the names of fields that a strict decoder did not know.
func fieldsOf(err error) string {
	var names []string
	for _, part := range strings.Split(err.Error(), ", ") {
		if _, name, ok := strings.Cut(part, "unknown field "); ok && len(names) < 5 {
			names = append(names, strings.Trim(name, `"`))
		}
	}
	return strings.Join(names, ", ")
}

func (c *Cluster) skip(at Place, format string, args ...any) {
	c.lines = append(c.lines, Line{at, "", importer.NoCounterpart, fmt.Sprintf(format, args...)})
}

func (c *Cluster) take(at Place, o runtime.Object) error {
	switch o := o.(type) {
	case *corev1.Service:
		c.serviceAt[object{o.Namespace, o.Name}] = len(c.services)
		c.services = append(c.services, service{at, o})
	case *corev1.Namespace:
		c.namespaces[o.Name] = o.Labels
	case *corev1.ConfigMap:
		c.configs[object{o.Namespace, o.Name}] = o.Data
	case *corev1.Secret:
		c.secretKeys[object{o.Namespace, o.Name}] = keysOf(o)
	case *networkingv1.NetworkPolicy:
		c.policies = append(c.policies, policy{at, o})
	case *networkingv1.Ingress:
		c.skip(at, "who comes from outside has no evidence: let a marble with a TLS port of its own stand at the edge, or give visitors ashlar verify")
	case *autoscalingv1.HorizontalPodAutoscaler:
		c.scalers = append(c.scalers, scaler{at, o.Namespace, o.Spec.ScaleTargetRef.Kind, o.Spec.ScaleTargetRef.Name, o.Spec.MaxReplicas})
	case *autoscalingv2.HorizontalPodAutoscaler:
		c.scalers = append(c.scalers, scaler{at, o.Namespace, o.Spec.ScaleTargetRef.Kind, o.Spec.ScaleTargetRef.Name, o.Spec.MaxReplicas})
	default:
		return c.workload(at, o)
	}
	return nil
}

// keysOf returns the keys of a Secret; nothing else of it is kept.
func keysOf(s *corev1.Secret) []string {
	var keys []string
	for key := range s.Data {
		keys = append(keys, key)
	}
	for key := range s.StringData {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
