#!/usr/bin/env bats
# Connections of VMs with somebody outside, who says a number every 20 ms, while the VMs are
# checkpointed, restored and cloned. A "host" of its own stands for the machine, "outside" for the
# rest of the world.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" = 0 ] || return 0
	user_make outside || return 1
	hosts_start || return 1
	in_host sh -ec "
		mount -t tmpfs run /run
		mkdir -p /run/lock /run/user /run/dev
		mount -t tmpfs -o mode=0755 dev /run/dev
		if [ -e /dev/net/tun ] && mknod -m 0666 /run/dev/tun c 10 200; then # for users
			mount --bind /run/dev/tun /dev/net/tun
		fi
		sysctl -qw net.ipv6.conf.default.accept_dad=0
		ip link set lo up
		ip link add up0 type veth peer name far netns $OUTSIDE
		ip addr add 198.51.100.2/24 dev up0
		ip addr add 2001:db8::2/64 dev up0 nodad
		ip link set up0 up" || return 1
	in_outside sh -ec "
		ip link set lo up
		ip addr add 198.51.100.1/24 dev far
		ip addr add 2001:db8::1/64 dev far nodad
		ip link set far up" || return 1
	in_host sh -ec "
		ip route add default via 198.51.100.1
		ip route add default via 2001:db8::1"
}

teardown_file() {
	local status=0
	if [ -e "$E2E/hosts" ]; then
		read -r HOST OUTSIDE <"$E2E/hosts"
		kill "$HOST" "$OUTSIDE" || :
		wait 2>/dev/null
	fi
	e2e_teardown_file || status=1
	return $status
}

setup() {
	needs_root
	needs_command python3 ip
	read -r HOST OUTSIDE <"$E2E/hosts"
	FILE=$E2E/vm.fvm
	servers=()
	cat >"$E2E/count.py" <<-'END'
		import socket, threading, time
		def count(c):
		    n = 0
		    try:
		        while True:
		            n += 1
		            c.sendall(b"%d\n" % n)
		            time.sleep(0.02)
		    except OSError as e:
		        print(type(e).__name__, flush=True)
		server = socket.create_server(("::", 7700), family=socket.AF_INET6, dualstack_ipv6=True)
		print("ready", flush=True)
		while True:
		    threading.Thread(target=count, args=(server.accept()[0],), daemon=True).start()
	END
	nsenter -t "$OUTSIDE" -n -- python3 "$E2E/count.py" >"$E2E/said" 2>&1 3>&- &
	servers+=($!)
	wait_until 30 grep -q ready "$E2E/said"
}

