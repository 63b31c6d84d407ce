# What every file of tests/real/ starts with ("load helper"): programs that people use, busy while
# they go through files and live clones, each verified by its own client.
#
#   setup_file      e2e_setup_file, then base PACKAGE..: installed once, in the file's VM "base"
#   a test          clones it (busy), starts its programs inside, and lets them travel
#   teardown        removes all VMs but base; teardown_file removes that, too
#
# Clients run inside as well, and so go along: what they see of the hops is what is verified.
# shellcheck shell=bash
load ../e2e/helper

HOPS=${HOPS:-5}

teardown() { clones_remove; }

# What a VM with many changes noticed is looked after for a while
teardown_file() {
	vms_remove
	wait_until 120 idle_store "$FVM_HOME"
	e2e_teardown_file
}

clones_remove() {
	local name
	for name in $(fvm --json ls 2>/dev/null | jq -r '.[].name | select(. != "base")'); do
		fvm -q rm --force "$name" || return 1
	done
	rm -f "$E2E/hop.fvm"
}

# base PACKAGE..: the VM "base" in which they are installed
# shellcheck disable=SC2016
base() {
	[ "$(id -u)" = 0 ] && needs_packages || return 0
	fvm -q run --keep --root --name base -- sh -ec 'export DEBIAN_FRONTEND=noninteractive
		apt-get -qq -o Acquire::Retries=3 update
		apt-get -qqy -o Acquire::Retries=3 install --no-install-recommends "$@" >/dev/null 2>&1
		apt-get clean' - "$@"
}

# vm: the VM "one", a clone of base with what tests/real/software has, running
vm() {
	needs_root
	if [ -d "$FVM_HOME/vms/base" ]; then
		fvm -q clone base one
	else
		fvm -q create --net none one
	fi
	fvm -q start one
	fvm exec one mkdir -p /opt/real
	fvm cp "$BATS_TEST_DIRNAME/../real/software/." one:/opt/real/
}

# behind VM CMD..: in the background, as its root
behind() { fvm exec -d "$@" >/dev/null; }

# ---- travels ----

# hop VM: into a file, away from here, and out of the file
hop() {
	local file=$E2E/hop.fvm status=0
	fvm -q checkpoint "$1" "$file" && fvm -q rm --force "$1" &&
		fvm -q restore "$file" "$1" >/dev/null || status=1
	rm -f "$file"
	return $status
}

# further PROGRESS VM FROM: "PROGRESS VM" prints a number, which is more than FROM by now
further() {
	local now
	now=$("$1" "$2") && [ "${now:-0}" -gt "$3" ]
}

# goes_on VM PROGRESS: it does more from now on
goes_on() {
	local from
	from=$("$2" "$1")
	wait_until 60 further "$2" "$1" "${from:-0}" && return 0
	echo "$1 stands still at '$from': $(fvm exec "$1" cat /root/result 2>&1)" >&2
	return 1
}

# travels PROGRESS: VM "one" is busy before and after each of $HOPS ways through a file; then it is
# cloned live as "two", and both are busy
travels() {
	local i
	for ((i = 0; i < HOPS; i++)); do
		goes_on one "$1" && hop one || return 1
	done
	goes_on one "$1" && fvm -q clone --live one two >/dev/null && goes_on one "$1" && goes_on two "$1"
}
