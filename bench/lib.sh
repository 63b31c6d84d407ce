# What every benchmark starts with: ". bench/lib.sh". Run by bench/run.sh, which sets
# BENCH_BUILD (absolute path of the build directory). With BENCH_QUICK=1 all is done small and
# few times: the figures mean nothing then, but what rots is seen.
# shellcheck shell=sh

: "${BENCH_BUILD:?run by bench/run.sh}"
QUICK=${BENCH_QUICK:-}
# sized LARGE SMALL: how much of something this run makes.
sized() { if [ "$QUICK" ]; then echo "$2"; else echo "$1"; fi; }
# rounds_of N: for what takes too long to be done 30 times; ROUNDS from outside counts all the same.
BENCH_ROUNDS=${ROUNDS:-}
rounds_of() { ROUNDS=${BENCH_ROUNDS:-$(sized "$1" 1)}; }
rounds_of 30
# shellcheck disable=SC2034
WARM_UP=$(sized 3 0)
BENCH_DIR=$(mktemp -d "${TMPDIR:-/tmp}/fvm-bench.XXXXXX")
chmod 0755 "$BENCH_DIR"
FVM_HOME=$BENCH_DIR/home
export FVM_HOME
tools/stage.sh "$BENCH_BUILD" "$BENCH_DIR"
# shellcheck disable=SC2034  # for the files that source this
FVM=$BENCH_DIR/bin/fvm
# Readable for every user and inside of every VM, as the checkout need not be.
for tool in timer files forks; do
	cp "$BENCH_BUILD/bench/bench-$tool" "$BENCH_DIR/bin/"
done
TIMER=$BENCH_DIR/bin/bench-timer

# May be added to by "at_end COMMAND": run before the rest is removed, the last one first.
BENCH_END=
at_end() { BENCH_END="$1
$BENCH_END"; }
bench_end() {
	trap '' INT TERM
	eval "$BENCH_END"
	cd / && rm -rf --one-file-system -- "$BENCH_DIR"
}
trap bench_end EXIT
trap 'exit 130' INT TERM

# run_tmpfs DIR: what lies below /run is a tmpfs on every stock system; where a test machine has it on
# its disk, DIR (below /run) becomes one.
run_tmpfs() {
	[ "$(stat -f -c %T /run)" = tmpfs ] && return 0
	mount -t tmpfs -o "mode=$(stat -c %a "$1"),uid=$(stat -c %u "$1")" fvm-bench "$1" || return 0
	at_end "for _ in 1 2 3 4 5 6 7 8 9 10; do umount $1 2>/dev/null && break; sleep 0.5; done"
}
if [ "$(id -u)" = 0 ]; then
	BENCH_RUN=$(mktemp -d /run/fvm-bench.XXXXXX)
	chmod 0755 "$BENCH_RUN"
	mkdir -m 0700 "$FVM_HOME"
	ln -s "$BENCH_RUN" "$FVM_HOME/run"
	at_end "rm -rf --one-file-system -- $BENCH_RUN"
	run_tmpfs "$BENCH_RUN"
fi
at_end "$FVM -q rm --force --all >/dev/null 2>&1"

have() { command -v "$1" >/dev/null 2>&1; }
skip() { echo "# skipped: $*"; }
print() { echo "$1 $2 $3"; }
is_root() { [ "$(id -u)" = 0 ]; }

# took NAME COMMAND..: how long one run of it took, in ms. A command that failed has no figure but
# its errors are shown, and the benchmark has not worked.
took() {
	took_name=$1
	shift
	if line=$("$TIMER" -1 "$@" 2>"$BENCH_DIR/said"); then
		print "$took_name" "${line% *}" ms
		print "$took_name.cpu" "${line#* }" ms
	else
		echo "# $took_name: failed: $*" >&2
		sed 's/^/#   /' "$BENCH_DIR/said" >&2
		BENCH_STATUS=1
		return 1
	fi
}
# turns PREFIX NAME COMMAND ..: against each other, with ratios to the first; a command that fails
# is left out, and the benchmark has not worked. TURNS_AS is a prefix of the whole, such as AS_USER:
# to become a user takes as long as half a start, and is none of what is measured.
TURNS_AS=
turns() {
	prefix=$1
	shift
	$TURNS_AS "$TIMER" -e -r -n "$ROUNDS" -w "$WARM_UP" -p "$prefix" "$@" 2>"$BENCH_DIR/failed"
	turns_failed
}
# The same with commands that measure by themselves: see timer.c.
turns_inside() {
	prefix=$1
	shift
	"$TIMER" -e -r -i -n "$ROUNDS" -w "$WARM_UP" -p "$prefix" "$@" 2>"$BENCH_DIR/failed"
	turns_failed
}
turns_failed() {
	sed 's/^/# /' "$BENCH_DIR/failed" >&2
	grep -q '^timer: ' "$BENCH_DIR/failed" || return 0
	# shellcheck disable=SC2034
	BENCH_STATUS=1
}
# A benchmark ends with "exit $BENCH_STATUS".
# shellcheck disable=SC2034
BENCH_STATUS=0

# The nearest that bubblewrap has to a VM: namespaces, and the machine's files as they are.
# shellcheck disable=SC2034
BWRAP="bwrap --unshare-all --dev-bind / / --dev /dev --proc /proc"

# What his VMs left behind ends a moment later than they, and an account in use stays.
bench_user_remove() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		for pid in /proc/[0-9]*; do
			[ "$(stat -c %u "$pid" 2>/dev/null)" = "$2" ] && kill -KILL "${pid#/proc/}"
		done 2>/dev/null
		userdel --remove --force "$1" >/dev/null 2>&1
		id -u "$1" >/dev/null 2>&1 || break
		sleep 0.5
	done
	rm -rf --one-file-system "/run/user/$2"
}

# An ordinary user for this run, with subordinate ids; sets BENCH_USER and AS_USER, a prefix of
# commands without quotes that runs them as that user.
bench_user() {
	BENCH_USER=fvmbench$$
	useradd --create-home $BENCH_USER || return 1
	uid=$(id -u $BENCH_USER)
	at_end "bench_user_remove $BENCH_USER $uid"
	install -d -m 0700 -o $BENCH_USER "/run/user/$uid"
	run_tmpfs "/run/user/$uid"
	AS_USER="setpriv --reuid $uid --regid $(id -g $BENCH_USER) --init-groups --inh-caps=-all \
env -i PATH=$BENCH_DIR/bin:/usr/bin:/bin HOME=/home/$BENCH_USER XDG_RUNTIME_DIR=/run/user/$uid"
	at_end "$AS_USER fvm -q rm --force --all >/dev/null 2>&1"
	export BENCH_USER AS_USER
}
