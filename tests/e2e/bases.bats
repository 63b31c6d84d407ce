#!/usr/bin/env bats
# Bases that are slow, foreign or dead: FUSE of root's and of users', servers that hang, mount points
# that wait for somebody to enter them, VMs in what others make of the host.
# limit: 400

load helper

teardown() {
	local at
	[ -s "$E2E/servers" ] && xargs -r kill -CONT <"$E2E/servers" 2>/dev/null
	: >"$E2E/servers"
	vms_remove
	sort -r "$E2E/mounted" 2>/dev/null | while read -r at; do
		umount "$at" 2>/dev/null || umount -l "$at"
		rmdir "$at" 2>/dev/null
	done
	rm -f "$E2E/mounted"
	return 0
}

# fuse DIR AT [OPTION]: DIR once more, by a server of its own, whose pid is then in $server
fuse() {
	needs_command bindfs
	mkdir -p "$2"
	bindfs -f -o "${3:-allow_other}" "$1" "$2" 3>&- 4>&- >/dev/null 2>&1 &
	server=$!
	wait_until 30 mountpoint -q "$2" || skip "needs /dev/fuse"
	echo "$2" >>"$E2E/mounted"
	echo "$server" >>"$E2E/servers"
}

# A tree of 5,000 directories that are their owners' alone, at $E2E/tree.
people() {
	[ -d "$E2E/tree" ] && return 0
	python3 - "$E2E/tree" <<-'END'
		import os, sys
		top = sys.argv[1]
		os.mkdir(top)
		for i in range(5000):
		    d = f"{top}/d{i}"
		    os.mkdir(d)
		    for name, mode in (("private", 0o600), ("public", 0o644)):
		        with open(f"{d}/{name}", "w") as f:
		            f.write(f"{name} {i}\n")
		        os.chmod(f"{d}/{name}", mode)
		        os.chown(f"{d}/{name}", 1000 + i % 3, 33)
		    os.chmod(d, 0o700)
		    os.chown(d, 1000 + i % 3, 33)
	END
}

tree_state() { (cd "$E2E/tree" && find d42 d43 d44 d45 d46 d4999 -printf '%p %m %U %G %s %T@\n' | sort && cat d4[2-6]/*); }

untimed() { sed 's/ [0-9.]*$//'; }

@test "root's VM on root's FUSE: what 5,000 directories hide from strangers is there, owned, changed, undone" {
	needs_root
	people
	local at=/mnt/${E2E##*/}
	fuse "$E2E/tree" "$at"
	local as="setpriv --clear-groups --regid 33 --reuid" before took
	before=$(tree_state)
	# the start looks into none of them
	took=$(date +%s%N)
	expect 0 fvm -q run --net none --rm true
	took=$((($(date +%s%N) - took) / 1000000))
	[ $took -lt $((3000 * ${SLOWER:-1})) ]
	expect 0 fvm -q run --net none --keep --name v sh -c "cd $at && ls | wc -l
		cat d4999/private d*1/private | wc -l; stat -c '%U %a' d42/private | cut -d' ' -f2
		stat -c '%u:%g %a' d43 d43/private
		$as 1001 cat d43/private; $as 1002 cat d43/private || echo closed
		$as 1001 sh -c 'echo w >>d43/private; echo w >>d43/public; cat d43/public'
		echo r >>d42/private; rm -r d44; mv d45/private d45/other; chmod 750 d46; : >d46/new"
	says 5000
	says 501
	says "1001:33 700"
	says "1001:33 600"
	says "private 43"
	says closed
	equal "$before" "$(tree_state)"
	expect 0 fvm diff v
	says "M $at/d43/private"
	says "M $at/d43/public"
	says "D $at/d44"
	says "A $at/d46/new"
	says "m $at/d46"
	expect 0 fvm -q commit v "$at"
	equal "$(cat "$E2E/tree/d43/private")" $'private 43\nw'
	equal "$(stat -c '%u:%g %a' "$E2E/tree/d43/private" "$E2E/tree/d46" | xargs)" "1001:33 600 1001:33 750"
	[ ! -e "$E2E/tree/d44" ]
	expect 0 fvm undo
	# directories' own times aside, which a commit leaves as they come
	equal "$(untimed <<<"$before")" "$(tree_state | untimed)"
}

