#!/usr/bin/env bats
# Native directories, and what they are for: programs that need an overlay of their own, or none.
# limit: 300

load helper

setup_file() {
	e2e_setup_file
	local dir=$E2E/db
	mkdir -p "$dir/sub"
	echo one >"$dir/sub/file" && ln "$dir/sub/file" "$dir/link" && ln -s sub "$dir/symlink"
	chmod 1770 "$dir" && setfattr -n user.note -v here "$dir/link"
	[ "$(id -u)" != 0 ] || chown 33:33 "$dir/link"
	# an image of one program
	mkdir -p "$E2E/image/bin"
	cp "$(command -v busybox)" "$E2E/image/bin/sh" &&
		tar -C "$E2E/image" -cf "$E2E/image.tar" .
}

@test "a native directory has what the VM would see, and is no overlay" {
	needs_root
	needs_command setfattr getfattr
	expect 0 fvm -q run --net none --name a --native "$E2E/db" -- sh -c "
		cd '$E2E/db' && stat -c '%a %h %u' . link && getfattr --only-values -n user.note link
		cat sub/file && stat -f -c %T . && echo two >>link && mkdir u w m
		mount -t overlay -o lowerdir=sub,upperdir=u,workdir=w none m && cat m/file
		dd if=/dev/zero of=direct bs=4096 count=1 oflag=direct status=none && echo direct"
	says "$(printf '1770 3 0\n644 2 33\nhereone')"
	says "$(printf 'two\ndirect')"
	equal "$(cat "$E2E/db/link")" one
	equal "$(in_vm a "cat '$E2E/db/sub/file' | xargs")" "one two"
	# nothing on the mount leads to the host's devices, and its flags are locked
	expect 0 in_vm a "grep ' $E2E/db ' /proc/self/mounts; mount -o remount,bind,dev '$E2E/db' || echo locked"
	says nodev
	says locked
}

@test "secrets below it are not copied in" {
	needs_root
	mkdir -p "$E2E/app/keys" && echo secret >"$E2E/app/keys/key" && echo open >"$E2E/app/open"
	expect 0 fvm -q run --net none --hide "$E2E/app/keys" --native "$E2E/app" --name a -- \
		find "$E2E/app" -type f
	equal "$output" "$E2E/app/open"
	fails grep -rqs secret "$FVM_HOME/vms/a/workspace"
	expect 125 fvm -q run --rm --hide "$E2E/app" --native "$E2E/app" -- true
	says "hidden from the VM"
}

@test "diff names it in one line, commit and reset refuse what is in it" {
	needs_root
	fvm -q run --net none --name a --native "$E2E/db" --native /opt/fvm-none -- \
		sh -c "echo more >'$E2E/db/more'; echo x >/opt/fvm-x"
	equal "$(fvm -q diff a)" "$(printf 'N /opt/fvm-none\nN %s\nA /opt/fvm-x' "$E2E/db")"
	equal "$(fvm --json diff a "$E2E/db" | jq -r '.[].kind')" native
	equal "$(fvm inspect a | jq -r '.native | join(" ")')" "/opt/fvm-none $E2E/db"
	expect 125 fvm commit -y a "$E2E/db/more"
	says "native directory $E2E/db"
	expect 125 fvm reset a "$E2E/db"
	says "native directory $E2E/db"
	expect 0 fvm commit --dry-run a
	says "$E2E/db is native"
	fails grep -q more <<<"$output"
	fvm reset a /opt/fvm-x
	equal "$(in_vm a "ls '$E2E/db/more'")" "$E2E/db/more"
}

@test "a VM is kept for what is in one, and not for an empty one" {
	needs_root
	fvm -q run --net none --native /opt/fvm-none:empty -- true
	equal "$(fvm --json ls | jq length)" 0
	fvm -q run --net none --native /opt/fvm-none -- touch /opt/fvm-none/x
	equal "$(fvm --json ls | jq length)" 1
	# nor does one that was thrown away leave anything to the next
	fvm -q run --net none --rm --native "$E2E/db" -- touch "$E2E/db/thrown"
	equal "$(fvm -q run --net none --rm --native "$E2E/db:empty" -- ls -A "$E2E/db")" ""
	equal "$(fvm -q run --net none --rm --native "$E2E/db" -- ls "$E2E/db" | xargs)" "link sub symlink"
}

