#!/usr/bin/env bats
# Programs with namespaces of their own in a VM that is checkpointed and restored, or cloned.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() { FILE=$E2E/vm.fvm; }
teardown() {
	vms_remove
	rm -f "$E2E"/*.fvm
}

# apart VM OPTIONS COMMANDS: a program in it, with namespaces of its own, that has said the commands
apart() {
	# shellcheck disable=SC2086  # options are several
	fvm exec -d "$1" unshare $2 sh -ec "$3; echo \$\$ >/tmp/apart.new; mv /tmp/apart.new /tmp/apart
		exec sleep 100000" >/dev/null
	wait_until 30 fvm exec "$1" test -s /tmp/apart
}

# within VM SORT COMMAND..: in that namespace of it
within() {
	fvm exec "$1" sh -c 'sort=$1; shift; exec nsenter -t "$(cat /tmp/apart)" "--$sort" "$@"' \
		sh "${@:2}"
}

# travels: VM one goes into a file, and comes out of it as three; a clone of it is two
travels() {
	fvm clone --live one two
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" three
}

@test "queues and semaphores of an IPC namespace of a program's own go on with it" {
	fvm run -d --net none --name one sleep 100000 >/dev/null
	apart one --ipc 'ipcmk --queue >/dev/null; ipcmk --semaphore 3 >/dev/null; ipcmk --queue >/dev/null'
	local vm before
	before=$(within one ipc ipcs --queues --semaphores)
	[ "$(fvm exec one ipcs --queues --semaphores)" != "$before" ]
	travels
	for vm in two three; do
		equal "$(within "$vm" ipc ipcs --queues --semaphores)" "$before"
	done
}

# settings VM: of the network namespace of a program in it; devices without what counts
settings() {
	within "$1" net sh -ec 'ip -4 -o addr; ip route; ip rule; cat /proc/sys/net/ipv4/ip_forward
		! command -v nft >/dev/null || nft list ruleset' | sed 's/ valid_lft.*//'
}

@test "a network of a program's own goes on with it" {
	needs_command ip
	fvm run -d --net none --name one sleep 100000 >/dev/null
	apart one --net 'ip link set lo up; ip link add in1 type veth peer name in2; ip addr add 10.7.0.1/24 dev in1
		ip link set in1 up; ip link set in2 up; ip route add 10.8.0.0/16 via 10.7.0.9; echo 1 >/proc/sys/net/ipv4/ip_forward'
	local vm before
	before=$(settings one)
	travels
	for vm in two three; do
		equal "$(settings "$vm")" "$before"
		fvm exec "$vm" sh -c '! ip link show dev in1 2>/dev/null'
	done
}

@test "a network of a program's own that leads somewhere is refused by name" {
	needs_command ip
	fvm run -d --net none --name one sleep 100000 >/dev/null
	apart one --net true
	fvm exec one sh -c 'ip link add out1 type veth peer name in1 netns "$(cat /tmp/apart)"'
	expect 125 fvm checkpoint --check one
	says "in1 can't be captured: its other end is in another network namespace"
}

# mounts VM: of the mount namespace of a program in it, and what lies in one
mounts() {
	within "$1" mount sh -ec 'cat /own/file; findmnt -rno TARGET,FSTYPE,VFS-OPTIONS; ls /own/bound
		cat /own/bound/hidden'
}

@test "mounts of a program's own go on with it, and nobody else sees them" {
	fvm run -d --net none --name one sleep 100000 >/dev/null
	fvm exec one sh -c 'mkdir /own /opt/there; echo seen >/opt/there/hidden; mount -t tmpfs all /srv; echo all >/srv/file'
	apart one --mount 'mount -t tmpfs -o size=1m,nosuid own /own; echo inside >/own/file; mkdir /own/bound
		mount --bind /opt/there /own/bound; mount -o remount,bind,ro /own/bound; umount /srv
		cd /own; exec 3<>/own/file'
	local vm before
	before=$(mounts one)
	travels
	for vm in two three; do
		equal "$(mounts "$vm")" "$before"
		equal "$(fvm exec "$vm" sh -c 'ls /own; cat /srv/file')" all
		equal "$(fvm exec "$vm" sh -c 'cat "/proc/$(cat /tmp/apart)/cwd/file" "/proc/$(cat /tmp/apart)/fd/3"')" \
			"inside
inside"
	done
}

@test "a host name of a program's own goes on with it" {
	fvm run -d --net none --name one sleep 100000 >/dev/null
	apart one --uts 'hostname own'
	travels
	local vm
	for vm in two three; do
		equal "$(within "$vm" uts hostname)" own
		[ "$(fvm exec "$vm" hostname)" != own ]
	done
}
