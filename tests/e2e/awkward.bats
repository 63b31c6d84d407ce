#!/usr/bin/env bats
# Hosts that are awkward: odd surroundings of the caller, things that are missing, stores and homes
# on file systems of every kind. The kinds of / are in roots.bats, refused calls in refused.bats.

load helper

setup_file() {
	e2e_setup_file
	FVM_LIFE=$E2E/life
	export FVM_LIFE
	install -m 0755 "$BATS_TEST_DIRNAME/life.sh" "$FVM_LIFE"
	mkdir -m 0755 "$E2E/mnt"
}

teardown() {
	cd /
	vms_remove
	local at
	for at in "$E2E/mnt/2" "$E2E/mnt" /home/fvmt-one; do
		while mountpoint -q "$at"; do umount -l "$at"; done
	done
	rm -rf /var/tmp/fvm-"$(id -u fvmt-one 2>/dev/null || echo none)" "$E2E"/*.img
}

# apart CMD..: bash -c in a mount namespace of its own
apart() { unshare --mount --propagation private bash -c "$@"; }
export -f as_user user_make

# ---- what surrounds the caller ----

@test "with 64 descriptors a VM starts, with too few it says so" {
	needs_root
	expect 0 bash -c 'ulimit -n 64; fvm run --rm --net none true'
	expect 125 bash -c 'ulimit -n 20; fvm run --rm --net none true'
	says "Too many open files"
	says "ulimit -n"
}

@test "the caller's umask is neither the VM's nor the store's" {
	needs_root
	local mask
	for mask in 077 000; do
		export FVM_HOME=$E2E/umask$mask
		expect 0 bash -c "umask $mask; fvm run --rm --net none sh -c 'umask; stat -c %a / /etc /tmp'"
		equal "$output" "$(printf '%s\n' 0022 755 755 1777)"
		equal "$(find "$FVM_HOME" -perm /077 ! -type l ! -path '*/upper*' ! -path '*/hide/*' | head -n 3)" ""
	done
}

@test "stdin, stdout and stderr may be closed" {
	needs_root
	expect 0 bash -c 'fvm run --rm --net none echo hi <&-'
	expect 0 bash -c 'fvm run --rm --net none sh -c "echo hi; echo e >&2" 2>&-'
	expect 7 bash -c 'fvm run --rm --net none sh -c "exit 7" <&- >&- 2>&-'
}

@test "a working directory that is gone, hidden or on an unmounted file system" {
	needs_root
	mkdir "$E2E/gone"
	expect 0 bash -c 'cd "$E2E/gone" && rmdir "$E2E/gone" && fvm run --rm --net none pwd'
	equal "$output" /
	expect 0 bash -c 'cd "$FVM_HOME/vms" && fvm run --rm --net none pwd'
	says "working in /"
	expect 0 apart 'mount -t tmpfs none "$E2E/mnt" && mkdir "$E2E/mnt/d" && cd "$E2E/mnt/d" &&
		umount -l "$E2E/mnt" && fvm run --rm --net none pwd'
	equal "$output" /
}

@test "without PATH, HOME, TERM or any environment; in a language that is not there" {
	needs_user
	expect 0 env -i "$E2E_STAGE/bin/fvm" run --rm --net none sh -c 'echo $HOME $PATH'
	says "/root /usr/local/sbin:"
	expect 0 env LANG=xx_YY.KOI8-Q LC_ALL=tlh fvm run --rm --net none echo ok
	expect 0 script -qec "env -u TERM fvm run --rm --net none echo ok" /dev/null
	# a user's home is in his account
	expect 0 as_user one env -i "$E2E_STAGE/bin/fvm" run --rm --net none sh -c 'echo $HOME'
	equal "$output" /home/fvmt-one
	expect 0 as_user one env -i HOME=odd "$E2E_STAGE/bin/fvm" run --rm --net none true
}

@test "a user without an account has VMs, and keeps none of them in a place of others" {
	needs_user
	local uid=54321
	cd /
	ordinary() {
		setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all env -i \
			PATH="$E2E_STAGE/bin:/usr/bin:/bin" "$@"
	}
	rm -rf /var/tmp/fvm-$uid
	mkdir -p "$E2E"/many/{1..40}
	expect 0 ordinary fvm run --rm --net none id -u
	equal "$output" $uid
	# what a new store needs is there now, and not made by something that goes on
	compgen -G "/var/tmp/fvm-$uid/skeleton/*/g*/foreign/tmp" >/dev/null
	equal "$(stat -c '%a %u' /var/tmp/fvm-$uid)" "700 $uid"
	wait_until 30 idle_user $uid
	rm -rf /var/tmp/fvm-$uid
	# somebody was there first, and may read all that is written
	mkdir -m 0777 /var/tmp/fvm-$uid
	run ordinary fvm run --rm --net none true
	equal "$(ls -A /var/tmp/fvm-$uid)" ""
	wait_until 30 idle_user $uid
	rm -rf /var/tmp/fvm-$uid /dev/shm/fvm-$uid
}

