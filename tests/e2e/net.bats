# The network of VMs: what they reach, who reaches them, beside whose firewall. A "host" of its own
# (network, /run, /etc) stands for the machine, "outside" for the rest of the world.
# limit: 600
# shellcheck disable=SC2317  # functions that wait_until calls
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" = 0 ] || return 0
	cc -D_GNU_SOURCE -O1 -w -o "$E2E/hostile_net" "$BATS_TEST_DIRNAME/hostile_net.c" || return 1
	user_make net || return 1
	hosts_make || return 1
}

teardown_file() {
	local status=0
	[ ! -e "$E2E/hosts" ] || hosts_end || status=1
	e2e_teardown_file || status=1
	return $status
}

setup() {
	needs_root
	read -r HOST OUTSIDE <"$E2E/hosts"
	servers=()
}

teardown() {
	servers_end
	host_vms_remove
	[ ! -s "$E2E/users" ] || user_vms_remove
	wait_until 30 nothing_left
}


# as_user, in the host
fvm_user() {
	local uid
	uid=$(id -u fvmt-net)
	in_host setpriv --reuid fvmt-net --regid fvmt-net --init-groups --inh-caps=-all env -i -C /home/fvmt-net \
		HOME=/home/fvmt-net USER=fvmt-net SHELL=/bin/bash LANG=C.UTF-8 XDG_RUNTIME_DIR="/run/user/$uid" \
		PATH="$E2E_STAGE/bin:/usr/local/bin:/usr/bin:/bin" fvm -q "$@"
}

user_vms_remove() {
	local name
	for name in $(fvm_user --json ls | jq -r '.[].name'); do
		fvm_user rm --force "$name"
	done
}

hosts_make() {
	hosts_start || return 1
	cp -a /etc "$E2E/etc"
	rm -f "$E2E/etc/resolv.conf"
	echo "nameserver 10.9.9.53" >"$E2E/etc/resolv.conf"
	in_host sh -ec "
		mount -t tmpfs run /run
		mkdir -p /run/lock /run/user
		mount --bind '$E2E/etc' /etc
		sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.default.accept_dad=0
		ip link set lo up
		ip link add up0 type veth peer name far netns $OUTSIDE
		ip addr add 198.51.100.2/24 dev up0
		ip addr add 2001:db8::2/64 dev up0 nodad
		ip link set up0 up"
	in_outside sh -ec "
		ip link set lo up
		ip addr add 198.51.100.1/24 dev far
		ip addr add 2001:db8::1/64 dev far nodad
		ip link set far up
		for a in 10.9.9.53/32 10.9.9.54/32 169.254.169.254/32; do ip addr add \$a dev lo; done
		for a in fd00:ec2::254/128 fd77::1/128; do ip addr add \$a dev lo nodad; done"
	in_host sh -ec "
		ip route add default via 198.51.100.1
		ip route add default via 2001:db8::1"
}

hosts_end() {
	read -r HOST OUTSIDE <"$E2E/hosts"
	kill "$HOST" "$OUTSIDE" || :
	wait 2>/dev/null
	rm -rf "${E2E:?}/etc"
}

nothing_left() {
	[ -z "$(in_host nft list ruleset 2>/dev/null)" ] && [ "$(in_host cat /proc/sys/net/ipv4/ip_forward)" = 0 ] &&
		[ "$(in_host cat /proc/sys/net/ipv6/conf/all/forwarding)" = 0 ] && ! in_host ls /run/fvm/net-* >/dev/null 2>&1
}

serve() { # WHERE KIND ADDRESS PORT
	local space=$HOST
	[ "$1" = in_host ] || space=$OUTSIDE
	: >"$E2E/ready"
	nsenter -t "$space" -n -- "$E2E/hostile_net" serve "$2" "$3" "$4" >"$E2E/ready" 3>&- &
	servers+=($!)
	wait_until 30 grep -q ready "$E2E/ready"
}

in_host_soon() { wait_until 30 in_host "$@"; }

