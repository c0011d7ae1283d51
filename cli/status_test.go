package cli

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
)

func TestRunningCountsWhoIsConnected(t *testing.T) {
	for name, c := range map[string]struct {
		stages []string
		want   int
	}{
		"none":             {nil, 0},
		"one runs":         {[]string{"running"}, 1},
		"degraded runs":    {[]string{"degraded"}, 1},
		"not reported yet": {[]string{""}, 1},
		"gone":             {[]string{"disconnected"}, 0},
		"one of two":       {[]string{"disconnected", "running"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := apiv1.Marble{}
			for _, s := range c.stages {
				m.Instances = append(m.Instances, apiv1.Instance{Stage: s})
			}
			if got := running(m); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
