# What every file of tests/e2e/ starts with ("load helper"): a store of its own, a machine that
# has to be as clean afterwards as it was before, ordinary users, and words for what is missing.
#
#   FVM_HOME       this file's store; removed with all its VMs at the end
#   E2E            a directory of this file for whatever it needs (0755, below /tmp)
#   E2E_STAGE      the programs as installed (bin/, libexec/fvm/), set by tools/run-bats.sh
#   CI             set: nobody else uses this machine, so the whole of it is compared; otherwise
#                  only what can be told to be ours
#
# VMs are removed after each test. A file with a setup_file, teardown_file, setup or teardown of
# its own calls e2e_setup_file, e2e_teardown_file, or vms_remove in it.
# shellcheck shell=bash

setup_file() { e2e_setup_file; }
teardown_file() { e2e_teardown_file; }
teardown() { vms_remove; }

e2e_setup_file() {
	if [ -z "${E2E_STAGE:-}" ]; then
		echo "run tests by tools/run-bats.sh, which knows which fvm to test" >&2
		return 1
	fi
	E2E=$(mktemp -d /tmp/fvm-e2e.XXXXXX)
	chmod 0755 "$E2E"
	echo "$E2E_STAGE" >"$E2E/stage"
	FVM_HOME=$E2E/home
	PATH=$E2E_STAGE/bin:$E2E_STAGE/tools:$PATH
	export E2E FVM_HOME PATH
	machine_state >"$E2E/machine.before"
}

e2e_teardown_file() {
	vms_remove
	local status=0
	users_remove
	assert_clean || status=1
	cd / && rm -rf --one-file-system -- "$E2E" || status=1
	return $status
}

# Delete all VMs of this file's store, however they are.
vms_remove() {
	[ -d "$FVM_HOME" ] || return 0
	local name
	for name in $(fvm --json ls 2>/dev/null | jq -r '.[].name' 2>/dev/null); do
		fvm -q rm --force "$name" || return 1
	done
}

# The same, and what undo keeps of their commits.
commits_remove() {
	vms_remove
	fvm -q undo --drop all 2>/dev/null
}

# in_vm NAME CMD..: run CMD with sh in the VM NAME
in_vm() {
	local name=$1
	shift
	fvm -q run --net none --name "$name" -- sh -c "$*"
}

# End the processes in servers[], which a test filled.
servers_end() {
	local pid
	for pid in "${servers[@]}"; do
		kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
	done
	servers=()
}

# ---- a host of its own: network and mounts of the process $HOST; the network of $OUTSIDE ----

# Both processes, and their numbers in $E2E/hosts for later tests
hosts_start() {
	unshare --net sleep 3600 3>&- &
	OUTSIDE=$!
	unshare --net --mount --propagation private sleep 3600 3>&- &
	HOST=$!
	echo "$HOST $OUTSIDE" >"$E2E/hosts"
	wait_until 30 hosts_apart
}
hosts_apart() {
	local pid
	for pid in "$HOST" "$OUTSIDE"; do
		[ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || return 1
	done
}

in_host() { nsenter -t "$HOST" -n -m --wd="$PWD" -- "$@"; }
in_outside() { nsenter -t "$OUTSIDE" -n -- "$@"; }
fvm_host() { in_host fvm -q "$@"; }
# shellcheck disable=SC2016
host_vms_remove() { in_host bash -c '. "$1"; vms_remove' - "${BASH_SOURCE[0]}"; }

# ---- a clean machine ----

# What inventory -s says; whatever other users of this machine may change is left out.
machine_state() {
	if [ -n "${CI:-}" ]; then
		inventory -s
	else
		inventory -s | grep -F "$E2E" || :
	fi
}

# Processes that know this store: in a namespace of a VM, or fvm and its helpers themselves.
our_processes() {
	local pid spaces
	spaces=$(readlink /proc/self/ns/pid /proc/self/ns/mnt)
	for pid in /proc/[0-9]*; do
		grep -qsF "$E2E" "$pid/environ" "$pid/mountinfo" "$pid/cmdline" || continue
		if [ "$(readlink "$pid/ns/pid" "$pid/ns/mnt")" = "$spaces" ]; then
			case $(cat "$pid/comm" 2>/dev/null) in fvm* | pasta* | slirp4netns*) ;; *) continue ;; esac
		fi
		[ -e "$pid/ns" ] && printf '%s %s\n' "${pid#/proc/}" "$(tr '\0' ' ' <"$pid/cmdline")"
	done 2>/dev/null
}