serve_in() { # VM KIND ADDRESS PORT
	fvm_host exec --detach "$1" sh -c "'$E2E/hostile_net' serve $2 $3 $4 >/tmp/ready.$2.$4 2>&1"
	wait_until 30 fvm_host exec "$1" grep -q ready "/tmp/ready.$2.$4"
}

# STATUS CMD..: both by TCP and UDP, to each ADDRESS PORT of the lines on stdin
each() {
	local wanted=$1 address port kind
	shift
	while read -r address port; do
		for kind in tcp udp; do
			expect "$wanted" "$@" "$E2E/hostile_net" reach $kind "$address" "$port" </dev/null || {
				echo "$kind $address $port" >&2
				return 1
			}
		done
	done
}

serve_all() { # WHERE PORT ADDRESS..
	local where=$1 port=$2 address kind
	shift 2
	for address in "$@"; do
		for kind in tcp udp; do
			serve "$where" $kind "$address" "$port" || return 1
		done
	done
}

@test "VM to the world under its host's name, IPv4 and IPv6; not to private, link-local, metadata" {
	serve_all in_outside 80 198.51.100.1 2001:db8::1 10.9.9.53 10.9.9.54 169.254.169.254 fd00:ec2::254 fd77::1
	serve_all in_outside 53 10.9.9.53
	# a link that has just been made has no neighbours yet
	in_host_soon "$E2E/hostile_net" reach tcp 2001:db8::1 80
	each 0 in_host <<-END
		198.51.100.1 80
		2001:db8::1 80
		10.9.9.54 80
		169.254.169.254 80
		fd00:ec2::254 80
		fd77::1 80
	END
	fvm_host create a
	fvm_host start a
	each 0 fvm_host exec a <<-END
		198.51.100.1 80
		2001:db8::1 80
		10.9.9.53 53
	END
	equal "$(fvm_host exec a "$E2E/hostile_net" reach tcp 2001:db8::1 80)" 2001:db8::2
	each 1 fvm_host exec a <<-END
		10.9.9.53 80
		10.9.9.54 80
		169.254.169.254 80
		fd00:ec2::254 80
		fd77::1 80
	END
	printf '[vm]\nprivate-networks = yes\n' >"$E2E/private.policy"
	fvm_host create --policy "$E2E/private.policy" b
	fvm_host start b
	each 0 fvm_host exec b <<-END
		10.9.9.54 80
		fd77::1 80
	END
	each 1 fvm_host exec b <<-END
		169.254.169.254 80
		fd00:ec2::254 80
	END
}

@test "VM to host, host to VM, VM to VM, and from outside: nothing but answers" {
	serve_all in_host 2222 0.0.0.0 ::
	fvm_host create a
	fvm_host create b
	fvm_host start a b
	local kind a4 a6 gateways
	for kind in tcp udp; do
		serve_in a $kind 0.0.0.0 80
		serve_in a $kind :: 80
	done
	a4=$(in_host fvm --json inspect a | jq -r .address)
	a6=$(in_host fvm --json inspect a | jq -r .address6)
	gateways=$(fvm_host exec b sh -c 'ip -4 route; ip -6 route' | sed -n 's/^default via \([^ ]*\).*/\1 2222/p')
	equal "$(wc -l <<<"$gateways")" 2
	each 0 in_host <<<"198.51.100.2 2222"
	each 1 fvm_host exec b <<-END
		198.51.100.2 2222
		2001:db8::2 2222
		127.0.0.1 2222
		::1 2222
		$gateways
		$a4 80
		$a6 80
	END
	# the host may ask a VM; nobody else may
	each 0 in_host <<-END
		$a4 80
		$a6 80
	END
	in_outside ip route add "$a4" via 198.51.100.2
	in_outside ip -6 route add "$a6" via 2001:db8::2
	each 1 in_outside <<-END
		$a4 80
		$a6 80
	END
	in_outside ip route del "$a4"
	in_outside ip -6 route del "$a6"
}

