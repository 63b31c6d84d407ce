#!/usr/bin/env bats
# Hosts inside others: fvm in a container (/ on an overlay, covered /proc, without capabilities), a VM
# inside a VM, and file systems that can't be idmapped, with servers that hang. The containers have
# a small root of their own: busybox, fvm and its libraries.
# limit: 240

load helper

setup_file() {
	e2e_setup_file
	local root=$E2E/small
	command -v busybox >/dev/null || return 0
	small_root "$root" && with_libraries "$root" "$(command -v capsh)" "$(command -v bash)" || return 1
	mkdir -p "$root"/{run,mnt,vol,usr/share/data,var/lib/secret}
	chmod 700 "$root/root" "$root/home/ann" "$root/var/lib/secret"
	echo one >"$root/usr/share/data/one" && echo two >"$root/usr/share/data/two"
	echo mine >"$root/home/ann/file" && chmod 600 "$root/home/ann/file"
	chown -R 1000:1000 "$root/home/ann"
	echo words >"$root/var/lib/secret/key" && chmod 600 "$root/var/lib/secret/key"
	echo old >"$root/tmp/old" && chown 33 "$root/tmp/old"
}

# container overlay|plain SCRIPT: run it with the small root as /, as a container's runtime would
# do it; FVM_HOME is on a volume
container() {
	needs_command busybox capsh
	cat >"$E2E/container" <<-'END'
		set -e
		mount -t tmpfs -o mode=755 box "$E2E/box"
		mkdir "$E2E/box/u" "$E2E/box/w" "$E2E/box/r"
		if [ "$1" = overlay ]; then
			mount -t overlay -o "lowerdir=$E2E/small,upperdir=$E2E/box/u,workdir=$E2E/box/w" none "$E2E/box/r"
		else
			cp -a "$E2E/small/." "$E2E/box/r" && mount --bind "$E2E/box/r" "$E2E/box/r"
		fi
		cd "$E2E/box/r"
		mount -t proc proc proc && mount -t sysfs -o ro sysfs sys && mount -t tmpfs -o mode=755 none dev
		for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
		mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
		ln -s pts/ptmx dev/ptmx && mount -t tmpfs none dev/shm && mount -t tmpfs none run
		if [ -e "$E2E/volume" ]; then mount "$E2E/volume" vol && chmod 1777 vol; else mount -t tmpfs -o mode=1777 none vol; fi
		[ "$1" = plain ] || { mount --bind proc/sys proc/sys && mount -o remount,ro,bind proc/sys; }
		pivot_root . mnt && umount -l /mnt
		exec env -i PATH=/bin:/usr/bin:/sbin HOME=/root FVM_HOME=/vol/home sh -c "cd /; $2"
	END
	mkdir -p "$E2E/box"
	# a tmpfs that can't keep VMs (before Linux 6.6): a file system of its own
	if ! (needs_idmapped_tmpfs) >/dev/null 2>&1; then
		rm -f "$E2E/volume" && truncate -s 256M "$E2E/volume" && mke2fs -q -t ext4 "$E2E/volume"
	fi
	run timeout -k 5 60 unshare -mpf --kill-child --propagation private bash "$E2E/container" "$1" "$2"
	echo "$output"
}

@test "in a container, / on an overlay: root's VM reads and changes all, diff, commit, undo" {
	container overlay 'fvm -q run --net none --name a sh -c "
		cat /var/lib/secret/key; stat -c %u:%a /home/ann /root /etc/passwd
		echo x >>/usr/share/data/one; echo y >>/etc/passwd; rm /tmp/old
		mv /usr/share/data/two /usr/share/data/new; chown 1000 /usr/share/data/new; rm -r /home/ann
		cat /proc/self/uid_map"; fvm diff a
		cat /usr/share/data/one; fvm -q commit a; cat /usr/share/data/one; ls /home; stat -c %u /usr/share/data/new
		fvm undo; cat /usr/share/data/one /home/ann/file; fvm rm a'
	[ "$status" = 0 ]
	says words
	says 1000:700
	says "0:700"
	says "M /usr/share/data/one"
	says "D /home/ann"
	says "D /usr/share/data/two"
	says "A /usr/share/data/new"
	says mine
	# VM root is nobody on the host
	[[ $output =~ 0\ +[1-9][0-9]{5,} ]]
}

