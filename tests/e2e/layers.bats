# Snapshots, rollback, clones, export and import: what stacks layers.
load helper

setup() { needs_root; }

@test "a snapshot is gone back to, and what came later is gone" {
	in_vm a 'echo one >/etc/fvm-test; mkdir /opt/d; echo x >/opt/d/f'
	fvm snapshot a first
	in_vm a 'echo two >/etc/fvm-test; rm -r /opt/d; rm /etc/hostname; echo later >/root/later'
	equal "$(in_vm a 'cat /etc/fvm-test')" two
	fvm snapshot a second
	fvm rollback a first
	equal "$(in_vm a 'cat /etc/fvm-test /opt/d/f; cat /etc/hostname; ls /root/later 2>&1 | wc -l')" \
		"$(printf 'one\nx\n%s\n1' "$(cat /etc/hostname)")"
	fvm rollback a second
	equal "$(in_vm a 'cat /etc/fvm-test; ls /opt/d /etc/hostname 2>&1 | grep -c "No such"')" \
		"$(printf 'two\n2')"
	equal "$(fvm --json snapshot --ls a | jq -r '.[].tag' | xargs)" "first second"
}

@test "a clone goes on from there, and neither sees what the other does" {
	in_vm a 'echo one >/etc/fvm-test'
	fvm clone a b
	in_vm a 'echo a >/etc/fvm-test'
	equal "$(in_vm b 'cat /etc/fvm-test')" one
	in_vm b 'echo b >/etc/fvm-test'
	equal "$(in_vm a 'cat /etc/fvm-test')" a
	fvm rm a
	equal "$(in_vm b 'cat /etc/fvm-test')" b
}

