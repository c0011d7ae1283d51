package cli

import (
	"testing"

	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/transparency"
)

func TestEntriesNameTheReplica(t *testing.T) {
	for _, c := range []struct {
		entry transparency.Entry
		want  string
	}{
		{transparency.Entry{Kind: "start", Text: "opened its state"}, "opened its state"},
		{transparency.Entry{Kind: "start", Text: "opened its state", Details: map[string]string{"replica": "m2"}}, "opened its state as m2"},
		{transparency.Entry{Kind: "replicaAccepted", Decision: "coordinators/0badcafe", Details: map[string]string{"instance": "m3"}},
			"m3 got the key of the state: coordinators/0badcafe"},
		{transparency.Entry{Kind: "replicaRefused", Code: "ATT-012", Decision: "coordinators/0badcafe", Details: map[string]string{"instance": "m4"}},
			"m4 was refused the key of the state: ATT-012"},
		{transparency.Entry{Kind: "activationAccepted", Decision: "web/0badcafe", Details: map[string]string{"instance": "x"}}, "web/0badcafe"},
	} {
		if got := entryText(client.Logged{Entry: c.entry}); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
