#!/usr/bin/env bats
# fvm cp: into a VM, out of it, from one to another, and VMs that would like to write elsewhere.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

start() {
	needs_root
	fvm create --net none "$1" >/dev/null
	fvm start "$1"
}

make_tree() {
	mkdir -p "$E2E/tree/sub"
	echo text >"$E2E/tree/sub/file"
	chmod 0640 "$E2E/tree/sub/file"
	ln -sfn file "$E2E/tree/sub/link"
	head -c 2000000 /dev/urandom >"$E2E/tree/big"
	truncate -s 100M "$E2E/tree/hole"
	touch -d '2020-01-02 03:04:05' "$E2E/tree/sub/file"
}

@test "a tree goes in and comes out the same" {
	start vm
	make_tree
	fvm cp "$E2E/tree" vm:/root/there
	fvm cp vm:/root/there "$E2E/back"
	diff -r --no-dereference "$E2E/tree" "$E2E/back"
	equal "$(stat -c '%a %Y' "$E2E/back/sub/file")" "$(stat -c '%a %Y' "$E2E/tree/sub/file")"
	[ "$(stat -c %b "$E2E/back/hole")" -lt 64 ]
	[ ! -e /root/there ]
	rm -r "$E2E/back"
}

@test "into a directory, as a name, and contents only" {
	start vm
	make_tree
	fvm cp "$E2E/tree/big" vm:/root
	fvm cp "$E2E/tree/big" vm:/root/named
	fvm cp "$E2E/tree/." vm:/root
	expect 0 fvm exec vm ls /root/big /root/named /root/sub/file
	fvm cp vm:/root/named "$E2E/tree/big"
	mkdir "$E2E/dir"
	fvm cp vm:/root/named "$E2E/dir"
	cmp "$E2E/tree/big" "$E2E/dir/named"
	rm -r "$E2E/dir"
}

@test "from one VM to another" {
	start one
	start two
	fvm exec one sh -c 'echo hello >/root/file'
	fvm cp one:/root/file two:/root/other
	equal "$(fvm exec two cat /root/other)" hello
}

@test "with the rights of whom it is done for" {
	start vm
	fvm exec vm sh -c 'echo secret >/root/secret; chmod 600 /root/secret'
	expect 125 fvm cp --user nobody vm:/root/secret "$E2E/secret"
	says "Permission denied"
	[ ! -e "$E2E/secret" ]
	fvm cp --user nobody /etc/hostname vm:/tmp/mine
	equal "$(fvm exec vm stat -c %U /tmp/mine)" nobody
}

@test "mistakes are named, with status 125" {
	fvm -q create --net none named
	expect 125 fvm cp named: .
	says "a path is missing after 'named:'"
	expect 125 fvm cp /etc/passwd named:
	says "named:."
	start vm
	expect 125 fvm cp /etc/hostname /tmp/elsewhere
	says VM:PATH
	expect 125 fvm cp vm:/no-such-file "$E2E"
	says no-such-file
	expect 125 fvm cp "$E2E/no-such-file" vm:/root
	says no-such-file
	expect 125 fvm cp /etc/hostname vm:/no-such-dir/file
	says no-such-dir
	expect 125 fvm cp vm:/etc/hostname /dev/null
	[ -c /dev/null ]
}

@test "nothing a VM sends lands outside of its place, and set-id bits stay there" {
	start vm
	mkdir -p "$E2E/place" "$E2E/outside"
	ln -s ../outside "$E2E/place/link"
	fvm exec vm sh -c 'mkdir -p /root/evil/link; echo x >/root/evil/link/file
		cp /bin/true /root/evil/setuid; chmod 6755 /root/evil/setuid; mkfifo /root/evil/fifo
		mknod /root/evil/null c 1 3 2>/dev/null || :; ln -s /etc/shadow /root/evil/shadow'
	expect 125 fvm cp vm:/root/evil/. "$E2E/place"
	equal "$(ls "$E2E/outside")" ""
	rm "$E2E/place/link"
	expect 0 fvm cp vm:/root/evil/. "$E2E/place"
	says fifo
	equal "$(stat -c %a "$E2E/place/setuid")" 755
	[ -L "$E2E/place/shadow" ]
	[ ! -e "$E2E/place/fifo" ]
	rm -r "$E2E/place" "$E2E/outside"
}

@test "a program that swaps files while they are copied gets nothing of the host" {
	start vm
	fvm exec vm sh -c 'mkdir -p /root/d; seq 800 | while read -r i; do echo $i >/root/d/$i; done'
	fvm exec -d vm sh -c 'while :; do for i in 7 77 777; do
		rm -f /root/d/$i; ln -s /proc/1/root /root/d/$i; rm -f /root/d/$i; mkdir /root/d/$i; rmdir /root/d/$i
		mkfifo /root/d/$i; rm -f /root/d/$i; echo x >/root/d/$i; done; done' >/dev/null
	local i
	for i in 1 2 3; do
		timeout 20 fvm cp vm:/root/d "$E2E/got" 2>/dev/null || :
		[ -z "$(find "$E2E/got" ! -type f ! -type l ! -type d)" ]
		rm -rf "$E2E/got"
	done
}
