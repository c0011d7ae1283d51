#!/bin/sh
# What verifies a coordinator builds without cgo for every system, and its tests
# pass in WebAssembly, which is what a browser runs: scripts/portable.sh
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
out=build/portable
rm -rf "$out"
mkdir -p "$out"

for target in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do
	echo "portable: ashlar for $target"
	name=ashlar-$(echo "$target" | tr / -)
	GOOS=${target%/*} GOARCH=${target#*/} go build -o "$out/$name" ./cmd/ashlar
done

# The verifier: the client package, the verifiers of all hardware and of the
# simulation, the certificates, and everything of ours below them.
packages=$(go list -deps ./coordinator/client ./attest/hardware ./attest/evidence ./attest/sim ./ratls ./manifest | grep '^github.com/ashlar-mesh/ashlar/')
for target in darwin/arm64 windows/amd64; do
	echo "portable: the verifier's tests for $target"
	GOOS=${target%/*} GOARCH=${target#*/} go vet $packages
	GOOS=${target%/*} GOARCH=${target#*/} go test -c -o "$out/" $packages
done

echo "portable: the verifier's tests under Node"
GOOS=js GOARCH=wasm go vet $packages
GOOS=js GOARCH=wasm go test -exec "$(go env GOROOT)/lib/wasm/go_js_wasm_exec" -timeout 20m $packages
