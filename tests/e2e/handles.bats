#!/usr/bin/env bats
# What programs hold, and what it is on this host: handles.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

HOLD='exec 5</etc/passwd 6>/tmp/held 7<>/dev/shm/shared 8</etc/hostname
	echo changed >/etc/hostname; ulimit -n 64
	sleep 1000 & exec 5<&-; : >/tmp/ready; wait'

# holder NAME: a VM of the caller's whose shell and its child have these open
holder() { fvm run -d --net none --root --name "$1" bash -c "$HOLD" >/dev/null; }

# held NAME FILTER: what jq makes of its handles
held() { fvm --json handles "$1" | jq -r "$2"; }
ready() { [ "$(held "$1" '[.[] | select(.type == "process" and .name == "sleep")] | length')" = 1 ]; }

looks_right() {
	local shell child
	wait_until 30 ready one
	shell=$(held one '.[] | select(.type == "process" and .name == "bash").pid')
	child=$(held one '.[] | select(.type == "process" and .name == "sleep").pid')
	equal "$(held one ".[] | select(.pid == $child and .type == \"process\").origin.pid")" "$shell"
	# descriptors that were inherited came from the shell; one that it closed is the child's own
	equal "$(held one ".[] | select(.pid == $child and .handle == \"6\").origin.pid")" "$shell"
	equal "$(held one ".[] | select(.pid == $child and .handle == \"5\").origin.pid")" "$child"
	equal "$(held one ".[] | select(.pid == $shell and .handle == \"5\").name")" ""
	# what nobody changed is the host's, the rest is in the VM's layer
	equal "$(held one ".[] | select(.pid == $child and .handle == \"5\").real")" /etc/passwd
	local file
	file=$(held one ".[] | select(.pid == $child and .handle == \"6\").real")
	[ -f "$file" ]
	case $file in */one/workspace/fs/*/held) ;; *) false ;; esac
	case $(held one ".[] | select(.pid == $child and .handle == \"7\").name") in
	'/dev/shm/shared (read, write)') ;; *) false ;; esac
	# maps are there, and processes have their number on the host
	held one ".[] | select(.pid == $child and .type == \"map\").name" | grep -q '/libc'
	local host
	host=$(held one ".[] | select(.pid == $child and .type == \"process\").host_pid")
	equal "$(cat "/proc/$host/comm")" sleep
}

@test "what a program has open is told with its origin, and what it is here" {
	needs_root
	holder one
	looks_right
}

@test "in an ordinary user's VM, too" {
	needs_root
	needs_user handles
	as_user handles fvm run -d --net none --root --name one bash -c "$HOLD" >/dev/null
	# shellcheck disable=SC2317
	fvm() { as_user handles env fvm "$@"; }
	looks_right
	unset -f fvm
	as_user handles fvm -q rm --force one
}

@test "one process, one type, or all; and names that mean harm do none" {
	needs_root
	fvm run -d --net none --name one bash -c \
		'exec 5>"/tmp/$(printf "a\033[31m\n  1 process")"; ipcmk -M 4096 >&5; exec sleep 1000' >/dev/null
	wait_until 30 sh -c 'fvm --json handles --type ipc one | jq -e "length == 1"'
	local pid
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 1000"'
	pid=$(fvm --json ps one | jq '.[] | select(.command == "sleep 1000").pid')
	expect 0 fvm handles one "$pid"
	says 'a\033[31m\n  1 process'
	equal "$(tr -dc '\033' <<<"$output")" ""
	equal "$(fvm --json handles one "$pid" | jq -r '[.[].pid] | unique | .[]')" "$pid"
	equal "$(fvm --json handles --type map --type process one "$pid" | jq -r '[.[].type] | unique | join(" ")')" "map process"
	expect 125 fvm handles one 4000000
	says "no process 4000000"
	expect 125 fvm handles one x
	says "no number"
	expect 125 fvm handles --type nothing one
	says "no type"
	fvm kill one
	expect 125 fvm handles one
	says "not running"
}
