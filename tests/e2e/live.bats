#!/usr/bin/env bats
# Snapshots of running VMs with their programs, and back to them.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() { needs_root; }
teardown() {
	user_vms_remove live
	vms_remove
}

# Its memory and its file count alike; its log says when they do not. It waits while there is "hold".
COUNT='n=0; while :; do [ $n = 0 ] || [ "$(cat ~/n)" = $n ] || echo apart; n=$((n+1)); echo $n >~/n; echo $n
	while [ -e ~/hold ]; do touch ~/held; sleep 0.02; done; sleep 0.02; done'

# counter NAME
counter() {
	fvm run -d --net none --name "$1" sh -c "$COUNT" >/dev/null
	wait_until 30 counts "$1" 3
}

# read just when it is written it may be empty
number() { fvm exec "$1" sh -c 'while ! grep -s . ~/n; do sleep 0.01; done'; }
counts() { [ "$(number "$1")" -ge "$2" ]; }
state() { fvm --json ls | jq -r --arg n "$1" '.[] | select(.name == $n).state'; }
# its log goes on from number to number, and back where the VM was rolled back
in_step() { fvm logs "$1" | awk '/apart/ || $1 > was + 1 { exit 1 } { was = $1 }'; }
programs_of() { find "$FVM_HOME/vms/$1/programs" -type f 2>/dev/null; }

@test "memory and files go back to one instant, as often as one likes" {
	counter one
	fvm exec one touch /root/hold
	wait_until 30 fvm exec one test -e /root/held
	local at i
	at=$(number one)
	fvm exec one sh -c 'echo here >/dev/shm/file'
	fvm snapshot --live one now
	fvm exec one sh -c 'echo later >/root/later; echo later >/dev/shm/file'
	for i in 1 2; do
		fvm exec one rm /root/hold
		wait_until 30 counts one $((at + 20))
		in_step one
		expect 125 fvm rollback one now
		says "is running"
		expect 0 fvm rollback --force one now
		says "go on"
		equal "$(number one)" "$at"
		equal "$(fvm exec one sh -c 'cat /dev/shm/file; ls /root/later 2>/dev/null')" here
	done
	fvm stop one
	expect 0 fvm rollback one now
	equal "$(state one)" running
	equal "$(number one)" "$at"
}

@test "a busy program goes on from the instant, here and there" {
	counter one
	local i at
	for i in 1 2 3; do
		fvm snapshot --live one "s$i"
		at=$(number one)
		wait_until 30 counts one $((at + 5))
	done
	in_step one
	fvm exec one touch /root/later
	for i in 2 1 3; do
		expect 0 fvm rollback --force one "s$i"
		expect 1 fvm exec one test -e /root/later
		wait_until 30 counts one $(($(number one) + 5))
		in_step one
	done
}

@test "a snapshot says whether it has programs, and forgets them" {
	counter one
	fvm snapshot one files
	equal "$(fvm --json snapshot --live one both | jq -r '[.tag, .processes >= 1, .still_ns > 0] | @csv')" '"both",true,true'
	expect 0 fvm snapshot --ls one
	says "with its programs"
	equal "$(fvm --json snapshot --ls one | jq -c 'map([.tag, .programs])')" '[["files",false],["both",true]]'
	expect 125 fvm snapshot --live one both
	says already
	expect 125 fvm snapshot --live --drop one both
	equal "$(programs_of one | wc -l)" 1
	fvm kill one
	expect 125 fvm snapshot --live one dead
	says "not running"
	expect 0 fvm rollback one files
	equal "$(state one)" stopped
	fvm snapshot --drop one both
	equal "$(programs_of one)" ""
	# one that a killed command left
	mkdir -p "$FVM_HOME/vms/one/programs"
	touch "$FVM_HOME/vms/one/programs/left"
	fvm rename one two
	equal "$(programs_of two)" ""
}

@test "a clone has its origin's snapshots with their programs; an image has them without" {
	counter one
	fvm snapshot --live one now
	fvm clone one two
	fvm rm --force one
	expect 0 fvm rollback two now
	wait_until 30 counts two 10
	in_step two
	fvm stop two
	fvm export two "$E2E/two.fvm"
	fvm import "$E2E/two.fvm" three
	rm "$E2E/two.fvm"
	equal "$(fvm --json snapshot --ls three | jq -c 'map([.tag, .programs])')" '[["now",false]]'
	expect 0 fvm rollback three now
	equal "$(state three)" stopped
}

