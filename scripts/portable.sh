#!/bin/sh
# What verifies a coordinator builds without cgo for every system, and its tests
# pass in WebAssembly, which is what a browser runs: scripts/portable.sh
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
out=build/portable
rm -rf "$out"
mkdir -p "$out"

for target in linux/amd64 darwin/arm64 windows/amd64; do
	echo "portable: ashlar for $target"
	name=ashlar-$(echo "$target" | tr / -)
	GOOS=${target%/*} GOARCH=${target#*/} go build -o "$out/$name" ./cmd/ashlar
done

# The verifier: the client package, everything about evidence, and what of ours
# stands below them. attest/issuer asks a machine's hardware: it builds
# everywhere, and is tested where there are machines.
verifier=$(go list -deps ./coordinator/client ./attest/... ./ratls ./manifest | grep '^github.com/ashlar-mesh/ashlar/' | grep -v /attest/issuer)
for target in darwin/arm64 windows/amd64; do
	echo "portable: the verifier's tests for $target"
	GOOS=${target%/*} GOARCH=${target#*/} go vet $verifier ./attest/issuer/...
	GOOS=${target%/*} GOARCH=${target#*/} go test -c -o "$out/" ./coordinator/client ./attest/evidence
done

echo "portable: the verifier's tests under Node"
GOOS=js GOARCH=wasm go vet $verifier ./attest/issuer/...
GOOS=js GOARCH=wasm go test -exec "$(go env GOROOT)/lib/wasm/go_js_wasm_exec" -short -timeout 20m $verifier
