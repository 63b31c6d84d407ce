# Attacks that use what fvm itself does for a VM: each was a way out once, or would be one.
# limit: 600
# shellcheck disable=SC2016  # most of this is for shells in VMs
load helper

setup() {
	needs_root
}

teardown() {
	[ -z "${pattern:-}" ] || echo "$pattern" >/proc/sys/kernel/core_pattern
	[ -z "${server:-}" ] || kill "$server" 2>/dev/null || :
	vms_remove
	local user
	for user in mal mal1; do
		if id -u fvmt-$user >/dev/null 2>&1; then as_user $user fvm -q rm --force v 2>/dev/null || :; fi
	done
	rmdir /sys/fs/cgroup/{,*/}fvm-e2e-victim 2>/dev/null || :
	[ -z "${cgroup:-}" ] || rmdir "$cgroup"/{fvm/*/vm,fvm/*,fvm,fvm-leaf,} 2>/dev/null || :
	rm -rf "$E2E/target"
}

@test "a file as stdin or stdout is not the VM's to write, to cut, or to change" {
	needs_user mal
	as_user mal sh -c 'echo ours >in; echo first >log; chmod 644 in log'
	local try='for fd in 0 1; do for how in "echo x >>" ": >" "echo x 1<>" "chmod 4777" "setfattr -n user.x -v y"; do
		timeout 5 sh -c "$how /proc/self/fd/$fd"; done; done 2>/dev/null; true'
	expect 0 as_user mal sh -c "fvm run --rm -- sh -c '$try' <in >>log"
	expect 0 as_user mal sh -c "fvm run --rm --root --net none -- sh -c '$try' <in >>log"
	equal "$(as_user mal sh -c 'cat in; stat -c %a in log; head -1 log; getfattr in log')" "ours
644
644
first"
	echo ours >"$E2E/in"
	chmod 666 "$E2E/in"
	expect 0 fvm run --rm -- sh -c "$try" <"$E2E/in"
	equal "$(cat "$E2E/in"; stat -c %a "$E2E/in")" "ours
666"
}

@test "lists and links of the VM lead nobody out who prepares its next start" {
	mkdir "$E2E/target"
	local list="L /run/evil - - - - $E2E/target
L /run/user - - - - $E2E/target
L /run/userdb - - - - $E2E/target
L /run/systemd - - - - $E2E/target
L /run/up - - - - ../../../../../..$E2E/target
d /run/evil/made/by/list 0755 - - -
d /run/up/made/by/list 0755 - - -
f /run/evil/file 0644 - - - text
d /run/user/0 0700 - - -"
	mkdir -p "$E2E/target/system"
	chmod 0777 "$E2E/target"
	fvm -q run --name v --keep -- sh -c "mkdir -p /etc/tmpfiles.d; echo '$list' >/etc/tmpfiles.d/0.conf
		ln -sf /run/evil/sub/resolv.conf /etc/resolv.conf || true"
	expect 0 fvm run --name v -- readlink /run/evil
	equal "$output" "$E2E/target"
	equal "$(find "$E2E/target" -printf '%P ')" " system "
	needs_user mal
	as_user mal fvm -q run --root --name v --keep -- sh -c "mkdir -p /etc/tmpfiles.d
		echo '$list' >/etc/tmpfiles.d/0.conf; ln -sf /run/evil/sub/resolv.conf /etc/resolv.conf || true"
	expect 0 as_user mal fvm run --name v -- true
	equal "$(find "$E2E/target" -printf '%P ')" " system "
}

@test "a VM of root's takes nothing of what the kernel counts by user from root, or other VMs" {
	local all='import ctypes; c = ctypes.CDLL(None)
while c.inotify_init() >= 0: pass
print("full", flush=True); import time; time.sleep(30)'
	fvm run -d --name greedy --net none -- python3 -c "$all"
	local one='import ctypes, sys; sys.exit(ctypes.CDLL(None).inotify_init() < 0)'
	wait_until 30 eval 'fvm logs greedy | grep -q full'
	expect 0 python3 -c "$one"
	expect 0 fvm run --rm --net none -- python3 -c "$one"
	expect 1 fvm exec greedy python3 -c "$one"
}

@test "a symlink that a VM has planted shares nothing but what may be shared" {
	mkdir -p "$E2E/shared"
	fvm run --rm --direct "$E2E/shared" -- sh -c "cd '$E2E/shared' && ln -s /proc proc && ln -s / root &&
		ln -s /etc etc && ln -s '$FVM_HOME' store"
	for name in proc root etc store; do
		expect 125 fvm run --rm --net none --bind "$E2E/shared/$name:/mnt" -- true
	done
	says "holds VMs"
	needs_user mal
	for name in proc root etc; do
		expect 125 as_user mal fvm run --rm --net none --bind "$E2E/shared/$name:/mnt" -- true
	done
	says "leads there by a symlink"
}

@test "a crash in a VM starts no program of the host's" {
	needs_first_world
	pattern=$(cat /proc/sys/kernel/core_pattern)
	printf '#!/bin/sh\necho "$2" >>"%s"\ncat >/dev/null\n' "$E2E/dumps" >"$E2E/handler"
	chmod 0755 "$E2E/handler"
	cp /bin/sleep "$E2E/inside" && cp /bin/sleep "$E2E/outside"
	echo "|$E2E/handler %P %e" >/proc/sys/kernel/core_pattern
	fvm run --rm --net none -- sh -c "'$E2E/inside' 9 & sleep 0.2; kill -SEGV \$!; wait" || :
	if as_user mal true; then
		as_user mal fvm run --rm --net none -- sh -c "'$E2E/inside' 9 & sleep 0.2; kill -SEGV \$!; wait" || :
	fi
	"$E2E/outside" 99 3>&- &
	wait_until 30 grep -qx outside /proc/$!/comm
	kill -SEGV $!
	wait $! || :
	wait_until 30 grep -qs outside "$E2E/dumps" || :
	echo "$pattern" >/proc/sys/kernel/core_pattern
	equal "$(cat "$E2E/dumps")" outside
}

# hostile NAME: tests/e2e/hostile_NAME.c as a program
hostile() {
	[ -x "$E2E/hostile_$1" ] || cc -D_GNU_SOURCE -O1 -w -o "$E2E/hostile_$1" \
		"$BATS_TEST_DIRNAME/hostile_$1.c"
}

@test "the kernel's doors and the tricks with mounts, attributes and descriptors: root's VMs" {
	hostile kernel
	local net
	for net in none nat host; do
		expect 0 fvm run --rm --net $net -- "$E2E/hostile_kernel"
	done
}

@test "the kernel's doors and the tricks with mounts, attributes and descriptors: users' VMs" {
	needs_user mal
	user_make mal1 no-ranges
	hostile kernel
	local user
	for user in mal mal1; do
		expect 0 as_user $user fvm run --rm --root --net none -- "$E2E/hostile_kernel"
		expect 0 as_user $user fvm run --rm -- "$E2E/hostile_kernel"
	done
}

@test "host to VM, VM to VM: processes and sockets of a VM are its owner's alone" {
	needs_user mal
	user_make mal1 no-ranges
	hostile reach
	fvm run -d --name v --net none -- sleep 300
	as_user mal fvm run -d --name v --root --net none -- sleep 300
	as_user mal1 fvm run -d --name v --root --net none -- sleep 300
	fvm run -d --name w --net none -- sleep 300
	local pid pids=() dirs=() user id
	for user in root mal mal1; do
		if [ $user = root ]; then
			pid=$(fvm --json inspect v | jq .init_pid)
			dirs+=("$FVM_HOME/run/vms/v/control" "$FVM_HOME/vms/v/config.json")
		else
			id=$(id -u fvmt-$user)
			pid=$(as_user $user fvm --json inspect v | jq .init_pid)
			dirs+=("/run/user/$id/fvm/vms/v/control" "/run/user/$id/fvm"
				"/home/fvmt-$user/.local/share/fvm/vms/v/log")
		fi
		pids+=("$pid" "$(pgrep -P "$pid" | head -n 1)")
	done
	[ ${#pids[@]} = 6 ]
	for pid in "${pids[@]}"; do
		# another ordinary user of the host, who has no VM at all
		expect 0 setpriv --reuid 65533 --regid 65533 --clear-groups "$E2E/hostile_reach" "$pid" "${dirs[@]}"
		# another VM, of root, and of the same user
		# (root's may read users' stores, as it may all that root reads)
		expect 0 fvm exec w "$E2E/hostile_reach" "$pid" "${dirs[@]:0:4}"
		expect 0 as_user mal fvm run --rm --root --net none -- "$E2E/hostile_reach" "$pid" "${dirs[@]}"
		expect 0 as_user mal1 fvm run --rm --root --net none -- "$E2E/hostile_reach" "$pid" "${dirs[@]}"
	done
	# one user and another's
	for pid in "${pids[@]:0:4}"; do
		expect 0 as_user mal1 "$E2E/hostile_reach" "$pid" "${dirs[@]:0:5}"
	done
}

@test "between users' VMs, and between them and the host: no name of IPC is shared" {
	needs_user mal
	user_make mal1 no-ranges
	hostile ipc
	local kind name
	mkdir "$E2E/target"
	chmod 0777 "$E2E/target"
	: >"$E2E/target/locked"
	as_user mal fvm run -d --name v --root --net none -- sleep 300
	as_user mal1 fvm run -d --name v --root --net none -- sleep 300
	while read -r kind name; do
		as_user mal fvm exec --detach v sh -c "'$E2E/hostile_ipc' serve $kind $name >/tmp/ready.$kind 2>&1"
		wait_until 30 as_user mal fvm exec v grep -q ready "/tmp/ready.$kind"
		expect 0 as_user mal fvm exec v "$E2E/hostile_ipc" reach "$kind" "$name"
		# the host's root, the user himself outside, another user's VM, another VM of his
		expect 1 "$E2E/hostile_ipc" reach "$kind" "$name"
		expect 1 as_user mal "$E2E/hostile_ipc" reach "$kind" "$name"
		expect 1 as_user mal1 fvm exec v "$E2E/hostile_ipc" reach "$kind" "$name"
		expect 1 as_user mal fvm run --rm --root --net none -- "$E2E/hostile_ipc" reach "$kind" "$name"
	done <<-END
		named $E2E/target/socket
		abstract fvm-e2e-mal-$$
		fifo $E2E/target/fifo
		tcp $((21000 + $$ % 9000))
		sysv-shm 5711$(($$ % 1000))
		sysv-msg 5712$(($$ % 1000))
		sysv-sem 5713$(($$ % 1000))
		queue /fvm-e2e-mal-$$
		shm /fvm-e2e-mal-$$
		lock $E2E/target/locked
	END
}

@test "the self-test finds what was left open, and tells all rows as JSON" {
	expect 0 fvm --json run --rm --prove --net none -- true
	equal "$(grep -c '"result":"holds"' <<<"$output")" "$(grep -c '"channel"' <<<"$output")"
	expect 0 as_user mal fvm run --rm --prove --net none -- true
	use_faults
	expect 125 env FVM_FAULT=confine.filter:1:einval fvm run --rm --prove --net none -- echo ran
	says "LEAK: other netlink"
	says "LEAK: user namespaces inside"
	expect 125 env FVM_FAULT=confine.ipc:1:einval fvm run --rm --prove --net none -- echo ran
	says "LEAK: SysV IPC"
	[[ $output != *ran* ]]
}

@test "a file system of a VM's own: no device by it, and nobody outside waits for it" {
	needs_device /dev/fuse
	hostile fuse
	fvm run -d --name v --net none --device /dev/fuse -- sh -c "mkdir -p /mnt/f && '$E2E/hostile_fuse' /mnt/f"
	wait_until 30 eval 'fvm logs v | grep -q ready'
	equal "$(fvm exec v stat -c '%F %a' /mnt/f/node)" "character special file 666"
	expect 1 fvm exec v head -c 1 /mnt/f/node
	says "ermission denied"
	# what the host's commands look at in a VM is not there any more, and programs hang
	fvm exec --detach v sh -c "'$E2E/hostile_fuse' /etc"
	wait_until 30 eval 'fvm logs v | grep -c ready | grep -qx 2'
	fvm exec --detach v ls /mnt/f/never
	fvm exec --detach v ls -l /mnt/f
	local command
	for command in "ls" "ps v" "stats v" "inspect v" "diff --stat v" "logs v"; do
		# shellcheck disable=SC2086
		expect 0 timeout 10 fvm $command
	done
	# who wants something of the VM's file system waits with it, and can be interrupted
	expect 124 timeout 1 fvm cp v:/mnt/f/never "$E2E/never"
	expect 0 timeout 30 fvm stop v
	expect 0 timeout 10 fvm rm v
}

@test "a descriptor passed over a shared socket has no more rights than the VM's ids, and leads on from there" {
	hostile pass
	mkdir -p "$E2E/target/in"
	echo secret >"$E2E/target/closed" && chmod 0600 "$E2E/target/closed"
	echo open >"$E2E/target/open"
	# the host to the VM
	"$E2E/hostile_pass" give "$E2E/target/in/socket" "$E2E/target/in" >"$E2E/ready" 3>&- &
	server=$!
	wait_until 30 grep -qs ready "$E2E/ready"
	expect 0 fvm run --rm --net none --bind "$E2E/target/in" -- "$E2E/hostile_pass" take \
		"$E2E/target/in/socket" ../closed ../open ../../../../etc/shadow
	equal "$output" "../closed: Permission denied
../open: r
../../../../etc/shadow: Permission denied"
	# not shared, it is another socket's name
	expect 1 fvm run --rm --net none -- "$E2E/hostile_pass" take "$E2E/target/in/socket" ..
	kill "$server" && wait "$server" || :
	rm "$E2E/target/in/socket"
	# the VM to the host: what it leads to is the VM's
	fvm run -d --name v --net none --bind "$E2E/target/in" -- sh -c "mkdir /opt/inside && echo v >/etc/fvm-only
		'$E2E/hostile_pass' give $E2E/target/in/socket /opt/inside"
	wait_until 30 eval 'fvm logs v | grep -q ready'
	expect 0 "$E2E/hostile_pass" take "$E2E/target/in/socket" ../../etc/fvm-only ../../../../etc/fvm-only \
		"../..$FVM_HOME"
	equal "${lines[0]%%:*} ${lines[1]%:*}" "../../etc/fvm-only ../../../../etc/fvm-only"
	says "../../etc/fvm-only: r"
	says "../../../../etc/fvm-only: r"
	says "../..$FVM_HOME: No such file or directory"
}

@test "the ids of a user's range are strangers on the host" {
	needs_user mal
	needs_command newuidmap
	local home=/home/fvmt-mal first count uid
	uid=$(id -u fvmt-mal)
	IFS=: read -r _ first count < <(grep ^fvmt-mal: /etc/subuid)
	[ "${count:-0}" -ge 65536 ] || skip "needs a range in /etc/subuid"
	as_user mal sh -c 'mkdir -m 0777 share; echo mine >share/mine; chmod 644 share/mine; chmod 755 .'
	expect 0 as_user mal fvm run --rm --root --net none --bind "$home/share" -- sh -c "cd $home/share || exit
		for id in 0 1 33 1000 65534 $uid 65536 $first 4294967294; do
			cp /bin/cat cat.\$id; chown \$id:\$id cat.\$id; chmod 6755 cat.\$id
			setpriv --reuid \$id --regid \$id --clear-groups sh -c 'cp /bin/cat own.'\$id'; chmod 6755 own.'\$id'
				echo x >>mine; rm -f mine'
			mknod node.\$id c 1 1
			setfacl -m u:\$id:rw mine
		done 2>/dev/null
		true"
	# nobody's but the user's and his range's, and nothing is a device
	equal "$(find "$home/share" -mindepth 1 ! -uid "$uid" \( -uid "-$first" -o -uid "+$((first + count - 1))" \))" ""
	equal "$(find "$home/share" ! -type f ! -type d)" ""
	equal "$(find "$home/share" -perm /6000 -name 'own.*' | wc -l)" "$(find "$home/share" -perm /6000 -name 'own.*' ! -uid 0 ! -gid 0 | wc -l)"
	# an id of the range may not look into the user's store, nor at what is his alone
	as_user mal sh -c 'echo secret >secret; chmod 600 secret'
	fails setpriv --reuid $((first + 32)) --regid $((first + 32)) --clear-groups cat "$home/secret"
	fails setpriv --reuid $((first + 32)) --regid $((first + 32)) --clear-groups ls "$home/.local/share/fvm/vms"
}

@test "the limits of a user's VM are out of its reach on cgroup v2, with nsdelegate or without" {
	needs_user mal
	local top x limits
	top=$(findmnt -nfo TARGET -t cgroup2) && mkdir "$top/fvmt-mal" || skip "needs cgroup v2 to write to"
	cgroup=$top/fvmt-mal # for teardown
	chown fvmt-mal "$cgroup" "$cgroup"/cgroup.{procs,subtree_control}
	# the test's own shell stays where it is
	in_cgroup() { (echo $BASHPID >"$cgroup/cgroup.procs" && as_user mal "$@"); }
	in_cgroup fvm create v
	in_cgroup fvm start v
	limits=$(dirname "$(find "$cgroup"/fvm/ -mindepth 2 -maxdepth 2 -name cgroup.max.descendants)")
	as_user mal sh -c "echo 7 >'$limits/cgroup.max.descendants'"
	expect 0 as_user mal fvm exec --root v -- bash -c 'mkdir /tmp/cg && mount -t cgroup2 none /tmp/cg && cd /tmp/cg || exit
		echo mounted
		for x in max 99 max 1; do
			for f in $(find . -type f ! -name cgroup.freeze ! -name cgroup.kill); do echo $x >$f; done
		done 2>/dev/null
		mkdir -p a/b ; rmdir a/b a ; true'
	says mounted
	equal "$(<"$limits/cgroup.max.descendants")" 7
	as_user mal fvm pause v
	grep -q 'frozen 1' "$limits/cgroup.events"
	as_user mal fvm resume v
	expect 0 as_user mal fvm exec v true
	as_user mal fvm rm --force v
	wait_until 30 eval '! ls -d "$cgroup"/fvm 2>/dev/null'
}

@test "root who works in a user's store ends, starts and shares nothing that the user names there" {
	needs_user mal
	local store=/home/fvmt-mal/theirs victim controller command shared=$E2E/target/roots
	mkdir -p "$shared" && chmod 0700 "$shared"
	sleep 300 3>&- &
	victim=$!
	server=$victim
	for controller in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids; do
		[ -e $controller/cgroup.procs ] && mkdir $controller/fvm-e2e-victim || continue
		echo $victim >$controller/fvm-e2e-victim/cgroup.procs
	done 2>/dev/null
	as_user mal env FVM_HOME=$store fvm create --bind /home/fvmt-mal v
	as_user mal sh -c "sed -i 's#/home/fvmt-mal#$shared#; s/\"rootless\": true/\"rootless\": false/' $store/vms/v/config.json
		mkdir -p $store/run/vms/v $store/run/ended/x
		echo '{\"init_pid\":$victim,\"init_start\":1,\"helper_pid\":0,\"net_pid\":0,\"started_ns\":0,\"slot\":0,
			\"uid_base\":0,\"address4\":\"\",\"address6\":\"\",\"cgroup\":\"fvm-e2e-victim\",\"interface\":\"\",
			\"mounts\":{\"keys\":[],\"left_out\":[],\"policies\":[]}}' >$store/run/vms/v/state.json
		cp $store/run/vms/v/state.json $store/run/ended/x/"
	expect 125 env FVM_HOME=$store fvm run --name v -- touch "$shared/written"
	says "VM 'v' is of the user with uid"
	expect 125 env FVM_HOME=$store fvm start v
	expect 125 env FVM_HOME=$store fvm clone v w
	expect 125 env FVM_HOME=$store fvm stop v
	expect 0 env FVM_HOME=$store fvm ls
	# nor does root leave there what its owner could not get rid of
	as_user mal env FVM_HOME=$store fvm export v /home/fvmt-mal/v.tar
	for command in "create w" "run --name w true" "run --rm true" "import /home/fvmt-mal/v.tar w"; do
		# shellcheck disable=SC2086  # words
		expect 125 env FVM_HOME=$store fvm $command
		says "is of the user with uid"
	done
	equal "$(as_user mal env FVM_HOME=$store fvm --json ls | jq -c '[.[].name]')" '["v"]'
	equal "$(find $store -user root ! -name tidied)" ""
	expect 0 env FVM_HOME=$store fvm diff v
	expect 0 env FVM_HOME=$store fvm prune
	expect 0 env FVM_HOME=$store fvm rm --force v
	equal "$(ls "$shared")" ""
	kill $victim # it must have lived till now
	wait $victim || equal $? 143
	rmdir /sys/fs/cgroup/{,*/}fvm-e2e-victim 2>/dev/null || :
}

