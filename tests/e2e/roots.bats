#!/usr/bin/env bats
# Hosts whose / is on btrfs, xfs, tmpfs, ext4 with quotas; home, store and more on others. Each is a
# small root of its own (busybox, fvm and its libraries) on a loop device, entered by pivot_root.
# limit: 240

load helper

setup_file() {
	e2e_setup_file
	local root=$E2E/small
	command -v busybox >/dev/null || return 0
	small_root "$root" && with_libraries "$root" /sbin/mkfs.ext4 || return 1
	mkdir -p "$root"/{run/fvm,srv,var/lib,var/tmp} && chmod 1777 "$root/var/tmp"
	ln -s bin "$root/sbin"
	install -D "$(command -v setpriv)" "$root/usr/bin/setpriv"
	cp "$BATS_TEST_DIRNAME/life.sh" "$root/bin/life"
	mkdir "$E2E/mnt" "$E2E/more"
}

# image KIND [mkfs option..]: a file system in $E2E/KIND.img
image() {
	needs_loop
	needs_filesystem "$1"
	rm -f "$E2E/$1.img" && truncate -s 400M "$E2E/$1.img"
	"mkfs.$1" -q "${@:2}" "$E2E/$1.img" >&2 || skip "needs mkfs.$*"
}

# in_root MOUNT SCRIPT: mount it at $E2E/mnt, fill it, make it / and run SCRIPT there, whose status is told
in_root() {
	needs_root
	needs_command busybox
	# shellcheck disable=SC2016  # of the inner shells
	unshare --mount --pid --fork --propagation private bash -c '
		cd "$E2E/mnt" && eval "$1" && cd "$E2E/mnt" && cp -a "$E2E/small/." . &&
		mount -t proc none proc && mount --rbind /sys sys && mount --rbind /dev dev &&
		mkdir -p /run/fvm/slots && mount --bind /run/fvm run/fvm && mkdir .old &&
		pivot_root . .old && cd / && /bin/umount -l /.old && /bin/rmdir /.old || exit 99
		export PATH=/usr/bin:/bin FVM_HOME=/var/lib/fvm HOME=/root
		ann() { cd /home/ann && setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all \
			env -i HOME=/home/ann FVM_HOME="${1:-}" PATH=$PATH "${@:2}"; }
		. /dev/stdin; status=$?
		# with this the first of its processes goes, and who puts the network back half a second later
		for i in $(seq 100); do [ -n "$(ls /run/fvm/net-* 2>/dev/null)" ] || break; sleep 0.1; done
		exit $status' bash "$1" <<<"$2"
}

# In each: the life of a VM of root and of a user, a sized one, what is where the store is not.
lives='life /srv/dir --net none && life /root/dir --net none &&
	fvm -q run --rm --disk 20M --net none -- sh -c "dd if=/dev/zero of=/x bs=1M count=40 2>/dev/null; test \$? != 0" &&
	ann "" life /home/ann/dir --net none && [ -z "$(ls /var/lib/fvm/vms)" ]'

lives_on() {
	expect 0 in_root "$1" "$lives"
}

@test "/ on tmpfs" {
	needs_idmapped_tmpfs
	lives_on 'mount -t tmpfs none .'
}

@test "/ on btrfs, with a reflink where a file is first written, and a subvolume" {
	image btrfs
	lives_on 'mount -o loop "$E2E/btrfs.img" .'
	expect 0 in_root 'mount -o loop "$E2E/btrfs.img" . && cd "$E2E/mnt" && rm -rf var/lib/fvm &&
		{ [ -d srv/sub ] || btrfs -q subvolume create srv/sub >/dev/null; }' '
		dd if=/dev/zero of=/srv/big bs=1M count=100 2>/dev/null && sync
		df=$(df -k / | awk "NR == 2 { print \$3 }")
		echo old >/srv/sub/file
		fvm -q run --name b --net none sh -c "echo x >>/srv/big; echo new >/srv/sub/file; sync" &&
			sync && after=$(df -k / | awk "NR == 2 { print \$3 }") &&
			fvm diff b /srv && fvm -q commit b /srv && cat /srv/sub/file && fvm -q undo && cat /srv/sub/file &&
			[ $((after - df)) -lt 50000 ] && fvm -q rm b'
	says "M /srv/big"
	says "M /srv/sub/file"
	equal "${lines[-2]} ${lines[-1]}" "new old"
}

@test "/ on xfs" {
	image xfs
	lives_on 'mount -o loop "$E2E/xfs.img" .'
}

@test "/ on ext4 with project quotas" {
	image ext4 -O quota,project -E quotatype=prjquota
	mount -o loop,prjquota "$E2E/ext4.img" "$E2E/more" || skip "needs ext4 with project quotas"
	umount "$E2E/more"
	lives_on 'mount -o loop,prjquota "$E2E/ext4.img" .'
}