@test "layers go with the last VM that stands on them" {
	in_vm a 'echo one >/etc/fvm-test'
	fvm clone a b
	fvm snapshot b t
	fvm rm a
	[ "$(find "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" -ge 1 ]
	fvm rm b
	equal "$(find "$FVM_HOME/layers" -mindepth 1 -maxdepth 1 | wc -l)" 0
}

@test "a tag that is taken, or that isn't there, is told" {
	in_vm a 'echo one >/etc/fvm-test'
	fvm snapshot a t
	expect 125 fvm snapshot a t
	says "t"
	expect 125 fvm rollback a nosuch
	says "it has: t"
	expect 125 fvm snapshot a 'no/tag'
	fvm snapshot --drop a t
	expect 125 fvm rollback a t
	equal "$(in_vm a 'cat /etc/fvm-test')" one
}

@test "an export is read again: types, owners, links, capabilities, deletions, snapshots" {
	in_vm a 'mkdir -p /opt/d/e; echo data >/opt/d/f; ln /opt/d/f /opt/d/hard; ln -s f /opt/d/sym
		mkfifo /opt/d/fifo; chown 12:34 /opt/d/f; chmod 4755 /opt/d/f; chown 56:78 /opt/d/fifo
		chmod 662 /opt/d/fifo; mkdir /opt/d/.wh.dir; echo no >/opt/d/.wh.f; ln -s f /opt/d/.wh.sym
		touch /opt/d/.wh.dir/.wh.in; ln /opt/d/.wh.f /opt/d/.wh.hard
		cp /bin/true /opt/d/cap; setcap cap_net_raw+ep /opt/d/cap
		truncate -s 8M /opt/d/sparse; touch -d 2001-02-03T04:05:06Z /opt/d/f /opt/d/e
		printf x >"/opt/d/odd
name"; setfattr -n user.note -v hi /opt/d/hard; rm /etc/hostname; rm -r /etc/apt; mkdir /etc/apt'
	fvm snapshot a tag
	in_vm a 'echo more >/opt/d/later'
	fvm export a "$E2E/a.tar"
	fvm import "$E2E/a.tar" b
	list='cd /opt/d && stat -c "%n %F %u:%g %a %h %s %Y" .wh* .wh.dir/.wh* e f fifo hard odd* sparse sym |
		sed s/directory.*// ; readlink sym; getcap cap; getfattr --only-values -n user.note hard
		cat f later; ls -A /etc/apt /etc/hostname 2>&1 | head -3; du -k sparse | cut -f1'
	equal "$(in_vm b "$list")" "$(in_vm a "$list")"
	fvm rollback b tag
	expect 1 in_vm b 'test -e /opt/d/later'
}

# round_trip USER: what can't be had is in the image, and root commits it
round_trip() {
	needs_user "$1"
	local list='cd /opt/d && stat -c "%n %F %u:%g %a %t:%T" *'
	as_user "$1" fvm -q run --keep --root --net none --name a -- sh -c 'mkdir /opt/d && cd /opt/d && echo one >f &&
		ln -s f sym && mkfifo -m 662 fifo && chown 70001:70002 f && chown -h 70003:70004 sym &&
		chown 70005:70006 fifo && mknod -m 640 char c 1 3 && mknod block b 7 1 && chown 70007 block'
	as_user "$1" fvm -q export a a.tar
	expect 0 as_user "$1" fvm -q import a.tar b
	equal "$(as_user "$1" fvm -q run --root --net none --name b -- sh -c "$list" | grep -E '^(f|char|block) ')" \
		"$(as_user "$1" fvm -q run --root --net none --name a -- sh -c "$list" | grep -E '^(f|char|block) ')"
	local home=/home/fvmt-$1/.local/share/fvm
	FVM_HOME=$home expect 125 fvm commit b /opt/d
	says "/opt/d/char: a device is never committed"
	rm -rf /opt/d
	FVM_HOME=$home fvm -q commit --force b /opt/d
	equal "$(cd /opt/d && stat -c '%n %u:%g %a' -- * | xargs)" \
		"f 70001:70002 644 fifo 70005:70006 662 sym 70003:70004 777"
	FVM_HOME=$home fvm -q undo
	[ ! -e /opt/d ]
	as_user "$1" fvm -q rm a b
}

@test "a user's export is read again with owners and devices that can't be had: ranges of ids" {
	round_trip layers
}

@test "a user's export is read again with owners and devices that can't be had: one id" {
	needs_root
	user_make single no-ranges
	round_trip single
}

@test "an export that was cut short or has a bit flipped is refused, and nothing is left" {
	in_vm a 'head -c 300000 /dev/urandom >/opt/noise'
	fvm export a "$E2E/a.tar"
	size=$(stat -c %s "$E2E/a.tar")
	for at in 100 600 2000 $((size / 2)) $((size - 20000)); do
		head -c "$at" "$E2E/a.tar" >"$E2E/short.tar"
		expect 125 fvm import "$E2E/short.tar" b
		cp "$E2E/a.tar" "$E2E/flip.tar"
		printf '\377' | dd of="$E2E/flip.tar" bs=1 seek="$at" conv=notrunc status=none
		if fvm import "$E2E/flip.tar" b 2>/dev/null; then
			# a byte that no digest covers (a header's padding): what came in must be right
			equal "$(in_vm b 'sha256sum </opt/noise')" "$(in_vm a 'sha256sum </opt/noise')"
			fvm rm b
		fi
	done
	equal "$(fvm --json ls | jq -r '.[].name' | xargs)" a
	equal "$(find "$FVM_HOME/tmp" "$FVM_HOME/layers" -mindepth 1 | wc -l)" 0
}

@test "an image does not get what it asks of this host" {
	fvm create a --bind /etc:/mnt --device /dev/kvm --secrets --hide /opt
	# what only policies give can be written there all the same
	sed -i '0,/{/s//{ "show": ["~\/.ssh"], "private_networks": true, "i386_sockets": true,/' "$FVM_HOME/vms/a/config.json"
	fvm export a "$E2E/a.tar"
	fvm import "$E2E/a.tar" b 2>"$E2E/said"
	grep -q "not granted" "$E2E/said"
	equal "$(fvm inspect b | jq -c '.config | [.binds, .devices, .secrets, .show, .private_networks, .i386_sockets]')" \
		"[null,null,null,null,null,null]"
	equal "$(fvm inspect b | jq -r '.config.hide[0]')" /opt
}

@test "a hostile image can't write outside its layer" {
	dir=$E2E/evil
	mkdir -p "$dir"
	in_vm a 'true >/opt/x'
	fvm export a "$E2E/a.tar"
	tar -xf "$E2E/a.tar" -C "$dir"
	for evil in climb absolute symlink device mark; do
		rm -rf "$dir/tree" && mkdir "$dir/tree"
		case $evil in
		climb) touch "$dir/tree/x" && what=(--transform 's,^x$,../../../../fvm-escaped,' x) ;;
		absolute) touch "$dir/tree/x" && what=(-P --transform 's,^x$,/fvm-escaped,' x) ;;
		symlink)
			ln -s / "$dir/tree/link"
			touch "$dir/tree/x"
			what=(--transform 's,^x$,link/fvm-escaped,S' link x)
			;;
		device) mknod "$dir/tree/x" b 7 0 && what=(x) ;;
		mark) touch "$dir/tree/x" && what=(--transform 's,^x$,.wh...,' x) ;;
		esac
		tar -C "$dir/tree" -cf "$dir/layer.tar" "${what[@]}"
		repack "$dir" "$dir/layer.tar" "$E2E/evil.tar"
		expect 125 fvm import "$E2E/evil.tar" b
		[ ! -e /fvm-escaped ]
		equal "$(find / -xdev -maxdepth 2 -name 'fvm-escaped*' | wc -l)" 0
	done
	equal "$(find "$FVM_HOME/tmp" -mindepth 1 | wc -l)" 0
}

