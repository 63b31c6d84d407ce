#!/usr/bin/env bats
# What is seen of a VM's processes from outside, and what is done to them: ps, stats, top, pause,
# resume, kill.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

# start NAME CMD..: a VM with CMD in the background
start() {
	local name=$1
	shift
	needs_root
	fvm run -d --name "$name" --net none -- "$@" >/dev/null
}

@test "ps tells both pids, the VM's user, and the command" {
	start one sh -c 'sleep 111 & exec sleep 222'
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 222"'
	expect 0 fvm --json ps one
	[ "$(jq -r '.[0] | "\(.pid) \(.user) \(.uid)"' <<<"$output")" = '1 root 0' ]
	local host; host=$(jq -r '.[] | select(.command == "sleep 111").host_pid' <<<"$output")
	[ "$(cat "/proc/$host/comm")" = sleep ]
	[ "$(jq -r '.[] | select(.command == "sleep 111").vm' <<<"$output")" = one ]
}

@test "ps tells the VM's pids, also of who is in a namespace below, and nobody else" {
	needs_cgroup pids
	start one unshare --pid --fork sleep 333
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 333"'
	equal "$(fvm --json ps one | jq '.[] | select(.command == "sleep 333").pid')" \
		"$(fvm exec one pgrep -fx "sleep 333")"
	# as helpers of a start do
	sleep 444 3>&- &
	local other=$! group
	group=$(find /sys/fs/cgroup -maxdepth 8 -path "*$(fvm inspect one | jq -r .id)*" \
		-name cgroup.procs -exec grep -lx "$(fvm inspect one | jq .init_pid)" {} + | head -n 1)
	echo "$other" >"$group"
	expect 0 fvm --json ps one
	equal "$(jq -c 'map(.command) | map(select(test("sleep 444")))' <<<"$output")" "[]"
	[ "$(jq length <<<"$output")" -ge 3 ]
	kill "$other"
	wait "$other" || :
}

@test "who runs beside a VM's program hears of the VM's end, asked to be quiet or not" {
	start one sleep 1000
	fvm -q exec one sleep 333 2>"$E2E/said" &
	local client=$!
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 333"'
	fvm -q kill one
	status=0
	wait "$client" || status=$?
	equal "$status" 137
	grep -q "VM 'one' has ended, and the command with it" "$E2E/said"
}

@test "ps names users as the VM does" {
	start one sh -c 'echo "inside:x:4321:4321::/:/bin/sh" >>/etc/passwd
		setpriv --reuid 4321 --regid 4321 --clear-groups sleep 111'
	wait_until 30 sh -c 'fvm ps one | grep -q "^ *[0-9]* *[0-9]* inside .*sleep 111"'
	fails grep -q ^inside: /etc/passwd
}

@test "ps follows no link that a VM put in place of its passwd" {
	start one sh -c 'rm /etc/passwd; ln -s /proc/1/root/etc/shadow /etc/passwd; sleep 111'
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 111"'
	start two sh -c 'rm /etc/passwd; mkfifo /etc/passwd; sleep 111'
	wait_until 30 sh -c 'timeout 3 fvm ps two | grep -q "sleep 111"'
}

@test "names that a program chooses forge no line and reach no terminal" {
	start one bash -c 'exec -a $'"'"'\e[31mred\n  99 1 root S forged'"'"' sleep 111'
	wait_until 30 sh -c 'fvm ps one | grep -q red'
	expect 0 fvm ps one
	[[ $output != *$'\e'* ]]
	fails grep -q '^ *99 ' <<<"$output"
	expect 0 fvm --json ps one
	jq -e . <<<"$output" >/dev/null
}

@test "ps and stats without a name show all that run" {
	start one sleep 111
	start two sleep 111
	expect 0 fvm ps
	says 'one '; says 'two '
	expect 0 fvm --json stats
	equal "$(jq -r '[.[].name] | join(" ")' <<<"$output")" 'one two'
	expect 0 fvm stats
	fails grep -q '.\{81\}' <<<"$output"
}

@test "what does not run is named, with status 125" {
	needs_root
	local command
	fvm create stopped >/dev/null
	for command in ps stats pause resume kill; do
		expect 125 fvm $command stopped
		says "'stopped' is not running"
		expect 125 fvm $command nothing
		says nothing
	done
	expect 125 fvm top stopped
}

@test "one of several that can't be had is told, the others are served, and the status is 125" {
	needs_root
	local command
	state() { fvm --json ls | jq -r ".[] | select(.name == \"$1\") | .state"; }
	# serves COMMAND STATE: both are in it afterwards
	serves() {
		expect 125 fvm "$1" one nothing two
		says "nothing"
		equal "$(state one) $(state two)" "$2 $2"
	}
	fvm -q create --net none one
	fvm -q create --net none two
	serves start running
	for command in ps stats inspect; do
		expect 125 fvm $command one nothing two
		says "nothing"; says one; says two
		equal "$(fvm --json $command one nothing two 2>/dev/null |
			jq -r '[.[] | .name // .vm] | unique | join(" ")')" "one two"
		expect 125 fvm $command nothing
	done
	serves pause paused
	serves resume running
	serves stop stopped
	fvm start one two
	serves kill stopped
	expect 125 fvm wait one nothing two
	equal "$(grep -c '^[0-9]*$' <<<"$output")" 2
	equal "$(fvm --json wait one nothing two 2>/dev/null | jq length)" 2
	serves rm ""
}