entries() { in_host cat /proc/sys/net/netfilter/nf_conntrack_count; }
few_entries() { [ "$(entries)" -lt "$1" ]; }

@test "a VM can't fill the host's table of connections: not by open ones, not by closed ones" {
	local most
	most=$(in_host cat /proc/sys/net/netfilter/nf_conntrack_max) || skip "the kernel tracks no connections"
	most=$((most / 64)) most=$((most > 4096 ? 4096 : most < 1024 ? 1024 : most))
	serve_all in_outside 80 198.51.100.1
	fvm_host create --connections 25 small
	fvm_host create usual
	fvm_host start small usual
	others_connect() {
		each 0 in_host <<<"198.51.100.1 80"
		each 0 fvm_host exec "$@" <<<"198.51.100.1 80"
	}
	equal "$(fvm_host --json inspect small | jq .connections)" 25
	equal "$(fvm_host --json inspect usual | jq .connections)" "$most"
	# what is closed stays in the table for two minutes
	fvm_host exec small "$E2E/hostile_net" flood tcp 198.51.100.1 80 130 >"$E2E/got"
	[ "$(<"$E2E/got")" -ge 90 ] && [ "$(<"$E2E/got")" -le 102 ] || { cat "$E2E/got"; return 1; }
	others_connect usual
	# and each port of another host is one more
	in_host sysctl -qw net.netfilter.nf_conntrack_udp_timeout=60
	fvm_host exec usual "$E2E/hostile_net" flood udp 198.51.100.1 10000 $((most * 2)) >"$E2E/got"
	[ "$(entries)" -gt $((most / 2)) ] && few_entries $((most + most / 8)) || { entries; return 1; }
	each 0 in_host <<<"198.51.100.1 80"
	each 1 fvm_host exec usual <<<"198.51.100.1 80"
	fvm_host run --rm "$E2E/hostile_net" reach tcp 198.51.100.1 80
	# they go with it, and who has its address next is not charged
	fvm_host rm --force usual
	wait_until 30 few_entries 1000
	fvm_host create next
	fvm_host start next
	others_connect next
}

@test "flushed by an administrator: VMs stay confined, and reach what they did" {
	serve_all in_host 2222 0.0.0.0 ::
	serve_all in_outside 80 198.51.100.1 2001:db8::1 169.254.169.254
	fvm_host create a
	fvm_host create b
	fvm_host start a b
	serve_in a tcp 0.0.0.0 80
	in_host nft flush ruleset
	local a4
	a4=$(in_host fvm --json inspect a | jq -r .address)
	each 1 fvm_host exec b <<-END
		198.51.100.2 2222
		2001:db8::2 2222
		169.254.169.254 80
		$a4 80
	END
	each 0 fvm_host exec b <<-END
		198.51.100.1 80
		2001:db8::1 80
	END
	# nor with every process of ours on the host gone
	in_host pkill -KILL -x --ns "$HOST" --nslist net fvm-keeper || :
	in_host nft flush ruleset
	each 1 fvm_host exec b <<<"198.51.100.2 2222"
	each 0 fvm_host exec b <<<"198.51.100.1 80"
}

@test "who can't see the processes of VMs takes nobody's network away" {
	fvm_host create a
	fvm_host start a
	# a container with the host's network, say: the processes that have the rules are not there
	run in_host unshare --pid --fork --mount-proc fvm -q run --rm -- true
	[ "$status" = 125 ]
	fvm_host run --rm -- true
}