@test "it goes along with snapshots, rollback and clones" {
	needs_root
	fvm -q run --net none --name a --native "$E2E/db" -- sh -c "echo two >'$E2E/db/two'"
	fvm snapshot a first
	in_vm a "rm '$E2E/db/two'; echo three >'$E2E/db/three'"
	fvm clone a b
	equal "$(in_vm b "ls '$E2E/db' | xargs")" "link sub symlink three"
	fvm -q start a
	fvm -q snapshot a live
	fvm -q stop a
	fvm rollback a first
	equal "$(in_vm a "ls '$E2E/db' | xargs; stat -c %h '$E2E/db/link'")" "$(printf 'link sub symlink two\n2')"
	fvm rollback a live
	equal "$(in_vm a "ls '$E2E/db' | xargs")" "link sub symlink three"
	expect 0 fvm export b "$E2E/b.tar"
	says "$E2E/db is native"
}

@test "a bar tells of the files that a start copies" {
	needs_root
	mkdir "$E2E/many" && (cd "$E2E/many" && seq 40000 | xargs touch)
	expect 0 on_terminal fvm run --rm --net none --native "$E2E/many" true
	rm -r "$E2E/many"
	says "copy native directories: "
}

@test "nonsense is refused before anything starts" {
	needs_root
	expect 125 fvm run --rm --native relative/../x -- true
	says "'..'"
	expect 125 fvm create --native /proc/x a
	says "own already"
	expect 125 fvm create --native /usr a
	expect 125 fvm create --native /srv/x:ro a
	says "DIR[:empty]"
	expect 125 fvm run --rm --native /opt/x --native /opt/x/y -- true
	says "one lies in the other"
	mkdir -p "$E2E/policy/fvm/policy.d"
	printf '[vm]\nnative = -~/none\nnative = %s\n' "$E2E/db" >"$E2E/policy/fvm/policy.d/db.policy"
	equal "$(XDG_CONFIG_HOME=$E2E/policy fvm -q run --net none --rm --policy "$E2E/policy/fvm/policy.d/db.policy" -- \
		sh -c "grep -c ' $E2E/db ' /proc/self/mounts")" 1
}

@test "it counts for the VM's disk" {
	needs_root
	needs_loop
	needs_command mkfs.ext4
	expect 1 fvm -q run --net none --name a --disk 16M --native "$E2E/db" -- \
		dd if=/dev/zero of="$E2E/db/big" bs=1M count=20 status=none
	expect 0 fvm -q run --net none --name a -- sh -c "rm '$E2E/db/big' && cat '$E2E/db/link'"
	equal "$output" one
}

# user_dirs: what an ordinary user gets: his directory copied, one that is not his made, as VM root
user_native() {
	needs_user "$1"
	as_user "$1" sh -c 'mkdir -p ~/db && echo one >~/db/f && chmod 700 ~/db'
	expect 0 as_user "$1" fvm -q run --net none --name n --root --native "/home/fvmt-$1/db" \
		--native /var/lib/fvm-native -- sh -c "
		cat /home/fvmt-$1/db/f && stat -c '%a %u' /home/fvmt-$1/db && echo two >/home/fvmt-$1/db/f
		cd /var/lib/fvm-native && mkdir u w m l && touch u/x &&
		mount -t overlay -o userxattr,lowerdir=l,upperdir=u,workdir=w none m && ls m"
	equal "$(xargs <<<"$output")" "one 700 0 x"
	as_user "$1" fvm -q clone n n2
	equal "$(as_user "$1" fvm -q run --net none --name n2 --root -- cat "/home/fvmt-$1/db/f")" two
	equal "$(as_user "$1" cat "/home/fvmt-$1/db/f")" one
	as_user "$1" fvm -q rm n n2
	equal "$(as_user "$1" fvm --json ls | jq length)" 0
}

