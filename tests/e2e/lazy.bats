#!/usr/bin/env bats
# Programs that go on before their memory was read: restore --lazy. Where it matters what has come,
# the helper stands still before it reads what nobody has asked for.
# shellcheck disable=SC2016,SC2030,SC2031,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() { FILE=$E2E/vm.fvm; }
teardown() {
	[ -z "${still:-}" ] || kill -CONT "$still" 2>/dev/null || :
	vms_remove
	rm -f "$E2E"/*.fvm
}

# holder NAME MIB: a VM with a program that has so much memory, and says every moment whether all of
# it is as it was. Its start makes children, each of which looks, too.
holder() {
	needs_root
	needs_command python3
	fvm run -d --net none --name "$1" python3 -c '
import hashlib, os, sys, time
memory = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
want = hashlib.sha256(memory).digest()
def look():
    return "whole" if hashlib.sha256(memory).digest() == want else "WRONG"
while True:
    child = os.fork()
    if child == 0:
        os._exit(look() != "whole")
    print(look() if os.waitpid(child, 0)[1] == 0 else "WRONG CHILD", flush=True)
    time.sleep(0.02)
' "$2" >/dev/null
	wait_until 60 says_more "$1" 0
}

lines() { fvm logs "$1" | grep -c whole || :; }
says_more() { [ "$(lines "$1")" -gt "$2" ]; }
never_wrong() { [ "$(fvm logs "$1" | grep -c WRONG)" = 0 ]; }
is_in_state() { [ "$(fvm --json ls | jq -r --arg n "$1" '.[] | select(.name == $n).state')" = "$2" ]; }

# put_away NAME: into FILE; $had: how often it had looked
put_away() {
	fvm checkpoint "$1" "$FILE"
	had=$(lines "$1")
	fvm -q rm "$1"
}

# half_there: FILE goes on as "two", with a helper that stands still ($still)
half_there() {
	FVM_FAULT=lazy.rest:1:${1:-stop} fvm restore --lazy "$FILE" two
	[ -n "${1:-}" ] || wait_until 30 stands_still
}

@test "what goes on before its memory was read has all of it" {
	holder one 32
	put_away one
	equal "$(fvm --json restore --lazy "$FILE" two | jq -c '[.name, .lazy]')" '["two",true]'
	wait_until 60 says_more two $((had + 3))
	never_wrong two
	# and again, as soon as it can be
	fvm checkpoint two "$FILE"
	had=$(lines two)
	fvm restore --lazy "$FILE" three
	wait_until 60 says_more three $((had + 3))
	never_wrong three
}

@test "a checkpoint waits for memory that is still to come" {
	use_faults
	holder one 16
	put_away one
	half_there
	fvm checkpoint --leave-running two "$E2E/again.fvm" 3>&- &
	local waiting=$!
	sleep 0.5
	kill -0 $waiting
	[ ! -e "$E2E/again.fvm" ]
	kill -CONT "$still"
	wait $waiting
	wait_until 60 says_more two "$had"
	fvm restore "$E2E/again.fvm" three
	wait_until 60 says_more three "$had"
	never_wrong two
	never_wrong three
}

@test "paused and resumed in the middle it goes on" {
	use_faults
	holder one 16
	put_away one
	half_there
	fvm pause two
	is_in_state two paused
	kill -CONT "$still"
	fvm resume two
	wait_until 60 says_more two $((had + 2))
	never_wrong two
}

@test "killed in the middle nothing is left of it" {
	use_faults
	holder one 16
	put_away one
	half_there
	fvm kill two
	is_in_state two stopped
	kill -CONT "$still"
	wait_until 30 is_gone "$still"
}
is_gone() { [ ! -e "/proc/$1" ]; }

# The helper may be gone before they go: then restore fails.
@test "programs whose helper is killed are killed, and never read zeros" {
	use_faults
	local how
	for how in kill eio; do
		holder one 16
		put_away one
		half_there $how || :
		wait_until 30 has_ended two
		! fvm -q inspect two >/dev/null 2>&1 || never_wrong two
		fvm -q rm two 2>/dev/null || :
	done
}
has_ended() { ! is_in_state "$1" running; }

@test "an ordinary user is told why not, and has all of it" {
	needs_user lazy
	user_make lazy no-ranges
	as_user lazy fvm run -d --net none --name one sh -c 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done' >/dev/null
	wait_until 30 counted 3
	as_user lazy fvm checkpoint one one.fvm
	as_user lazy fvm -q rm one
	expect 0 as_user lazy fvm restore --lazy one.fvm one
	says "memory can't come late"
	says userfaultfd
	wait_until 30 counted 10
	as_user lazy fvm -q rm --force one
	users_remove
}
counted() { [ "$(as_user lazy fvm logs one | tail -n 1)" -ge "$1" ]; }
