#!/bin/sh
# Run each fuzz target for a bounded time, on its seeds and on what earlier runs found.
#
#   tools/fuzz.sh BUILDDIR SECONDS JOBS RESULT
#
# Seeds: fuzz/corpus/NAME/. New inputs are kept in BUILDDIR/corpus/NAME/, an input that crashed
# in BUILDDIR/found/NAME-*. RESULT gets "passed failed skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
dir=$1 seconds=$2 jobs=$3 result=$4
mkdir -p "$dir/found"

one() {
	name=$1
	mkdir -p "$dir/corpus/$name"
	set -- "$dir/corpus/$name"
	[ -d "fuzz/corpus/$name" ] && set -- "$@" "fuzz/corpus/$name"
	if "$dir/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
		-artifact_prefix="$dir/found/$name-" -print_final_stats=1 "$@" \
		>"$dir/found/$name.log" 2>&1; then
		echo "ok $name: $(sed -n 's/^stat::number_of_executed_units: //p' \
			"$dir/found/$name.log") inputs in $seconds s"
	else
		echo "not ok $name"
		grep -v '^INFO' "$dir/found/$name.log" | tail -40 | sed 's/^/# /'
	fi
}

targets=$(for file in fuzz/*.c; do basename "$file" .c; done)
log=$dir/found/all
: >"$log"
running=0
for name in $targets; do
	one "$name" >>"$log" &
	running=$((running + 1))
	[ $((running % jobs)) = 0 ] && wait
done
wait
cat "$log"
echo "$(grep -c '^ok ' "$log") $(grep -c '^not ok ' "$log") 0" >"$result"
! grep -q '^not ok ' "$log"
