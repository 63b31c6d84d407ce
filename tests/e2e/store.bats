# The store: snapshots of running VMs, commands killed, full disks, damaged files.
load helper

setup() { needs_root; }

teardown() {
	rm -f "$E2E/small/filler"
	vms_remove
	if mountpoint -q "$E2E/small"; then umount "$E2E/small"; fi
}

# A running VM "a" with one of everything below /opt/d, counting in /opt/count.
busy_vm() {
	fvm -q run --net none -d --name a -- sh -c 'mkdir -p /opt/d; echo one >/opt/d/f
		ln /opt/d/f /opt/d/hard; ln -s f /opt/d/sym; mkfifo /opt/d/fifo; chown 12:34 /opt/d/f
		chmod 4755 /opt/d/f; truncate -s 8M /opt/d/sparse; mkdir -m 2775 /opt/d/group
		setfattr -n user.note -v hi /opt/d/hard; rm /etc/hostname; rm -r /etc/apt; mkdir /etc/apt
		perl -MSocket -e "socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(q(/opt/d/sock)))"
		touch -d 2001-02-03T04:05:06Z /opt/d/f; touch /opt/ready
		while :; do echo x >>/opt/count; sleep 0.02; done' >/dev/null
	wait_until 30 fvm exec a -- test -e /opt/count
}

look='cd /opt/d && stat -c "%n %F %u:%g %a %h %s" * | grep -v ^sock; stat -c %Y f; readlink sym
	getfattr --only-values -n user.note hard; test -S sock && echo socket; du -k sparse | cut -f1
	cat f; ls -A /etc/apt; ls /etc/hostname 2>&1 | grep -c "No such"'

count() { fvm exec a -- sh -c 'wc -l </opt/count'; }
counts_above() { [ "$(count)" -gt "$1" ]; }
goes_on() { wait_until 30 counts_above "$(count)"; }

@test "a running VM is tagged and cloned, stands still for a moment, and goes on" {
	busy_vm
	fvm --json snapshot a t >"$E2E/t.json"
	jq -e '.still_ns > 0' "$E2E/t.json"
	expect 0 fvm clone a b
	says "stood still for"
	goes_on
	seen=$(fvm exec a -- sh -c "$look")
	equal "$(in_vm b "$look")" "$seen"
	fvm exec a -- sh -c 'echo two >/opt/d/f; echo later >/opt/later'
	expect 125 fvm rollback a t
	says "fvm stop a"
	fvm stop a
	fvm rollback a t
	equal "$(in_vm a "$look")" "$seen"
	expect 1 in_vm a 'test -e /opt/later'
	fvm diff a | grep -q /opt/d/f
}

@test "a VM that is paused is tagged and stays paused" {
	busy_vm
	fvm pause a
	expect 0 fvm snapshot a t
	equal "$(fvm --json ls | jq -r '.[0].state')" paused
	fvm resume a
	goes_on
}

@test "an ordinary user's running VM is tagged and cloned, with owners and closed files" {
	needs_user store
	as_user store fvm -q run --root --net none -d --name a -- sh -c 'mkdir /opt/d; echo one >/opt/d/f
		chown 12:34 /opt/d/f; ln -s f /opt/d/sym; chown -h 5:6 /opt/d/sym; mkfifo /opt/d/p
		chmod 0 /opt/d/p; mkdir -m 0 /opt/d/closed; cp /bin/true /opt/d/cap; rm /etc/hostname
		setcap cap_net_raw+ep /opt/d/cap; touch /opt/ready; exec sleep 100'
	wait_until 30 as_user store fvm exec a -- test -e /opt/ready
	list='cd /opt/d; stat -c "%n %F %u:%g %a %h" *; getcap cap; cat f; ls /etc/hostname 2>&1 | wc -l'
	as_user store fvm snapshot a t
	as_user store fvm clone a b
	seen=$(as_user store fvm exec --root a -- sh -c "$list")
	equal "$(as_user store fvm -q run --root --net none --name b -- sh -c "$list")" "$seen"
	as_user store fvm exec --root a -- rm -rf /opt/d/f
	as_user store fvm stop a
	as_user store fvm rollback a t
	equal "$(as_user store fvm -q run --root --net none --name a -- sh -c "$list")" "$seen"
}

@test "who kills a snapshot does not leave the VM standing, nor anything in the store" {
	busy_vm
	use_faults
	for point in pause.held:1 layer.copy:3 layer.attributes:5 layer.sync:1 layer.place:1 file.rename:2; do
		for command in "snapshot a t" "clone a b"; do
			# shellcheck disable=SC2086  # words
			FVM_FAULT=$point:kill fvm $command >/dev/null 2>&1 || :
			goes_on
			fvm ls >/dev/null
			if fvm --json ls | jq -e '.[1]' >/dev/null; then fvm rm b; fi
			fvm snapshot --drop a t 2>/dev/null || :
			equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" 0
		done
	done
	# no space: told, and the same
	FVM_FAULT=layer.copy:3:enospc expect 125 fvm snapshot a t
	says "No space left"
	goes_on
	equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" 0
}