@test "published ports: IPv4, IPv6, UDP, one address; taken ones are refused with their owner" {
	fvm_host create -p 8080:80 -p 5353:53/udp -p 198.51.100.2:8081:81 a
	fvm_host start a
	serve_in a tcp 0.0.0.0 80
	serve_in a tcp :: 80
	serve_in a tcp 0.0.0.0 81
	serve_in a udp 0.0.0.0 53
	serve_in a udp :: 53
	local where to
	for where in in_outside in_host; do
		for to in "tcp 198.51.100.2 8080" "tcp 2001:db8::2 8080" "udp 198.51.100.2 5353" \
			"udp 2001:db8::2 5353" "tcp 198.51.100.2 8081"; do
			# shellcheck disable=SC2086
			expect 0 $where "$E2E/hostile_net" reach $to
		done
		expect 1 $where "$E2E/hostile_net" reach tcp 2001:db8::2 8081
	done
	expect 0 in_host "$E2E/hostile_net" reach tcp 127.0.0.1 8080
	expect 0 in_host "$E2E/hostile_net" reach tcp ::1 8080
	expect 0 in_host "$E2E/hostile_net" reach udp 127.0.0.1 5353
	expect 1 in_outside "$E2E/hostile_net" reach tcp 198.51.100.2 80
	expect 125 fvm_host run --rm -p 8080:1 -- true
	says "8080"
	says "'a'"
	serve in_host tcp 0.0.0.0 9090
	expect 125 fvm_host run --rm -p 9090:1 -- true
	says "which belongs to hostile_net"
	expect 125 fvm_host run --rm -p 99999:1 -- true
	fvm_host rm --force a
	gone() { ! in_outside "$E2E/hostile_net" reach tcp 198.51.100.2 8080; }
	wait_until 30 gone
}

