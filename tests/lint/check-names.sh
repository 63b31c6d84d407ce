#!/bin/sh
# Nothing in the repository depends on, or tells of, one particular place: no address of a host,
# no path of somebody's machine.
set -u
cd "$1" || exit 1
status=0

complain() {
	sed "s/\$/   <- $1/"
	status=1
}

# Addresses: those reserved for examples, and those that are names of formats and licences.
found=$(git grep -nIoE '(https?|ftp|ssh|git)://[][A-Za-z0-9._%:@-]+' -- ':!LICENSE' |
	grep -vE '://([A-Za-z0-9_.-]+\.)?(example(\.(com|net|org))?|invalid|test|localhost|local|internal)([:/]|$)' |
	grep -vE '://(127\.|\[::1\]|10\.|192\.168\.|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|%|\[)' |
	grep -vE '://(www\.apache\.org|json-schema\.org|www\.rfc-editor\.org|www\.freedesktop\.org)([/:]|$)')
[ -z "$found" ] || printf '%s\n' "$found" | complain "names a host"
[ -z "$found" ] || status=1

found=$(git grep -nIE '(^|[^A-Za-z0-9_.-])/(work|workspace|builds)/[a-z]' -- ':!tests/lint/check-names.sh')
[ -z "$found" ] || { printf '%s\n' "$found" | complain "path of one machine"; status=1; }
exit $status
