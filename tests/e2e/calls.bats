#!/usr/bin/env bats
# What running programs call, as they do: trace --calls.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

# Counts in a file, and says how it ended; waits for no signal that is not its own.
LOOP='trap "echo hurt >>/tmp/hurt" INT TERM HUP
	i=0; while [ ! -e /tmp/end ]; do
		i=$((i + 1)); echo $i >/tmp/count
		cat /etc/hostname "$(printf "/nowhere/\033[31m")" >/dev/null 2>&1; sleep 0.02
	done'

# loops NAME: a VM of the caller's where that runs
loops() {
	fvm run -d --net none --root --name "$1" bash -c "$LOOP" >/dev/null
	wait_until 30 counts_on "$1" 0
}

# traced FILE ARG..: trace --calls ARG.. into FILE, until it has lines
traced() {
	local file=$1
	shift
	fvm trace --calls "$@" >"$file" 3>&- &
	TRACER=$!
	wait_until 30 test -s "$file"
}
stop_trace() { kill -INT "$TRACER" && wait "$TRACER"; }
has_told() { grep -qE -- "$2" "$1"; }

# goes_on NAME: its count grows, nothing hurt it
goes_on() {
	wait_until 30 counts_on "$1" 0
	wait_until 30 counts_on "$1" "$COUNT"
	expect 1 fvm exec "$1" test -e /tmp/hurt
}
# it may be just about to write it
counts_on() { COUNT=$(fvm exec "$1" cat /tmp/count) && [ "${COUNT:-0}" -gt "$2" ]; }

# of whoever calls it
shows_calls() {
	loops one
	traced "$E2E/lines" one
	wait_until 30 has_told "$E2E/lines" 'execve\("/[a-z/]*bin/cat", \["cat", "/etc/hostname", '
	wait_until 30 has_told "$E2E/lines" 'openat\(AT_FDCWD, "/etc/hostname", O_RDONLY\) = 3 <0'
	wait_until 30 has_told "$E2E/lines" 'read\(3</etc/hostname>, ".*\\n", [0-9]*\) = [0-9]* <0'
	wait_until 30 has_told "$E2E/lines" 'openat\(AT_FDCWD, "/nowhere/\\033\[31m", .*= -1 ENOENT'
	wait_until 30 has_told "$E2E/lines" 'exit_group\(1\) = \?'
	stop_trace
	fails grep -q "$(printf '\033')" "$E2E/lines"
	goes_on one

	# killed, too, again and again
	for _ in 1 2 3; do
		traced "$E2E/lines" one
		kill -KILL "$TRACER"
		fails wait "$TRACER"
	done
	goes_on one

	# by name, and as JSON: one object a line
	traced "$E2E/some" --json -e openat,execve one
	wait_until 30 has_told "$E2E/some" '"call":"execve"'
	stop_trace
	equal "$(jq -r .call "$E2E/some" | sort -u | xargs)" "execve openat"
	jq -es 'all(.bits == 64 and .pid > 1 and .host_pid > .pid and .took > 0)' "$E2E/some"
	jq -es 'any(.error == "ENOENT" and .result == null)' "$E2E/some"

	# counted, into a file
	fvm trace --calls -c -o "$E2E/counts" one 3>&- &
	TRACER=$!
	is_tracing() { grep -qsx "TracerPid:[[:space:]]*$TRACER" /proc/[0-9]*/status; }
	wait_until 30 is_tracing
	wait_until 30 counts_on one 0
	wait_until 30 counts_on one $((COUNT + 2))
	stop_trace
	has_told "$E2E/counts" ' openat$'
	goes_on one
}

@test "calls are told in words, counted, chosen, and their programs go on unharmed" {
	needs_root
	shows_calls
}

@test "in an ordinary user's VM, beside its supervisor" {
	needs_root
	needs_user calls
	# shellcheck disable=SC2317
	fvm() { as_user calls env fvm "$@"; }
	# it asks its supervisor at each round: files of other owners
	LOOP=${LOOP/i=0;/i=0; chmod 0700 \/etc\/cron.d; touch \/usr\/bin\/env;}
	LOOP=${LOOP/sleep 0.02/touch -c \/etc\/passwd; stat \/etc\/shadow >\/dev\/null; sleep 0.02}
	loops one
	fvm trace --calls one >"$E2E/lines" 3>&- &
	TRACER=$!
	wait_until 30 has_told "$E2E/lines" 'execve\("/[a-z/]*bin/cat", \["cat", "/etc/hostname", '
	wait_until 30 has_told "$E2E/lines" 'utimensat\(.* = 0 <'
	fvm exec one touch /tmp/end
	wait "$TRACER" # the VM has ended, and the trace with it
	unset -f fvm
	as_user calls fvm -q rm --force one
}

WAIT='perl -MSocket -e "select(undef, undef, undef, .01) until -e q(/tmp/go);
	socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un(q(/none)));
	exec q(/bin/sh), q(-c), q((exit 4) & wait; exit 5)"'

@test "what is run later is followed, with what it starts; or one process alone" {
	needs_root
	fvm run -d --net none --name one sleep 1000 >/dev/null
	fvm trace --calls -o "$E2E/all" one 3>&- &
	TRACER=$!
	fvm exec one bash -c "$WAIT" >/dev/null 3>&- &
	local asker=$! pid
	wait_until 30 has_told "$E2E/all" '"/tmp/go"'
	pid=$(fvm --json ps one | jq '.[] | select(.command | startswith("perl")).pid')
	stop_trace
	traced "$E2E/one" -e connect,execve,exit_group,newfstatat one "$pid"
	fvm exec one touch /tmp/go
	wait "$asker" || equal $? 5
	wait "$TRACER" # nobody is left
	has_told "$E2E/one" 'connect\(3<unix stream>, "/none", 110\) = -1 ENOENT'
	has_told "$E2E/one" 'execve\("/bin/sh", \["/bin/sh", "-c", "'
	has_told "$E2E/one" 'exit_group\(4\) = \?'
	has_told "$E2E/one" "$pid exit_group\\(5\\) = \\?"
	fails has_told "$E2E/one" nanosleep

	expect 125 fvm trace --calls one 1
	says "process 1 is fvm's own"
	expect 125 fvm trace --calls one 999
	says "no process 999"
	expect 125 fvm trace one 3
	says "add --calls"
	expect 125 fvm trace --calls --op open one
	says "not for --calls"
	expect 125 fvm trace --calls -e opena one
	says "no system call 'opena'"
	says "did you mean open"
}

@test "a checkpoint meanwhile is told who has the programs, and its programs go on" {
	needs_root
	loops one
	traced "$E2E/lines" one
	expect 125 fvm checkpoint --leave-running one "$E2E/file"
	says "is traced by process"
	says "(fvm)"
	says "end that debugger or trace first"
	[ ! -e "$E2E/file" ]
	goes_on one
	stop_trace
	fvm -q checkpoint --leave-running one "$E2E/file"
	goes_on one
}

@test "a stopped VM is not traced, a paused one is named" {
	needs_root
	fvm run -d --net none --name one sleep 1000 >/dev/null
	fvm pause one
	expect 125 fvm trace --calls one
	says "VM 'one' is paused"
	fvm resume one
	fvm kill one
	expect 125 fvm trace --calls one
	says "not running"
}