@test "a server that hangs under /mnt, the home or /tmp: no command waits for it" {
	needs_root
	local home=$E2E/root places place hung=() took
	mkdir -p "$E2E/back" "$home" && echo hi >"$E2E/back/file"
	places="/mnt/${E2E##*/} $home/remote /tmp/${E2E##*/}.remote"
	export HOME=$home
	for place in $places; do
		fuse "$E2E/back" "$place"
		hung+=("$server")
	done
	expect 0 fvm -q run --net none --keep --name h sh -c "echo x >>$home/remote/file; echo x >/mnt/${E2E##*/}/new; : >/etc/fvm-e2e; ls /tmp/${E2E##*/}.remote"
	kill -STOP "${hung[@]}"
	# who compares says whose answer is missing, within its time; what lies elsewhere is compared
	for command in "diff h" "commit --dry-run h"; do
		SECONDS=0
		# shellcheck disable=SC2086  # words
		expect 0 timeout 30 fvm $command
		says "$home/remote is not looked at"
		says "/mnt/${E2E##*/} is not looked at"
		says /etc/fvm-e2e
		fails grep -F /remote/file <<<"$output"
		[ $SECONDS -lt $((20 * ${SLOWER:-1})) ]
	done
	# who asks for something else does not even wait, nor hear of it
	for command in "diff --stat h /etc" "commit h /etc/fvm-e2e" undo "diff h /etc" "reset h /etc/fvm-e2e"; do
		SECONDS=0
		# shellcheck disable=SC2086  # words
		expect 0 timeout 30 fvm -q $command
		case $output in *"not looked at"*) return 1 ;; esac
		[ $SECONDS -lt $((4 * ${SLOWER:-1})) ]
	done
	for command in "diff h $home/remote" "commit h $home/remote/file" "reset h $home/remote/file"; do
		SECONDS=0
		# shellcheck disable=SC2086  # words
		expect 125 timeout 30 fvm $command
		says "which does not answer"
		says "umount -l"
		[ $SECONDS -lt $((20 * ${SLOWER:-1})) ]
	done
	for command in "ls" "doctor" "inspect h" "run -q --net none --name h sh -c :" "start h" "exec h true" \
		"stop h" "snapshot h one" "clone h h2" "export h $E2E/h.tar" "prune" "rm h2" \
		"run --net none --rm --prove true"; do
		SECONDS=0
		# shellcheck disable=SC2086  # words
		expect 0 timeout 30 fvm ${command/-q /}
		took=$SECONDS
		[ $took -lt $((15 * ${SLOWER:-1})) ] || { echo "$command took $took s" && return 1; }
	done
	expect 0 timeout 30 fvm -q run --net none --name h sh -c "ls -A /mnt/${E2E##*/} $home/remote; exit 0"
	expect 0 timeout 30 fvm inspect h
	kill -CONT "${hung[@]}"
	expect 0 fvm diff h "$home/remote"
	says "M $home/remote/file"
}

@test "what was changed is compared although another process stands before a server that hangs" {
	local holder
	expect 0 fvm -q run --net none --keep --name s sh -c ": >/etc/fvm-e2e"
	# the update of what the base was, as the end of a VM makes it, and never gets done
	wait_until 30 test -d "$FVM_HOME/vms/s/ancestors"
	flock "$FVM_HOME/vms/s/ancestors" sleep 60 3>&- &
	holder=$!
	echo "$holder" >"$E2E/servers"
	SECONDS=0
	expect 0 timeout 30 fvm diff s
	says "A /etc/fvm-e2e"
	expect 0 timeout 30 fvm -q snapshot s one
	expect 0 timeout 30 fvm -q commit s
	[ -e /etc/fvm-e2e ]
	expect 0 timeout 30 fvm -q undo
	[ $SECONDS -lt $((20 * ${SLOWER:-1})) ]
	pkill -P "$holder"
	wait "$holder" || true
}

@test "a user's VM starts beside root's server that hangs, and says what it left out" {
	needs_user
	mkdir -p "$E2E/back" && chmod 755 "$E2E/back"
	fuse "$E2E/back" "$E2E/remote"
	kill -STOP "$server"
	SECONDS=0
	expect 0 timeout 60 runuser -u fvmt-one -- env HOME=/home/fvmt-one "PATH=$PATH" \
		FVM_HOME=/home/fvmt-one/s fvm -q run --net none --keep --name u sh -c 'echo started'
	says started
	expect 0 timeout 20 runuser -u fvmt-one -- env HOME=/home/fvmt-one "PATH=$PATH" \
		FVM_HOME=/home/fvmt-one/s fvm rm u
	wait_until 30 idle_store /home/fvmt-one/s
	rm -rf /home/fvmt-one/s
}