nothing_in_trash() { [ -z "$(ls -A "$FVM_HOME/trash")" ]; }

@test "SIGKILL at any moment loses no file" {
	in_vm a 'echo one >/opt/fvm-test'
	for i in $(seq 1 25); do
		fvm snapshot a "t$i" >/dev/null 2>&1 &
		sleep "0.00$((i % 10))"
		kill -KILL $! 2>/dev/null || :
		wait $! 2>/dev/null || :
		timeout --signal=KILL "0.01$((i % 10))" fvm clone a "c$i" >/dev/null 2>&1 || :
		timeout --signal=KILL "0.01$((i % 7))" fvm rm "c$i" >/dev/null 2>&1 || :
	done
	for vm in $(fvm --json ls | jq -r '.[].name'); do
		equal "$(in_vm "$vm" 'cat /opt/fvm-test')" one
	done
	vms_remove
	fvm prune >/dev/null
	wait_until 30 nothing_in_trash
	equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" 0
}

# In a store of 24 MiB on a disk of its own, which is full in the end.
full_store() {
	mkdir -p "$E2E/small"
	mount -t tmpfs -o size=24M,mode=0700 fvm-small "$E2E/small" || skip "needs tmpfs"
	export FVM_HOME=$E2E/small/home
}

@test "a full disk: everything is told, nothing half done, and all is there afterwards" {
	full_store
	in_vm a 'echo one >/opt/fvm-test; head -c 3M /dev/urandom >/opt/noise'
	fvm export a "$E2E/a.tar"
	fvm -q run --net none -d --name r -- sh -c 'head -c 6M /dev/urandom >/opt/big; sleep 100' >/dev/null
	wait_until 30 fvm exec r -- test -s /opt/big
	head -c 64M /dev/zero >"$E2E/small/filler" 2>/dev/null || :
	expect 125 fvm snapshot r t
	says "No space left"
	expect 125 fvm clone r s
	says "No space left"
	expect 125 fvm import "$E2E/a.tar" b
	says "No space left"
	expect 125 fvm create c
	says "No space left"
	expect 125 fvm export a "$E2E/small/x.tar"
	says "No space left"
	fvm exec r -- true
	rm "$E2E/small/filler"
	equal "$(fvm --json ls | jq -r '[.[].name] | join(" ")')" "a r"
	equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" 0
	equal "$(find "$E2E/small" -maxdepth 1 -type f | wc -l)" 0
	equal "$(in_vm a 'cat /opt/fvm-test')" one
	fvm snapshot r t
	fvm -q import "$E2E/a.tar" b
}

@test "every bit of an image counts: one that is flipped is found, or did no harm" {
	in_vm a 'echo one >/opt/fvm-test; head -c 2000 /dev/urandom >/opt/noise'
	fvm export a "$E2E/a.tar"
	seen=$(in_vm a 'sha256sum </opt/noise; cat /opt/fvm-test')
	size=$(stat -c %s "$E2E/a.tar")
	for i in $(seq 1 48); do
		at=$((i * size / 49))
		head -c "$at" "$E2E/a.tar" >"$E2E/bad.tar"
		if [ $((i % 2)) = 0 ]; then
			byte=$(od -An -tu1 -j "$at" -N 1 "$E2E/a.tar")
			# shellcheck disable=SC2059  # that is the byte
			printf "\\$(printf %o $((byte ^ 1 << i % 8)))" >>"$E2E/bad.tar"
			tail -c +$((at + 2)) "$E2E/a.tar" >>"$E2E/bad.tar"
		fi
		if fvm -q import "$E2E/bad.tar" b >/dev/null 2>&1; then
			equal "$(in_vm b 'sha256sum </opt/noise; cat /opt/fvm-test')" "$seen"
			fvm rm b
		fi
	done
	equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 -maxdepth 1)" ""
}

@test "a layer that is gone is told by its name, and the VM can be deleted" {
	in_vm a 'echo one >/opt/fvm-test'
	fvm snapshot a t
	id=$(ls "$FVM_HOME/layers")
	mv "$FVM_HOME/layers/$id" "$E2E/"
	for command in "run --net none --name a -- true" "diff a" "start a" "export a $E2E/no.tar" "clone a b"; do
		# shellcheck disable=SC2086  # words
		expect 125 fvm $command
		says "$id"
	done
	mv "$E2E/$id" "$FVM_HOME/layers/"
	equal "$(in_vm a 'cat /opt/fvm-test')" one
	mv "$FVM_HOME/layers/$id" "$E2E/"
	fvm rm a
	rm -r "${E2E:?}/$id"
}

@test "what was hidden from a VM is not replaced by its commit" {
	mkdir -p "$E2E/hidden"
	echo secret >"$E2E/hidden/file"
	fvm create a --hide "$E2E/hidden"
	fvm -q run --net none --name a -- sh -c \
		"mkdir -p $E2E/hidden; echo mine >$E2E/hidden/file"
	expect 125 fvm commit a "$E2E/hidden"
	says "hidden from the VM"
	equal "$(cat "$E2E/hidden/file")" secret
}

