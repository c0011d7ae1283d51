package kube

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Services are where a coordinator takes endorsements from.
type Services struct{ PCCS, KDS []string }

// Services reads them from the arguments of the coordinator, of what the chart
// would create or else of the one in the namespace.
func (c *Cluster) Services(ctx context.Context, manifest string) Services {
	var args []string
	if docs, err := objects(manifest); err == nil {
		for _, o := range docs {
			args = append(args, argsOf(o)...)
		}
	}
	if manifest == "" {
		if sets, err := c.client.AppsV1().StatefulSets(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ours, Limit: pageSize}); err == nil {
			for _, s := range sets.Items {
				for _, container := range s.Spec.Template.Spec.Containers {
					args = append(args, container.Args...)
				}
			}
		}
	}
	return servicesOf(args)
}

// argsOf are the arguments of the containers of a StatefulSet.
func argsOf(o object) []string {
	var out []string
	if o.kind() != "StatefulSet" {
		return nil
	}
	containers, _ := o.field("spec", "template", "spec", "containers").([]any)
	for _, c := range containers {
		args, _ := asMap(c)["args"].([]any)
		for _, a := range args {
			if s, ok := a.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

func servicesOf(args []string) Services {
	var s Services
	for _, a := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		addresses := slices.DeleteFunc(strings.Split(value, ","), func(a string) bool { return a == "" })
		switch name {
		case "pccs":
			s.PCCS = append(s.PCCS, addresses...)
		case "kds":
			s.KDS = append(s.KDS, addresses...)
		}
	}
	return s
}
