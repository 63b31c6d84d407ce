# VMs of an ordinary user: no privileges, one id, nothing set up beforehand. The user has no
# subordinate ids here, so that nobody helps.
# limit: 900
# test-limit: 400
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" != 0 ] || user_make lone no-ranges
}

setup() {
	needs_user lone
	needs_command jq getfattr
}
teardown() {
	user_vms_remove lone range
	local at
	for at in /opt/fvm-e2e-new/a /opt/fvm-e2e-new/b; do ! mountpoint -q "$at" || umount "$at"; done
	rm -rf --one-file-system -- /usr/share/fvm-e2e-new /opt/fvm-e2e-new /fvm-e2e-foreign \
		/var/tmp/fvm-e2e-many /opt/fvm-e2e-mail /etc/fvm-e2e.d
}

run_root() { as_user lone fvm -q run --rm --net none --root -- "$@"; }
run_user() { as_user lone fvm -q run --rm --net none -- "$@"; }

@test "VM root may write what is the host root's, and the host keeps its own" {
	local before
	before=$(sha256sum /etc/passwd /usr/bin/env)
	expect 0 run_root sh -ec '
		echo line >>/etc/passwd; tail -n1 /etc/passwd
		echo more >>/usr/bin/env; rm /usr/bin/ls; mv /usr/bin/cat /usr/bin/dog
		ln /usr/bin/dog /usr/bin/wolf; chmod 700 /usr/bin/dog; stat -c "%U %a %h" /usr/bin/dog
		mkdir /usr/lib/new /new; : >/usr/lib/new/file; echo >/new/file
		printf x | dd of=/etc/hostname conv=notrunc status=none
		touch -d 2001-01-01 /usr/bin/wc; [ -w /usr/bin/tr ]'
	says "root 700 2"
	equal "$before" "$(sha256sum /etc/passwd /usr/bin/env)"
	[ -e /usr/bin/cat ]
	[ ! -e /new ]
}

@test "one's own files are one's own, and the store can't be seen" {
	as_user lone sh -c 'echo mine >~/own'
	expect 0 run_user sh -ec 'id -un; cat ~/own; echo >>~/own; stat -c %U ~/own; ls -A ~/.local/share'
	equal "${lines[*]}" "fvmt-lone mine fvmt-lone"
	equal "$(as_user lone cat own)" mine
}

@test "owners, modes and devices that can't be had are answered, recorded and told by diff" {
	expect 0 as_user lone fvm -q run --keep --name own --net none --root -- sh -ec '
		: >/usr/a; chmod 4755 /usr/a; chown daemon:mail /usr/a; stat -c %a /usr/a
		ln -s a /usr/l; chown -h daemon /usr/l
		mkdir /usr/d; chgrp mail /usr/d
		mknod /usr/null c 1 3; chown 0:0 /usr/bin/env'
	equal "$output" 755
	expect 0 as_user lone getfattr --only-values -n user.fvm.owner \
		.local/share/fvm/vms/own/workspace/fs/usr/upper/a
	equal "$output" "1:8"
	expect 0 as_user lone getfattr --only-values -n user.fvm.owner \
		.local/share/fvm/vms/own/workspace/fs/usr/upper/null
	equal "$output" "0:0:20644:1.3"
	grep -q "^own 1:0 .* usr/l$" /home/fvmt-lone/.local/share/fvm/vms/own/workspace/fs/+owners
	expect 0 as_user lone fvm -q diff --name-only own
	equal "${lines[*]}" "/usr/a /usr/d /usr/l /usr/null"
}