# forge CONFIG FILE [LAYER..]: the image $E2E/a.tar with these changes to its configuration (a JSON
# object) and, if given, these layers, as FILE
forge() {
	python3 - "$E2E/a.tar" "$@" <<-'END'
		import hashlib, io, json, sys, tarfile
		old, changes, new, layers = tarfile.open(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4:]
		out = tarfile.open(new, "w")
		def read(name): return old.extractfile(name).read()
		def blob(d): return read("blobs/sha256/" + d["digest"][7:])
		def put(name, data):
		    info = tarfile.TarInfo(name); info.size = len(data); out.addfile(info, io.BytesIO(data))
		def put_blob(data):
		    digest = hashlib.sha256(data).hexdigest()
		    put("blobs/sha256/" + digest, data)
		    return {"digest": "sha256:" + digest, "size": len(data), "mediaType": "x"}
		index = json.loads(read("index.json"))
		manifest = json.loads(blob(index["manifests"][0]))
		image = json.loads(blob(manifest["config"]))
		config = json.loads(image["config"]["Labels"]["org.fvm.config"])
		config.update(changes)
		image["config"]["Labels"]["org.fvm.config"] = json.dumps(config)
		manifest["config"] = put_blob(json.dumps(image).encode())
		manifest["layers"] = [put_blob(open(f, "rb").read()) for f in layers] or \
		    [put_blob(blob(d)) for d in manifest["layers"]]
		index["manifests"] = [put_blob(json.dumps(manifest).encode())]
		put("index.json", json.dumps(index).encode())
		out.close()
	END
}

@test "what a configuration says of this host, its networks and secrets does not come in" {
	fvm create a
	fvm export a "$E2E/a.tar"
	forge '{"show": ["/root/.ssh", "~/.ssh"], "private_networks": true, "i386_sockets": true,
		"secrets": true, "io_uring": true, "connections": 4000000000, "net": "host", "direct": ["/"], "throw_away": true}' "$E2E/asks.tar"
	fvm import "$E2E/asks.tar" b 2>"$E2E/said"
	grep -q "not granted" "$E2E/said"
	equal "$(fvm inspect b | jq -c '.config | [.show, .private_networks, .i386_sockets, .secrets, .io_uring,
		.direct, .connections, .throw_away, .net]')" '[null,null,null,null,null,null,null,null,"nat"]'
	# nor what would reach a terminal
	local evil
	for evil in '"snapshots": [{"tag": "\u001b]0;x\u0007", "created_ns": 1, "layers": []}]' \
		'"snapshots": [{"tag": "t", "created_ns": 1, "layers": []}, {"tag": "t", "created_ns": 1, "layers": []}]' \
		'"hostname": "a\nb"'; do
		forge "{$evil}" "$E2E/evil.tar"
		expect 125 fvm import "$E2E/evil.tar" c
		says "the image is damaged"
	done
}

