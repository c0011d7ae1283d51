#!/bin/sh
# Builds the page of samples/browser-verify: scripts/browser.sh DIR
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
cp samples/browser-verify/site/* "$out/"
cp "$(go env GOROOT)/lib/wasm/wasm_exec.js" "$out/"
chmod u+w "$out/wasm_exec.js"
CGO_ENABLED=0 GOOS=js GOARCH=wasm go build -trimpath -ldflags '-s -w' -o "$out/verify.wasm" ./samples/browser-verify
