package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"

	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// Bounds of Settings. The API server takes 256 KiB of annotations for each pod,
// and the policy travels in one.
const (
	MaxSettings = 512 << 10 // bytes of the document
	MaxPolicy   = 128 << 10 // bytes
	maxRows     = 100
	maxEntries  = 50 // of each list and map of a row
)

// DefaultReadyPort is where a marble says its stage, unless Settings say otherwise.
const DefaultReadyPort = 9101

// imageName is loose: the registry judges names, this keeps out what is none.
var imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)

// ParseFile reads the settings out of the injector's file, which has fields of
// its own besides, as strictly as Decode, and judges them as Check does. Codes:
// KUB-062 the document, KUB-063 a row of the table.
func ParseFile(raw []byte) (Settings, error) {
	var file struct {
		Settings
		Client  string `json:"client"`
		Webhook string `json:"webhook"`
		Service string `json:"service"`
	}
	if err := Decode(raw, &file); err != nil {
		return Settings{}, err
	}
	return file.Settings, file.Settings.Check()
}

// Check says all that is wrong with settings.
func (s Settings) Check() error {
	var r refusals
	r.addIf(s.checkMesh())
	table := s.Table()
	if len(s.Profiles) > maxRows {
		r.add("KUB-062", "profiles has %d rows, limit %d", len(s.Profiles), maxRows)
		return r.err("the injector's settings")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Profiles)) {
		s.Profiles[name].check(&r, name)
	}
	for _, tee := range slices.Sorted(maps.Keys(s.Defaults)) {
		name := s.Defaults[tee]
		row, ok := table[name]
		switch {
		case !ok:
			r.add("KUB-062", "defaults.%.32s names the profile %.64q, which is not in the table%s", tee, name, meant(name, table))
		case row.TEE != tee:
			r.add("KUB-062", "defaults.%.32s names the profile %.64q, which is of TEE %s", tee, name, row.TEE)
		}
	}
	return r.err("the injector's settings")
}

func (s Settings) checkMesh() error {
	var r refusals
	host, port, err := net.SplitHostPort(s.Coordinator)
	if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 || host == "" {
		r.add("KUB-062", "coordinator is %.128q, wanted HOST:PORT of its mesh port", s.Coordinator)
	}
	if !imageName.MatchString(s.Image) || len(s.Image) > 512 {
		r.add("KUB-062", "image is %.128q, wanted the name of the image with ashlar-marble and Envoy", s.Image)
	}
	if !slices.Contains([]string{"", "Always", "IfNotPresent", "Never"}, s.PullPolicy) {
		r.add("KUB-062", "pullPolicy is %.64q, wanted Always, IfNotPresent or Never", s.PullPolicy)
	}
	if s.ReadyPort != 0 && (s.ReadyPort < 1024 || s.ReadyPort > 65535) {
		r.add("KUB-062", "readyPort is %d, wanted 1024 to 65535", s.ReadyPort)
	}
	if len(s.Policy) > MaxPolicy {
		r.add("KUB-062", "policy has %d bytes, limit %d: it travels in an annotation of each pod", len(s.Policy), MaxPolicy)
	} else if _, diagnostics := manifest.ParsePolicyFile([]byte(s.Policy)); diagnostics.Err() != nil {
		r.add("KUB-062", "policy is no policy file for the coordinator: %v", diagnostics.Err())
	}
	return r.err("the injector's settings")
}

// Table is the settings' table, or the built-in one if they have none.
func (s Settings) Table() map[string]Profile {
	if s.Profiles == nil {
		return Profiles()
	}
	return s.Profiles
}

// Digest names these settings: the first half of SHA-256 of their JSON form.
func (s Settings) Digest() string {
	raw, err := json.Marshal(s)
	if err != nil { // plain data: it cannot happen
		return "unknown"
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

func (s Settings) readyPort() int32 {
	if s.ReadyPort == 0 {
		return DefaultReadyPort
	}
	return s.ReadyPort
}

// meant suggests a row's name.
func meant(name string, table map[string]Profile) string {
	names := slices.Sorted(maps.Keys(table))
	if near := nearest.Word(name, names); near != "" {
		return ": did you mean " + near + "?"
	}
	return "; it has " + few(names)
}

// Placeholders are settings to look at, of no mesh: a marble started by them
// finds no coordinator, and its policy accepts none.
func Placeholders() Settings {
	return Settings{Coordinator: "coordinator.invalid:2001", Policy: "{}", Image: "ashlar-marble"}
}