@test "an image that says it is larger than it is takes neither time nor room" {
	local dir=$E2E/bomb
	mkdir -p "$dir/blobs/sha256"
	fvm create a
	fvm export a "$E2E/a.tar"
	# a blob of a tebibyte of zeros, in some kilobytes of tar
	truncate -s 1T "$dir/blobs/sha256/$(printf '%064d' 1)"
	tar -C "$dir" --sparse -cf "$E2E/sparse.tar" blobs
	expect 125 timeout 20 fvm import "$E2E/sparse.tar" b
	says "damaged"
	expect 125 timeout 20 sh -c "fvm import - b <'$E2E/sparse.tar'"
	# a layer with such a file is fine: it stays sparse
	truncate -s 1T "$dir/large"
	echo end >>"$dir/large"
	tar -C "$dir" --sparse -cf "$dir/layer.tar" --transform 's,^,opt/,' large
	forge '{}' "$E2E/large.tar" "$dir/layer.tar"
	timeout 20 fvm import "$E2E/large.tar" b
	equal "$(in_vm b 'stat -c %s /opt/large; tail -c 4 /opt/large')" "$(((1 << 40) + 4))
end"
	[ "$(du -sk "$FVM_HOME/layers" | cut -f1)" -lt 1000 ]
}

@test "a file that is mostly a hole is exported and imported at once, and stays one" {
	in_vm a 'truncate -s 1T /opt/large && echo x | dd of=/opt/large bs=1 seek=1G conv=notrunc 2>/dev/null
		echo y >>/opt/large; truncate -s 900G /opt/empty; ln /opt/large /opt/too'
	timeout 60 fvm export a "$E2E/a.tar"
	[ "$(stat -c %s "$E2E/a.tar")" -lt 1000000 ]
	timeout 60 fvm import "$E2E/a.tar" b
	equal "$(in_vm b 'stat -c "%s %h" /opt/large /opt/empty; dd if=/opt/large bs=1 skip=1G count=1 2>/dev/null
		tail -c 2 /opt/too')" "$(((1 << 40) + 2)) 2
$((900 << 30)) 1
xy"
	[ "$(du -sk "$FVM_HOME/layers" | cut -f1)" -lt 1000 ]
	mkdir "$E2E/others"
	tar -xOf "$E2E/a.tar" "blobs/sha256/$(tar -xOf "$E2E/a.tar" "blobs/sha256/$(tar -xOf "$E2E/a.tar" index.json |
		jq -r '.manifests[0].digest[7:]')" | jq -r '.layers[0].digest[7:]')" | tar --zstd -C "$E2E/others" -xf -
	equal "$(stat -c %s "$E2E/others/opt/large")" "$(((1 << 40) + 2))"
	rm -r "$E2E/others"
}

@test "an image that unpacks to more than the disk holds leaves room for others" {
	local dir=$E2E/bomb store=$E2E/small
	needs_command zstd
	mkdir -p "$dir" "$store"
	fvm create a
	fvm export a "$E2E/a.tar"
	python3 - "$dir" <<-'END'
		import io, os, sys, tarfile
		def make(name, count, data):
		    with tarfile.open(sys.argv[1] + "/" + name, "w") as out:
		        for i in range(count):
		            info = tarfile.TarInfo("opt/%d" % i); info.size = len(data); out.addfile(info, io.BytesIO(data))
		make("much", 100, os.urandom(1 << 20))
		make("many", 5000, b"")
	END
	zstd -q --rm "$dir/much" "$dir/many"
	mount -t tmpfs -o size=64M,nr_inodes=4000 none "$store"
	local name
	for name in much many; do
		forge '{}' "$E2E/bomb.tar" "$dir/$name.zst"
		expect 125 env FVM_HOME="$store/home" fvm import "$E2E/bomb.tar" b || { umount "$store"; return 1; }
		says "too little would be left" || { umount "$store"; return 1; }
	done
	name=$(df --output=ipcent,pcent "$store" | tail -n 1)
	umount "$store"
	equal "$name" "   1%   1%"
}