@test "home on another file system, the store on a third" {
	needs_idmapped_tmpfs
	image xfs
	expect 0 in_root 'mount -t tmpfs none . && cd "$E2E/mnt" && mkdir -p home/ann var/lib && mount -o loop "$E2E/xfs.img" home &&
		mkdir -p home/ann && chown 1000:1000 home/ann && mount -t tmpfs none var/lib' \
		'life /home/dir --net none && life /srv/dir --net none && ann "" life /home/ann/dir --net none'
}

@test "no /etc/resolv.conf, no accounts, no /home, no /tmp" {
	image ext4
	expect 0 in_root 'mount -o loop "$E2E/ext4.img" .' \
		'rm -rf /etc/passwd /etc/group /home /tmp; life /srv/dir && [ ! -e /etc/resolv.conf ]'
}

@test "snaps: read-only squashfs mounts are there, and stay read-only" {
	needs_command mksquashfs
	grep -qw squashfs /proc/filesystems || modprobe squashfs 2>/dev/null || skip "needs the file system squashfs"
	mkdir -p "$E2E/snap" && echo app >"$E2E/snap/app"
	mksquashfs "$E2E/snap" "$E2E/squashfs.img" -quiet -no-progress >/dev/null
	image ext4
	expect 0 in_root 'mount -o loop "$E2E/ext4.img" . && cd "$E2E/mnt" && mkdir -p snap/app/1 && mount -o loop "$E2E/squashfs.img" snap/app/1' '
		cat >/srv/try <<"END"
grep -q app /snap/app/1/app && ! touch /snap/app/1/x 2>/dev/null && touch /snap/y
END
		fvm -q run --name s --net none sh /srv/try && fvm diff s && fvm -q rm s &&
		ann "" fvm run --rm --net none sh /srv/try'
	equal "${lines[0]}" "A /snap/y"
}

@test "a full disk: it is said, and nothing is half there" {
	image ext4 -m 0
	expect 0 in_root 'mount -o loop "$E2E/ext4.img" .' '
		fvm -q create f && echo keep >/srv/keep
		dd if=/dev/zero of=/fill bs=1M 2>/dev/null
		fvm create g; echo "create $?"
		fvm run --name f --net none sh -c "echo 1 >/srv/new"; echo "run $?"
		fvm clone f h; echo "clone $?"
		rm /fill
		fvm run --name f --net none sh -c "dd if=/dev/zero of=/srv/big bs=1M 2>/dev/null; echo wrote $?"
		fvm commit f /srv; echo "commit $?"
		[ ! -e /srv/big ] || echo "half there"
		cat /srv/keep; fvm ls -q; fvm rm --force f; life /srv/dir --net none; echo "life $?"'
	says "No space left on device"
	says keep
	says "life 0"
	case $output in *"half there"*) return 1 ;; esac
}

@test "500 mounts: a start takes them all, in time; what is mounted between two starts is there" {
	needs_idmapped_tmpfs
	expect 0 in_root 'mount -t tmpfs none .' '
		fvm -q create many --net none >/dev/null
		for i in $(seq 500); do mkdir /srv/$i && mount -t tmpfs none /srv/$i && echo $i >/srv/$i/name || exit 1; done
		from=$(date +%s)
		fvm -q run --name many sh -c "cat /srv/*/name | wc -l; echo x >/srv/250/name; echo y >/srv/501" || exit 1
		[ $(($(date +%s) - from)) -lt 10 ] || exit 2
		fvm diff many
		mkdir /srv/250/sub && mount -t tmpfs none /srv/250/sub && echo z >/srv/250/sub/z
		fvm -q run --name many sh -c "cat /srv/250/name /srv/250/sub/z"
		for i in $(seq 400); do umount -l /srv/$i; done
		fvm diff many; fvm -q run --name many true && fvm -q rm many'
	equal "${lines[0]}" 500
	says "M /srv/250/name"
	says "A /srv/501"
	equal "$(printf '%s\n' "${lines[@]}" | grep -c '^[xz]$')" 2
}

@test "files that change on the host while a VM runs: what it had not written is the host's" {
	image ext4
	expect 0 in_root 'mount -o loop "$E2E/ext4.img" .' '
		mkdir /srv/d && echo 1 >/srv/d/a && echo 1 >/srv/d/b && echo 1 >/srv/d/gone
		fvm -q create v --net none && fvm start v && fvm exec v sh -c "echo mine >/srv/d/b"
		sleep 0.1 # times of files are as coarse as the clock tick
		echo 2 >/srv/d/a && echo 2 >/srv/d/b && rm /srv/d/gone && echo 2 >/srv/d/new
		fvm exec v sh -c "cd /srv/d && cat a b new; ls"
		fvm stop v; fvm diff v; fvm commit v; echo "commit $?"; cat /srv/d/b; fvm -q rm v'
	says "mine"
	says "commit 125"
	equal "${lines[-1]}" 2
}