@test "what was given away is seen so at once, and the host's files are whose they are" {
	local user
	user_make range
	for user in lone range; do
		# ranges: the kernel's own answer, also by descriptor
		grep -q ^fvmt-$user: /etc/subuid && ! command -v newuidmap >/dev/null && continue
		expect 0 as_user $user fvm -q run --keep --name given --net none --root -- sh -ec '
			mkdir /srv/given; : >/srv/given/f; chown -R daemon:mail /srv/given
			ln -s f /srv/given/l; chown -h games:mail /srv/given/l; chgrp adm /srv/given/f
			stat -c "%U:%G" /srv/given /srv/given/f /srv/given/l
			find /srv/given -user games; ls -ld /srv/given | cut -d" " -f3
			perl -e "print((stat q(/srv/given/f))[4], qq(\n))"
			mknod /srv/given/null c 1 3; test -c /srv/given/null; stat -c %t:%T /srv/given/null
			stat -c "%U:%G %a" /usr/bin/env /usr/bin/passwd /etc/passwd
			chown root /srv/given/f; stat -c %U:%G /srv/given/f; chown root:adm /srv/given'
		equal "${lines[*]}" "daemon:mail daemon:adm games:mail /srv/given/l daemon 1 1:3 root:root 755 root:root 4755 root:root 644 root:adm"
		# later, in another session, by who dropped to an id; not by the user, who wants speed
		expect 0 as_user $user fvm -q run -d --name given --root -- sleep 100
		expect 0 as_user $user fvm exec --root given stat -c %U:%G /srv/given
		equal "$output" root:adm
		expect 0 as_user $user fvm exec --user daemon given stat -c %U:%G /srv/given/l
		equal "$output" games:mail
		as_user $user fvm exec given true
		as_user $user fvm -q rm --force given
	done
}

@test "what is told of owners is of the task's own root and mounts" {
	expect 0 run_root sh -ec '
		: >/srv/f; chown 33 /srv/f
		unshare --mount sh -ec "mount -t tmpfs none /srv; : >/srv/f; stat -c %u /srv/f"
		mkdir -p /cr/srv; : >/cr/srv/f; chown 44 /cr/srv/f
		perl -e "chroot q(/cr); print((stat q(/srv/f))[4], qq(\n))"
		perl -e "chroot q(/cr); chdir q(/); print((lstat q(srv/f))[4], qq(\n))"; stat -c %u /srv/f'
	equal "${lines[*]}" "0 44 44 33"
}

@test "a task that drops to another id has it, and no way back" {
	expect 0 run_root setpriv --reuid 33 --regid 33 --clear-groups sh -c \
		'id -u; id -g; : >/tmp/f; stat -c %u /tmp/f; grep CapEff /proc/self/status'
	equal "${lines[*]}" "33 33 33 CapEff:	0000000000000000"
	expect 0 run_root su -s /bin/sh nobody -c 'id -un; cat /proc/self/uid_map'
	says nobody
	expect 0 run_root perl -e '
		$> = 33; print "$<,$>\n"; $> = 0; print "$<,$>\n";
		$) = "5 5"; $( = 5; $< = $> = 33; print "$<,$>\n"; $> = 0; print "$<,$>\n"'
	equal "${lines[*]}" "0,33 0,0 33,33 33,33"
	fails run_root perl -e '$< = $> = 33; use POSIX; exit 1 unless POSIX::setuid(0)'
}

@test "a user is added, logs in with su, and owns what it makes" {
	expect 0 run_root sh -ec '
		useradd --create-home --shell /bin/bash joe
		echo joe:secret | chpasswd; grep -c ^joe:. /etc/shadow
		su - joe -c "id -un; pwd; touch f; stat -c %U f .bashrc"'
	equal "${lines[*]}" "1 joe /home/joe joe joe"
}

@test "who was added inside is known to exec and ps, whether it runs or not" {
	as_user lone fvm -q create --net none v
	as_user lone fvm start v
	as_user lone fvm exec --root v useradd --create-home --shell /bin/bash joe
	expect 0 as_user lone fvm exec --user joe --workdir /home/joe v bash -c 'echo $USER $HOME $SHELL; touch f; stat -c %U .'
	equal "${lines[*]}" "joe /home/joe /bin/bash joe"
	as_user lone fvm exec -d --user joe --workdir / v sleep 111 >/dev/null
	equal "$(as_user lone fvm --json ps v | jq -r '[.[].user] | unique | join(" ")')" root
	as_user lone fvm stop v
	expect 0 as_user lone fvm run --name v --user joe --workdir / id -un
	equal "$output" joe
	as_user lone fvm -q snapshot v t
	expect 0 as_user lone fvm run --name v --user joe --workdir / id -un
	equal "$output" joe
}