@test "stats goes on with those that are left, and ends with the last" {
	start one sleep 111
	start two sleep 111
	fvm --json stats --watch 1 one two >"$E2E/stats" 2>"$E2E/said" &
	local pid=$! status=0
	wait_until 30 test -s "$E2E/stats"
	fvm kill one
	wait_until 30 grep -q "'one' is not running" "$E2E/said"
	fvm kill two
	wait $pid || status=$?
	equal "$status" 125
	equal "$(grep -c "'one'" "$E2E/said") $(grep -c "'two'" "$E2E/said")" "1 1"
}

@test "kill ends a VM at once, whatever its programs think of it" {
	start one sh -c 'trap "" TERM INT HUP; sleep 111 & while :; do sleep 1; done'
	expect 0 timeout 5 fvm kill one
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
	expect 125 fvm kill one
}

@test "kill -s refuses what is no signal" {
	start one sleep 111
	expect 125 fvm kill -s NONSENSE one
	says NONSENSE
	expect 125 fvm kill -s 99 one
	expect 125 fvm kill -s STOP one
	says "fvm pause"
	expect 0 fvm kill -s SIGKILL one
}

@test "kill knows the real-time signals by name" {
	start one bash -c 'trap "touch /root/caught" RTMIN+3; echo up; while :; do sleep 0.1; done'
	wait_until 30 sh -c 'fvm logs one | grep -q up'
	expect 125 fvm kill -s RTMIN+99 one
	expect 125 fvm kill -s RTMINX one
	fvm kill -s SIGRTMIN+3 one
	wait_until 30 fvm exec one test -e /root/caught
}

@test "start, stop, kill, pause, resume and rm --all take those that they are for" {
	needs_root
	states() { equal "$(fvm --json ls | jq -r '[.[].state] | join(" ")')" "$1"; }
	local command
	for command in start stop kill pause resume rm; do
		expect 0 fvm $command --all # nothing is all of nothing
		expect 125 fvm $command
		says "--all"
		expect 125 fvm $command --all one
		says "--all"
	done
	fvm -q create --net none one
	fvm -q create --net none two
	fvm start one
	expect 0 fvm start --all
	states "running running"
	fvm pause two
	expect 0 fvm pause -a
	states "paused paused"
	fvm resume one
	expect 0 fvm resume --all
	states "running running"
	fvm pause one
	expect 0 fvm stop --all
	states "stopped stopped"
	fvm start two
	expect 0 fvm kill --all
	states "stopped stopped"
	expect 0 fvm rm -a
	equal "$(fvm ls)" ""
}

@test "a job that was stopped before a pause by signals is stopped after it" {
	needs_root
	local without='mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
	unshare -m sh -c "$without" - true || skip "needs cgroups mounted in another way"
	unshare -m sh -c "$without" - fvm run -d --name one --net none -- \
		sh -c 'sleep 111 & sleep 0.5; kill -STOP $!; sleep 222' >/dev/null
	wait_until 30 sh -c 'fvm --json ps one | jq -e ".[] | select(.command == \"sleep 111\" and .state == \"T\")"'
	unshare -m sh -c "$without" - fvm pause one
	[ "$(fvm --json ps one | jq -r '[.[].state] | unique | join("")')" = T ]
	unshare -m sh -c "$without" - fvm resume one
	wait_until 30 sh -c 'fvm --json ps one | jq -e ".[] | select(.command == \"sleep 222\" and .state == \"S\")"'
	[ "$(fvm --json ps one | jq -r '.[] | select(.command == "sleep 111").state')" = T ]
}

@test "pausing twice and resuming twice is fine" {
	start one sleep 111
	fvm pause one
	expect 0 fvm pause one
	expect 0 fvm stats one
	says paused
	fvm resume one
	expect 0 fvm resume one
	equal "$(fvm --json ls | jq -r '.[0].state')" running
}

# on_screen ROWS COLUMNS KEYS..: what fvm top writes while the keys are typed, one each second
on_screen() {
	local rows=$1 columns=$2 key
	shift 2
	{
		sleep 1
		for key in "$@"; do printf '%b' "$key"; sleep 1; done
	} | script --quiet --return --command "stty rows $rows cols $columns; fvm top" /dev/null
}

@test "top shows the VMs, the processes of one, and leaves the terminal as it was" {
	start one sleep 111
	expect 0 on_screen 24 80 's' '\r' '\033' 'q'
	says 'NAME'; says 'one '; says 'HOSTPID'; says 'sleep 111'
	[[ $output == *$'\e[?1049l'* ]]
}

@test "top pauses and kills what is chosen, and asks before" {
	start one sleep 111
	expect 0 on_screen 24 80 'p' 'q'
	equal "$(fvm --json ls | jq -r '.[0].state')" paused
	expect 0 on_screen 24 80 'k' 'n' 'q'
	equal "$(fvm --json ls | jq -r '.[0].state')" paused
	expect 0 on_screen 24 80 'k' 'y' 'q'
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
}

@test "top fits a small screen, and refuses to draw where there is none" {
	start one sleep 111
	expect 0 on_screen 6 30 'q'
	expect 125 fvm top
	says 'needs a terminal'
}
