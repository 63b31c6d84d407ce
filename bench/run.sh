#!/bin/sh
# Run all benchmarks, or those named; see bench/README.
#
#   bench/run.sh BUILDDIR [bench/COMPONENT/NAME.sh ..]
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
status=0
for file in "$@"; do
	echo "# $file"
	sh "$file" || status=1
done
exit $status