@test "an ordinary user's VM: neither loopback nor the host's names; the world, and its ports" {
	[ "$(stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] || skip "needs /dev/net/tun for users"
	needs_command slirp4netns pasta
	in_host install -d -m 0700 -o fvmt-net "/run/user/$(id -u fvmt-net)"
	chmod 0711 "$E2E"
	serve_all in_outside 80 198.51.100.1 2001:db8::1
	serve_all in_host 2222 127.0.0.1 ::1
	each 0 fvm_user run --rm -- <<<"198.51.100.1 80"
	# slirp4netns, then pasta
	local ports
	for ports in "" "-p 8080:80"; do
		# shellcheck disable=SC2086
		each 1 fvm_user run --rm $ports -- <<-END
			127.0.0.1 2222
			::1 2222
			10.0.2.2 2222
			10.0.2.3 2222
		END
	done
	expect 0 fvm_user create -p 8080:8000 u
	expect 0 fvm_user start u
	fvm_user exec --detach u "$E2E/hostile_net" serve tcp 0.0.0.0 8000
	answers() { in_outside "$E2E/hostile_net" reach tcp 198.51.100.2 8080; }
	wait_until 30 answers
	expect 125 fvm_user run --rm -p 8080:1 -- true
	says "8080"
}

@test "an ordinary user's network is there when it is asked for, or in a moment" {
	[ "$(stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] || skip "needs /dev/net/tun for users"
	needs_command slirp4netns
	in_host install -d -m 0700 -o fvmt-net "/run/user/$(id -u fvmt-net)"
	serve_all in_outside 80 198.51.100.1
	# a look without a socket finds no route at first, and one soon
	expect 0 fvm_user run --rm -- sh -c 'grep -c ^eth0 /proc/net/route; sleep 1; grep -c ^eth0 /proc/net/route'
	[ "${lines[0]}" = 0 ]
	[ "${lines[1]}" -gt 0 ]
	# asked for by netlink, from a session that begins later, and by many at once
	expect 0 fvm_user run --rm -- ip -4 route
	says "default via 10.0.2.2"
	expect 0 fvm_user create v
	expect 0 fvm_user start v
	each 0 fvm_user exec v -- <<<"198.51.100.1 80"
	equal "$(fvm_user run --rm -- sh -c 'for i in $(seq 20); do ip -4 route & done; wait' | grep -c ^default)" 20
}

host_resolv() { # what the host's servers are from now on; by rename, as daemons do
	in_host sh -c "echo 'nameserver $2' >$1.new && mv $1.new $1"
}

@test "name servers follow when the host moves to another network: a plain file" {
	fvm_host create a
	fvm_host start a
	equal "$(fvm_host exec a cat /etc/resolv.conf)" "nameserver 10.9.9.53"
	serve_all in_outside 53 10.9.9.54
	each 1 fvm_host exec a <<<"10.9.9.54 53"
	host_resolv /etc/resolv.conf 10.9.9.54
	told() { [ "$(fvm_host exec a cat /etc/resolv.conf)" = "nameserver 10.9.9.54" ]; }
	wait_until 30 told
	each 0 fvm_host exec a <<<"10.9.9.54 53"
	equal "$(fvm_host diff --name-only a)" ""
	# a file of the VM's own is left alone
	fvm_host exec a sh -c 'umount /etc/resolv.conf 2>/dev/null; rm -f /etc/resolv.conf; echo mine >/etc/resolv.conf'
	host_resolv /etc/resolv.conf 10.9.9.53
	sleep 0.5
	equal "$(fvm_host exec a cat /etc/resolv.conf)" mine
}

@test "name servers follow beside systemd-resolved, whose stub a VM can not ask" {
	in_host sh -ec 'mkdir -p /run/systemd/resolve
		echo "nameserver 127.0.0.53" >/run/systemd/resolve/stub-resolv.conf
		echo "nameserver 10.9.9.53" >/run/systemd/resolve/resolv.conf
		rm /etc/resolv.conf; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf'
	fvm_host create a
	fvm_host start a
	equal "$(fvm_host exec a cat /etc/resolv.conf)" "nameserver 10.9.9.53"
	host_resolv /run/systemd/resolve/resolv.conf 10.9.9.54
	told() { [ "$(fvm_host exec a cat /etc/resolv.conf)" = "nameserver 10.9.9.54" ]; }
	wait_until 30 told
	# a stub only: a relay asks it
	in_host rm /run/systemd/resolve/resolv.conf
	serve in_host udp 127.0.0.53 53
	serve in_host tcp 127.0.0.53 53
	expect 0 fvm_host run --rm -- sh -c "grep -qx 'nameserver 127.0.66.53' /etc/resolv.conf &&
		'$E2E/hostile_net' reach udp 127.0.66.53 53 && '$E2E/hostile_net' reach tcp 127.0.66.53 53"
	in_host sh -c 'rm -r /etc/resolv.conf /run/systemd; echo "nameserver 10.9.9.53" >/etc/resolv.conf'
}

beside() { # what holds beside any firewall; its own rules are in $E2E/theirs
	serve_all in_outside 80 198.51.100.1 2001:db8::1
	serve_all in_host 2222 0.0.0.0 ::
	fvm_host create -p 8080:80 a
	fvm_host start a
	serve_in a tcp 0.0.0.0 80
	each 0 fvm_host exec a <<-END
		198.51.100.1 80
		2001:db8::1 80
	END
	expect 0 in_outside "$E2E/hostile_net" reach tcp 198.51.100.2 8080
	each 1 fvm_host exec a <<-END
		198.51.100.2 2222
		2001:db8::2 2222
	END
}

beside_after_reload() {
	works_again() { fvm_host exec a "$E2E/hostile_net" reach tcp 198.51.100.1 80; }
	wait_until 30 works_again
	each 0 fvm_host exec a <<<"2001:db8::1 80"
	each 1 fvm_host exec a <<<"198.51.100.2 2222"
	expect 0 in_outside "$E2E/hostile_net" reach tcp 198.51.100.2 8080
	fvm_host rm --force a
}

# state_byte OFFSET [VALUE]: read, or set, a byte of the host's network state
state_byte() {
	local file
	file=$(in_host sh -c 'echo /run/fvm/net-*')
	if [ $# = 1 ]; then
		in_host od -An -tu1 -j "$1" -N 1 "$file" | tr -d ' '
	else
		# shellcheck disable=SC2059
		printf "\\$(printf %o "$2")" | in_host dd of="$file" bs=1 seek="$1" conv=notrunc status=none
	fi
}
keeper_pid() { in_host sh -c 'od -An -td4 -j 24 -N 4 /run/fvm/net-*' | tr -d ' '; }

@test "upgraded while VMs run: new ones get a network, old ones keep theirs" {
	local first rules
	serve_all in_outside 80 198.51.100.1
	# another version, by its name, and one whose rules differ, by what it leaves
	mkdir -p "$E2E/other/bin" "$E2E/other/libexec"
	cp -r "$E2E_STAGE/libexec/fvm" "$E2E/other/libexec/"
	sed 's/0\.1\.0/9.8.7/g' "$E2E_STAGE/bin/fvm" >"$E2E/other/bin/fvm" && chmod 755 "$E2E/other/bin/fvm"
	equal "$("$E2E/other/bin/fvm" version)" "fvm 9.8.7"
	in_host "$E2E/other/bin/fvm" -q run -d --name old -p 8081:80 -- sleep 600
	fvm_host run -d --name new -- sleep 600
	each 0 fvm_host exec old <<<"198.51.100.1 80"
	each 0 fvm_host exec new <<<"198.51.100.1 80"
	fvm_host rm --force new

	# older rules: made anew for all, and the older keeper leaves
	first=$(keeper_pid)
	rules=$(state_byte 7)
	state_byte 7 0
	fvm_host run -d --name new -p 8082:80 -- sleep 600
	equal "$(state_byte 7)" "$rules"
	each 0 fvm_host exec old <<<"198.51.100.1 80"
	each 0 fvm_host exec new <<<"198.51.100.1 80"
	serve_in old tcp 0.0.0.0 80
	in_host_soon "$E2E/hostile_net" reach tcp 198.51.100.2 8081
	[ "$(keeper_pid)" != "$first" ]
	gone() { [ ! -e "/proc/$first" ]; }
	wait_until 30 gone

	# newer rules: used, and left alone
	state_byte 7 200
	first=$(keeper_pid)
	fvm_host run -d --name third -p 8083:80 -- sleep 600
	equal "$(state_byte 7) $(keeper_pid)" "200 $first"
	each 0 fvm_host exec third <<<"198.51.100.1 80"
	serve_in third tcp 0.0.0.0 80
	in_host_soon "$E2E/hostile_net" reach tcp 198.51.100.2 8083
	fvm_host rm --force third

	# another format: refused, and nobody's network is touched
	state_byte 6 99
	expect 125 fvm_host run --rm -- true
	says "in another form"
	expect 0 fvm_host run --rm --net none -- true
	each 0 fvm_host exec old <<<"198.51.100.1 80"
	state_byte 6 3
	fvm_host rm --force new
	each 0 fvm_host exec old <<<"198.51.100.1 80"

	# .. unless nobody uses it any more: what was left by all of them being killed
	state_byte 6 99
	kill -KILL "$(keeper_pid)" 2>/dev/null || :
	fvm_host rm --force old
	no_table() { ! in_host nft list table inet fvm >/dev/null 2>&1; }
	wait_until 30 no_table
	fvm_host run -d --name new -- sleep 600
	each 0 fvm_host exec new <<<"198.51.100.1 80"
	equal "$(state_byte 6)" 3
	fvm_host rm --force new
	# that forwarding was off before went with the old state
	in_host sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
}

@test "beside iptables rules as docker makes them" {
	needs_command iptables-nft iptables-nft-restore
	in_host sh -ec 'iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP
		iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER
		iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
		iptables-nft-save' | grep -v '^#' >"$E2E/theirs"
	beside
	in_host iptables-nft-restore <"$E2E/theirs"
	beside_after_reload
	same() { diff <(grep -o '^[^[]*' "$E2E/theirs") <(in_host iptables-nft-save | grep -v '^#' | grep -o '^[^[]*'); }
	wait_until 30 same
	in_host nft flush ruleset
}

@test "beside rules of iptables-legacy, which nftables does not see" {
	needs_command iptables-legacy iptables-legacy-restore ip6tables-legacy
	in_host iptables-legacy -P FORWARD DROP 2>/dev/null || skip "needs a kernel with iptables-legacy"
	in_host sh -ec 'ip6tables-legacy -P FORWARD DROP; ip6tables-legacy -N THEIRS
		ip6tables-legacy -A FORWARD -j THEIRS
		iptables-legacy -N DOCKER-USER; iptables-legacy -A FORWARD -j DOCKER-USER
		iptables-legacy -A DOCKER-USER -j RETURN; iptables-legacy -A INPUT -j DOCKER-USER
		iptables-legacy -A FORWARD -i none+ -g DOCKER-USER
		iptables-legacy-save; ip6tables-legacy-save' | grep -v '^#' >"$E2E/theirs"
	beside
	in_host sh -c 'iptables-legacy-save | iptables-legacy-restore; iptables-legacy -I FORWARD -i none0 -j DROP
		iptables-legacy -D FORWARD 2; iptables-legacy -D FORWARD 2'
	beside_after_reload
	in_host iptables-legacy -D FORWARD -i none0 -j DROP
	same() { diff <(grep -o '^[^[]*' "$E2E/theirs") <(in_host sh -c 'iptables-legacy-save; ip6tables-legacy-save' | grep -v '^#' | grep -o '^[^[]*'); }
	wait_until 30 same
	in_host sh -c 'for i in iptables ip6tables; do $i-legacy -P FORWARD ACCEPT; $i-legacy -F; $i-legacy -X; done'
}

@test "beside ufw" {
	needs_command ufw
	in_host sh -ec 'sed -i "s/^IPV6=.*/IPV6=yes/" /etc/default/ufw; ufw --force enable' || skip "ufw can not be enabled here"
	in_host ufw allow 22/tcp
	beside
	in_host ufw reload
	beside_after_reload
	without() { ! in_host nft list ruleset | grep -q 'fvm'; }
	wait_until 30 without
	in_host ufw status | grep -q '22/tcp'
	in_host ufw --force disable
	in_host nft flush ruleset
	in_host sysctl -qw net.ipv4.ip_forward=0
}

@test "beside firewalld" {
	needs_command dbus-daemon /usr/bin/python3 dpkg-deb
	needs_packages
	# not installed: that would start it on this machine
	local at=$E2E/firewalld
	(cd "$E2E" && apt-get -q download firewalld && dpkg-deb -x firewalld_*.deb "$at") >/dev/null 2>&1 ||
		skip "needs the package firewalld"
	firewall_cmd() { in_host /usr/bin/python3 "$at/usr/bin/firewall-cmd" -q "$@"; }
	# a bus that starts nothing by itself
	cat >"$E2E/bus.conf" <<-END
		<busconfig><listen>unix:path=/run/dbus/system_bus_socket</listen><policy context="default">
		<allow own="*"/><allow send_destination="*"/><allow eavesdrop="false" receive_sender="*"/>
		<allow user="*"/></policy></busconfig>
	END
	in_host mkdir -p /run/dbus
	nsenter -t "$HOST" -n -m -- dbus-daemon --config-file="$E2E/bus.conf" --nofork --nopidfile >/dev/null 2>&1 3>&- &
	servers+=($!)
	in_host_soon test -S /run/dbus/system_bus_socket
	nsenter -t "$HOST" -n -m -- /usr/bin/python3 "$at/usr/sbin/firewalld" --nofork --nopid --log-file="$at/log" \
		--default-config="$at/usr/lib/firewalld" --system-config="$at/etc/firewalld" >/dev/null 2>&1 3>&- &
	servers+=($!)
	up() { firewall_cmd --state >/dev/null 2>&1; }
	wait_until 30 up || { tail -n 5 "$at/log" >&2; return 1; }
	firewall_cmd --zone=public --change-interface=up0
	beside
	firewall_cmd --reload
	beside_after_reload
	without() { ! in_host nft list ruleset | grep -q 'fvm'; }
	wait_until 30 without
	kill "${servers[@]}" 2>/dev/null || :
	wait "${servers[@]}" 2>/dev/null || :
	servers=()
	in_host nft flush ruleset
}