@test "names and paths in UTF-8 go in and come out" {
	needs_root
	mkdir -p "$E2E/größe/日本"
	expect 0 bash -c 'cd "$E2E/größe/日本" && fvm run --net none --keep --name utf sh -c "pwd; echo 1 >Ünï"'
	says "$E2E/größe/日本"
	expect 0 fvm diff utf "$E2E/größe"
	says "Ünï"
	expect 0 fvm commit utf "$E2E/größe"
	equal "$(cat "$E2E/größe/日本/Ünï")" 1
	expect 125 fvm create größe
	says größe
}

# ---- what is missing on the host ----

@test "without cgroups a VM can do all but limit" {
	needs_user
	expect 0 apart 'umount -R /sys/fs/cgroup && fvm run --rm --net none true && as_user one fvm run --rm --net none true &&
		fvm -q create --net none p && fvm start p && fvm pause p && fvm resume p && fvm rm --force p'
	expect 125 apart 'umount -R /sys/fs/cgroup && fvm run --rm --net none --memory 100M true'
	says "memory controller"
	says "cgroup2"
}

@test "root of a user namespace has VMs; where there may be no more namespaces, that is said" {
	needs_user
	local limit=/proc/sys/user/max_user_namespaces
	expect 0 as_user one unshare -Ur fvm -q run --rm --net none echo ok
	says ok
	expect 125 as_user one unshare -Ur sh -c "echo 0 >$limit && exec fvm -q run --rm --net none true"
	says "make a user namespace"
	says "sysctl -w user.max_user_namespaces="
	expect 125 apart "echo 0 >$limit.fvm 2>/dev/null; unshare -U -r sh -c 'echo 0 >$limit; exec fvm doctor'"
	says "sysctl -w user.max_user_namespaces="
}

@test "doctor says why a device can't be opened, and what helps" {
	needs_user
	local dev
	needs_device /dev/fuse
	expect 0 apart 'cp -a /dev/fuse /dev/net/tun "$E2E/mnt/" && chmod 600 "$E2E"/mnt/* && mount --bind "$E2E/mnt/fuse" /dev/fuse &&
		mount --bind "$E2E/mnt/tun" /dev/net/tun && as_user one fvm --json doctor >"$E2E/doctor" || :'
	rm -f "$E2E"/mnt/fuse "$E2E"/mnt/tun
	for dev in fuse net/tun; do
		expect 0 jq -r --arg d "/dev/$dev" '.findings[] | select(.found | startswith($d)).fix' "$E2E/doctor"
		equal "$output" "only uid 0 may open it: chmod 666 /dev/$dev (until the next boot)"
	done
}

@test "where PID 1 reaps nobody, as some containers' does, run --rm leaves no zombie" {
	needs_user orphan
	local outer idle
	unshare --pid --fork --mount --mount-proc --propagation private sleep 300 3>&- 4>&- &
	outer=$!
	wait_until 30 pgrep -P $outer sleep
	idle=$(pgrep -P $outer sleep)
	expect 0 nsenter -t "$idle" -p -m bash -c "fvm -q run --rm --net none true && as_user orphan fvm -q run --rm --root true"
	expect 0 nsenter -t "$idle" -p -m ps -eo stat=,comm=
	kill -KILL "$idle" # unshare waits for it, and for no signal
	wait $outer 2>/dev/null || :
	equal "$(grep ^Z <<<"$output")" ""
}

@test "without newuidmap, a network program, /dev/net/tun, CAP_SYS_RESOURCE" {
	needs_user
	expect 0 apart 'mount --bind /dev/null "$(command -v newuidmap)" && as_user one fvm run --root --rm true'
	expect 125 apart 'for p in pasta slirp4netns; do
			p=$(command -v $p) && mount --bind /dev/null $p; done
		as_user one fvm run --rm true'
	says "slirp4netns or pasta"
	says "--net none"
	expect 0 apart 'for p in pasta slirp4netns; do
			p=$(command -v $p) && mount --bind /dev/null $p; done
		as_user one fvm run --rm --net none true'
	expect 125 apart 'mount -t tmpfs none /dev/net && as_user one fvm run --rm true'
	says "/dev/net/tun"
	says "modprobe tun"
	expect 0 setpriv --bounding-set -sys_resource --inh-caps -sys_resource fvm run --rm --net none true
}