@test "in a container: what a VM's users may not do on an adopted base" {
	container overlay 'fvm -q run --net none --rm sh -c "/usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups sh -c \"
		cat /home/ann/file; echo w >>/home/ann/file && echo written
		echo no >>/etc/passwd; echo no >>/usr/share/data/one; [ -w /usr/share/data/one ] || echo readonly
		cat /var/lib/secret/key; chmod 777 /usr/share/data/two\"
		cat /usr/share/data/one; stat -c %a /usr/share/data/two"; cat /home/ann/file /usr/share/data/one'
	says mine
	says written
	says readonly
	says 644
	[[ $output != *words* ]]
}

@test "in a container without CAP_SYS_ADMIN, or as a user: works, or tells what covers /proc" {
	container overlay 'capsh --drop=cap_sys_admin -- -c "fvm -q run --net none --rm id"; echo "status $?"
		chown 1000 /home/ann; FVM_HOME=/vol/u /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups fvm -q run --net none --rm id; echo "status $?"
		umount /proc/sys
		FVM_HOME=/vol/u /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups fvm -q run --net none --rm id'
	says "parts of /proc are covered"
	says "status 125"
	says "uid=1000(ann)"
}

@test "a VM inside root's VM, by its root and by its user" {
	container plain 'fvm -q run --net none --rm sh -c "
		mkdir -m 1777 /dev/shm/s; export FVM_HOME=/dev/shm/s/h
		fvm -q run --net none --name i sh -c \"id -u; echo x >>/usr/share/data/one; chown 33:33 /usr/share/data/two; stat -c %u /usr/share/data/two\"
		fvm diff i; fvm -q commit i; cat /usr/share/data/one
		FVM_HOME=/dev/shm/s/u /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups fvm -q run --net none --rm id"
		cat /usr/share/data/one'
	says "M /usr/share/data/one"
	says 33
	says "uid=1000(ann)"
	equal "${lines[-1]}" one
}

@test "a VM inside a user's VM: the outer supervisor adopts for it" {
	container plain 'export FVM_HOME=/vol/u; /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups fvm -q run --root --net none --rm sh -c "
		export FVM_HOME=/dev/shm/s; fvm -q run --net none --name i sh -c \"id -u; echo x >>/usr/share/data/one\"; fvm diff i"'
	[ "$status" = 0 ]
	says "M /usr/share/data/one"
}

@test "root's FUSE is copied on write; with its server stopped the VM starts without it" {
	needs_command bindfs
	mkdir -p "$E2E/back/deep" "$E2E/fuse" && echo hello >"$E2E/back/file"
	bindfs -o allow_other "$E2E/back" "$E2E/fuse" || skip "needs /dev/fuse"
	local server
	server=$(pgrep -f "bindfs.*$E2E/back")
	run fvm -q run --net none --keep --name f sh -c "echo more >>$E2E/fuse/file; echo new >$E2E/fuse/deep/new; cat $E2E/fuse/file"
	equal "$output" $'hello\nmore'
	equal "$(cat "$E2E/back/file")" hello
	run fvm diff f "$E2E/fuse"
	says "M $E2E/fuse/file"
	says "A $E2E/fuse/deep/new"
	kill -STOP "$server"
	SECONDS=0
	run timeout -k 1 30 fvm -q run --net none --rm sh -c "ls -A $E2E/fuse; echo started"
	local took=$SECONDS
	kill -CONT "$server"
	wait_until 30 umount "$E2E/fuse" # who asked it, and was waited for by nobody, has to end first
	equal "$output" started
	[ "$took" -lt 10 ]
}
