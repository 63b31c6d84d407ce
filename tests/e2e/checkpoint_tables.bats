#!/usr/bin/env bats
# Tables of nftables that were made in a VM go with its programs: the same for nft, three hops on.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() {
	needs_root
	needs_command nft
	FILE=$E2E/vm.fvm
}
teardown() {
	vms_remove
	rm -f "$FILE"
}

# A table has a number that counts all of the network's, and elements have an age.
ruleset() {
	fvm exec "$1" nft -j list ruleset |
		jq -S '(.nftables[] | select(.table) | .table) |= del(.handle) | del(.. | .expires?)'
}

hops() {
	local n before
	before=$(ruleset at0)
	for n in 1 2 3; do
		fvm checkpoint "at$((n - 1))" "$FILE"
		fvm rm "at$((n - 1))"
		fvm restore "$FILE" "at$n" >/dev/null
		rm "$FILE"
	done
	equal "$(ruleset at3)" "$before"
}

@test "tables, chains, sets, maps, objects and rules, in their order and with what they counted" {
	fvm run -d --net none --name at0 sleep 1000 >/dev/null
	fvm exec at0 nft -f - <<-'RULES'
	table inet filter {
		counter hits { packets 7 bytes 700; }
		quota much { over 25 mbytes used 3 kbytes; }
		set ports { type inet_service; flags interval; auto-merge; elements = { 22, 80-90, 100-200, 201-300, 60000-65535 } }
		set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16, 1.2.3.4-1.2.3.9 } }
		set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 1-5, 1.1.1.1 . 80 } }
		set seen { type ipv4_addr; flags dynamic,timeout; timeout 1h; size 100; elements = { 9.9.9.9 } }
		map to { type inet_service : verdict; elements = { 80 : jump web, 443 : drop } }
		map names { type ifname : mark; elements = { "lo" : 0x5, "eth0" : 6 } }
		chain web { counter packets 5 bytes 55 accept; }
		chain last { }
		chain input {
			type filter hook input priority filter; policy accept;
			ct state established,related accept
			iifname "lo" counter packets 11 bytes 99 accept comment "own loop"
			tcp dport { 22, 80, 443 } counter accept
			tcp dport vmap @to
			ip saddr @nets tcp dport @ports limit rate 10/second burst 5 packets counter name "hits" accept
			meta l4proto vmap { icmp : accept, udp : jump web }
			meta mark set iifname map @names
			update @seen { ip saddr limit rate 1/second } log prefix "x" group 2
			ip6 saddr fe80::/10 reject with icmpv6 type admin-prohibited
			goto last
		}
	}
	table ip nat {
		chain pre { type nat hook prerouting priority dstnat; policy accept; tcp dport 8080 dnat to 10.0.0.2:80; }
		chain post { type nat hook postrouting priority srcnat; ip saddr 10.0.0.0/8 masquerade; }
	}
	RULES
	place() { fvm exec at0 nft -a list chain inet filter input | sed -n "s/.*$1 # handle //p"; }
	fvm exec at0 nft insert rule inet filter input tcp dport 1 accept
	fvm exec at0 nft add rule inet filter input handle "$(place 'vmap @to')" tcp dport 2 accept
	fvm exec at0 nft insert rule inet filter input handle "$(place 'goto last')" tcp dport 3 accept
	fvm exec at0 nft delete rule inet filter input handle "$(place 'dport 2 accept')"
	fvm exec at0 nft add element inet filter to '{ 99 : goto last }'
	hops
	# and they are in force: what went by is counted
	fvm exec at3 bash -c 'echo x >/dev/udp/127.0.0.1/9'
	fvm exec at3 nft list chain inet filter input | grep 'own loop' | grep -v 'packets 11 '
}

@test "beside the VM's own network, and in a clone" {
	fvm run -d --name at0 sleep 1000 >/dev/null
	fvm exec at0 nft 'add table ip own { chain in { type filter hook input priority 5; policy drop; iif lo accept; ct state established accept; }; }'
	fvm clone --live at0 at3
	equal "$(ruleset at3)" "$(ruleset at0)"
	fvm rm --force at3
	hops
}

@test "what can't be said again is refused by name" {
	fvm run -d --net none --name at0 sleep 1000 >/dev/null
	fvm exec at0 nft 'add table inet own { chain in { tcp dport 1 jump { accept; }; }; }'
	expect 125 fvm checkpoint --check at0
	says "nftables' table own, with a chain that has no name"
	expect 125 fvm checkpoint at0 "$FILE"
	says "nftables' table own"
	fvm exec at0 true
}