# what there is for the slirp4netns of a user's VM, and whether system calls are filtered for it;
# who makes a socket waits until it is ready
slirp_sees() {
	local pid
	as_user "$1" fvm exec v bash -c ': >/dev/udp/10.0.2.3/53'
	pid=$(pgrep -u "fvmt-$1" -x slirp4netns)
	ls "/proc/$pid/root"
	find "/proc/$pid/root/run/" -type s
	grep ^Seccomp: "/proc/$pid/status"
}

@test "who translates for a user's VM is shut in, with neither files nor sockets of the host" {
	needs_command slirp4netns
	needs_user mal
	user_make mal1 no-ranges
	local user shut=$'etc\nrun\nSeccomp:\t2' refused
	for user in mal mal1; do
		as_user $user fvm -q run -d --name v -- sleep 300
		equal "$(slirp_sees $user)" "$shut"
		expect 0 as_user $user fvm exec v grep -q 00000000 /proc/net/route
		as_user $user fvm -q rm --force v
	done
	# also when it is started ahead; and where it can't shut itself in, it works all the same
	for refused in landlock_create_ruleset rmdir; do
		refuse $refused -- bash -c '. "$1/helper.bash" && as_user mal fvm -q run -d --name v -- sleep 300' \
			- "$BATS_TEST_DIRNAME"
		if [ $refused = rmdir ]; then
			fails equal "$(slirp_sees mal)" "$shut" 2>/dev/null
		else
			equal "$(slirp_sees mal)" "$shut"
		fi
		expect 0 as_user mal fvm exec v grep -q 00000000 /proc/net/route
		as_user mal fvm -q rm --force v
	done
}
