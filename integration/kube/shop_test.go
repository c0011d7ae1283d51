//go:build linux

package kube

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// Secrets that people supply, whose values the tests know.
const (
	cartKey  = "cart-key-e3b0c44298fc1c149afbf4c8996fb924"
	apiToken = "token-27ae41e4649b934ca495991b7852b855"
)

// interpreters of the sample shop.
type interpreters struct{ python, node string }

func findInterpreters(t *testing.T) interpreters {
	t.Helper()
	find := func(name string) string {
		path, err := filepath.EvalSymlinks("/usr/bin/" + name)
		if err != nil {
			need(t, "/usr/bin/"+name+" is missing: apt-get install python3 nodejs")
		}
		return path
	}
	return interpreters{find("python3"), find("node")}
}

type object = map[string]any

// shopManifest says what the shop's services are and who calls whom.
func (m *mesh) shopManifest() object {
	i := findInterpreters(m.t)
	agent := m.digest(filepath.Join(m.bin, "ashlar-marble"))
	pkg := func(program string, files ...string) object {
		ref := object{"program": []attest.Hex{m.digest(program)}, "agent": []attest.Hex{agent}}
		if len(files) > 0 {
			measured := object{}
			for _, f := range files {
				measured[filepath.Base(f)] = m.digest(f)
			}
			ref["files"] = measured
		}
		return object{"sim": ref}
	}
	serves := func(port int, protocol string) object {
		return object{"http": object{"port": port, "protocol": protocol}}
	}
	calls := func(marble string, listen int, routes ...string) []object {
		c := object{"marble": marble, "port": "http", "listen": listen}
		if len(routes) > 0 {
			c["routes"] = routes
		}
		return []object{c}
	}
	alice, err := os.ReadFile(m.file("alice.pem"))
	if err != nil {
		m.t.Fatal(err)
	}
	shop := "../../samples/shop"
	return object{
		"version": 1, "trustDomain": "shop.example",
		"packages": object{
			"gateway": pkg(filepath.Join(m.bin, "shop-gateway")),
			"web":     pkg(i.python, shop+"/web/web.py"),
			"cart":    pkg(i.node, shop+"/cart/cart.mjs"),
			"catalog": pkg(i.python, shop+"/catalog/catalog.json"),
		},
		"marbles": object{
			"gateway": object{"package": "gateway", "serves": serves(8080, "http"), "calls": calls("web", 9081, "GET /page"),
				"parameters": object{"env": object{"WEB_URL": "http://127.0.0.1:9081"}}},
			"web": object{"package": "web", "serves": serves(8081, "http"), "calls": calls("cart", 9082, "GET /items"),
				"parameters": object{"env": object{"CART_URL": "http://127.0.0.1:9082"}, "argv": []string{i.python, "-I", "/app/web.py"}}},
			"cart": object{"package": "cart", "serves": serves(8082, "http"), "calls": calls("catalog", 9083),
				"parameters": object{"env": object{"CATALOG_URL": "http://127.0.0.1:9083", "KEY_FILE": "/etc/cart/key"}, "argv": []string{i.node, "/app/cart.mjs"},
					"references": object{"env": object{"API_TOKEN": []string{"apiToken"}},
						"files": object{"/etc/cart/key": []string{"cartKey"}, "/etc/cart/tls.key": []string{"cartTLS"}}}}},
			"catalog": object{"package": "catalog", "serves": serves(8083, "tcp"),
				"parameters": object{"argv": []string{i.python, "-I", "-m", "http.server", "8083", "--bind", "127.0.0.1", "--directory", "/app/catalog"}}},
		},
		"secrets": object{
			"cartKey":  object{"type": "opaque", "readers": []string{"cart"}},
			"apiToken": object{"type": "opaque", "readers": []string{"cart"}},
			"cartTLS":  object{"type": "cert-ecdsa", "scope": "shared", "readers": []string{"cart"}},
		},
		"users": object{"alice": object{"certificate": string(alice), "roles": []string{"operator"}}},
		"roles": object{"operator": object{"actions": []string{"updateManifest", "raiseFloor:*", "writeSecret:*"}}},
	}
}

// services is the shop as its developers write it: each pod has a label, and no
// more of Ashlar.
const services = `
apiVersion: v1
kind: Secret
metadata: {name: cart}
stringData:
  key: sealed:ashlar:v1:cartKey
  tls.key: sealed:ashlar:v1:cartTLS:key
  token: sealed:ashlar:v1:apiToken
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway, ashlar.dev/marble: gateway}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: gateway
        image: shop-gateway
        command: [/app/gateway]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, ashlar.dev/marble: web}, annotations: {ashlar.dev/measure: /app/web.py}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - {name: web, image: shop-web, command: [PYTHON, -I, /app/web.py]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart, ashlar.dev/marble: cart}, annotations: {ashlar.dev/measure: /app/cart.mjs}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: cart
        image: shop-cart
        command: [NODE, /app/cart.mjs]
        env: [{name: API_TOKEN, valueFrom: {secretKeyRef: {name: cart, key: token}}}]
        volumeMounts: [{name: key, mountPath: /etc/cart, readOnly: true}]
      volumes: [{name: key, secret: {secretName: cart, items: [{key: key, path: key}, {key: tls.key, path: tls.key}]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: catalog}
spec:
  selector: {matchLabels: {app: catalog}}
  template:
    metadata: {labels: {app: catalog, ashlar.dev/marble: catalog}, annotations: {ashlar.dev/measure: /app/catalog/catalog.json}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - {name: catalog, image: shop-catalog, command: [PYTHON, -I, -m, http.server]}
`