@test "a starter that is killed leaves nobody behind who holds up the next start" {
	as_user lone fvm -q run --rm --net none true
	local lock
	lock=$(echo /home/fvmt-lone/.local/share/fvm/skeleton/*/lock)
	[ -e "$lock" ]
	flock -x "$lock" sleep 60 &
	local holder=$!
	as_user lone fvm -q run --rm --net none --hostname killed-one true &
	local starter=$!
	ours() { pgrep -u fvmt-lone -f 'hostname killed-one'; }
	wait_until 30 sh -c 'pgrep -u fvmt-lone -f "hostname killed-one" | wc -l | grep -qv "^[01]$"'
	sleep 0.5
	kill -KILL "$(ours | head -n 1)"
	wait_until 30 fails ours
	pkill -P $holder || : # its child has the lock as well
	kill $holder || :
	wait $holder $starter || : # a bare one would wait for bats' own clock, too
	expect 0 as_user lone timeout 60 fvm -q run --rm --net none true
}

@test "VM root can neither undo a mount nor see what is outside" {
	expect 0 run_root sh -c '
		for at in /usr /etc /home /proc /sys /dev /dev/null /run; do umount -l $at && echo gone $at; done
		mount -o remount,rw /sys && echo rw; mount -o remount,dev,suid /run && echo dev
		cat /proc/1/environ; ls /proc/1/root /proc/1/cwd/; nsenter -t 1 -m true && echo entered
		echo x >/proc/sys/kernel/domainname && echo wrote; dmesg >/dev/null && echo log
		ps -e | grep -c supervisor || :' 2>/dev/null
	equal "${lines[-1]}" 0
	equal "$(grep -cE '^(gone|rw|dev|entered|wrote|log)' <<<"$output")" 0
	expect 0 run_root unshare --user --map-root-user --mount mount -t tmpfs none /mnt
}

@test "directories that the host got since are the VM's to write" {
	expect 0 run_root true
	mkdir -p /usr/share/fvm-e2e-new/a /opt/fvm-e2e-new
	: >/usr/share/fvm-e2e-new/a/file
	expect 0 run_root sh -ec 'echo x >>/usr/share/fvm-e2e-new/a/file; : >/opt/fvm-e2e-new/b
		rm -r /usr/share/fvm-e2e-new'
	# while another VM runs on what was before
	expect 0 as_user lone fvm -q run -d --name long --net none --root -- sleep 300
	mkdir /usr/share/fvm-e2e-new/c
	expect 0 run_root touch /usr/share/fvm-e2e-new/c/d
	expect 0 as_user lone fvm exec --root long touch /usr/share/fvm-e2e-new/a/e
	expect 0 as_user lone fvm -q stop long
	rm -r /usr/share/fvm-e2e-new
	expect 0 run_root sh -c '[ ! -e /usr/share/fvm-e2e-new ]'
	equal "$(find /home/fvmt-lone/.local/share/fvm/skeleton/*/ -maxdepth 1 -name 'g*' | wc -l)" 1
}

@test "directories of other people are the VM's to write, also by the list that is kept of them" {
	local top=/fvm-e2e-foreign
	rm -rf "$top" && mkdir "$top" && (cd "$top" && mkdir -m 555 {1..40} && mkdir -m 755 1/sub)
	kept() { compgen -G "/home/fvmt-lone/.local/share/fvm/skeleton/*/g*/foreign/fvm%2De2e%2Dforeign" >/dev/null; }
	expect 0 run_root sh -ec "echo x >$top/7/file; mkdir $top/1/sub/d"
	# looked for in the background, when the last look is some time ago: a list that was renewed
	# a moment ago, because the host changes, is none
	touch -d "1 minute ago" /home/fvmt-lone/.local/share/fvm/skeleton/*/g*/foreign
	touch /home/fvmt-lone/.local/share/fvm/skeleton/*/g*/checked
	run_root true
	wait_until 30 kept
	# by the list, then with the host changed below it
	expect 0 run_root sh -ec "echo x >$top/7/file; mkdir $top/1/sub/d; stat -c '%a %U' $top/1/sub $top/2"
	equal "${lines[*]}" "755 root 555 root"
	mkdir -p "$top/1/sub/new/er" "$top/new" && rmdir "$top/9"
	expect 0 run_root sh -ec "echo x >$top/1/sub/new/er/f; echo x >$top/new/f; [ ! -e $top/9 ]"
	rm -rf "$top"
}