teardown() {
	servers_end
	host_vms_remove
	user_vms_remove
	rm -f "$E2E"/*.fvm
}

fvm_user() {
	in_host setpriv --reuid fvmt-outside --regid fvmt-outside --init-groups --inh-caps=-all env -i \
		-C /home/fvmt-outside HOME=/home/fvmt-outside USER=fvmt-outside SHELL=/bin/bash LANG=C.UTF-8 \
		XDG_RUNTIME_DIR="/run/user/$(id -u fvmt-outside)" PATH="$E2E_STAGE/bin:/usr/local/bin:/usr/bin:/bin" \
		fvm "$@"
}

user_vms_remove() {
	local name
	for name in $(fvm_user --json ls | jq -r '.[].name'); do
		fvm_user -q rm --force "$name"
	done
}

# listener NAME ADDRESS: a VM whose program writes what it hears into its log, and how that ended
listener() {
	in_host fvm run -d --name "$1" bash -c "exec 3<>/dev/tcp/$2/7700"'
		while read -r -u 3 n; do echo "$n"; done; echo ended; sleep 1000' >/dev/null
	wait_until 30 hears "$1" 3
}

last() { in_host fvm logs "$1" | grep -E '^[0-9]+$' | tail -n 1; }
hears() { [ "$(last "$1")" -ge "$2" ]; }
in_order() { in_host fvm logs "$1" | awk '/^[0-9]+$/ { if (n++ && $1 != was + 1) exit 1; was = $1 }'; }
ended() { in_host fvm logs "$1" | grep -qx ended; }
nothing_shared() { ! in_host ls /run/fvm/net-* >/dev/null 2>&1; }
address() { in_host fvm --json inspect "$1" | jq -r .address; }

@test "where the VM's address can be had again, connections with the world go on" {
	local ip at before
	for ip in 198.51.100.1 2001:db8::1; do
		listener one "$ip"
		before=$(address one)
		in_host fvm checkpoint one "$FILE"
		in_host fvm rm one
		at=$(wc -l <"$E2E/said")
		# the other end goes on talking, to nobody; all that VMs share has gone meanwhile
		wait_until 30 nothing_shared
		expect 0 in_host fvm restore "$FILE"
		equal "$output" one
		equal "$(address one)" "$before"
		wait_until 60 hears one $(($(last one) + 50))
		in_order one
		fails ended one
		equal "$(wc -l <"$E2E/said")" "$at"
		in_host fvm rm --force one
		rm "$FILE"
	done
}

@test "where it can't, they are reset, and it is said whose and with whom, also before" {
	local at
	listener one 198.51.100.1
	expect 0 in_host fvm checkpoint --check one
	says "1 connection with the outside will come back reset where its address is another"
	says "(bash): descriptor 3, with 198.51.100.1:7700"
	equal "$(in_host fvm --json checkpoint --check one | jq -c '.can, .outside[0].peer, .outside[0].descriptor' | paste -sd ' ')" \
		'true "198.51.100.1:7700" 3'
	expect 0 in_host fvm clone --live one two
	says "1 connection with the outside came back reset in the clone"
	says "(bash): descriptor 3, with 198.51.100.1:7700"
	wait_until 30 ended two
	in_host fvm logs two | grep -q "reset by peer"
	in_order two
	# beside the old one, from a file
	in_host fvm checkpoint --leave-running one "$FILE"
	equal "$(in_host fvm --json restore "$FILE" three | jq -r '.reset[0].peer')" 198.51.100.1:7700
	wait_until 30 ended three
	# who was cloned hears no more and no less
	at=$(last one)
	wait_until 30 hears one $((at + 20))
	in_order one
	fails ended one
	# and once more, of what was reset
	in_host fvm clone --live two four
}

@test "what the VM's address was used for besides gets the new one" {
	in_host fvm run -d --name one python3 -c '
import socket, subprocess, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.connect(("198.51.100.1", 53))
named = socket.create_server((own.getsockname()[0], 7800))
print("ready", flush=True)
open("/tmp/ready", "w")
import os
while not os.path.exists("/tmp/go"): time.sleep(0.02)
print(own.getsockname()[0], named.getsockname()[0], own.getpeername()[0], flush=True)
time.sleep(1000)' >/dev/null
	wait_until 30 in_host fvm exec one test -e /tmp/ready
	expect 0 in_host fvm clone --live one two
	in_host fvm exec two touch /tmp/go
	local new
	new=$(address two)
	told() { in_host fvm logs two | grep -qx "$new $new 198.51.100.1"; }
	wait_until 30 told
}

@test "an ordinary user's are reset in any case" {
	needs_user outside
	needs_command slirp4netns
	[ "$(in_host stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] || skip "needs /dev/net/tun"
	fvm_user run -d --name one bash -c 'exec 3<>/dev/tcp/198.51.100.1/7700
		while read -r -u 3 n; do echo "$n"; done; echo ended; sleep 1000' >/dev/null
	user_hears() { [ "$(fvm_user logs "$1" | grep -cE '^[0-9]+$')" -ge 3 ]; }
	user_ended() { fvm_user logs "$1" | grep -qx ended; }
	wait_until 30 user_hears one
	expect 0 fvm_user checkpoint --check one
	says "1 connection with the outside will come back reset"
	expect 0 fvm_user clone --live one two
	says "(bash): descriptor 3, with 198.51.100.1:7700"
	wait_until 30 user_ended two
	fails user_ended one
	expect 0 fvm_user checkpoint one one.fvm
	expect 0 fvm_user restore one.fvm three
	says "1 connection with the outside came back reset"
	wait_until 30 user_ended three
}
