package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/sim"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Service is one marble of the sample shop: a program that knows nothing of
// Ashlar, and what has to be said of it.
type Service struct {
	Name    string
	Program string   // executable file
	Args    []string // its arguments
	Measure []string // further files that are measured
	TEE     attest.TEE
	IP      string // where its Envoy listens for peers
	Ready   string // address of its readiness probe
	marble  map[string]any
}

// Interpreters of the sample shop, by what asks them for their own path: a
// command found in PATH may be a script that starts the real one.
var interpreters = map[string][]string{
	"python3": {"-c", "import sys; print(sys.executable)"},
	"node":    {"-p", "process.execPath"},
}

func interpreter(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, interpreters[name]...).Output()
	if err != nil {
		return "", problem.Because(err, "CLI-010", "%s, which the sample shop needs", name).WithNext("install %s", name)
	}
	path, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		return "", problem.Because(err, "CLI-010", "finding the program behind %s", name)
	}
	return path, nil
}

// shop returns the services, the first called first, written to be read beside
// samples/shop/README.md. Python is isolated (-I): it would import what lies in
// the folder that it is started in.
func (d *Deployment) shop(ctx context.Context) ([]Service, error) {
	python, err := interpreter(ctx, "python3")
	if err != nil {
		return nil, err
	}
	node, err := interpreter(ctx, "node")
	if err != nil {
		return nil, err
	}
	src, key := d.shopDir(), d.SecretFile()
	http := func(port int) map[string]any {
		return map[string]any{"http": map[string]any{"port": port, "protocol": "http"}}
	}
	return []Service{
		{Name: "gateway", Program: filepath.Join(d.bin, "shop-gateway"), TEE: attest.SimSGX,
			marble: map[string]any{"serves": http(8080),
				"calls":      []any{map[string]any{"marble": "web", "port": "http", "listen": 9081, "routes": []string{"GET /page"}}},
				"parameters": map[string]any{"env": map[string]string{"WEB_URL": "http://127.0.0.1:9081"}}}},
		{Name: "web", Program: python, Args: []string{"-I", filepath.Join(src, "web.py")}, Measure: []string{filepath.Join(src, "web.py")}, TEE: attest.SimTDX,
			marble: map[string]any{"serves": http(8081),
				"calls":      []any{map[string]any{"marble": "cart", "port": "http", "listen": 9082, "routes": []string{"GET /items"}}},
				"parameters": map[string]any{"env": map[string]string{"CART_URL": "http://127.0.0.1:9082"}}}},
		{Name: "cart", Program: node, Args: []string{filepath.Join(src, "cart.mjs")}, Measure: []string{filepath.Join(src, "cart.mjs")}, TEE: attest.SimSGX,
			marble: map[string]any{"serves": http(8082),
				"calls": []any{map[string]any{"marble": "catalog", "port": "items", "listen": 9083}},
				"parameters": map[string]any{"env": map[string]string{"CATALOG_URL": "http://127.0.0.1:9083", "KEY_FILE": key},
					"files": map[string]string{key: "{{ raw .Secrets.cartKey }}"}}}},
		{Name: "catalog", Program: python, Args: []string{"-I", "-m", "http.server", "8083", "--bind", "127.0.0.1", "--directory", filepath.Join(src, "catalog")},
			Measure: []string{filepath.Join(src, "catalog", "catalog.json")}, TEE: attest.SimSGX,
			marble: map[string]any{"serves": map[string]any{"items": map[string]any{"port": 8083, "protocol": "tcp"}}}},
	}, nil
}

// place gives each service the addresses that a pod would have of its own.
func place(services []Service) {
	for i := range services {
		services[i].IP = fmt.Sprintf("127.0.77.%d", 11+i)
		services[i].Ready = fmt.Sprintf("127.0.0.1:%d", 9101+i)
	}
}

// packages measures the services' programs.
func (d *Deployment) packages(services []Service) (map[string]any, error) {
	agent, err := sim.FileDigest(d.marbleBinary())
	if err != nil {
		return nil, err
	}
	packages := map[string]any{}
	for _, s := range services {
		program, err := sim.FileDigest(s.Program)
		if err != nil {
			return nil, err
		}
		files := map[string]attest.Hex{}
		for _, f := range s.Measure {
			if files[filepath.Base(f)], err = sim.FileDigest(f); err != nil {
				return nil, err
			}
		}
		reference := map[string]any{"program": []attest.Hex{program}, "agent": []attest.Hex{agent}}
		if len(files) > 0 {
			reference["files"] = files
		}
		packages[s.Name] = map[string]any{"sim": reference}
	}
	return packages, nil
}

// writeManifest measures every program and writes the shop's manifest. Alice
// is the operator whose key lies in the working directory.
func (d *Deployment) writeManifest(services []Service, aliceCert string) ([]byte, error) {
	packages, err := d.packages(services)
	if err != nil {
		return nil, err
	}
	marbles := map[string]any{}
	for _, s := range services {
		s.marble["package"] = s.Name
		s.pinArguments()
		marbles[s.Name] = s.marble
	}
	doc := map[string]any{
		"version": 1, "trustDomain": "shop.example", "packages": packages, "marbles": marbles,
		"secrets": map[string]any{"cartKey": map[string]any{"type": "symmetric", "bits": 256, "scope": "shared", "readers": []string{"cart"}}},
		"users":   map[string]any{"alice": map[string]any{"certificate": aliceCert, "roles": []string{"operator"}}},
		"roles":   map[string]any{"operator": map[string]any{"actions": []string{"updateManifest", "raiseFloor:*"}}},
		"tests": []any{map[string]any{"from": "gateway", "to": "web", "allow": true},
			map[string]any{"from": "catalog", "to": "gateway", "allow": false}},
	}
	if d.Amend != nil {
		d.Amend(doc)
	}
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	raw = append(raw, '\n')
	return raw, os.WriteFile(d.ManifestFile(), raw, 0o644)
}

// pinArguments puts the command line into the manifest: an interpreter is the
// program that its arguments name, and those on the command line are the host's.
func (s Service) pinArguments() {
	if len(s.Args) == 0 {
		return
	}
	parameters, ok := s.marble["parameters"].(map[string]any)
	if !ok {
		parameters = map[string]any{}
		s.marble["parameters"] = parameters
	}
	parameters["argv"] = append([]string{s.Program}, s.Args...)
}

// names returns the services' names in order of the alphabet.
func names(services []Service) []string {
	var n []string
	for _, s := range services {
		n = append(n, s.Name)
	}
	sort.Strings(n)
	return n
}
