#!/usr/bin/env bats
# Beside a real docker daemon, and inside its containers. Docker's packages are fetched and unpacked,
# not installed; the daemon lives in a network and mount namespace of its own ("host"), and
# "outside" stands for the rest of the world.
# limit: 300
# shellcheck disable=SC2317  # functions that wait_until calls
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" = 0 ] || return 0
	(needs_packages && needs_command busybox dpkg-deb ip) >/dev/null || return 0
	cc -D_GNU_SOURCE -O1 -w -o "$E2E/reach" "$BATS_TEST_DIRNAME/hostile_net.c" || return 1
	mkdir "$E2E/debs" "$E2E/docker" "$E2E/data"
	(cd "$E2E/debs" && apt-get -q download docker.io containerd runc) >"$E2E/download" 2>&1 || return 0
	local deb
	for deb in "$E2E"/debs/*.deb; do
		dpkg-deb -x "$deb" "$E2E/docker" || return 1
	done
	rm -rf "$E2E/debs"
	image_make || return 1
	hosts_make
}

teardown_file() {
	local status=0 dir
	if [ -e "$E2E/hosts" ]; then
		docker_stop
		read -r HOST OUTSIDE <"$E2E/hosts"
		kill "$HOST" "$OUTSIDE" || :
		for dir in /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker; do
			[ ! -d "$dir" ] || wait_until 30 rmdir "$dir" || status=1
		done
	fi
	e2e_teardown_file || status=1
	return $status
}

setup() {
	needs_root
	needs_packages
	[ -e "$E2E/hosts" ] || skip "needs docker's packages: $(tail -n 1 "$E2E/download" 2>/dev/null)"
	read -r HOST OUTSIDE <"$E2E/hosts"
	servers=()
	export DOCKER_HOST=unix:///run/docker.sock
	PATH=$E2E/docker/usr/bin:$E2E/docker/usr/sbin:$PATH
}

teardown() {
	servers_end
	host_vms_remove
}

# A small system with fvm in it
image_make() {
	local root=$E2E/image file
	mkdir -p "$root"/{bin,etc,proc,sys,dev,run,tmp,root,var/lib,var/tmp,libexec}
	chmod 1777 "$root/tmp" "$root/var/tmp"
	cp "$(command -v busybox)" "$root/bin/busybox"
	"$root/bin/busybox" --list | grep -vx busybox | while read -r file; do
		ln -sf busybox "$root/bin/$file"
	done
	echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd" && echo root:x:0: >"$root/etc/group"
	cp "$E2E_STAGE/bin/fvm" "$E2E/reach" "$root/bin/" && cp -r "$E2E_STAGE/libexec/fvm" "$root/libexec/"
	for file in $(ldd "$E2E_STAGE/bin/fvm" "$E2E_STAGE/libexec/fvm/fvm-changes" "$E2E/reach" |
		sed -n 's/^[^/]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u); do
		install -D "$file" "$root$file" || return 1
	done
	tar -C "$root" -cf "$E2E/image.tar" .
}

hosts_make() {
	hosts_start || return 1
	in_host sh -ec "
		mount -t tmpfs run /run && mkdir -p /run/lock
		echo 0 >/proc/sys/net/ipv4/ip_forward
		ip link set lo up
		ip link add up0 type veth peer name far netns $OUTSIDE
		ip addr add 198.51.100.2/24 dev up0 && ip link set up0 up"
	in_outside sh -ec "
		ip link set lo up && ip addr add 198.51.100.1/24 dev far && ip link set far up"
	in_host ip route add default via 198.51.100.1
}

docker_start() { # [PROGRAM..]: with these before others
	in_host "$@" dockerd --data-root "$E2E/data" --exec-root /run/docker -p /run/docker.pid \
		-H unix:///run/docker.sock --storage-driver overlay2 >"$E2E/dockerd.log" 2>&1 3>&- &
	answers() { in_host docker info >/dev/null 2>&1; }
	wait_until 30 answers || { tail -n 5 "$E2E/dockerd.log" >&2; return 1; }
	in_host docker import "$E2E/image.tar" small >/dev/null
}

docker_stop() {
	local pid
	pid=$(in_host cat /run/docker.pid 2>/dev/null) || return 0
	kill "$pid" 2>/dev/null || : # it may have ended by itself
	gone() { [ ! -e "/proc/$pid" ]; }
	wait_until 30 gone
}

serve_outside() {
	: >"$E2E/ready"
	nsenter -t "$OUTSIDE" -n -- "$E2E/reach" serve tcp 198.51.100.1 80 >"$E2E/ready" 3>&- &
	servers+=($!)
	wait_until 30 grep -q ready "$E2E/ready"
}

both_reach() {
	expect 0 fvm_host exec a "$E2E/reach" reach tcp 198.51.100.1 80
	expect 0 in_host docker run --rm small /bin/reach reach tcp 198.51.100.1 80
}

beside() {
	serve_outside
	docker_start "$@"
	fvm_host run -d --name a -p 8081:80 -- "$E2E/reach" serve tcp 0.0.0.0 80
	both_reach
	in_host docker run -d --rm --name web -p 8082:80 small /bin/reach serve tcp 0.0.0.0 80 >/dev/null
	published() { in_outside "$E2E/reach" reach tcp 198.51.100.2 "$1"; }
	wait_until 30 published 8081
	wait_until 30 published 8082
	in_host docker kill web >/dev/null
	# docker comes second
	docker_stop
	expect 0 fvm_host exec a "$E2E/reach" reach tcp 198.51.100.1 80
	docker_start "$@"
	works() { fvm_host exec a "$E2E/reach" reach tcp 198.51.100.1 80; }
	wait_until 30 works
	both_reach
	published 8081
	fvm_host rm --force a
	expect 0 in_host docker run --rm small /bin/reach reach tcp 198.51.100.1 80
	docker_stop
	ours_gone() { ! in_host sh -c '{ iptables-save; iptables-legacy-save; nft list ruleset; } 2>/dev/null' | grep -q 'fvm'; }
	wait_until 30 ours_gone
	in_host sh -c 'nft flush ruleset; ip link delete docker0; echo 0 >/proc/sys/net/ipv4/ip_forward'
}

@test "a docker daemon and VMs, whoever comes first" {
	in_host sh -c 'command -v iptables' >/dev/null || skip "needs the program iptables"
	beside
}

@test "fvm in containers of docker: what it takes, and what it says" {
	local words="--security-opt seccomp=unconfined -v /var/lib/fvm"
	docker_start
	in_small() { # OPTIONS SCRIPT
		# shellcheck disable=SC2086  # options are words
		in_host docker run --rm $1 small sh -c "$2"
	}
	expect 125 in_small "" "fvm -q run --rm --net none true"
	says "user namespace"
	expect 125 in_small "" "fvm -q doctor"
	says "docker run --security-opt seccomp=unconfined"
	expect 125 in_small "$words --cap-add SYS_ADMIN" "fvm -q run --rm --net none true"
	says "--cap-add SYS_PTRACE"
	expect 0 in_small "$words --cap-add SYS_ADMIN" "fvm -q doctor"
	says "docker run --cap-add DAC_READ_SEARCH --cap-add NET_ADMIN --cap-add SYS_PTRACE"
	words="$words --cap-add SYS_ADMIN --cap-add SYS_PTRACE --cap-add DAC_READ_SEARCH"
	expect 125 in_small "$words" "fvm -q run --rm true"
	says "--cap-add NET_ADMIN"
	# a container's network begins as this machine's first one is; docker's host is another here
	expect 0 in_small "$words --cap-add NET_ADMIN --sysctl net.ipv4.ip_forward=1" "fvm -q run --name a -- sh -c 'echo one >/etc/new; ip route' &&
		fvm -q diff a && fvm -q commit -y a && cat /etc/new"
	says "default via"
	says "$(printf 'A /etc/new\none')"
	# without privileges, as an ordinary user would
	expect 0 in_small "--security-opt systempaths=unconfined --security-opt seccomp=unconfined -v /var/lib/fvm" \
		"fvm -q run --rm --net none -- id -u"
	equal "${lines[-1]}" 0
	docker_stop
	in_host sh -c 'nft flush ruleset; ip link delete docker0; echo 0 >/proc/sys/net/ipv4/ip_forward'
}

# last, as its tables stay until the network namespace goes
@test "the same with a docker that uses iptables-legacy" {
	in_host iptables-legacy -S FORWARD >/dev/null 2>&1 || skip "needs a kernel with iptables-legacy"
	mkdir "$E2E/legacy"
	local name
	for name in iptables iptables-save iptables-restore ip6tables; do
		ln -s "$(command -v "${name/tables/tables-legacy}")" "$E2E/legacy/$name"
	done
	beside env "PATH=$E2E/legacy:$E2E/docker/usr/bin:$E2E/docker/usr/sbin:$PATH"
	in_host iptables-legacy -S FORWARD | grep -q DOCKER
}
