// Package archtest holds the laws of the code base that a machine can check:
// who may import whom, what never reaches a binary, and that every package says
// what it owns.
package archtest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/ashlar-mesh/ashlar"

type pkg struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	Imports      []string
	Deps         []string
	Standard     bool
	TestGoFiles  []string
	XTestGoFiles []string
}

func load(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Dir,GoFiles,Imports,Deps,Standard,TestGoFiles,XTestGoFiles"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		all = append(all, p)
	}
	return all
}

// layers orders the packages; a package imports only lower ones, and of its own
// layer only those that stand before it here. A path ending in /... covers the
// packages below it.
var layers = [][]string{
	{"internal/..."},
	{"attest"},
	{"attest/pki", "attest/binding", "attest/dcap", "attest/sgx", "attest/eventlog", "attest/tdx", "attest/snp", "attest/tpm", "attest/azure", "attest/gcp", "attest/nvidia", "attest/cca", "attest/hardware", "attest/issuer", "attest/issuer/issuertest", "attest/evidence",
		"attest/endorse", "attest/endorse/fetch", "attest/sim", "attest/sim/services", "attest/sim/platform", "attest/attesttest",
		"manifest", "manifest/importer", "ratls", "transparency", "transparency/logtest",
		"coordinator/apiv1", "coordinator/shares", "coordinator/backup", "coordinator/internal/seal", "coordinator/internal/seal/token", "coordinator/internal/store/...", "coordinator/internal/recovery", "coordinator/internal/replica", "coordinator/internal/authority",
		"coordinator/internal/secrets", "coordinator/internal/audit"},
	{"coordinator"},
	{"coordinator/internal/mesh", "coordinator/client", "marble/marblepb", "marble/envoy", "marble/agent", "marble/..."},
	{"coordinator/internal/api", "coordinator/daemon"},
	{"samples/...", "inspect/launch", "inspect/enclave", "inspect", "charts", "kube/inject", "kube/stage", "kube/derive", "kube/injector", "cli/term", "cli/check", "cli/dev", "cli/kube", "cli", "cmd/..."},
	{"integration/..."},
}

// rank places a package: layer times 100 plus its place in the layer. A prefix
// pattern ranks all it covers alike.
func rank(path string) (int, bool) {
	best, length := 0, -1
	for l, patterns := range layers {
		for i, p := range patterns {
			prefix, tree := strings.CutSuffix(p, "/...")
			if (path == prefix || tree && strings.HasPrefix(path, prefix+"/")) && len(prefix) > length {
				best, length = l*100+i, len(prefix)
			}
		}
	}
	return best, length >= 0
}

func TestImportsOnlyLowerLayers(t *testing.T) {
	for _, p := range load(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		r, ok := rank(from)
		if !ok {
			t.Errorf("%s has no place in the layers: give it one in archtest", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				if r < 200 && strings.Contains(strings.Split(imp, "/")[0], ".") {
					t.Errorf("%s imports %s: layers 0 and 1 use the standard library only", from, imp)
				}
				continue
			}
			if tr, _ := rank(to); tr > r {
				t.Errorf("%s imports %s, which is above it", from, to)
			}
		}
	}
}

// exclusive names modules that one package tree alone may import.
var exclusive = map[string][]string{
	"github.com/envoyproxy/go-control-plane": {"coordinator/internal/mesh", "marble/agent", "integration"},
	"go.etcd.io/bbolt":                       {"coordinator/internal/store"},
	"go.etcd.io/etcd":                        {"coordinator/internal/store/etcd", "coordinator/internal/replica"},
	"github.com/spf13/cobra":                 {"cli"},
	"github.com/spf13/pflag":                 {"cli"},
	"sigs.k8s.io/yaml":                       {"cli", "kube", "integration/kube"},
	"helm.sh/helm":                           {"cli/kube"},
	"k8s.io":                                 {"cli/kube", "kube", "integration/kube"},
	"gomodules.xyz/jsonpatch":                {"kube/inject"},
	"github.com/santhosh-tekuri/jsonschema":  {"manifest"},
	"github.com/google/go-configfs-tsm":      {"attest/issuer"},
	"github.com/google/go-tpm":               {"attest/issuer"},
	"github.com/google/btree":                {"coordinator/internal/store"},
	"github.com/transparency-dev/merkle":     {"transparency", "coordinator/internal/audit"},
	"golang.org/x/mod":                       {"transparency"},
	"github.com/prometheus/client_golang":    {"coordinator/internal/api", "kube/injector"},
	"github.com/miekg/pkcs11":                {"coordinator/internal/seal/token"},
	"filippo.io/age":                         {"coordinator/shares"},
	"github.com/cloudflare/circl":            {"coordinator/shares"},
}

