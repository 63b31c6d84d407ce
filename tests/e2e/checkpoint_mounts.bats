#!/usr/bin/env bats
# What programs mounted in their VM goes with them, for three hops; what can't is named before.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() {
	AS=
	needs_root
	cd "$E2E" || return 1
}
teardown() {
	cd /
	vms_remove
	user_vms_remove cpmone cpmmany
	rm -f /home/fvmt-cpm*/*.fvm "$E2E"/*.fvm
}
teardown_file() { users_remove; }

# by CMD..: as who has the VMs: $AS, or root
by() { if [ -n "$AS" ]; then as_user "$AS" "$@"; else "$@"; fi; }

# vm COMMAND: a VM in which COMMAND was done by a program that counts from then on where it is
vm() {
	by fvm run -d --net none --name at0 --root sh -ec "$1
		: >counted; n=0; touch /root/ready
		while :; do n=\$((n+1)); echo \$n >>counted; sleep 0.05; done" >/dev/null
	wait_until 30 by fvm exec --root at0 test -e /root/ready || { by fvm logs at0; return 1; }
}

# mounted VM: all of it that stays the same, by where it is mounted and in which order
mounted() {
	by fvm exec --root "$1" cat /proc/self/mountinfo |
		sed -E 's/ (shared|master):[0-9]+/ \1/g; s/,?\b(uid|gid|uuid|xino)=[0-9a-z]+//g' | awk '
			{ for (i = 7; $i != "-"; i++) words = words " " $i
			  if ($(i + 1) == "cgroup2") $4 = ""
			  if ($(i + 2) == "fvm") $(i + 3) = ""
			  here[$1] = $5; print here[$2], $4, $5, $6, words, $(i + 1), $(i + 2), $(i + 3); words = "" }' |
		sort
}

# hops: three, from at0 to at3, which has all mounts that at0 had
hops() {
	local n before
	before=$(mounted at0)
	for n in 1 2 3; do
		by fvm checkpoint "at$((n - 1))" vm.fvm
		by fvm rm "at$((n - 1))"
		by fvm restore vm.fvm "at$n" >/dev/null
		by rm vm.fvm
	done
	equal "$(mounted at3)" "$before"
}

inside() { by fvm exec --root at3 sh -ec "$1"; }

# counts DIRECTORY: the program goes on there, and has missed nothing
counts() {
	local at
	at=$(inside "tail -n 1 $1/counted")
	wait_until 30 inside "[ \$(tail -n 1 $1/counted) -gt $at ]"
	inside "cat $1/counted" | awk 'NR > 1 && $1 != was + 1 { exit 1 } { was = $1 }'
}

@test "a tmpfs, what lies in it, and who is in there" {
	vm 'mount -t tmpfs -o size=20m,nosuid,nodev,noexec,noatime small /mnt; cd /mnt; mkdir -m 2751 d e
		echo one >d/a; ln d/a d/b; ln -s b d/c; mkfifo -m 640 d/p; chown 7:8 d/a d
		truncate -s 3000000 sparse; printf x >>sparse; head -c 3000000 /dev/urandom >big; sha256sum big >sum
		touch -h -d 2001-02-03T04:05:06.789 d/c; touch -d 2002-03-04T05:06:07.89 d/a d
		printf "%s" "$(seq -s" " 100)" >"$(printf "odd\\n\\377 name")"
		mkdir deleted; exec 5<>deleted/file 6</mnt/d; echo lost >&5; rm deleted/file; mkdir cwd; cd cwd'
	hops
	counts /mnt/cwd
	inside 'cd /mnt; [ d/a -ef d/b ] && [ "$(cat d/c)" = one ] && [ -p d/p ] && sha256sum -c sum
		[ "$(stat -c %a:%u:%g d d/a e d/p | xargs)" = "2751:7:8 644:7:8 2751:0:0 640:0:0" ]
		[ "$(stat -c %y d/c)" = "2001-02-03 04:05:06.789000000 +0000" ]
		[ "$(stat -c %y d)" = "2002-03-04 05:06:07.890000000 +0000" ]
		[ "$(stat -c %s:%b sparse)" = 3000001:8 ]
		[ "$(cat "$(printf "odd\\n\\377 name")")" = "$(seq -s" " 100)" ]
		pid=$(pgrep -o -f "n=.*counted"); [ "$(cat /proc/$pid/fd/5)" = lost ]
		[ "$(readlink /proc/$pid/fd/6)" = /mnt/d ]; [ "$(readlink /proc/$pid/cwd)" = /mnt/cwd ]'
}

@test "directories and files that are bound, with their flags and groups" {
	vm 'mkdir -p /tmp/a/in /tmp/b /tmp/c /tmp/s; echo text >/tmp/a/in/f; touch /tmp/file
		mount --bind /tmp/a /tmp/b; mount --bind /etc/passwd /tmp/file; mount --bind /tmp/a/in/f /tmp/s/../a/in/f
		mount --bind /tmp/a /tmp/c; mount -o remount,bind,ro,nodev,noexec,nosuid /tmp/c
		mount -t tmpfs t /srv; mkdir /srv/x /srv/y; mount --bind /srv/x /srv/y; mount --make-shared /srv/y
		mkdir /tmp/peer /tmp/slave /tmp/both; mount --bind /srv/y /tmp/peer; mount --bind /srv/y /tmp/slave
		mount --make-slave /tmp/slave; mount --bind /tmp/slave /tmp/both; mount --make-shared /tmp/both
		mount --make-unbindable /tmp/b; cd /srv/y'
	hops
	counts /srv/x
	inside '[ "$(cat /tmp/b/in/f /tmp/c/in/f | xargs)" = "text text" ]; ! touch /tmp/c/in/f 2>/dev/null
		cmp /tmp/file /etc/passwd; echo more >>/tmp/b/in/f; [ "$(tail -n 1 /tmp/a/in/f)" = more ]
		mkdir /srv/y/m; mount -t tmpfs sub /tmp/peer/m; touch /tmp/peer/m/seen
		[ -e /srv/y/m/seen ] && [ -e /tmp/slave/m/seen ] && [ -e /tmp/both/m/seen ]
		mkdir /tmp/both/m/k; mount -t tmpfs k /tmp/both/m/k; touch /tmp/both/m/k/below; [ ! -e /srv/y/m/k/below ]
		! mount --bind /tmp/b /tmp/s 2>/dev/null'
}

@test "what lies covered by mounts is there when they are taken away" {
	vm 'mount -t tmpfs one /mnt; echo 1 >/mnt/f; mkdir -p /mnt/d/e; mount -t tmpfs sub /mnt/d/e; echo sub >/mnt/d/e/f
		mkdir -p /run/own/x; echo run >/run/own/x/f; mount -t tmpfs own /run/own; echo own >/run/own/f
		mkdir /run/twin; mount --bind /run/own /run/twin
		mount -t tmpfs two /mnt; echo 2 >/mnt/f; mount -t tmpfs three /mnt/; echo 3 >/mnt/f
		mount -t tmpfs four /srv; mkdir /srv/to; mount -t tmpfs five /opt; echo 5 >/opt/f; mount --move /opt /srv/to
		mount --rbind /srv /opt; cd /mnt'
	hops
	counts /mnt
	inside '[ "$(cat /mnt/f /srv/to/f /opt/to/f /run/own/f /run/twin/f | xargs)" = "3 5 5 own own" ]
		umount -l /mnt; [ "$(cat /mnt/f)" = 2 ]; umount /mnt; [ "$(cat /mnt/f /mnt/d/e/f | xargs)" = "1 sub" ]
		umount /run/twin /run/own; [ "$(cat /run/own/x/f)" = run ] && [ -z "$(ls /run/twin)" ]
		[ ! -e /run/own/f ]'
}

@test "proc, sysfs, terminals, message queues, and /dev with all below it" {
	vm 'mkdir /tmp/p /tmp/s /tmp/t /tmp/q /tmp/d; mount -t proc -o ro,nosuid,nodev,noexec p /tmp/p
		mount -t sysfs -o ro,nosuid,nodev,noexec s /tmp/s; mount -t mqueue q /tmp/q; touch /tmp/q/queue
		mount -t devpts -o newinstance,gid=5,mode=0621,ptmxmode=0666 t /tmp/t; mount --rbind /dev /tmp/d
		mount -t tmpfs shm /tmp/d/shm; cd /tmp/d/shm'
	hops
	counts /tmp/d/shm
	inside '[ "$(readlink /tmp/p/self)" = $$ ] || [ -d /tmp/p/$$ ]; [ -e /tmp/q/queue ] && [ -d /tmp/s/class ]
		[ /tmp/d/null -ef /dev/null ]; ls /tmp/t/ptmx; [ "$(stat -c %g:%a /dev/pts/ptmx)" ]'
}

@test "an overlay of directories inside keeps what was changed and deleted" {
	vm 'mount -t tmpfs t /mnt; cd /mnt; mkdir low up work all; mkdir low/d; echo a >low/a; echo b >low/b; echo c >low/d/c
		mkdir more; touch more/hostname; cp /etc/passwd more
		mount -t overlay -o lowerdir=/mnt/low:/mnt/more,upperdir=/mnt/up,workdir=/mnt/work,userxattr all /mnt/all
		rm all/b all/hostname; rm -r all/d; mkdir all/d; echo more >>all/a; cd all; exec 5<a'
	hops
	counts /mnt/all
	inside 'cd /mnt/all; [ "$(cat a | xargs)" = "a more" ]; [ ! -e b ] && [ ! -e hostname ] && [ ! -e d/c ]
		cmp passwd /etc/passwd; [ "$(cat /mnt/low/b)" = b ]; touch passwd new; [ -e /mnt/up/passwd ]
		[ "$(cat /proc/$(pgrep -o -f "n=.*counted")/fd/5 | xargs)" = "a more" ]'
}

@test "left running, or cloned: both have them" {
	vm 'mount -t tmpfs t /mnt; cd /mnt'
	fvm clone --live at0 at3
	counts /mnt
	inside 'touch /mnt/own'
	equal "$(fvm exec at0 ls /mnt)" counted
	fvm rm --force at3
	fvm checkpoint --leave-running at0 vm.fvm
	fvm restore vm.fvm at3
	counts /mnt
	equal "$(mounted at3)" "$(mounted at0)"
}

@test "ordinary users' programs have mounts, too" {
	needs_user cpmone
	user_make cpmone no-ranges
	sed -i '/^fvmt-cpmone:/d' /etc/subuid /etc/subgid
	! command -v newuidmap >/dev/null || user_make cpmmany
	for AS in cpmone cpmmany; do
		id -u "fvmt-$AS" >/dev/null 2>&1 || continue
		vm 'mount -t tmpfs one /mnt; echo 1 >/mnt/f; mkdir /mnt/d; ln /mnt/f /mnt/d/g; mount -t tmpfs -o ro two /mnt/d
			mkdir -p /run/own; mount -t tmpfs own /run/own; mount --bind /mnt /run/own; mkdir /tmp/p
			mount -t proc p /tmp/p; mount --make-shared /mnt; mkdir /tmp/c; mount --bind /mnt /tmp/c; cd /mnt
			mount -t tmpfs over /srv; mkdir /srv/low /srv/up /srv/work /srv/all; echo low >/srv/low/f
			mount -t overlay -o lowerdir=/srv/low,upperdir=/srv/up,workdir=/srv/work,userxattr o /srv/all
			rm /srv/all/f; touch /srv/all/g'
		hops
		counts /mnt
		inside '[ "$(cat /mnt/f /run/own/f /tmp/c/f | xargs)" = "1 1 1" ]; [ -d /tmp/p/$$ ]; [ ! -e /mnt/d/g ]
			umount -l /mnt; umount /mnt 2>/dev/null || :; [ ! -e /srv/all/f ] && [ -e /srv/all/g ]'
		by fvm rm --force at3
	done
}

# refuses WORDS COMMAND: what the command does in a VM is named, and the VM runs on
refuses() {
	vm "$2"
	expect 125 fvm checkpoint --check at0
	says "$1"
	expect 125 fvm checkpoint at0 vm.fvm
	says "$1"
	equal "$(fvm --json ls | jq -r '.[0].state')" running
	fvm rm --force at0
}

@test "mounts that can't go along are refused by name" {
	refuses "mount on /tmp/ns (nsfs) can't be captured: it holds a namespace" \
		'touch /tmp/ns; mount --bind /proc/self/ns/uts /tmp/ns'
	refuses "what it shows was deleted" 'mkdir /tmp/a /tmp/b; mount --bind /tmp/a /tmp/b; rmdir /tmp/a'
	refuses "mounted nowhere as a whole" 'mount -t tmpfs t /mnt; mkdir /mnt/d; mount --bind /mnt/d /srv; umount /mnt'
	refuses "it shows a process" 'mkdir /tmp/b; mount --bind /proc/$$/net /tmp/b'
	refuses "relative to somewhere" 'mount -t tmpfs t /mnt; cd /mnt; mkdir l u w
		perl -e "my @a = (qw(o /srv overlay), 0, q(lowerdir=l,upperdir=u,workdir=w,userxattr)); syscall(165, @a) == 0 or die"'
	refuses "volatile" 'mount -t tmpfs t /mnt; cd /mnt; mkdir l u w
		mount -t overlay o /srv -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w,userxattr,volatile'
	refuses "another pid namespace" 'mount -t tmpfs t /mnt; mkdir /mnt/p; mount --make-shared /mnt
		unshare -pmf --propagation unchanged mount -t proc p /mnt/p'
}
