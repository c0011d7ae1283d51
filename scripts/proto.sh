#!/bin/sh
# Generates marble/marblepb from its .proto file: protoc comes with the PyPI
# package grpcio-tools, the plugins are built from their Go modules.
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/build/tools
version=1.85.1
if [ "$(cat "$tools/protoc.version" 2>/dev/null)" != $version ]; then
	mkdir -p "$tools"
	rm -rf "$tools/protoc-venv"
	python3 -m venv "$tools/protoc-venv"
	"$tools/protoc-venv/bin/pip" install --quiet --disable-pip-version-check grpcio-tools==$version
	GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$tools go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
	echo $version >"$tools/protoc.version"
fi
PATH=$tools:$PATH "$tools/protoc-venv/bin/python-grpc-tools-protoc" -I . \
	--go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative \
	marble/marblepb/marble.proto
