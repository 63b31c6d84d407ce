# What every benchmark starts with: ". bench/lib.sh". Run by bench/run.sh, which sets
# BENCH_BUILD (absolute path of the build directory).
# shellcheck shell=sh

: "${BENCH_BUILD:?run by bench/run.sh}"
# shellcheck disable=SC2034  # for the files that source this
TIMER=$BENCH_BUILD/bench/bench-timer
ROUNDS=${ROUNDS:-30}
BENCH_DIR=$(mktemp -d "${TMPDIR:-/tmp}/fvm-bench.XXXXXX")
chmod 0755 "$BENCH_DIR"
FVM_HOME=$BENCH_DIR/home
export FVM_HOME
mkdir -p "$BENCH_DIR/bin" "$BENCH_DIR/libexec/fvm"
cp "$BENCH_BUILD/src/cli/fvm" "$BENCH_DIR/bin/"
cp "$BENCH_BUILD/src/cli/fvm-changes" "$BENCH_DIR/libexec/fvm/"
FVM=$BENCH_DIR/bin/fvm

# May be added to by "at_end COMMAND": run before the rest is removed.
BENCH_END=
at_end() { BENCH_END="$BENCH_END
$1"; }
bench_end() {
	eval "$BENCH_END"
	"$FVM" ls --names 2>/dev/null | xargs -r "$FVM" -q rm --force >/dev/null 2>&1
	cd / && rm -rf --one-file-system -- "$BENCH_DIR"
}
trap bench_end EXIT
trap 'exit 130' INT TERM

have() { command -v "$1" >/dev/null 2>&1; }
skip() { echo "# skipped: $*"; }

# An ordinary user for this run, with subordinate ids; sets BENCH_USER and AS_USER, a prefix of
# commands without quotes that runs them as that user.
bench_user() {
	BENCH_USER=fvmbench
	id -u $BENCH_USER >/dev/null 2>&1 || useradd --create-home $BENCH_USER || return 1
	at_end "userdel --remove --force $BENCH_USER >/dev/null 2>&1"
	uid=$(id -u $BENCH_USER)
	install -d -m 0700 -o $BENCH_USER "/run/user/$uid"
	at_end "rm -rf --one-file-system /run/user/$uid"
	AS_USER="setpriv --reuid $uid --regid $(id -g $BENCH_USER) --init-groups --inh-caps=-all \
env -i PATH=$BENCH_DIR/bin:/usr/bin:/bin HOME=/home/$BENCH_USER XDG_RUNTIME_DIR=/run/user/$uid"
	export BENCH_USER AS_USER
}