# A command answers before its VM is cleared away, and what it noticed is looked after; a store is
# removed when nobody writes there any more:  wait_until 30 idle_user UID;  idle_store DIR
# shellcheck disable=SC2009  # a zombie writes nothing any more, and pgrep finds it
idle_user() { ! ps -U "$1" -o stat= | grep -qv '^Z'; }
idle_store() {
	local pid
	for pid in /proc/[0-9]*; do
		case $(cat "$pid/comm" 2>/dev/null) in fvm*) ;; *) continue ;; esac
		! grep -qsF "=$1" "$pid/environ" || return 1
	done
}

clean_now() {
	[ -z "$(our_processes)" ] && machine_state | diff "$E2E/machine.before" - >"$E2E/machine.diff"
}

# Nothing is left of any VM: the kernel takes some things away a moment after a process' end.
assert_clean() {
	wait_until 30 clean_now && return 0
	echo "left on this machine (< before, > after):" >&2
	cat "$E2E/machine.diff" >&2 2>/dev/null
	our_processes | sed 's/^/process /' >&2
	return 1
}

# host_inventory NAME [ROOT..]: every path of the host that installations touch, with content,
# mode, owner, times and attributes, into $E2E/inventory.NAME. Logs and caches of the test
# machinery itself are left out.
host_inventory() {
	local name=$1
	shift
	[ $# -gt 0 ] || set -- /bin /boot /etc /home /lib /lib64 /opt /root /sbin /srv /usr /var
	inventory -x -c "$E2E_STAGE/digests" -e "$E2E" -e "$E2E_STAGE" -e /var/log -e /var/tmp \
		-e /var/lib/fvm -e /root/.cache "$@" >"$E2E/inventory.$name"
}

# assert_same_inventory BEFORE AFTER
assert_same_inventory() {
	diff "$E2E/inventory.$1" "$E2E/inventory.$2" && return 0
	echo "the host is not what it was (< $1, > $2)" >&2
	return 1
}

# ---- ordinary users ----

# user_make NAME [no-ranges]: an ordinary user "fvmt-NAME" with a home, a run-time directory and
# (unless no-ranges) subordinate ids; removed at the end of the file.
user_make() {
	local user=fvmt-$1 uid
	grep -qsx "$user" "$E2E/users" && return 0
	# a killed run may have left him; somebody else may be at the accounts
	id -u "$user" >/dev/null 2>&1 ||
		wait_until 30 useradd --create-home --shell /bin/bash "$user" || return 1
	echo "$user" >>"$E2E/users"
	uid=$(id -u "$user")
	install -d -m 0700 -o "$user" "/run/user/$uid"
	if [ "${2-}" = no-ranges ]; then
		sed -i "/^$user:/d" /etc/subuid /etc/subgid
	fi
}

# as_user NAME CMD..: run CMD as that user, made if need be, with a session's environment
as_user() {
	local user=fvmt-$1 uid
	user_make "$1" || return 1
	shift
	uid=$(id -u "$user")
	(cd "/home/$user" && setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all \
		env -i HOME="/home/$user" USER="$user" LOGNAME="$user" SHELL=/bin/bash \
		TERM="${TERM:-dumb}" LANG=C.UTF-8 XDG_RUNTIME_DIR="/run/user/$uid" \
		PATH="$E2E_STAGE/bin:/usr/local/bin:/usr/bin:/bin" "$@")
}

# user_vms_remove NAME..: delete the VMs of those of the file's users that are there
user_vms_remove() {
	local user name
	for user; do
		id -u "fvmt-$user" >/dev/null 2>&1 || continue
		for name in $(as_user "$user" fvm --json ls 2>/dev/null | jq -r '.[].name'); do
			as_user "$user" fvm -q rm --force "$name"
		done
	done
}

# Remove the users of this file with their VMs, processes and directories.
users_remove() {
	local user uid pid
	[ -s "$E2E/users" ] || return 0
	while read -r user; do
		uid=$(id -u "$user") || continue
		user_vms_remove "${user#fvmt-}"
		for pid in /proc/[0-9]*; do
			[ "$(stat -c %u "$pid" 2>/dev/null)" = "$uid" ] && kill -KILL "${pid#/proc/}"
		done 2>/dev/null
		wait_until 30 idle_user "$uid"
		rm -rf --one-file-system -- "/run/user/$uid" "/var/tmp/fvm-$uid" "/dev/shm/fvm-$uid"
		# of a VM that he made as root of a user namespace
		find /var/tmp /dev/shm -maxdepth 1 -name fvm-0 -uid "$uid" -exec rm -rf --one-file-system {} +
		wait_until 30 userdel --remove --force "$user" >/dev/null 2>&1
		sed -i "/^$user:/d" /etc/subuid /etc/subgid 2>/dev/null
	done <"$E2E/users"
	rm -f "$E2E/users"
}

# ---- what a test needs ----

needs_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

# The namespaces that the kernel starts its helpers in: this number is the first PID namespace's.
needs_first_world() {
	[ "$(readlink /proc/self/ns/pid)" = "pid:[4026531836]" ] || skip "needs the machine's first namespaces"
}

needs_command() {
	local name
	for name in "$@"; do
		command -v "$name" >/dev/null || skip "needs the program $name"
	done
}

# An ordinary user who may make user namespaces.
needs_user() {
	needs_root
	as_user "${1:-one}" unshare --user --map-root-user true 2>/dev/null ||
		skip "needs user namespaces for ordinary users"
}

# needs_cgroup CONTROLLER: in v2 or v1
needs_cgroup() {
	local file
	for file in /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/unified/cgroup.controllers; do
		grep -qsw "${1/cpuacct/cpu}" "$file" && return 0
	done
	[ -d "/sys/fs/cgroup/$1" ] || skip "needs the cgroup controller $1"
}

needs_device() { [ -e "$1" ] || skip "needs $1"; }

# A loop device that can be had, and a file system that the kernel knows.
needs_loop() {
	needs_root
	losetup -f >/dev/null 2>&1 || skip "needs loop devices"
}
needs_filesystem() {
	grep -qw "$1" /proc/filesystems || modprobe "$1" 2>/dev/null || skip "needs the file system $1"
	needs_command "mkfs.$1"
}

# Package mirrors can be reached from here; asked once per run.
needs_packages() {
	local answer=$E2E_STAGE/packages
	if [ ! -e "$answer" ]; then
		mkdir -p "$E2E/apt-state/lists/partial" "$E2E/apt-cache/archives/partial"
		if apt-get -q -o Acquire::Retries=1 -o Dir::State="$E2E/apt-state" \
			-o Dir::Cache="$E2E/apt-cache" update >/dev/null 2>&1; then
			echo yes >"$answer"
		else
			echo no >"$answer"
		fi
		rm -rf "$E2E/apt-state" "$E2E/apt-cache"
	fi
	[ "$(cat "$answer")" = yes ] || skip "needs a package mirror"
}

# A tmpfs whose ids can be mapped, and that keeps attributes of users.
needs_idmapped_tmpfs() {
	local found
	found=$(unshare --mount --propagation private sh -c 'mount -t tmpfs none /mnt &&
		FVM_HOME=/mnt/store fvm --json doctor 2>/dev/null' | jq '.findings[] | select(.name == "idmap").ok')
	[ "$found" = true ] || skip "needs tmpfs with mapped ids (Linux 6.3)"
}

# Where --net host is allowed: without Landlock's scopes nothing stands before abstract sockets.
has_net_host() { [ "$(fvm --json doctor 2>/dev/null | jq .landlock)" -ge 6 ]; }

# needs_feature WORDS: what fvm doctor says this host offers
needs_feature() {
	fvm --json doctor 2>/dev/null | jq -e --arg f "$1" 'any(.. | objects; .name? == $f and .ok? == true)' \
		>/dev/null || skip "needs $1"
}

# ---- checks ----

# expect STATUS CMD..: as bats' run, and fails with all output unless the status is that
# shellcheck disable=SC2034  # status, output, lines: for the test
expect() {
	local wanted=$1
	shift
	status=0
	output=$("$@" 2>&1) || status=$?
	mapfile -t lines <<<"$output"
	[ "$status" = "$wanted" ] && return 0
	printf 'status %s instead of %s from: %s\n%s\n' "$status" "$wanted" "$*" "$output" >&2
	return 1
}

# says WORDS: $output of the last expect or run has them
# shellcheck disable=SC2154
says() {
	case $output in *"$1"*) return 0 ;; esac
	printf 'the output does not have "%s":\n%s\n' "$1" "$output" >&2
	return 1
}

# fails CMD..: it must not succeed ("! CMD" alone would fail no test)
fails() {
	"$@" || return 0
	printf 'must not succeed: %s\n' "$*" >&2
	return 1
}

# equal A B
equal() {
	[ "$1" = "$2" ] && return 0
	printf 'not equal:\n  %s\n  %s\n' "$1" "$2" >&2
	return 1
}

# wait_until SECONDS CMD..: try until it succeeds
wait_until() {
	local end=$((SECONDS + $1 * ${SLOWER:-1}))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# From here on in this test fvm is the build with fault hooks (meson -Dfaults=true).
use_faults() {
	[ -x "$E2E_STAGE/faults/bin/fvm" ] || skip "needs the build with fault hooks"
	PATH=$E2E_STAGE/faults/bin:$PATH
}

# The process of this file that a fault made stand still is $still.
# shellcheck disable=SC2034
stands_still() {
	local pid
	for pid in /proc/[0-9]*; do
		if grep -qsz "^FVM_FAULT=.*:stop" "$pid/environ" && grep -qs "^State:.T" "$pid/status" &&
			grep -qsF "$E2E" "$pid/environ"; then
			still=${pid#/proc/}
			return 0
		fi
	done
	return 1
}

# on_terminal CMD..: run it on a pseudo terminal; its status is ours
on_terminal() {
	script --quiet --return --command "$(printf '%q ' "$@")" /dev/null </dev/null
}

# with_libraries ROOT PROGRAM..: copy them, and what they are linked with, into a root
with_libraries() {
	local root=$1 file
	shift
	for file in "$@" $(ldd "$@" 2>/dev/null | sed -n 's/^[^/]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u); do
		install -D "$file" "$root$(realpath -s "$file")" || return 1
	done
}

# small_root ROOT: the beginning of a root of its own: busybox, the accounts root and ann, setpriv, fvm
small_root() {
	local root=$1 busybox name
	busybox=$(command -v busybox) || return 1
	mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,root,home/ann,usr/bin,libexec}
	cp "$busybox" "$root/bin/busybox"
	"$root/bin/busybox" --list | grep -vx busybox | while read -r name; do
		ln -sf busybox "$root/bin/$name"
	done
	printf '%s\n' root:x:0:0:root:/root:/bin/sh ann:x:1000:1000:Ann:/home/ann:/bin/sh >"$root/etc/passwd"
	printf '%s\n' root:x:0: ann:x:1000: >"$root/etc/group"
	chown 1000:1000 "$root/home/ann"
	cp -r "$E2E_STAGE/libexec/fvm" "$root/libexec/"
	with_libraries "$root" "$(command -v setpriv)" "$E2E_STAGE/bin/fvm" "$E2E_STAGE/libexec/fvm/fvm-changes" ||
		return 1
	rm -rf "${root:?}/tmp"/*
	chmod 1777 "$root/tmp"
	cp "$E2E_STAGE/bin/fvm" "$root/bin/"
}