@test "damaged or missing programs are said before anything happens" {
	counter one
	fvm snapshot --live one now
	fvm exec one sh -c 'echo kept >/root/kept'
	local file
	file=$(programs_of one)
	cp "$file" "$E2E/copy"
	printf '\377\376' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") / 2)) conv=notrunc status=none
	expect 125 fvm rollback --force one now
	says damaged
	equal "$(state one)" running
	rm "$file"
	expect 125 fvm rollback --force one now
	says missing
	equal "$(fvm exec one cat /root/kept)" kept
	# of another fvm: as such a one would have named it
	sed '1s/programs [0-9]*/programs 7777/' "$E2E/copy" >"$E2E/newer"
	local name
	name=$(sha256sum "$E2E/newer")
	mkdir -p "$FVM_HOME/vms/one/programs"
	cp "$E2E/newer" "$FVM_HOME/vms/one/programs/${name%% *}"
	sed -i "s/${file##*/}/${name%% *}/" "$FVM_HOME/vms/one/config.json"
	expect 125 fvm rollback --force one now
	says "another format"
	equal "$(fvm exec one cat /root/kept)" kept
	in_step one
	fvm snapshot --drop one now
	rm "$E2E/copy" "$E2E/newer"
}

# unfit NAME TAG: programs whose digest is right, but which can't be made again
unfit() {
	local file name
	file=$(programs_of "$1")
	head -c $(($(stat -c %s "$file") / 2)) "$file" >"$E2E/unfit"
	name=$(sha256sum "$E2E/unfit")
	mv "$E2E/unfit" "${file%/*}/${name%% *}"
	sed -i "s/${file##*/}/${name%% *}/" "$FVM_HOME/vms/$1/config.json"
}

@test "programs that can't be made again leave the VM with all that it had" {
	counter one
	fvm snapshot --live one now
	fvm exec one sh -c 'echo kept >/root/kept'
	unfit one
	fvm kill one
	expect 125 fvm rollback one now
	says "as it was before"
	equal "$(state one)" stopped
	equal "$(in_vm one cat /root/kept)" kept
	[ ! -e "$FVM_HOME/vms/one/before" ]
	expect 0 fvm snapshot --ls one
	says "with its programs"
}

@test "a rollback that is killed happens wholly or not at all" {
	use_faults
	counter one
	fvm snapshot --live one now
	fvm exec one sh -c 'echo kept >/root/kept'
	fvm kill one
	local point
	for point in rollback.aside rollback.workspace restore.go; do
		FVM_FAULT=$point:1:stop fvm rollback one now 3>&- &
		wait_until 30 stands_still
		kill -KILL "$still"
		wait $! || :
		# the next command finds a VM that stands as it did
		wait_until 30 fvm -q rename one one2
		fvm -q rename one2 one
		equal "$(state one)" stopped
		equal "$(in_vm one cat /root/kept)" kept
		[ ! -e "$FVM_HOME/vms/one/before" ]
	done
	for point in rollback.aside rollback.workspace restore.go; do
		FVM_FAULT=$point:1:eio expect 125 fvm rollback one now
		equal "$(in_vm one cat /root/kept)" kept
	done
	expect 0 fvm rollback one now
	wait_until 30 counts one 10
	expect 1 fvm exec one test -e /root/kept
}

@test "a clone or restore that is killed before its programs go leaves no VM" {
	use_faults
	counter one
	fvm -q checkpoint --leave-running one "$E2E/unfinished"
	local point
	for point in unfinished.mark restore.begin restore.go unfinished.clear; do
		FVM_FAULT=$point:1:stop fvm clone --live one two 3>&- &
		wait_until 30 stands_still
		[ "$(fvm ls --names | xargs)" = "one two" ] # its maker lives
		kill -KILL "$still"
		wait $! || :
		wait_until 30 only_one
		FVM_FAULT=$point:1:stop fvm restore "$E2E/unfinished" two 3>&- &
		wait_until 30 stands_still
		kill -KILL "$still"
		wait $! || :
		wait_until 30 only_one
	done
	for point in unfinished.mark restore.begin restore.go unfinished.clear; do
		FVM_FAULT=$point:1:eio expect 125 fvm clone --live one two
		only_one
	done
	expect 0 fvm clone --live one two
	wait_until 30 counts two "$(($(number one) + 3))"
	[ ! -e "$FVM_HOME/run/vms/two/unfinished" ]
}
only_one() { [ "$(fvm ls --names)" = one ]; }

@test "an ordinary user's programs come back, too" {
	needs_user live
	user() { as_user live fvm "$@"; }
	user_number() { user exec one sh -c 'while ! grep -s . /var/tmp/n; do sleep 0.01; done'; }
	user_counts() { [ "$(user_number)" -ge "$1" ]; }
	local option at
	for option in --user=fvmt-live --root; do
		user run -d --net none --name one "$option" -- sh -c "HOME=/var/tmp; $COUNT" >/dev/null
		wait_until 30 user_counts 3
		expect 0 user snapshot --live one now
		at=$(user_number)
		wait_until 30 user_counts $((at + 5))
		user exec one touch /var/tmp/later
		expect 125 user rollback one now
		says "is running"
		expect 0 user rollback --force one now
		expect 1 user exec one test -e /var/tmp/later
		wait_until 30 user_counts $((at + 5))
		user logs one | awk '/apart/ || $1 > was + 1 { exit 1 } { was = $1 }'
		user -q rm --force one
	done
}