@test "who fills what everybody may write to holds up no start, and that is told" {
	local many=/var/tmp/fvm-e2e-many trees
	mkdir $many /fvm-e2e-foreign
	(cd $many && mkdir {1..3000})
	(cd /fvm-e2e-foreign && mkdir {1..600})
	# the first start of a store
	expect 0 as_user lone env FVM_HOME=/home/fvmt-lone/other fvm run --name a --net none --root -d -- sleep 300
	says "warning: $many: too many directories"
	trees=$(find /home/fvmt-lone/other/skeleton/*/g*/tree$many -maxdepth 1 | wc -l)
	[ "$trees" -gt 500 ]
	[ "$trees" -le 1025 ]
	in_a() { as_user lone env FVM_HOME=/home/fvmt-lone/other fvm exec --root a "$@"; }
	left_out() {
		as_user lone env FVM_HOME=/home/fvmt-lone/other fvm inspect a |
			jq -r '.left_out[] | select(.why | startswith("too many")) | .path' |
			grep fvm-e2e- | sort | xargs
	}
	equal "$(left_out)" "/fvm-e2e-foreign $many"
	equal "$(in_a sh -c "ls $many | wc -l; mkdir $many/new && echo new")" $'3000\nnew'
	trees=$(find /home/fvmt-lone/other/skeleton/*/g*/tree$many -mindepth 1 -print -quit)
	equal "$(in_a sh -c "mkdir ${trees#*/tree}/new && echo new")" new
	rm -r $many /fvm-e2e-foreign
	as_user lone env FVM_HOME=/home/fvmt-lone/other fvm -q stop -t 1 a
	expect 0 as_user lone env FVM_HOME=/home/fvmt-lone/other fvm start a
	equal "$output $(left_out)" " "
	as_user lone env FVM_HOME=/home/fvmt-lone/other fvm -q rm --force a
	wait_until 30 idle_store /home/fvmt-lone/other
	rm -rf /home/fvmt-lone/other
}

@test "files of /etc are the host's also after a directory beside them has changed" {
	local top=/etc/fvm-e2e.d
	mkdir -p $top/{a..e}
	(cd $top && echo 1 | tee f{1..12} >/dev/null)
	equal "$(run_root sh -c "sort -u $top/f*")" 1
	touch $top/{a..e}/new
	equal "$(run_root sh -c "sort -u $top/f*")" 1
	(cd $top && echo 2 | tee f{1..12} >/dev/null)
	equal "$(run_root sh -c "sort -u $top/f*")" 2
}

@test "what can't be read is absent, and shadow is made up" {
	local secret=/etc/fvm-e2e-secret
	(umask 077 && echo secret >$secret)
	expect 0 run_root sh -c "[ ! -e $secret ]; cut -d: -f2 /etc/shadow | sort -u; ls -A /root"
	rm -f $secret
	equal "$output" "*"
}

@test "a directory that can be entered but not listed is the host's, also beside a mount" {
	mkdir -p "$E2E/beside/closed/sub" "$E2E/beside/m"
	echo one | tee "$E2E/beside/closed/f" >"$E2E/beside/closed/sub/f"
	chmod 711 "$E2E/beside/closed"
	mount -t tmpfs none "$E2E/beside/m"
	expect 0 as_user lone fvm -q run --keep --name closed --net none --root -- sh -ec "cd $E2E/beside/closed
		cat f sub/f; echo two >>f; echo new >n; ! ls . 2>/dev/null"
	umount "$E2E/beside/m"
	equal "$output" $'one\none'
	expect 0 as_user lone fvm -q diff closed "$E2E/beside"
	equal "$(sort <<<"$output")" "A $E2E/beside/closed/n"$'\n'"M $E2E/beside/closed/f"
	equal "$(as_user lone fvm -q run --name closed -- sh -c "cat $E2E/beside/closed/f $E2E/beside/closed/n" | xargs)" "one two new"
	as_user lone fvm -q rm closed
	rm -r "$E2E/beside"
}

@test "changes stay in their place when a mount comes between two starts" {
	mkdir -p "$E2E/m/sub" && chown -R fvmt-lone: "$E2E/m"
	expect 0 as_user lone fvm -q run --keep --name apart --net none --root -- sh -c \
		"echo 1 >$E2E/m/file; mkdir $E2E/m/dir; echo 2 >$E2E/m/dir/file"
	mount -t tmpfs none "$E2E/m/sub"
	expect 0 as_user lone fvm -q run --name apart --root -- sh -c \
		"cat $E2E/m/file $E2E/m/dir/file; echo 3 >$E2E/m/dir/new; echo 4 >$E2E/m/sub/new"
	umount "$E2E/m/sub"
	equal "${lines[*]}" "1 2"
	expect 0 as_user lone fvm -q run --name apart --root -- sh -c \
		"cat $E2E/m/file $E2E/m/dir/file $E2E/m/dir/new"
	equal "${lines[*]}" "1 2 3"
}

@test "a mount that is empty or not to be read keeps owner and mode, and diff has no word of it" {
	local user
	mkdir -p /opt/fvm-e2e-new/a /opt/fvm-e2e-new/b
	mount -t tmpfs -o mode=1777 none /opt/fvm-e2e-new/a
	mount -t tmpfs -o mode=750,uid=33,gid=33 none /opt/fvm-e2e-new/b
	user_make range
	for user in lone range; do
		if [ $user = range ]; then
			grep -q ^fvmt-range: /etc/subuid && command -v newuidmap >/dev/null || continue
		fi
		expect 0 as_user $user fvm -q run --keep --name mnt --net none --root -- sh -ec "
			cd /opt/fvm-e2e-new; stat -c '%a %U' a b; : >a/f; : >b/f"
		equal "${lines[*]}" "1777 root 750 www-data"
		expect 0 as_user $user fvm -q diff --name-only mnt
		equal "${lines[*]}" "/opt/fvm-e2e-new/a/f /opt/fvm-e2e-new/b/f"
	done
}

@test "metadata, private networks and the host are out of reach, whatever VM root does" {
	needs_command ip curl
	[ "$(stat -c %a /dev/net/tun)" = 666 ] || skip "needs /dev/net/tun for users"
	local host
	host=$(ip -4 -o addr show scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
	expect 0 as_user lone fvm -q run --rm --root -- bash -c '
		ip link set lo down; ip route add 169.254.0.0/16 dev eth0; ip addr add 169.254.1.1/16 dev eth0
		nft flush ruleset; nft delete table inet fvm; unshare --net true && echo own net is fine
		for to in 169.254.169.254 10.1.2.3 192.168.1.1 '"${host:-127.9.9.9}"'; do
			timeout 5 bash -c "exec 3<>/dev/tcp/$to/22" 2>/tmp/e && echo reached $to
			grep -ciE "refused|unreachable|prohibited|denied|timed" /tmp/e
		done
		python3 -c "import socket as s; t=s.socket(); t.bind((\"\",80)); print(\"low port\")"' 2>/dev/null
	fails grep -q reached <<<"$output"
	says "own net is fine"
	says "low port"
	# 10.1.2.3 by policy, where it times out or is refused by somebody else; metadata never
	as_user lone mkdir -p .config/fvm/policy.d
	as_user lone sh -c 'printf "[vm]\nprivate-networks = yes\n" >.config/fvm/policy.d/near.policy'
	try() { as_user lone fvm -q run --rm --policy near -- timeout 2 bash -c "exec 3<>/dev/tcp/$1/22" 2>&1; }
	local near far
	near=$(try 10.1.2.3) || :
	far=$(try 169.254.169.254) || :
	rm -r /home/fvmt-lone/.config/fvm/policy.d
	[ "$near" != "${far//169.254.169.254/10.1.2.3}" ]
	case $far in *"No route to host"* | *refused* | *unreachable*) ;; *) false ;; esac
}