@test "root commits an ordinary user's VM with the owners wished for, and locks nobody out" {
	needs_user store
	mkdir -p "$E2E/target"
	as_user store fvm -q run --keep --root --net none --name a -- sh -c \
		"echo one >$E2E/target/f; chown 12:34 $E2E/target/f; chmod 640 $E2E/target/f"
	home=/home/fvmt-store/.local/share/fvm
	FVM_HOME=$home fvm commit a "$E2E/target"
	equal "$(stat -c '%u:%g %a' "$E2E/target/f")" "12:34 640"
	FVM_HOME=$home fvm undo
	[ ! -e "$E2E/target/f" ]
	# a journal of the user's is not carried out with root's rights
	as_user store sh -c 'mkdir ~/mine; echo one >~/mine/f'
	as_user store fvm -q run --net none --name own -- sh -c "echo two >~/mine/f"
	as_user store fvm -q commit own
	expect 125 env FVM_HOME=$home fvm undo
	says "made by another user"
	as_user store sh -c "sed -i s/kept/applying/ $home/commits/1/state; printf 1 >$home/commits/pending"
	FVM_HOME=$home expect 0 fvm ls
	says "made by another user"
	equal "$(as_user store sh -c 'cat ~/mine/f')" two
	as_user store fvm ls >/dev/null
	equal "$(as_user store sh -c 'cat ~/mine/f')" one
	[ ! -e $home/commits/pending ]
	as_user store fvm rm own
	equal "$(find "$home" -path "$home/run" -prune -o -uid 0 -print)" ""
	as_user store fvm rm a
}

@test "a VM that has lost its configuration is broken, holds up prune, and can be removed" {
	fvm -q create --net none a
	rm "$FVM_HOME/vms/a/config.json"
	equal "$(fvm --json ls | jq -r '.[].state')" broken
	expect 125 fvm prune
	says "fvm rm --force a"
	expect 125 fvm rm a
	says "config.json"
	expect 0 fvm rm --force a
	equal "$(fvm ls -q)" ""
	expect 0 fvm prune
}

nothing_left() {
	[ -z "$(find "$FVM_HOME/trash" "$FVM_HOME/run/ended" -mindepth 1 -print -quit)" ]
}

@test "run --rm answers before all of it is gone, yet its name is free and nothing stays" {
	for i in 1 2 3 4 5 6; do
		expect "$i" fvm -q run --rm --name again --net none -- sh -c "echo $i >/opt/$i; exit $i"
		equal "$(fvm --json ls | jq length)" 0
	done
	# what it left behind is killed with it, and told as before
	expect 0 fvm -q run --rm --name again --net none -- sh -c 'trap "" TERM; sleep 300 & true'
	expect 137 fvm -q run --rm --name again --net none -- sh -c 'kill -9 $$'
	wait_until 30 nothing_left
}

@test "what has changed in a directory with hidden entries is seen by the next VM" {
	mkdir -p "$E2E/seen"
	touch "$E2E/seen/secret"
	for mode in 750 711 1777; do
		chmod "$mode" "$E2E/seen"
		touch "$E2E/seen/$mode"
		equal "$(fvm -q run --rm --hide "$E2E/seen/secret" -- stat -c %a:%Y "$E2E/seen")" \
			"$(stat -c %a:%Y "$E2E/seen")"
		expect 1 fvm -q run --rm --hide "$E2E/seen/secret" -- test -e "$E2E/seen/secret"
	done
}

@test "a store by a relative path is refused" {
	cd "$E2E"
	expect 125 env FVM_HOME=relative fvm ls
	says "absolute"
	[ ! -e relative ]
}

@test "rm refuses while anything is mounted below the VM's directory, and crosses no mount" {
	needs_root
	fvm -q create --net none v
	local below=$FVM_HOME/vms/v/workspace/there
	mkdir -p "$below" "$E2E/precious"
	echo kept >"$E2E/precious/file"
	mount --bind "$E2E/precious" "$below"
	expect 125 fvm rm v
	says "is mounted below the VM's directory"
	says "unmount it first"
	expect 125 fvm rm --force v
	umount "$below"
	equal "$(cat "$E2E/precious/file")" kept
	expect 0 fvm rm v
}

@test "a VM whose PID 1 was killed is stopped, keeps its files, and starts again" {
	needs_root
	fvm -q run -d --net none --name v -- sh -c 'echo kept >/opt/fvm-e2e-kept; echo up; sleep 111'
	wait_until 30 sh -c 'fvm logs v | grep -q up'
	kill -KILL "$(fvm inspect v | jq .init_pid)"
	wait_until 30 sh -c '[ "$(fvm --json ls | jq -r ".[0].state")" = stopped ]'
	expect 125 fvm exec v true
	says "fvm start v"
	expect 137 fvm wait v
	expect 0 fvm logs v
	equal "$output" up
	fvm start v
	equal "$(fvm exec v cat /opt/fvm-e2e-kept)" kept
	# one that is paused, too
	fvm pause v
	kill -KILL "$(fvm inspect v | jq .init_pid)"
	wait_until 30 sh -c '[ "$(fvm --json ls | jq -r ".[0].state")" = stopped ]'
	expect 0 fvm rm v
}