@test "an image starts no program, and is not unpacked twice" {
	local dir=$E2E/packed how
	mkdir -p "$dir/bin"
	fvm create a
	fvm export a "$E2E/a.tar"
	printf '#!/bin/sh\ntouch %s/ran\ncat\n' "$dir" | tee "$dir/bin/lrzip" "$dir/bin/lzop" >"$dir/bin/grzip"
	chmod 0755 "$dir/bin/"*
	printf 'LRZI\0\6%058d' 0 >"$dir/lrzip"
	printf '\211LZO\0\r\n\032\n%058d' 0 >"$dir/lzop"
	printf 'GRZipII\0\2\4:)%058d' 0 >"$dir/grzip"
	for how in lrzip lzop grzip; do
		forge '{}' "$E2E/packed.tar" "$dir/$how"
		expect 125 env PATH="$dir/bin:$PATH" fvm import "$E2E/packed.tar" b
	done
	fails ls "$dir/ran"
	echo text >"$dir/f"
	tar -C "$dir" -cf "$dir/layer.tar" f
	gzip -k "$dir/layer.tar" && gzip -c "$dir/layer.tar.gz" >"$dir/twice"
	forge '{}' "$E2E/once.tar" "$dir/layer.tar.gz"
	fvm import "$E2E/once.tar" b
	forge '{}' "$E2E/twice.tar" "$dir/twice"
	expect 125 fvm import "$E2E/twice.tar" c
	says "compressed twice"
}

