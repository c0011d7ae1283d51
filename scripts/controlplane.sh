#!/bin/sh
# Builds the Kubernetes control plane of the tests from its nested module, once
# per machine and version, and links it to build/tools/controlplane. Optimising
# it would take twice as long. Needs about 3 GB of memory and, the first time,
# 4 to 8 minutes.
set -eu
kubernetes=v1.37.2
cd "$(dirname "$0")/../integration/kube/controlplane"
go=${GO:-go}
x=k8s.io/component-base/version
ldflags="-s -w -X $x.gitVersion=$kubernetes -X $x.gitMajor=1 -X $x.gitMinor=37 -X $x.gitTreeState=clean -X $x.gitCommit=0000000000000000000000000000000000000000"
gcflags="all=-N -l"
hash=$( (cat go.mod go.sum main.go; echo "$ldflags $gcflags"; GOWORK=off $go version) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ashlar
binary=$cache/controlplane-$hash
if [ ! -x "$binary" ]; then
	echo "controlplane.sh: building Kubernetes $kubernetes and etcd into $binary (some minutes, once)" >&2
	mkdir -p "$cache"
	partial=$(mktemp "$cache/partial.XXXXXX")
	trap 'rm -f "$partial"' EXIT
	GOWORK=off GOFLAGS= $go build -trimpath -buildvcs=false -gcflags="$gcflags" -ldflags "$ldflags" -o "$partial" .
	chmod 0755 "$partial"
	mv "$partial" "$binary"
	trap - EXIT
fi
cd ../../..
mkdir -p build/tools
ln -sfn "$binary" build/tools/controlplane
ln -sfn "$binary" build/tools/etcd