@test "a user's own FUSE is left out of root's VMs, and named" {
	needs_user
	needs_command bindfs
	local uid
	as_user one mkdir -p /home/fvmt-one/src /home/fvmt-one/own
	uid=$(id -u fvmt-one)
	as_user one sh -c 'echo mine >src/file; bindfs --no-allow-other src own' || skip "needs a /dev/fuse for users"
	echo /home/fvmt-one/own >>"$E2E/mounted"
	# root may not even stat it
	grep -q " /home/fvmt-one/own fuse" /proc/self/mounts
	expect 0 fvm -q run --net none --keep --name v ls -A /home/fvmt-one/own
	equal "$output" ""
	expect 0 fvm start v
	expect 0 fvm inspect v
	says /home/fvmt-one/own
	expect 0 fvm stop v
	# the user's own VM, whose home is elsewhere, has no need of it either
	expect 0 as_user one fvm -q run --net none --rm sh -c 'echo in; ls -A own'
	says in
	[ "$uid" ]
}

@test "an automount point is left out, and nobody is made to mount" {
	needs_root
	mkdir -p "$E2E/auto" "$E2E/fifo"
	# a daemon that would hear of it: whoever enters would wait for its answer
	python3 - "$E2E/auto" "$E2E/heard" 3>&- 4>&- <<-'END' &
		import ctypes, os, select, sys, time
		r, w = os.pipe()
		os.setpgid(0, 0)
		libc = ctypes.CDLL(None, use_errno=True)
		options = f"fd={w},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
		if libc.mount(b"fvm-e2e", sys.argv[1].encode(), b"autofs", 0, options.encode()) != 0:
		    sys.exit(1)
		os.close(w)
		with open(sys.argv[2], "w") as f:
		    while os.path.exists(sys.argv[1]):
		        if select.select([r], [], [], 0.2)[0]:
		            f.write("asked\n" if os.read(r, 300) else "")
		            f.flush()
		            break
	END
	local daemon=$!
	if ! wait_until 30 grep -qs "$E2E/auto autofs" /proc/self/mounts; then
		wait $daemon
		skip "needs autofs in the kernel"
	fi
	local status=0
	expect 0 timeout 30 fvm -q run --net none --keep --name a sh -c "ls -A $E2E/auto; : >/etc/fvm-e2e" || status=1
	expect 0 timeout 30 fvm diff a || status=1
	expect 0 timeout 30 fvm start a && expect 0 timeout 30 fvm inspect a && says "$E2E/auto" || status=1
	expect 0 timeout 30 fvm doctor || status=1
	expect 0 timeout 30 fvm rm --force a || status=1
	[ ! -s "$E2E/heard" ] || status=1
	umount "$E2E/auto"
	kill $daemon 2>/dev/null || : # the unmount may have told it
	rmdir "$E2E/auto"
	[ $status = 0 ]
}

INSIDE="export FVM_HOME=/dev/shm/s; fvm -q run --net none --rm sh -c 'echo x >>/etc/hostname; id -u'; echo status \$?"

@test "fvm in bubblewrap, and in unshare -r" {
	needs_user
	needs_command bwrap
	expect 0 as_user one bwrap --unshare-user --unshare-pid --uid 0 --gid 0 --cap-add ALL --bind / / --dev /dev \
		--proc /proc --tmpfs /dev/shm --setenv PATH "$PATH" bash -c "$INSIDE"
	says "status 0"
	expect 0 as_user one unshare -rmpf --mount-proc bash -c "mount -t tmpfs none /dev/shm; $INSIDE"
	says "status 0"
}

@test "fvm in crun" {
	needs_root
	needs_command crun
	mkdir -p "$E2E/bundle" "$E2E/bundle/root"
	(cd "$E2E/bundle" && rm -f config.json && crun spec && jq --arg path "PATH=$PATH" --arg script "$INSIDE" --arg root "$E2E/bundle/root" '
		.process.terminal = false | .process.args = ["bash", "-c", $script] | .process.env = [$path, "HOME=/root"]
		| .root = { path: $root, readonly: false } | del(.linux.seccomp, .linux.maskedPaths, .linux.readonlyPaths)
		| .process.capabilities |= with_entries(.value = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN",
			"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_KILL",
			"CAP_SYS_PTRACE", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_FSETID", "CAP_DAC_READ_SEARCH"])
		| .linux.cgroupsPath = ""' config.json >c && mv c config.json)
	# / itself can't be what is pivoted to
	run unshare --mount --propagation private bash -c 'mount --rbind / "$1/root" &&
		exec crun --cgroup-manager=disabled run --bundle "$1" "$2"' bash "$E2E/bundle" "fvm-e2e-$$"
	[[ $output == *"cgroup"* && $output != *"status"* ]] && skip "crun can't start a container here: $output"
	says "status 0"
}