@test "an ordinary user with ranges of ids has native directories" {
	user_make natranges
	user_native natranges
}

@test "an ordinary user with one id has native directories" {
	user_make natsingle no-ranges
	user_native natsingle
}

# ---- containers ----

@test "in root's VM crun, unshare and bubblewrap work" {
	needs_root
	needs_command crun bwrap
	mkdir -p "$E2E/bundle/rootfs/bin" && cp "$E2E/image/bin/sh" "$E2E/bundle/rootfs/bin/"
	(cd "$E2E/bundle" && crun spec && sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"sh", "-c", "echo crun; id -u"|' config.json)
	expect 0 fvm -q run --net none --rm --native /var/lib/containers -- sh -c "
		cd '$E2E/bundle' && crun run fvm-test
		unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'echo unshare; echo \$\$'
		bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev echo bwrap"
	equal "$(xargs <<<"$output")" "crun 0 unshare 1 bwrap"
}

# podman_in ARGS.. -- OPTIONS: run, build and run in a VM; OPTIONS are podman's
podman_vm() {
	cat >"$E2E/podman.sh" <<-END
		podman --log-level=error import $E2E/image.tar box >/dev/null 2>&1 || exit 1
		podman info --format '{{.Store.GraphDriverName}}'
		podman --log-level=error run --rm $1 box /bin/sh -c 'echo run' || exit 1
		mkdir -p /tmp/context && printf 'FROM box\nRUN ["/bin/sh", "-c", "echo built >/built"]\n' >/tmp/context/Containerfile
		podman --log-level=error build -q $2 -t box2 /tmp/context >/dev/null || exit 1
		podman --log-level=error run --rm $1 box2 /bin/sh -c 'read -r a </built && echo \$a'
	END
}

@test "in root's VM podman runs and builds containers, on overlays" {
	needs_root
	needs_command podman
	podman_vm --net=none --network=host
	[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || [ -d /sys/fs/cgroup/unified ] ||
		podman_vm "--net=none --cgroups=disabled" --network=host
	expect 0 fvm -q run --net none --name c --native /var/lib/containers -- sh "$E2E/podman.sh"
	equal "$(xargs <<<"$output")" "overlay run built"
	# what the engine made there stays with the VM
	expect 0 in_vm c podman --log-level=error images -q
	equal "$(grep -c . <<<"$output")" 2
}

@test "in a user's VM with ranges podman runs and builds containers" {
	needs_user natranges
	needs_command podman
	podman_vm "--net=none --cgroups=disabled" --network=host
	expect 0 as_user natranges fvm -q run --net none --rm --root --native /var/lib/containers -- \
		sh "$E2E/podman.sh"
	equal "$(xargs <<<"$output")" "overlay run built"
}

@test "docker, installed in a VM, runs and builds containers there" {
	needs_root
	needs_packages
	cat >"$E2E/docker.sh" <<-END
		export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
		{ apt-get -q update && apt-get -q install -y --no-install-recommends docker.io; } >/tmp/apt.log 2>&1 ||
			{ cat /tmp/apt.log; exit 1; }
		dockerd >/tmp/dockerd.log 2>&1 &
		for i in \$(seq 100); do docker info >/dev/null 2>&1 && break; sleep 0.1; done
		docker info --format '{{.Driver}}' || tail /tmp/dockerd.log
		docker import $E2E/image.tar box >/dev/null
		docker run --rm box /bin/sh -c 'echo run'
		mkdir -p /tmp/context && printf 'FROM box\nRUN ["/bin/sh", "-c", "echo built >/built"]\n' >/tmp/context/Dockerfile
		docker build -q -t box2 /tmp/context >/dev/null && docker run --rm box2 /bin/sh -c 'read -r a </built && echo \$a'
		kill %1 && wait %1
		exit 0
	END
	expect 0 fvm -q run --rm --native /var/lib/docker -- bash "$E2E/docker.sh"
	equal "$(grep -v WARNING <<<"$output" | xargs)" "overlay2 run built"
}