@test "a root that is read-only: the store elsewhere, or a word where to" {
	needs_root
	expect 125 apart 'mount -o remount,ro,bind / && fvm run --rm --net none true'
	says "Read-only file system"
	says "FVM_HOME"
	needs_idmapped_tmpfs
	expect 0 apart 'mount -t tmpfs none "$E2E/mnt" && mount -t tmpfs none /run &&
		mount -o remount,ro,bind / && FVM_HOME=$E2E/mnt/s fvm run --rm --net none touch /etc/x'
}

# ---- the store on all kinds of file systems ----

# image KIND [mkfs option..]: mounted at $E2E/mnt, for everybody
image() {
	local kind=$1
	shift
	needs_loop
	needs_filesystem "$kind"
	truncate -s 400M "$E2E/$kind.img"
	"mkfs.$kind" -q "$@" "$E2E/$kind.img" >&2 || skip "needs mkfs.$kind $*"
	mount -o "loop${MOUNT_OPTIONS:+,$MOUNT_OPTIONS}" "$E2E/$kind.img" "$E2E/mnt" ||
		skip "needs $kind${MOUNT_OPTIONS:+ with $MOUNT_OPTIONS}"
	chmod 1777 "$E2E/mnt"
}

# The store of root and of a user there; what they change is elsewhere.
store_lives() {
	needs_user
	expect 0 env FVM_HOME="$E2E/mnt/root" bash "$FVM_LIFE" "$E2E/dir" --net none || return 1
	expect 0 env FVM_HOME="$E2E/mnt/root" fvm run --rm --net none --disk 20M true || return 1
	expect 0 as_user one env FVM_HOME="$E2E/mnt/one" bash "$FVM_LIFE" /home/fvmt-one/dir --net none
}

@test "a store on tmpfs" {
	needs_user
	needs_idmapped_tmpfs
	mount -t tmpfs none "$E2E/mnt" && chmod 1777 "$E2E/mnt"
	store_lives
}

@test "a store on btrfs" {
	image btrfs
	store_lives
}

@test "a store on xfs" {
	image xfs
	store_lives
}

@test "a store on ext4 with project quotas" {
	MOUNT_OPTIONS=prjquota image ext4 -O quota,project -E quotatype=prjquota
	store_lives
}

@test "a store that its file system can't keep is refused, with the way out" {
	needs_user
	needs_command bindfs
	mkdir -p "$E2E/back" "$E2E/u" "$E2E/w" && chmod 1777 "$E2E/back" "$E2E/u"
	local kind
	for kind in ramfs overlay bindfs; do
		case $kind in
		ramfs) mount -t ramfs none "$E2E/mnt" ;;
		overlay) mount -t overlay -o "lowerdir=$E2E/back,upperdir=$E2E/u,workdir=$E2E/w" none "$E2E/mnt" ;;
		bindfs) bindfs "$E2E/back" "$E2E/mnt" || skip "needs /dev/fuse" ;;
		esac
		chmod 1777 "$E2E/mnt"
		expect 125 env FVM_HOME="$E2E/mnt/root" fvm run --rm --net none true || return 1
		says "can't keep a VM's changes" && says "FVM_HOME" || return 1
		equal "$(ls -A "$E2E/mnt")" ""
		umount "$E2E/mnt"
	done
}

@test "an encrypted home: the VM has it, its store is in the next place" {
	needs_user
	needs_command gocryptfs
	local uid place
	as_user one true
	uid=$(id -u fvmt-one) place=/var/tmp/fvm-$(id -u fvmt-one)
	mkdir -p "$E2E/cipher" && chown "$uid:$uid" "$E2E/cipher" && echo secret >"$E2E/pass"
	as_user one chmod 0755 . && gocryptfs -q -init -scryptn 10 -passfile "$E2E/pass" "$E2E/cipher" || skip "needs gocryptfs to work"
	gocryptfs -q -nosyslog -allow_other -nonempty -force_owner "$uid:$uid" -passfile "$E2E/pass" "$E2E/cipher" \
		/home/fvmt-one || skip "needs /dev/fuse"
	expect 0 as_user one sh -c 'echo old >doc && fvm -q run --net none --name e sh -c "cat doc; echo new >doc"'
	says old
	says "can't keep VMs"
	says "$place"
	expect 0 as_user one fvm diff e
	says "M /home/fvmt-one/doc"
	expect 0 as_user one sh -c 'fvm commit e /home/fvmt-one && cat doc && fvm undo && cat doc'
	says new
	says old
	expect 0 as_user one fvm ls
	case $output in *"can't keep"*) return 1 ;; esac
	expect 0 as_user one fvm rm e
	wait_until 30 idle_user fvmt-one
	rm -rf "$place"
}
