package injector

import (
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

// Settings are the file that --config names. It is read once: who changes it
// starts the injector anew, as the chart does by an annotation of the pod.
type Settings struct {
	inject.Settings
	Client  string `json:"client"`  // HOST:PORT of the coordinator's client API
	Webhook string `json:"webhook"` // name of the MutatingWebhookConfiguration
	// Service is the DNS name of the webhook's Service: NAME.NAMESPACE.svc. The
	// Lease of who writes conditions has this name too, in this namespace.
	Service string `json:"service"`
}

// readSettings reads and checks the file.
func readSettings(name string) (Settings, error) {
	f, err := os.Open(name)
	if err != nil {
		return Settings{}, problem.Because(err, "KUB-071", "reading the settings")
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, inject.MaxSettings+1))
	switch {
	case err != nil:
		return Settings{}, problem.Because(err, "KUB-071", "reading the settings")
	case len(raw) > inject.MaxSettings:
		return Settings{}, problem.New("KUB-071", "%s has more than %d bytes", name, inject.MaxSettings)
	}
	return parseSettings(raw)
}

func parseSettings(raw []byte) (Settings, error) {
	var s Settings
	if err := inject.Decode(raw, &s); err != nil {
		return s, err
	}
	if err := s.Check(); err != nil {
		return s, err
	}
	for _, required := range []struct{ name, value string }{
		{"client", s.Client}, {"webhook", s.Webhook}, {"service", s.Service},
	} {
		if required.value == "" {
			return s, problem.New("KUB-071", "the setting %s is missing", required.name)
		}
	}
	name, namespace := s.place()
	if len(validation.IsDNS1035Label(name)) > 0 || len(validation.IsDNS1123Label(namespace)) > 0 || !strings.HasPrefix(s.Service, name+"."+namespace+".svc") {
		return s, problem.New("KUB-071", "the setting service: wanted NAME.NAMESPACE.svc, got %.128q", s.Service)
	}
	if s.ReadyPort == 0 {
		s.ReadyPort = inject.DefaultReadyPort
	}
	return s, nil
}

// place returns the name and the namespace of the webhook's Service.
func (s Settings) place() (name, namespace string) {
	name, rest, _ := strings.Cut(s.Service, ".")
	namespace, _, _ = strings.Cut(rest, ".")
	return name, namespace
}
