#!/bin/sh
# Runs govulncheck. Where the vulnerability database cannot be reached, it says
# so and passes: nothing was checked. GOVULNDB may name another database.
set -u
out=$(go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./... 2>&1)
status=$?
printf '%s\n' "$out"
if [ $status -ne 0 ] && printf '%s' "$out" | grep -q 'fetching vulnerabilities:'; then
	echo "vulncheck: NOT CHECKED, the vulnerability database cannot be reached" >&2
	exit 0
fi
exit $status
