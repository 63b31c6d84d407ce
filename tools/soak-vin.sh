#!/bin/bash
# Running programs into a file and out of it, again and again under load, each looking at itself.
#
#   tools/soak-vin.sh BUILDDIR [SECONDS [THREADS [MIB]]]
#
# The load is tests/tools/soak.c: a checksum of its memory, registers, files, pipes, sockets, children.
# Each hop is one of: checkpoint and restore, clone --live (the clone goes on, the other ends),
# checkpoint --leave-running (and the file is tried in a VM of its own). After each the load has to
# do five rounds more. Prints hops of each sort and how many failed; status 1 if any did. As root.
set -u
build=$(cd "$1" && pwd) seconds=${2:-1800} threads=${3:-4} mib=${4:-16}
patience=60

[ "$(id -u)" = 0 ] || { echo "soak: this has to be root: checkpoint takes root's VMs" >&2; exit 1; }
FVM_HOME=$(mktemp -d "${TMPDIR:-/tmp}/fvm-soak.XXXXXX")
export FVM_HOME
stage=$FVM_HOME/programs
"$(dirname "$0")/stage.sh" "$build" "$stage" || exit 1
PATH=$stage/bin:$PATH
file=$FVM_HOME/soak.fvm

vms_remove() {
	local name
	for name in $(fvm ls --names 2>/dev/null); do
		fvm -q rm --force "$name"
	done
}
tidy() {
	vms_remove
	rm -rf --one-file-system -- "$FVM_HOME"
}
trap tidy EXIT
trap 'exit 130' INT TERM

round_of() { fvm logs "$1" 2>/dev/null | sed -n 's/^round //p' | tail -n 1; }

# goes_on NAME FROM: five rounds more than FROM, and nothing wrong
goes_on() {
	local end=$((SECONDS + patience)) now
	while :; do
		if fvm logs "$1" | grep -q wrong; then
			fvm logs "$1" | grep wrong >&2
			return 1
		fi
		now=$(round_of "$1")
		[ "${now:-0}" -lt $(($2 + 5)) ] || return 0
		[ $SECONDS -lt $end ] || { echo "soak: $1 stands still at round ${now:-0}" >&2; return 1; }
		sleep 0.1
	done
}

begin() {
	vms_remove
	fvm -q create one >/dev/null && fvm -q cp "$build/tests/tools/soak" one:/usr/local/bin/soak &&
		fvm -q run -d --net none --workdir /root --name one /usr/local/bin/soak "$threads" "$mib" >/dev/null &&
		goes_on one 0
}

hop_file() {
	fvm -q checkpoint one "$file" && at=$(round_of one) && fvm -q rm --force one &&
		fvm -q restore "$file" one >/dev/null && goes_on one "$at"
}
hop_clone() {
	fvm -q clone --live one two >/dev/null && at=$(round_of one) && goes_on one "$at" &&
		fvm -q rm --force one && goes_on two "$at" &&
		fvm -q clone --live two one >/dev/null && fvm -q rm --force two && goes_on one "$at"
}
hop_stay() {
	fvm -q checkpoint --leave-running one "$file" && at=$(round_of one) && goes_on one "$at" &&
		fvm -q restore "$file" two >/dev/null && goes_on two "$at" && fvm -q rm --force two
}

declare -A hops=([file]=0 [clone]=0 [stay]=0)
failed=0 sorts=(file clone stay) n=0
begin || { echo "soak: the load does not start" >&2; exit 1; }
while [ $SECONDS -lt "$seconds" ]; do
	sort=${sorts[n++ % 3]}
	if "hop_$sort"; then
		hops[$sort]=$((hops[$sort] + 1))
	else
		failed=$((failed + 1))
		echo "soak: hop $n ($sort) failed after $SECONDS s; beginning anew" >&2
		begin || exit 1
	fi
	rm -f -- "$file"
	[ ! -t 2 ] || printf '\rsoak: %d hops, %d failed, %d of %d s' "$n" "$failed" "$SECONDS" "$seconds" >&2
done
[ ! -t 2 ] || printf '\r\033[K' >&2
echo "soak: $SECONDS s, checkpoint and restore ${hops[file]}, clone --live $((hops[clone] * 2))," \
	"left running and restored ${hops[stay]}; failed $failed; round $(round_of one)"
[ "$failed" = 0 ]