@test "a VM whose supervisor is killed ends, and says so" {
	local pid
	expect 0 as_user lone fvm -q run -d --name lost --net none --root -- sleep 300
	pid=$(as_user lone cat "/run/user/$(id -u fvmt-lone)/fvm/vms/lost/state.json" | jq .helper_pid)
	kill -KILL "$pid"
	stopped() { [ "$(as_user lone fvm --json inspect lost | jq -r .state)" = stopped ]; }
	wait_until 30 stopped
	grep -q "supervisor is gone" /home/fvmt-lone/.local/share/fvm/vms/lost/log
}

# As systemd-tmpfiles does, which packages call: a descriptor without rights, opened once.
@test "owner and mode change one after the other by a descriptor of a file that is adopted" {
	needs_command python3
	local user
	mkdir /opt/fvm-e2e-new
	for user in lone range; do
		rm -f /opt/fvm-e2e-new/*
		echo host >/opt/fvm-e2e-new/a
		head -c 3000000 /dev/zero >/opt/fvm-e2e-new/large
		expect 0 as_user $user fvm -q run --rm --net none --root -- python3 -c '
import os
def change(path):
	fd = "/proc/self/fd/%d" % os.open(path, os.O_PATH)
	os.chown(fd, 8, 43)
	os.chmod(fd, 0o640)
	os.chown(fd, 0, -1)
	os.chown(fd, 8, -1)
	s = os.stat(path)
	print("%d:%d %o" % (s.st_uid, s.st_gid, s.st_mode & 0o7777))
	return fd
a = change("/opt/fvm-e2e-new/a")
change("/opt/fvm-e2e-new/large")
# another file that has the name by now is not meant
os.rename("/opt/fvm-e2e-new/large", "/opt/fvm-e2e-new/a")
try:
	os.chmod(a, 0o600)
except PermissionError:
	print("%o" % (os.stat("/opt/fvm-e2e-new/a").st_mode & 0o7777))'
		equal "${lines[*]}" "8:43 640 8:43 640 640"
		equal "$(stat -c '%u:%g %a' /opt/fvm-e2e-new/a)" "0:0 644"
	done
}

@test "a large file is adopted while others go on" {
	mkdir -p /opt/fvm-e2e-new
	truncate -s 1G "/opt/fvm-e2e-new/large" && dd if=/dev/urandom of="/opt/fvm-e2e-new/large" bs=1M count=200 conv=notrunc status=none
	expect 0 run_root sh -ec "
		(echo >>/opt/fvm-e2e-new/large) & (echo >>/opt/fvm-e2e-new/large) &
		echo small >>/etc/hosts; wait; stat -c '%U %s' /opt/fvm-e2e-new/large"
	equal "$output" "root $((1024 * 1024 * 1024 + 2))"
}

@test "with subordinate ids services' accounts are real, and their files can be deleted" {
	needs_command newuidmap newgidmap
	user_make range
	grep -q ^fvmt-range: /etc/subuid || skip "needs subordinate ids for new users"
	expect 0 as_user range fvm -q run --keep --name real --net none --root -- sh -ec '
		setpriv --reuid 33 --regid 33 --clear-groups sh -c "id -u; : >/tmp/w; mkdir -m 700 /tmp/d; : >/tmp/d/f"
		stat -c "%u %g" /tmp/w
		: >/usr/a; chown 33:8 /usr/a; stat -c "%u:%g" /usr/a; : >/usr/b; chgrp 8 /usr/b
		setpriv --reuid 33 --regid 33 --clear-groups sh -c "echo >>/etc/passwd" 2>/dev/null || echo refused
		id=$(id -u fvmt-range); su fvmt-range -c "id -u; : >~/own; stat -c %U ~/own" | sed "s/$id/me/"'
	equal "${lines[*]}" "33 33 33 33:8 refused me fvmt-range"
	fails getfattr -n user.fvm.owner \
		/home/fvmt-range/.local/share/fvm/vms/real/workspace/fs/usr/upper/a 2>/dev/null
	expect 0 as_user range fvm --json diff real
	equal "$(jq -c '.[] | select(.path == "/usr/a").now | [.uid, .gid]' <<<"$output")" "[33,8]"
	equal "$(jq -c '.[] | select(.path == "/usr/b").now | [.uid, .gid]' <<<"$output")" "[0,8]"
	expect 0 as_user range fvm -q rm real
	empty() { [ -z "$(ls -A /home/fvmt-range/.local/share/fvm/trash)" ]; }
	wait_until 30 empty
}

@test "a user with subordinate ids can delete his store, services' directories and all" {
	needs_command newuidmap newgidmap
	user_make range
	grep -q ^fvmt-range: /etc/subuid || skip "needs subordinate ids for new users"
	install -d -o 8 -g 8 /opt/fvm-e2e-mail /opt/fvm-e2e-mail/mail /opt/fvm-e2e-mail/mail/deep
	local store=/home/fvmt-range/store
	in_store() { as_user range env FVM_HOME=$store "$@"; }
	expect 0 in_store fvm -q run --rm --net none --root -- sh -c ': >/opt/fvm-e2e-mail/mail/deep/in'
	[ -n "$(find $store ! -user fvmt-range)" ]
	in_store fvm -q run -d --name r --net none -- sleep 60
	equal "$(in_store fvm --json prune --all | jq .skeletons)" 0
	in_store fvm -q rm --force r
	equal "$(in_store fvm --json prune --all | jq .skeletons)" 1
	in_store rm -r $store
	[ ! -e $store ]
}

@test "the run-time directory is the session's own, whoever it is, with one id and with many" {
	local uid dir='printf "%s %s\n" "$(stat -c "%a %u" "$XDG_RUNTIME_DIR")" "$XDG_RUNTIME_DIR"; : >"$XDG_RUNTIME_DIR/x"'
	needs_command newuidmap
	for user in lone range; do
		user_make $user
		uid=$(id -u "fvmt-$user")
		as_user $user fvm -q create --net none rt
		as_user $user fvm -q start rt
		expect 0 as_user $user fvm exec rt sh -ec "$dir"
		equal "$output" "700 $uid /run/user/$uid"
		expect 0 as_user $user fvm exec --root rt sh -ec "$dir"
		equal "$output" "700 0 /run/user/0"
		expect 0 as_user $user fvm exec --user daemon rt sh -ec "$dir"
		equal "$output" "700 1 /run/user/1"
		as_user $user fvm -q rm --force rt
		expect 0 as_user $user fvm run --rm --net none sh -ec "$dir"
		equal "$output" "700 $uid /run/user/$uid"
	done
}

@test "what belongs to ids that the VM does not have is no root's after a commit, or is refused" {
	local top=/fvm-e2e-foreign here=/opt/fvm-e2e-new user
	needs_command newuidmap
	for user in lone range; do
		rm -rf $top $here
		mkdir $top $here && echo a | tee $top/{small,moved,own} >$here/far
		head -c 2000000 /dev/zero | tee $top/large >$here/large
		ln -s small $top/link
		chown -h 4242:4242 $top $top/* && chown 3000000:3000000 $here/far && chown daemon:mail $here/large
		user_make $user
		expect 0 as_user $user fvm -q run --keep --name strange --net none --root -- sh -ec "cd $top
			echo b | tee -a small large own >>$here/far; echo b >>$here/large; touch -h link
			mv moved gone; chown 0:0 own; : >new"
		expect 125 env FVM_HOME=/home/fvmt-$user/.local/share/fvm fvm -q commit strange
		says "$top/gone"
		says "whose it is"
		expect 0 env FVM_HOME=/home/fvmt-$user/.local/share/fvm fvm -q commit --force strange
		equal "$(stat -c '%n %U:%g' $top/{small,large,link,own} $here/{far,large} | sed 's/.*\///' | xargs)" \
			"small UNKNOWN:4242 large UNKNOWN:4242 link UNKNOWN:4242 own root:0 far UNKNOWN:3000000 large daemon:8"
		equal "$(stat -c %u $top)" 4242
		[ ! -e $top/gone ]
		FVM_HOME=/home/fvmt-$user/.local/share/fvm fvm -q undo
		as_user $user fvm -q rm --force strange
	done
}

@test "files of subordinate ids are seen, moved, committed past and deleted from outside" {
	needs_command newuidmap newgidmap
	user_make range
	grep -q ^fvmt-range: /etc/subuid || skip "needs subordinate ids for new users"
	range() { as_user range fvm -q "$@"; }
	expect 0 range run --keep --name a --net none --root -- sh -ec '
		mkdir -m 700 /srv/p; echo secret >/srv/p/f; ln -s f /srv/p/l; chown -hR 33:8 /srv/p
		chmod 700 /var/mail; : >/var/mail/x; chown 33 /var/mail; echo mine >~fvmt-range/own'
	local all="/home/fvmt-range/own /srv/p /srv/p/f /srv/p/l /var/mail /var/mail/x"
	expect 0 range diff --name-only a
	equal "$(sort <<<"$output" | xargs)" "$all"
	expect 0 range diff --patch a /srv/p
	says "+secret"
	expect 0 range export a a.oci
	expect 0 range import a.oci b
	expect 0 range diff --name-only b
	equal "$(sort <<<"$output" | xargs)" "$all"
	expect 0 range run --name b --root -- sh -c 'stat -c "%u:%g %a" /srv/p /srv/p/l /var/mail'
	equal "${lines[*]}" "33:8 700 33:8 777 33:8 2700"
	expect 0 range snapshot b t
	expect 0 range run --name b --root -- sh -c 'mkdir -m 700 /srv/q; : >/srv/q/f; chown 5 /srv/q'
	expect 0 range clone b c
	expect 0 range rollback b t
	expect 0 range diff --name-only b /srv
	equal "${lines[*]}" "/srv/p /srv/p/f /srv/p/l"
	expect 0 range diff --name-only c /srv
	equal "${lines[*]}" "/srv/p /srv/p/f /srv/p/l /srv/q /srv/q/f"
	expect 0 range reset a /srv/p
	expect 0 range diff --name-only a /srv
	equal "$output" ""
	expect 0 range commit --force a
	equal "$(cat ~fvmt-range/own)" mine
	expect 0 range undo
	[ ! -e ~fvmt-range/own ]
	expect 0 range rm a b c
	emptied() { [ -z "$(cd ~fvmt-range/.local/share/fvm && find trash layers vms -mindepth 1)" ]; }
	wait_until 30 emptied
}

@test "packages are installed, reinstalled, upgraded and removed with one id" {
	needs_packages
	[ -w /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" = 666 ] || skip "needs /dev/net/tun for users"
	expect 0 as_user lone fvm -q run --keep --name pkg --root -- sh -ec '
		export DEBIAN_FRONTEND=noninteractive
		apt-get -qq update
		apt-get -qqy install --no-install-recommends hello nginx-light cron >/dev/null 2>&1; hello
		apt-get -qqy install --reinstall coreutils login hostname >/dev/null 2>&1
		apt-get -qqy install --only-upgrade perl-base dpkg >/dev/null 2>&1
		nginx -t 2>&1; dpkg --audit'
	says "Hello, world!"
	says "test is successful"
	as_user lone fvm diff --name-only pkg >"$E2E/paths"
	grep -qx /usr/bin/hello "$E2E/paths"
	fails grep -q '^/usr/bin/env$' "$E2E/paths"
	expect 0 as_user lone fvm -q run --name pkg --root -- sh -ec '
		export DEBIAN_FRONTEND=noninteractive
		apt-get -qqy purge hello nginx-light nginx-common >/dev/null 2>&1
		dpkg --audit; [ ! -e /usr/bin/hello ]; [ ! -e /etc/nginx ]'
	[ ! -e /usr/bin/hello ]
}

@test "access lists that name others: a commit is refused before anything is done, root's knows the host's" {
	local home
	needs_command setfacl getfacl
	needs_user acl
	home=/home/fvmt-acl
	as_user acl sh -c 'mkdir d && echo one >f && echo one >g && setfacl -m u:54321:rx d && setfacl -m u:54321:r f'
	as_user acl fvm -q run --net none --name v sh -c 'chmod o-rx ~/d; echo two >~/f; echo two >~/g
		echo two >~/n; setfacl -m u:7:r ~/n'
	expect 125 as_user acl fvm commit v
	says "$home/d: its access list names somebody"
	says "$home/f: its access list names somebody"
	says "$home/n: its access list names ids that only the VM has"
	expect 0 as_user acl fvm ls
	fails grep -q warning <<<"$output"
	equal "$(cat $home/f $home/g)" "$(printf 'one\none')"
	expect 0 as_user acl fvm -q commit v $home/g
	FVM_HOME=$home/.local/share/fvm expect 125 fvm commit v $home/n
	FVM_HOME=$home/.local/share/fvm expect 0 fvm -q commit v $home/d $home/f
	equal "$(cat $home/f; getfacl -cpn $home/f | grep :54321)" "$(printf 'two\nuser:54321:r--')"
	getfacl -cpn $home/d | grep -q user:54321:r-x
	equal "$(stat -c %U $home/f)" fvmt-acl
	expect 0 env FVM_HOME=$home/.local/share/fvm fvm -q undo
	equal "$(cat $home/f; getfacl -cpn $home/f | grep :54321)" "$(printf 'one\nuser:54321:r--')"
	as_user acl fvm -q undo --drop all
	FVM_HOME=$home/.local/share/fvm fvm -q undo --drop all
	as_user acl fvm -q rm v
}