func TestExclusiveImporters(t *testing.T) {
	used := map[string]bool{}
	for _, p := range load(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			for mod, allowed := range exclusive {
				if imp != mod && !strings.HasPrefix(imp, mod+"/") {
					continue
				}
				used[mod] = true
				if !underAny(from, allowed) {
					t.Errorf("%s imports %s, which only %v may", from, imp, allowed)
				}
			}
		}
	}
	for mod := range exclusive {
		if !used[mod] {
			t.Errorf("nobody imports %s any more: drop its rule", mod)
		}
	}
}

func underAny(path string, trees []string) bool {
	for _, tree := range trees {
		if path == tree || strings.HasPrefix(path, tree+"/") {
			return true
		}
	}
	return false
}

// weight says what must never be linked into a binary or a public package, and
// why.
var weight = []struct{ pkg, never, because string }{
	{"cmd/ashlar-coordinator", "github.com/spf13/cobra", "the coordinator is enclave code: flags of the standard library do"},
	{"cmd/ashlar-coordinator", "helm.sh/helm", "Helm is for installing, not for an enclave"},
	{"cmd/ashlar-coordinator", "k8s.io", "the coordinator does not talk to Kubernetes"},
	{"cmd/ashlar-marble", "github.com/spf13/cobra", "the marble is enclave code"},
	{"cmd/ashlar-marble", "go.etcd.io", "a marble keeps no database"},
	{"cmd/ashlar-marble", "helm.sh/helm", "Helm is for installing, not for an enclave"},
	{"cmd/ashlar-marble", "k8s.io", "the marble does not talk to Kubernetes"},
	{"cmd/ashlar-marble", module + "/coordinator/internal", "the marble shares no code with the coordinator's inside"},
	{"coordinator/client", "go.etcd.io", "a verifier keeps no database"},
	{"coordinator/client", "google.golang.org/grpc", "the client API is plain HTTPS and JSON"},
	{"coordinator/client", "github.com/google/go-sev-guest", "a verifier runs in a browser, where that does not build"},
	{"coordinator/client", module + "/coordinator/internal", "a verifier shares no code with the coordinator's inside"},
	{"coordinator", "net/http", "the core has no sockets"},
	{"coordinator", "google.golang.org/grpc", "the core speaks no protocol"},
	{"coordinator", "github.com/envoyproxy", "the core knows no Envoy"},
	{"attest", "net", "verdicts do no I/O"},
	{"manifest", "net/http", "a manifest is parsed, not fetched"},
	{"cmd/ashlar-coordinator", module + "/attest/sim/platform", "the production binary cannot make simulated evidence"},
	{"cmd/ashlar-marble", module + "/attest/sim/platform", "the production binary cannot make simulated evidence"},
}

func TestWeight(t *testing.T) {
	deps := map[string][]string{}
	for _, w := range weight {
		if deps[w.pkg] == nil {
			ps := load(t, "./"+w.pkg)
			if len(ps) != 1 {
				t.Fatalf("%s does not exist any more", w.pkg)
			}
			deps[w.pkg] = ps[0].Deps
		}
		for _, d := range deps[w.pkg] {
			if d == w.never || strings.HasPrefix(d, w.never+"/") {
				t.Errorf("%s links %s: %s", w.pkg, d, w.because)
			}
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range load(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		documented := false
		for _, f := range p.GoFiles {
			if parse(t, filepath.Join(p.Dir, f)).Doc != nil {
				documented = true
			}
		}
		if !documented {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	maxFileLines        = 500
	maxFunctionLines    = 60
	maxInterfaceMethods = 5
)

func TestSizes(t *testing.T) {
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".pb.go") {
			checkSizes(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkSizes(t *testing.T, path string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, 0)
	if err != nil {
		t.Error(err)
		return
	}
	if n := fset.File(f.Pos()).LineCount(); n > maxFileLines {
		t.Errorf("%s has %d lines, more than %d", path, n, maxFileLines)
	}
	test := strings.HasSuffix(path, "_test.go")
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1; lines > maxFunctionLines && !test {
				t.Errorf("%s: %s has %d lines, more than %d", path, n.Name.Name, lines, maxFunctionLines)
			}
		case *ast.InterfaceType:
			if n.Methods.NumFields() > maxInterfaceMethods {
				t.Errorf("%s: an interface has %d methods, more than %d", path, n.Methods.NumFields(), maxInterfaceMethods)
			}
		}
		return true
	})
}
