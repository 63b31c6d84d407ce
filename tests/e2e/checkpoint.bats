#!/usr/bin/env bats
# Running VMs into a file and out of it: checkpoint and restore.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() { FILE=$E2E/vm.fvm; }
teardown() {
	tmux -S "$E2E/tmux" kill-server 2>/dev/null || :
	vms_remove
	rm -f "$E2E"/*.fvm
}

# counter NAME: a VM whose program counts in its log
counter() {
	needs_root
	fvm run -d --net none --name "$1" \
		sh -c 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done' >/dev/null
	wait_until 30 counts "$1" 3
}

last() { fvm logs "$1" | tail -n 1; }
counts() { [ "$(last "$1")" -ge "$2" ]; }

# in_order NAME: every line of its log is one more than the line before
in_order() { fvm logs "$1" | awk 'NR > 1 && $1 != was + 1 { exit 1 } { was = $1 }'; }

counting() { fvm --json ps "$1" | jq -r '.[] | select(.command | startswith("sh -c n=0")).pid'; }

@test "a program goes on where it was, with its number, its output and its files" {
	counter one
	fvm exec one sh -c 'echo here >/dev/shm/file; mkfifo /run/pipe; ln -s file /dev/shm/link;
		ln /dev/shm/file /dev/shm/twin; echo kept >/root/file'
	local before
	before=$(counting one)
	fvm checkpoint one "$FILE"
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
	local at
	at=$(last one)
	equal "$(fvm restore "$FILE" two)" two
	equal "$(counting two)" "$before"
	wait_until 30 counts two $((at + 5))
	in_order two
	fvm exec two sh -c '[ "$(cat /dev/shm/link)" = here ] && [ -p /run/pipe ] &&
		[ /dev/shm/file -ef /dev/shm/twin ] && [ "$(cat /root/file)" = kept ]'
}

@test "a service that closed its output after its first words goes on" {
	fvm run -d --net none --name one sh -c 'echo words; exec >/dev/null 2>&1
		n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; sleep 0.05; done' >/dev/null
	wait_until 30 fvm exec one test -s /tmp/n
	fvm checkpoint one "$FILE"
	equal "$(fvm restore "$FILE" two)" two
	local at
	at=$(fvm exec two cat /tmp/n)
	wait_until 30 fvm exec two sh -c "[ \"\$(cat /tmp/n)\" -gt $((at + 3)) ]"
}

@test "what was built a moment ago goes on, also in a VM with a layer of its own" {
	needs_root
	fvm run --keep --net none --name base sh -c 'cp /bin/sleep /root/built; touch /root/now' >/dev/null
	fvm clone base one
	fvm run -d --net none --name one /root/built 1000 >/dev/null
	local before
	before=$(fvm exec one stat -c %y /root/now)
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	fvm --json ps two | jq -e '.[] | select(.command == "/root/built 1000")'
	equal "$(fvm exec two stat -c %y /root/now)" "$before"
}

@test "a VM that was run for a command ends with it, restored too" {
	needs_root
	fvm run -d --net none --name one sh -c 'while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5' >/dev/null
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	fvm exec two touch /tmp/end
	expect 5 fvm wait two
}

@test "a shell with its jobs works on at its terminal" {
	needs_root
	needs_command tmux
	screen() { tmux -S "$E2E/tmux" "$@"; }
	shows() { screen capture-pane -p | grep -qF -- "$1"; }
	screen -f /dev/null new-session -d -x 80 -y 24 "fvm run --net none --name one sh -c 'PS1=ready: exec bash --norc'; sleep 100"
	wait_until 30 shows ready:
	screen send-keys 'x=forty; sleep 1000 &' Enter 'cat' Enter
	sleep 0.5
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	screen new-window "fvm attach two; sleep 100"
	wait_until 30 shows forty
	screen send-keys 'typed' Enter
	wait_until 30 shows typed
	screen send-keys C-c
	screen send-keys 'echo $x-two; jobs; tty; stty size' Enter
	wait_until 30 shows forty-two
	wait_until 30 shows 'Running'
	wait_until 30 shows /dev/pts/0
	wait_until 30 shows '24 80'
	screen send-keys 'sleep 77' Enter
	runs() { fvm ps two | grep -q 'sleep 77'; }
	wait_until 30 runs
	screen send-keys C-z
	wait_until 30 shows 'Stopped'
}

@test "left running, a program goes on in both" {
	counter one
	fvm checkpoint --leave-running one "$FILE"
	local at
	at=$(last one)
	fvm restore "$FILE" two
	wait_until 30 counts one $((at + 5))
	wait_until 30 counts two $((at + 5))
	in_order one
	in_order two
}

@test "who watches directories of several layers is told of them after two hops, too" {
	needs_root
	fvm create --net none one
	fvm start one
	fvm exec one touch /etc/fvm-first /root/first
	fvm exec --detach one perl -e '
		my $fd = syscall(294, 0); my $w = 0;
		for my $d ("/etc", "/root", "/usr", "/var") { my $s = $d; $w += syscall(254, $fd, $s, 0x100) > 0 }
		open my $f, "<&=", $fd; $| = 1; open my $o, ">", "/run/told"; $o->autoflush; print $o "$w\n";
		while (sysread $f, my $b, 4096) { print $o unpack("x16 Z*", $b), "\n" }'
	wait_until 30 fvm exec one grep -q 4 /run/told
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	fvm exec two touch /etc/fvm-second
	wait_until 30 fvm exec two grep -q fvm-second /run/told
	rm "$FILE"
	fvm checkpoint two "$FILE"
	fvm restore "$FILE" three
	fvm exec three touch /etc/fvm-third
	wait_until 30 fvm exec three grep -q fvm-third /run/told
}

@test "what runs can be asked for before, and nothing happens to it" {
	counter one
	expect 0 fvm checkpoint --check one
	equal "$(fvm --json checkpoint --check one | jq .can)" true
	in_order one
	fvm pause one
	expect 125 fvm checkpoint --check one
	says "fvm resume one"
	fvm resume one
	fvm kill one
	expect 125 fvm checkpoint one "$FILE"
	says "not running"
	expect 125 fvm checkpoint one
	says "FILE is missing"
}

@test "what can't be captured is named, and goes on" {
	counter one
	mkfifo "$E2E/host"
	# a pipe of the host's, whose other end nobody will have
	fvm exec one sh -c 'read x' <>"$E2E/host" &
	local client=$!
	wait_until 30 sh -c 'fvm --json ps one | grep -q "read x"'
	expect 125 fvm checkpoint one "$FILE"
	says "descriptor 0"
	[ ! -e "$FILE" ]
	local at
	at=$(last one)
	wait_until 30 counts one $((at + 5))
	in_order one
	kill "$client"
	wait "$client" || :
}

@test "names and parameters that were set inside come back" {
	needs_root
	fvm run -d --net none --name one sh -c 'hostname harbour; domainname of.sea
		echo 17 >/proc/sys/net/ipv4/ip_default_ttl; echo 1 >/proc/sys/net/ipv4/ip_forward
		touch /tmp/done; exec sleep 1000' >/dev/null
	wait_until 30 fvm exec one test -e /tmp/done
	local asked='hostname; domainname; cd /proc/sys/net/ipv4; cat ip_default_ttl ip_forward'
	fvm clone --live one three
	equal "$(fvm exec three sh -c "$asked" | paste -sd ' ')" "harbour of.sea 17 1"
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	equal "$(fvm exec two sh -c "$asked" | paste -sd ' ')" "harbour of.sea 17 1"
}

@test "a network that was set up inside comes back, beside the VM's own" {
	needs_root
	needs_command ip
	fvm run -d --name one sh -c 'ip link add in1 type veth peer name in2 && ip addr add 10.7.0.1/24 dev in1 &&
		ip link set in1 up && ip link set in2 up && ip route add 10.8.0.0/16 via 10.7.0.9 &&
		ip rule add from 10.7.0.0/24 lookup 77 pref 100 && ip route add default via 10.7.0.9 table 77 &&
		touch /tmp/done; exec sleep 1000' >/dev/null
	wait_until 30 fvm exec one test -e /tmp/done
	fvm clone --live one three
	local vm
	for vm in one three; do
		fvm exec "$vm" ip -br addr show dev in1 | grep -q 10.7.0.1/24
		fvm exec "$vm" ip route | grep -q '^10.8.0.0/16 via 10.7.0.9 dev in1'
		fvm exec "$vm" ip rule | grep -q '^100:.*10.7.0.0/24 lookup 77'
		fvm exec "$vm" ip route show table 77 | grep -q '^default via 10.7.0.9'
		# its own address, not the other's
		fvm exec "$vm" ip -br addr show dev eth0 |
			grep -q "$(fvm --json inspect "$vm" | jq -r .address)/32"
		fvm exec "$vm" ip route | grep -q '^default .* dev eth0'
	done
}

# refuses WORD COMMAND: what the command does in a VM is named, and the VM runs on
refuses() {
	fvm run -d --net none --name one sh -c "$2; touch /tmp/done; exec sleep 1000" >/dev/null
	wait_until 30 fvm exec one test -e /tmp/done
	expect 125 fvm checkpoint --check one
	says "$1"
	expect 125 fvm checkpoint one "$FILE"
	says "$1"
	equal "$(fvm --json ls | jq -r '.[0].state')" running
	fvm rm --force one
}

@test "namespaces of programs' own that can't be made again are refused by name" {
	needs_root
	refuses "PID 1 of a namespace" 'unshare -pf sleep 1000 & sleep 0.3'
}

@test "a damaged file is refused, and nothing of it is left" {
	counter one
	fvm checkpoint one "$FILE"
	local size
	size=$(stat -c %s "$FILE")
	head -c $((size - 100000)) "$FILE" >"$E2E/short.fvm"
	expect 125 fvm restore "$E2E/short.fvm" two
	says damaged
	cp "$FILE" "$E2E/flip.fvm"
	# in the middle are the programs' bytes
	printf '\377\376' | dd of="$E2E/flip.fvm" bs=1 seek=$((size / 2)) conv=notrunc status=none
	expect 125 fvm restore "$E2E/flip.fvm" two
	says damaged
	expect 125 fvm restore "$FILE" one
	says already
	fvm export one "$E2E/plain.fvm"
	expect 125 fvm restore "$E2E/plain.fvm" two
	says "no programs"
	equal "$(fvm --json ls | jq length)" 1
}

@test "a checkpoint is an image that import reads, too" {
	counter one
	fvm exec one sh -c 'echo kept >/root/file'
	fvm checkpoint one "$FILE"
	fvm import "$FILE" two
	equal "$(fvm run --net none --name two cat /root/file)" kept
}

@test "whoever is killed at a checkpoint leaves the programs as they were" {
	counter one
	local i
	for i in 1 2 3 4 5 6 7 8; do
		fvm checkpoint --leave-running one "$FILE" &
		local pid=$!
		sleep "0.0$((i * 2 % 10))"
		kill -KILL "$pid" 2>/dev/null || :
		wait "$pid" || :
	done
	local at
	at=$(last one)
	wait_until 30 counts one $((at + 5))
	in_order one
	fvm checkpoint one "$FILE"
	fvm restore "$FILE" two
	wait_until 30 counts two $((at + 5))
}

@test "a full disk ends a checkpoint, not the programs" {
	counter one
	mkdir "$E2E/small"
	mount -t tmpfs -o size=100k none "$E2E/small"
	expect 125 fvm checkpoint one "$E2E/small/vm.fvm"
	umount "$E2E/small"
	rmdir "$E2E/small"
	local at
	at=$(last one)
	wait_until 30 counts one $((at + 5))
	in_order one
}

@test "a live clone goes on from the same instant" {
	counter one
	fvm exec one sh -c 'echo kept >/root/file; echo here >/dev/shm/file'
	fvm clone --live one two
	local at
	at=$(last one)
	wait_until 30 counts one $((at + 5))
	wait_until 30 counts two $((at + 5))
	in_order one
	in_order two
	equal "$(fvm exec two cat /root/file /dev/shm/file)" "$(printf 'kept\nhere')"
	expect 125 fvm clone --live one two
	says already
	equal "$(fvm --json ls | jq length)" 2
}

# right NAME COUNT: its program saw nothing wrong, and has told as many rounds since it was restored
right() {
	! fvm logs "$1" | grep wrong &&
		[ "$(fvm logs "$1" | sed -n '/^restored/,$p' | grep -c ^round)" -ge "$2" ]
}
# rounds COUNT: VM one has told as many
rounds() { [ "$(fvm logs one | grep -c ^round)" -ge "$1" ]; }

@test "files that are copied while programs change them are those of the instant" {
	needs_root
	fvm run -d --net none --name one "$E2E_STAGE/tools/lockstep" /root/work 48 >/dev/null
	wait_until 30 rounds 2
	local vm
	for vm in two three; do
		fvm checkpoint --leave-running one "$FILE"
		fvm restore "$FILE" $vm
	done
	fvm clone --live one four
	for vm in two three four; do
		wait_until 30 right $vm 2
	done
	wait_until 30 rounds $(($(fvm logs one | grep -c ^round) + 1))
	equal "$(fvm logs one | grep wrong)" ""
}

@test "what a checkpoint or a clone copied early does not stay" {
	needs_root
	fvm run -d --net none --name one sh -c 'echo kept >/root/file; exec sleep 1000' >/dev/null
	wait_until 30 fvm exec one test -s /root/file
	fvm checkpoint --leave-running one "$FILE"
	fvm clone --live one two
	equal "$(fvm exec two cat /root/file)" kept
	equal "$(find "$FVM_HOME/tmp" -mindepth 1)" ""
	# nothing was there to be copied
	fvm run -d --net none --name three sleep 1000 >/dev/null
	fvm clone --live three four
	fvm checkpoint --leave-running four "$FILE"
}
