#!/bin/sh
# Installs the pinned dcap-qvl into build/tools/qvl from PyPI, unless it is there
# already: the second opinion of the differential tests. Needs python3 with venv.
set -eu
version=0.7.0
cd "$(dirname "$0")/.."
dir=build/tools/qvl
if [ "$(cat $dir/version 2>/dev/null)" = $version ]; then
	exit 0
fi
command -v python3 >/dev/null || { echo "qvl.sh: python3 is needed to install dcap-qvl from PyPI" >&2; exit 1; }
mkdir -p build/tools
rm -rf $dir
python3 -m venv $dir
$dir/bin/pip install --quiet --disable-pip-version-check --only-binary :all: dcap-qvl==$version
$dir/bin/python -c 'import dcap_qvl, sys; sys.exit(dcap_qvl.__version__ != sys.argv[1])' $version ||
	{ echo "qvl.sh: the installed dcap-qvl is not $version" >&2; exit 1; }
echo $version > $dir/version
