#!/bin/bash
# Run bats files one after the other with a time limit each; print durations and closing counts.
#
#   tools/run-bats.sh BUILDDIR FAULTSDIR RESULT [FILE.bats ..]
#
# The programs are laid out under /tmp as make install would, so that ordinary users reach them.
# A file's limit is 300 s, or what a line "# limit: SECONDS" in it says; a test's is 180 s, or
# "# test-limit: SECONDS". One at a time: many tests compare the whole machine before and after.
# SLOWER=N multiplies limits, for a machine that is N times slower than others (an emulated one).
# RESULT gets "passed failed skipped". As an ordinary user sudo is used if it asks nothing.
set -u
cd "$(dirname "$0")/.." || exit 1
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
	exec sudo -n env "PATH=$PATH" CI="${CI:-}" SLOWER="${SLOWER:-1}" "$0" "$@"
fi
build=$1 faults=$2 result=$3
shift 3
[ $# -gt 0 ] || set -- tests/e2e/*.bats

E2E_STAGE=$(mktemp -d /tmp/fvm-stage.XXXXXX)
E2E_BUILD=$(cd "$build" && pwd)
SLOWER=${SLOWER:-1}
export E2E_STAGE E2E_BUILD SLOWER
chmod 0755 "$E2E_STAGE"

# What a file that was killed left: its VMs, then its directory.
sweep() {
	local home
	for home in /tmp/fvm-e2e.*; do
		grep -qsx "$E2E_STAGE" "$home/stage" || continue
		export FVM_HOME=$home/home
		"$E2E_STAGE/bin/fvm" --json ls 2>/dev/null | jq -r '.[].name' |
			xargs -r "$E2E_STAGE/bin/fvm" -q rm --force >/dev/null 2>&1
		# the users it made, by what the helper knows of them
		E2E=$home bash -c '. tests/e2e/helper.bash && users_remove' >/dev/null 2>&1
		rm -rf --one-file-system -- "$home" 2>/dev/null
	done
}

# Modes as udev gives them, so that ordinary users have a network and FUSE on a machine without it.
opened=()
open_devices() {
	local device
	[ "$(id -u)" = 0 ] || return 0
	for device in /dev/net/tun /dev/fuse; do
		[ "$(stat -c %a $device 2>/dev/null)" = 600 ] && chmod 0666 $device && opened+=("$device")
	done
	return 0
}

finish() {
	sweep
	[ ${#opened[@]} = 0 ] || chmod 0600 "${opened[@]}"
	rm -rf -- "$E2E_STAGE"
}
trap finish EXIT
trap 'exit 130' INT TERM
open_devices

tools/stage.sh "$build" "$E2E_STAGE" || exit 1
[ -x "$faults/src/cli/fvm" ] && tools/stage.sh "$faults" "$E2E_STAGE/faults"
mkdir -p "$E2E_STAGE/tools"
find "$build/tests" -maxdepth 2 -type f -perm -u+x ! -name 'test_*' -exec cp {} "$E2E_STAGE/tools/" \;

# number FILE WORD DEFAULT: the seconds that "# WORD: N" in FILE allows on this machine
number() {
	local n
	n=$(sed -n "s/^# $2: \([0-9]*\).*/\1/p" "$1" | head -n 1)
	echo $((${n:-$3} * SLOWER))
}

passed=0 failed=0 skipped=0
for file in "$@"; do
	[ -e "$file" ] || continue
	from=$(date +%s)
	log=$E2E_STAGE/tap
	BATS_TEST_TIMEOUT=$(number "$file" test-limit 180) timeout -k 20 "$(number "$file" limit 300)" \
		bats --timing --print-output-on-failure --formatter tap "$file" >"$log" 2>&1 </dev/null
	status=$?
	s=$(grep -cE '^ok .*# skip' "$log")
	p=$(($(grep -c '^ok ' "$log") - s))
	f=$(grep -c '^not ok ' "$log")
	if [ $status != 0 ] && [ "$f" = 0 ]; then
		f=1
	fi
	printf '%-36s %4d passed %3d failed %3d skipped %5d s\n' "$(basename "$file")" "$p" "$f" "$s" \
		$(($(date +%s) - from))
	if [ "$f" != 0 ]; then
		[ $status = 124 ] && echo "  over its limit of $(number "$file" limit 300) s"
		grep -vE '^ok |^1\.\.' "$log" | sed 's/^/  /'
		{
			basename "$file"
			grep -A 6 '^not ok ' "$log" | sed 's/^/  /'
		} >>"$(dirname "$result")/failures"
	fi
	grep -E '^ok .*# skip' "$log" | sed -E 's/^ok [0-9]+ /  skipped: /'
	[ $status = 124 ] && sweep
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed $failed $skipped" >"$result"
printf '%d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ $failed = 0 ]
