#!/bin/sh
# Run all benchmarks, or those named; see bench/README.
#
#   bench/run.sh BUILDDIR [bench/COMPONENT/NAME.sh ..]
#
# After the lines of each the same as tables, as they go into bench/RESULTS.md.
set -eu
BENCH_BUILD=$(cd "$1" && pwd)
export BENCH_BUILD
cd "$(dirname "$0")/.."
shift
[ $# -gt 0 ] || set -- bench/*/*.sh

echo "# $(uname -sr), $(nproc) processors, $(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -n 1)"
echo "# /tmp on $(stat -f -c %T /tmp), / on $(stat -f -c %T /), load $(cut -d' ' -f1-3 /proc/loadavg)"
load=$(cut -d. -f1 /proc/loadavg)
[ "$load" -lt 1 ] || echo "# this machine is busy: these figures are worth little"
[ -z "${BENCH_QUICK:-}" ] || echo "# BENCH_QUICK is set: these figures are worth nothing"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
status=0
for file in "$@"; do
	echo "# $file, $(date +%T)"
	# a pipe has the status of its last command, so the other's goes another way
	{ sh "$file" || echo "# $file: failed"; } | tee "$lines"
	! grep -q "^# $file: failed" "$lines" || status=1
	awk -f bench/table.awk "$lines"
done
echo "# end, $(date +%T)"
exit $status
