#!/bin/sh
# Run the named stages of the tests; print each one's counts and the sum as the last line.
#
#   tools/test.sh unit|clang|asan|lint|fuzz|faults|e2e|real|vm ..
#
# A stage that fails does not keep the others from running; any failure makes the status 1.
# Environment: JOBS, TESTS (bats files for e2e and real), FUZZ_SECONDS (each target, default 10).
# Counts are left in build/results/STAGE as "passed failed skipped" for whoever called us.
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=${JOBS:-2}
results=build/results

say() { printf '\n== %s\n' "$*"; }

# builddir DIR [meson setup option..]: configured once, built always
builddir() {
	dir=$1
	shift
	if [ ! -f "$dir/build.ninja" ]; then
		meson setup "$dir" "$@" >"$dir.log" 2>&1 || {
			cat "$dir.log"
			rm -rf "$dir" "$dir.log"
			return 1
		}
		rm -f "$dir.log"
	fi
	ninja -C "$dir" -j "$jobs" --quiet
}

# meson_suite DIR SUITE: run it and count each test case, not each program
meson_suite() {
	CMOCKA_MESSAGE_OUTPUT=TAP meson test -C "$1" --suite "$2" --no-rebuild --print-errorlogs \
		--num-processes "$jobs" && status=0 || status=$?
	count_meson "$1/meson-logs/testlog.json"
	[ "$status" = 0 ] || name_failed "$1/meson-logs/testlog.json"
	return "$status"
}

# Which cases failed, with what they said last: a log of long tests is cut where it is shown.
name_failed() {
	jq -r 'select(.result | IN("OK", "EXPECTEDFAIL", "SKIP") | not)
		| "program " + .name + ": " + .result, .stdout // "", .stderr // ""' "$1" | awk -v stage="$stage" '
		/^program / { print stage, substr($0, 9); next }
		/^not ok / && !/# SKIP/ { printf "%s  %s\n", said, $0; shown = 4; said = ""; next }
		/^ok / { said = ""; shown = 0; next }
		shown > 0 && /^#/ { print "  " $0; shown--; next }
		{ said = "  " $0 "\n" }' | head -n 60 >>"$results/failures"
}

# A program that prints TAP counts by its lines; one that died, or prints none, counts as one.
count_meson() {
	jq -rs '
		def lines(re): [(.stdout // "") | split("\n")[] | select(test(re))] | length;
		map((.result | IN("OK", "EXPECTEDFAIL")) as $good
		| (.result == "SKIP") as $skip
		| lines("^(not )?ok.*# SKIP") as $s
		| [.stdout // "" | split("\n")[] | select(test("# SKIP") | not)] as $rest
		| ([$rest[] | select(test("^ok "))] | length) as $p
		| ([$rest[] | select(test("^not ok "))] | length) as $f
		| if $skip then [0, 0, 1]
		  elif $p + $f + $s == 0 then (if $good then [1, 0, 0] else [0, 1, 0] end)
		  elif $good then [$p, $f, $s]
		  else [$p, ([$f, 1] | max), $s] end)
		| transpose | map(add) | map(tostring) | join(" ")' "$1" >"$results/$stage"
}

stage_unit() {
	builddir build --prefix="${PREFIX:-/usr/local}" && meson_suite build unit
}

stage_clang() {
	CC=clang builddir build-clang && meson_suite build-clang unit
}

stage_asan() {
	builddir build-asan -Db_sanitize=address,undefined -Db_lundef=false || return 1
	ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:abort_on_error=1 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 meson_suite build-asan unit
}

stage_lint() {
	builddir build --prefix="${PREFIX:-/usr/local}" && meson_suite build lint
}

stage_fuzz() {
	ls fuzz/*.c >/dev/null 2>&1 || {
		echo "no fuzz targets yet"
		echo "0 0 1" >"$results/fuzz"
		return 0
	}
	CC=clang builddir build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
		-Dc_args=-fsanitize=fuzzer-no-link || return 1
	tools/fuzz.sh build-fuzz "${FUZZ_SECONDS:-10}" "$jobs" "$results/fuzz"
}

# What kills at each step, or fails there, is built only where there are steps to name.
stage_faults() {
	builddir build-faults -Dfaults=true && meson_suite build-faults faults
}

stage_e2e() {
	builddir build --prefix="${PREFIX:-/usr/local}" || return 1
	builddir build-faults -Dfaults=true || return 1
	# shellcheck disable=SC2086  # one argument for each file
	tools/run-bats.sh build build-faults "$results/e2e" ${TESTS:-}
}

stage_real() {
	builddir build --prefix="${PREFIX:-/usr/local}" || return 1
	# shellcheck disable=SC2086  # one argument for each file
	tools/run-bats.sh build build-faults "$results/real" ${TESTS:-tests/real/*.bats}
}

stage_vm() {
	tools/test-vm.sh "$results/vm"
}

run_stage() {
	stage=$1
	say "$stage"
	from=$(date +%s)
	rm -f "$results/$stage"
	status=0
	"stage_$stage" || status=1
	# what did not come as far as counting has failed once
	[ -s "$results/$stage" ] || echo "0 1 0" >"$results/$stage"
	read -r p f s <"$results/$stage"
	if [ "$status" != 0 ] && [ "$f" = 0 ]; then
		f=1
		echo "$p $f $s" >"$results/$stage"
	fi
	table="$table$(printf '%-6s %5d passed %4d failed %4d skipped %5d s' \
		"$stage" "$p" "$f" "$s" $(($(date +%s) - from)))
"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

for stage in "$@"; do
	case $stage in
	unit | clang | asan | lint | fuzz | faults | e2e | real | vm) ;;
	*) echo "test.sh: there is no stage '$stage'" >&2; exit 2 ;;
	esac
done
mkdir -p "$results" || exit 1
passed=0 failed=0 skipped=0 table=
rm -f "$results/failures"
for name in "$@"; do
	run_stage "$name"
done
[ ! -s "$results/failures" ] || { say "failed" && cat "$results/failures"; }
say "sum"
printf '%s' "$table"
echo "$passed $failed $skipped" >"$results/total"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