# repack DIR LAYER FILE: the image in DIR with LAYER as its only layer
repack() {
	local blobs=$1/blobs/sha256 layer config manifest old
	old=$(jq -r '.manifests[0].digest' "$1/index.json" | cut -d: -f2)
	layer=$(sha256sum <"$2" | cut -d' ' -f1)
	cp "$2" "$blobs/$layer"
	config=$(jq -r .config.digest "$blobs/$old" | cut -d: -f2)
	jq -c --arg d "sha256:$layer" '.layers = [{mediaType: "application/vnd.oci.image.layer.v1.tar",
		digest: $d, size: 1}]' "$blobs/$old" >"$1/manifest"
	manifest=$(sha256sum <"$1/manifest" | cut -d' ' -f1)
	cp "$1/manifest" "$blobs/$manifest"
	jq -c --arg d "sha256:$manifest" '.manifests[0].digest = $d' "$1/index.json" >"$1/index"
	mkdir -p "$1/new/blobs/sha256"
	rm -f "$1"/new/blobs/sha256/*
	cp "$blobs/$layer" "$blobs/$config" "$blobs/$manifest" "$1/new/blobs/sha256"
	cp "$1/index" "$1/new/index.json"
	cp "$1/oci-layout" "$1/new"
	tar -C "$1/new" -cf "$3" oci-layout index.json blobs
}

@test "directories that an image does not tell of are as the host's are" {
	dir=$E2E/thin
	mkdir -p "$dir/tree$E2E/closed" "$E2E/closed"
	chmod 2710 "$E2E/closed"
	chown daemon:daemon "$E2E/closed"
	echo x >"$dir/tree$E2E/closed/new"
	in_vm a 'true >/opt/x'
	fvm export a "$E2E/a.tar"
	tar -xf "$E2E/a.tar" -C "$dir"
	tar -C "$dir/tree" -cf "$dir/layer.tar" "${E2E#/}/closed/new"
	repack "$dir" "$dir/layer.tar" "$E2E/thin.tar"
	expect 0 fvm -q import "$E2E/thin.tar" b
	equal "$(fvm -q diff --all b)" "A $E2E/closed/new"
	equal "$(in_vm b "stat -c '%a %U %G' $E2E $E2E/closed")" "$(stat -c '%a %U %G' "$E2E" "$E2E/closed")"
}

@test "other tools read an export, and what they write of it is imported again" {
	needs_command podman
	pod() { podman --root "$E2E/pod" --runroot "$E2E/podrun" --storage-driver vfs "$@"; }
	in_vm a 'mkdir -p /opt/d/sub/old; echo one >/opt/d/f; ln /opt/d/f /opt/d/hard; ln -s f /opt/d/sym
		chown 12:34 /opt/d/f; chmod 4755 /opt/d/f; cp /bin/true /opt/d/cap; setcap cap_net_raw+ep /opt/d/cap
		touch -d 2001-02-03T04:05:06Z /opt/d/f; echo x >/opt/d/gone; touch "/opt/d/odd
name"'
	fvm snapshot a t
	in_vm a 'rm /opt/d/gone; rm -r /opt/d/sub; mkdir /opt/d/sub; echo later >/opt/d/later; rm /etc/hostname'
	fvm export a "$E2E/a.tar"
	expect 0 pod pull -q "oci-archive:$E2E/a.tar"
	local image=${lines[-1]} dir
	dir=$(pod image mount "$image")
	equal "$(cd "$dir/opt/d" && stat -c '%n %F %u:%g %a %h %Y' f; find . | sort; getcap cap; readlink sym)" \
		"$(in_vm a "cd /opt/d && stat -c '%n %F %u:%g %a %h %Y' f; find . | sort; getcap cap; readlink sym")"
	[ ! -e "$dir/etc/hostname" ]
	[ ! -e "$dir/etc/.wh.hostname" ]
	pod image unmount -a >/dev/null
	pod save -q --format oci-archive -o "$E2E/b.tar" "$image"
	fvm -q import "$E2E/b.tar" b
	equal "$(fvm -q diff b)" "$(fvm -q diff a)"
	pod rmi -f "$image" >/dev/null
}

# No layer is there, and nothing waits to be deleted.
nothing_stored() { [ -z "$(find "$FVM_HOME/layers" "$FVM_HOME/trash" -mindepth 1 -maxdepth 1)" ]; }

# A tree of 3000 levels, as nobody can name it by a path.
deep_tree() {
	in_vm "$1" "perl -e 'mkdir q(/opt/deep); chdir q(/opt/deep) or die;
		for (1..3000) { mkdir q(d-12345678) or die; chdir q(d-12345678) or die }
		open F, q(>bottom); print F q(here); close F'"
}

# What stands at its bottom.
deep_bottom() {
	in_vm "$1" "perl -e 'chdir q(/opt/deep) or die; for (1..3000) { chdir q(d-12345678) or die }
		open F, q(bottom) or die; print <F>'"
}

@test "a tree of 3000 levels is tagged, cloned, exported, imported and removed" {
	deep_tree a
	fvm snapshot a t
	fvm clone a b
	equal "$(deep_bottom b)" here
	fvm export b "$E2E/deep.tar"
	fvm -q import "$E2E/deep.tar" c
	equal "$(deep_bottom c)" here
	fvm rm a b c
	wait_until 30 nothing_stored
}

@test "a VM with a disk of its own is tagged, cloned, exported, copied from and committed" {
	needs_loop
	fvm create a --disk 64M
	in_vm a 'echo one >/opt/fvm-test; rm /etc/hostname'
	fvm snapshot a t
	in_vm a 'echo two >/opt/fvm-test'
	fvm export a "$E2E/a.tar"
	fvm import "$E2E/a.tar" b
	equal "$(in_vm b 'cat /opt/fvm-test; ls /etc/hostname 2>&1 | grep -c No')" "$(printf 'two\n1')"
	fvm rollback b t
	equal "$(in_vm b 'cat /opt/fvm-test')" one
	fvm clone a c
	equal "$(in_vm c 'cat /opt/fvm-test')" two
	fvm diff c | grep -q /opt/fvm-test
	fvm rollback a t
	equal "$(in_vm a 'cat /opt/fvm-test')" one
}
