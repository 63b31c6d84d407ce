# Every channel between VM and host, and between VMs, tried by programs that mean harm.
# limit: 600
load helper

setup_file() {
	e2e_setup_file
	local name
	for name in ipc mounts escape; do
		cc -D_GNU_SOURCE -O1 -w -o "$E2E/hostile_$name" "$BATS_TEST_DIRNAME/hostile_$name.c" || return 1
	done
}

setup() {
	needs_root
	servers=()
}

teardown() {
	servers_end
	vms_remove
	if mountpoint -q "$FVM_HOME/run"; then umount -l "$FVM_HOME/run"; fi
	rm -rf "$E2E/ends"
}

# KIND NAME pairs; the files of named and fifo are made by who serves
kinds() {
	echo "named $E2E/ends/socket
		abstract fvm-e2e-$$
		fifo $E2E/ends/fifo
		tcp $((20000 + $$ % 10000))
		sysv-shm 4711$(($$ % 1000))
		sysv-msg 4712$(($$ % 1000))
		sysv-sem 4713$(($$ % 1000))
		queue /fvm-e2e-$$
		shm /fvm-e2e-$$
		lock $E2E/ends/locked"
}

serve_here() { # KIND NAME
	"$E2E/hostile_ipc" serve "$1" "$2" >"$E2E/ends/ready" 3>&- &
	servers+=($!)
	wait_until 30 grep -q ready "$E2E/ends/ready"
}

ends_made() {
	mkdir -p "$E2E/ends"
	chmod 0777 "$E2E/ends"
	: >"$E2E/ends/locked"
}

@test "the test itself: what is served on the host is reached from the host" {
	ends_made
	while read -r kind name; do
		serve_here "$kind" "$name"
		expect 0 "$E2E/hostile_ipc" reach "$kind" "$name"
		kill "${servers[-1]}" && wait "${servers[-1]}"
		rm -f "$E2E/ends/ready"
	done < <(kinds)
}

@test "VM to host: no name of the host's can be reached" {
	ends_made
	fvm -q create --net none v
	fvm start v
	while read -r kind name; do
		serve_here "$kind" "$name"
		expect 1 fvm exec v "$E2E/hostile_ipc" reach "$kind" "$name" || {
			echo "through: $kind" >&2
			return 1
		}
		kill "${servers[-1]}" && wait "${servers[-1]}"
		rm -f "$E2E/ends/ready"
	done < <(kinds)
}

@test "VM to host with nat: neither loopback, nor the gateway, nor abstract names" {
	ends_made
	serve_here abstract "fvm-e2e-$$"
	expect 1 fvm run --rm -- "$E2E/hostile_ipc" reach abstract "fvm-e2e-$$"
	serve_here tcp "$((20000 + $$ % 10000))"
	expect 1 fvm run --rm -- "$E2E/hostile_ipc" reach tcp "$((20000 + $$ % 10000))"
}

@test "--net host is refused where nothing stands before abstract sockets" {
	needs_user host
	local without=()
	has_net_host && without=(refuse landlock_create_ruleset --)
	expect 125 "${without[@]}" fvm run --rm --net host -- true
	says Landlock
	equal "$(fvm ls -q)" ""
	[ -n "${without[*]}" ] || expect 125 as_user host fvm run --rm --net host -- true
}

@test "VM to host with --net host: abstract sockets and signals stop at Landlock" {
	has_net_host || skip "needs Landlock 6"
	ends_made
	serve_here abstract "fvm-e2e-$$"
	expect 1 fvm run --rm --net host -- "$E2E/hostile_ipc" reach abstract "fvm-e2e-$$"
	expect 0 fvm run --rm --net host -- sh -c "
		'$E2E/hostile_ipc' serve abstract fvm-inner > /tmp/ready &
		until grep -q ready /tmp/ready; do sleep 0.1; done
		'$E2E/hostile_ipc' reach abstract fvm-inner"
}

@test "host to VM, and VM to VM: no name of a VM's can be reached" {
	ends_made
	fvm -q create --net none a
	fvm -q create --net none b
	fvm start a b
	while read -r kind name; do
		fvm exec --detach a sh -c "'$E2E/hostile_ipc' serve $kind $name >/tmp/ready.$kind 2>&1"
		wait_until 30 fvm exec a grep -q ready "/tmp/ready.$kind"
		expect 0 fvm exec a "$E2E/hostile_ipc" reach "$kind" "$name"
		expect 1 "$E2E/hostile_ipc" reach "$kind" "$name" || {
			echo "from the host: $kind" >&2
			return 1
		}
		expect 1 fvm exec b "$E2E/hostile_ipc" reach "$kind" "$name" || {
			echo "from another VM: $kind" >&2
			return 1
		}
	done < <(kinds)
}

@test "processes of the host and of other VMs are neither seen nor signalled nor read" {
	sleep 300 3>&- &
	servers+=($!)
	fvm -q create --net none a
	fvm start a
	expect 1 fvm exec a "$E2E/hostile_ipc" reach pid "${servers[0]}"
	fvm -q create --net none b
	fvm start b
	init=$(fvm --json inspect a | jq .init_pid)
	expect 1 fvm exec b "$E2E/hostile_ipc" reach pid "$init"
	equal "$(fvm exec b sh -c 'set -- /proc/[0-9]*; echo $#')" 2
}

@test "vsock does not exist in a VM, by whichever call" {
	expect 1 fvm run --rm --net none -- "$E2E/hostile_ipc" reach vsock 7777
	! has_net_host || expect 1 fvm run --rm --net host -- "$E2E/hostile_ipc" reach vsock 7777
	expect 0 fvm run --rm --prove --net none -- true
}

@test "no mount of a VM can be taken away, moved, or relaxed" {
	mkdir -p "$E2E/shared" "$E2E/through"
	printf '[vm]\nread-only = /usr\n' >"$E2E/ro.policy"
	expect 0 fvm run --rm --policy "$E2E/ro.policy" --bind "$E2E/shared:ro" \
		--direct "$E2E/through" -- "$E2E/hostile_mounts"
	expect 0 fvm run --rm -- "$E2E/hostile_mounts"
}

@test "no way out by proc, sys, descriptors, namespaces, chroot, or the kernel's doors" {
	expect 0 fvm run --rm -- "$E2E/hostile_escape" 7</etc 8</tmp
	! has_net_host || expect 0 fvm run --rm --net host -- "$E2E/hostile_escape"
}

@test "an ordinary user's VM holds as well: mounts, ways out, names, secrets" {
	needs_user
	user_make one
	chmod 0711 "$E2E"
	mkdir -p /home/fvmt-one/.ssh /home/fvmt-one/share
	chown -R fvmt-one: /home/fvmt-one
	expect 0 as_user one fvm run --rm --prove -- sh -c '! ls ~/.ssh'
	says "0 leak"
	expect 0 as_user one fvm run --rm --root --direct /home/fvmt-one/share -- "$E2E/hostile_mounts"
	expect 0 as_user one fvm run --rm --root -- "$E2E/hostile_escape"
	expect 0 as_user one fvm run --rm --direct /home/fvmt-one/share -- touch share/new
	equal "$(stat -c %U /home/fvmt-one/share/new)" fvmt-one
	ends_made
	serve_here abstract "fvm-e2e-$$"
	expect 1 as_user one fvm run --rm --net none -- "$E2E/hostile_ipc" reach abstract "fvm-e2e-$$"
	expect 0 as_user one fvm run --rm --net none -- true
	[ "$(fvm --json doctor | jq .landlock)" -ge 6 ] || return 0
	expect 1 as_user one fvm run --rm --net host -- "$E2E/hostile_ipc" reach abstract "fvm-e2e-$$"
	expect 0 as_user one fvm run --rm --net host --prove -- true
}

@test "the supervisor of an ordinary user's VM looks nothing up outside of it" {
	needs_user
	user_make one
	local home=/home/fvmt-one up
	# what it does for a VM it does as the user: none of these may be a path of the host
	expect 0 as_user one fvm run --rm --root --net none -- sh -c '
		cd /usr
		for up in /proc/self/.. /proc/thread-self/../../.. /proc/self/task/.. /proc/self/fd/.. \
			/proc/self/cwd/../.. /proc/self/root/.. /proc/self/fd/0/.. /dev/fd/.. /dev/fd/../..; do
			mknod "$up/..'"$home"'/out" c 1 7
			mknod "$up'"$home"'/out" c 1 7
			chown 5:5 "$up/..'"$home"'/.profile" "$up'"$home"'/.profile"
			chmod 4777 "$up/..'"$home"'/.profile"
		done 2>/dev/null
		mknod "'"$home"'/in" c 1 7 && ls "'"$home"'/in"' </etc/hostname
	fails ls "$home/out" "$home/in"
	equal "$(stat -c '%U %a' "$home/.profile") $(getfattr -d "$home/.profile" 2>/dev/null)" "fvmt-one 644 "
	# while the task's own names mean what they should
	expect 0 as_user one fvm run --rm --root --net none -- sh -ec 'exec 3>>/etc/hostname
		chmod 600 /proc/self/fd/3; chmod 640 /dev/fd/3; stat -c %a /etc/hostname
		cd /etc; echo x >>/proc/self/cwd/passwd; echo y >>/proc/self/root/etc/passwd; tail -2 passwd'
	equal "${lines[*]}" "640 x y"
}

@test "a directory or a socket as stdin is no way out" {
	expect 0 fvm run --rm -- sh -c '! ls /proc/self/fd/0/ && ! cd /proc/self/fd/0' <"/etc"
}

@test "the self-test holds in every mode, tells what is open, and leaves nothing" {
	expect 0 fvm run --rm --prove -- true
	says "0 leak"
	expect 0 fvm run --rm --prove --net none -- true
	says "0 are open"
	local net=none
	! has_net_host || net=host
	expect 0 fvm run --rm --prove --net $net --io-uring -- true
	says "open: io_uring: --io-uring"
	says "0 leak"
	fails compgen -G "/tmp/fvm-prove-*"
	fails grep fvm-prove <(inventory -s)
}

@test "a leak ends the VM before its program starts" {
	# with /tmp written through the bait that lies there is reached
	mkdir "$E2E/other"
	FVM_HOME=$(mktemp -d /var/tmp/fvm-e2e-other.XXXXXX)
	expect 125 fvm run --rm --prove --direct /tmp -- touch "$E2E/other/ran"
	wait_until 30 idle_store "$FVM_HOME"
	rm -rf "$FVM_HOME"
	FVM_HOME=$E2E/home
	says "LEAK: named sockets"
	says "LEAK: files"
	fails test -e "$E2E/other/ran"
	fails compgen -G "/tmp/fvm-prove-*"
}

# 20 VMs, which are more than the store keeps directories of for the next ones; each looks for what
# the others have left, and leaves something by a name that a listing may not show.
leave_and_look() {
	local i first
	for i in {1..20}; do
		expect 0 "$@" fvm run --rm --net none --root -- sh -c '
			for d in / /home /tmp /var; do
				for n in .x ..x ... .wh.x; do
					! [ -e "$d/$n" ] || { echo "$d/$n of another VM"; exit 1; }
				done
			done
			stat -c %a:%U / /home /tmp /var
			! getfattr -n user.x /home 2>/dev/null || exit 1
			case '$((i % 6))' in
			0) touch /.x ;;
			1) mkdir /... ;;
			2) touch /tmp/..x ;;
			3) mkdir /var/.wh.x ;;
			4) chmod 0700 / /home /tmp ;;
			5) setfattr -n user.x -v 1 /home || true ;;
			esac'
		[ "$i" = 1 ] || equal "$output" "$first"
		first=$output
	done
}

@test "nothing of a VM that was thrown away shows in the next, whatever it is called" {
	needs_command setfattr
	leave_and_look
	needs_user
	user_make one
	leave_and_look as_user one
}

@test "secrets and the store are hidden, and the VM may make its own in their place" {
	mkdir -p "$E2E/me/.ssh" "$E2E/me/.config/gh" "$E2E/me/dots"
	echo key >"$E2E/me/.ssh/id"
	echo token >"$E2E/me/.config/gh/hosts.yml"
	echo pass >"$E2E/me/dots/netrc"
	ln -s dots/netrc "$E2E/me/.netrc"
	expect 0 env HOME="$E2E/me" fvm run --name s --keep -- sh -c "cd '$E2E/me'
		! cat .ssh/id && ! ls .config/gh && ! cat .netrc && ! cat dots/netrc && ! ls '$FVM_HOME' &&
		[ -z \"\$(ls -A .config)\" ] && mkdir .ssh && echo mine >.ssh/id"
	expect 0 env HOME="$E2E/me" fvm run --name s -- cat "$E2E/me/.ssh/id"
	equal "$output" mine
	equal "$(cat "$E2E/me/.ssh/id")" key
	expect 0 env HOME="$E2E/me" fvm run --rm --secrets -- cat "$E2E/me/.ssh/id"
	equal "$output" key
	expect 0 env HOME="$E2E/me" fvm run --rm --net none -- cat "$E2E/me/.netrc"
	equal "$output" pass
	# what the host gets later is hidden, too
	expect 0 env HOME="$E2E/me" fvm run -d --name l -- sleep 60
	mkdir "$E2E/me/.aws"
	fails fvm exec l ls "$E2E/me/.aws"
}

@test "what is hidden is so however its name is written" {
	mkdir -p "$E2E/hid/den"
	echo key >"$E2E/hid/den/key"
	cd "$E2E/hid"
	local name
	for name in den den/ den//. ./den "$PWD/den/" "$PWD/../hid/den/" den/sub/../; do
		mkdir -p den/sub
		fails fvm run --rm --net none --hide "$name" cat "$E2E/hid/den/key" 2>/dev/null
	done
	printf '[policy]\nsummary = x\n[vm]\nhide = %s/den/\n' "$PWD" >"$E2E/slash.policy"
	fails fvm run --rm --net none --policy "$E2E/slash.policy" cat "$E2E/hid/den/key" 2>/dev/null
	cd "$E2E"
	expect 125 fvm run --rm --net none --policy slash.policy true
	says "./slash.policy"
	for name in --hide --direct --bind; do
		expect 125 fvm run --rm --net none $name "" true
		says "no path"
	done
	expect 125 fvm run --rm --net none --bind :/opt/x true
}

@test "secrets in the environment are hidden, unless there is no network or they are named" {
	secrets() { env GH_TOKEN=1 DB_PASS=2 MYSQL_PWD=3 AWS_ACCESS_KEY_ID=4 SSHPASS=5 OTHER=6 LLM_KEY=7 \
		DOCKER_AUTH_CONFIG={} DATABASE_URL=postgres://me:8@db/x PLACE=http://example.org/a:b@c \
		SOME_proxy="http:/""/u:p@example.org" \
		fvm run "$@" env; }
	expect 0 secrets --rm
	equal "$(grep -cE '^(GH_TOKEN|DB_PASS|MYSQL_PWD|AWS_ACCESS_KEY_ID|SSHPASS|LLM_KEY|DOCKER_AUTH_CONFIG|DATABASE_URL)=' <<<"$output")" 0
	says OTHER=6
	says PLACE=http
	says SOME_proxy=http
	expect 0 secrets --rm --env GH_TOKEN
	says GH_TOKEN=1
	fails grep -q MYSQL_PWD <<<"$output"
	expect 0 secrets --rm --net none
	says MYSQL_PWD=3
	expect 0 secrets --rm --secrets
	says SSHPASS=5
}

@test "where RUN is a tmpfs VMs share what hides, as long as one of them lives" {
	needs_idmapped_tmpfs
	rm -rf "$E2E/me"
	mkdir -p "$E2E/me/.ssh" "$FVM_HOME/run"
	echo key >"$E2E/me/.ssh/id"
	mount -t tmpfs -o mode=0700 fvm-e2e "$FVM_HOME/run"
	export HOME=$E2E/me
	try='! ls .ssh 2>/dev/null && mkdir .ssh && touch .ssh/mine && ls -A .ssh'
	expect 0 fvm run -d --name a --workdir "$E2E/me" -- sh -c "$try; sleep 60"
	# a directory above has changed: the same layers, as the directory is now
	touch "$E2E/me/new"
	expect 0 fvm run --rm --workdir "$E2E/me" -- sh -c "$try"
	equal "$output" mine
	expect 0 fvm run --rm --workdir "$E2E/me" -- stat -c %Y .
	equal "$output" "$(stat -c %Y "$E2E/me")"
	equal "$(find "$FVM_HOME/run/hide" -name key | wc -l)" 1
	# made anew when more is hidden; the old one stays for VM a
	mkdir "$E2E/me/.docker"
	echo key >"$E2E/me/.docker/config.json"
	expect 0 fvm run --rm --workdir "$E2E/me" -- sh -c "$try; ! ls .docker/config.json 2>/dev/null"
	equal "$(find "$FVM_HOME/run/hide" -name key | wc -l)" 2
	fails fvm exec a ls "$E2E/me/.ssh/id"
	expect 0 fvm rm --force a
	wait_until 30 eval '! ls "$FVM_HOME"/run/ended/* 2>/dev/null' # PID 1 of those holds them, too
	rm -r "$E2E/me/.docker"
	mkdir -p "$E2E/me/.config/gh"
	expect 0 fvm run --rm --workdir "$E2E/me" -- sh -c "$try; ! ls -d .config/gh 2>/dev/null"
	equal "$(find "$FVM_HOME/run/hide" -name key | wc -l)" 1
	wait_until 30 eval '! ls "$FVM_HOME"/run/ended/* 2>/dev/null'
	umount "$FVM_HOME/run"
}

@test "the directory above something hidden is as the host has it, on one device" {
	install -d -m 2751 -o 1 -g 2 "$E2E/dir" "$E2E/dir/in"
	touch "$E2E/dir/in/a" "$E2E/dir/in/b"
	touch -d 2020-02-02 "$E2E/dir/in" "$E2E/dir"
	want=$(stat -c '%a %u %g %Y' "$E2E/dir/in" "$E2E/dir")
	expect 0 fvm run --rm --hide "$E2E/dir/in/a" -- sh -c "stat -c '%a %u %g %Y' '$E2E/dir/in' \
		'$E2E/dir'; ls '$E2E/dir/in'; find '$E2E/dir' -xdev -printf '%D\n' | sort -u | wc -l"
	equal "$output" "$want
b
1"
}

@test "policies: by name, by program, and what they refuse" {
	mkdir -p "$E2E/policies"
	printf '[match]\nprogram = printenv\n[vm]\nenv = FVM_TEST=by-program\nnet = none\n' \
		>"$E2E/policies/auto.policy"
	printf '[vm]\npids = 20\nhide = %s/ends\n' "$E2E" >"$E2E/policies/small.policy"
	printf '[vm]\nnett = none\n' >"$E2E/broken.policy"
	export FVM_POLICY_PATH=$E2E/policies
	ends_made
	expect 0 fvm run --rm -- printenv FVM_TEST
	equal "$output" by-program
	expect 0 fvm run --rm --policy small -- sh -c "! ls $E2E/ends"
	expect 125 fvm run --rm --policy "$E2E/broken.policy" -- true
	says "line 2: there is no key 'nett'"
	expect 125 fvm run --rm --policy absent -- true
	says "there are: auto, small"
	expect 0 fvm run --name p -d --policy small -- sleep 60
	equal "$(fvm --json inspect p | jq -c .policy)" '["small"]'
}

@test "a policy is not the VM's to write, nor another file where the VM is started from" {
	local dir=$E2E/project
	mkdir -p "$dir/in" "$E2E/elsewhere"
	printf '[vm]\nnet = none\nhide = /opt\n' | tee "$dir/p.policy" "$dir/in/p.policy" >"$E2E/p.policy"
	ln -s "$E2E/p.policy" "$dir/link.policy"
	cd "$dir"
	local named
	for named in ./p.policy "$dir/in/p.policy" in/../p.policy ./link.policy; do
		expect 125 fvm run --rm --direct "$dir" --policy "$named" -- true
		says "lies where the VM may write"
	done
	expect 125 fvm run --rm --bind "$dir:/mnt" --policy ./p.policy -- true
	expect 0 fvm run --rm --bind "$dir:/mnt:ro" --policy ./p.policy -- true
	expect 0 fvm run --rm --direct "$dir" --policy ../p.policy -- true
	fvm create q --policy ./p.policy
	cd "$E2E/elsewhere"
	printf '[vm]\nnet = none\nenv = FVM_TEST=other\n' >p.policy
	expect 1 fvm run --name q -- printenv FVM_TEST
	expect 0 fvm run --name q -- sh -c '! ls /opt'
}

@test "the shipped policies are understood and do what they say" {
	export FVM_POLICY_PATH=$BATS_TEST_DIRNAME/../../contrib/policy.d
	mkdir -p "$E2E/me/.ssh" "$E2E/me/Documents"
	for name in agent browser build wine32; do
		expect 0 env HOME="$E2E/me" fvm run --rm --policy $name -- sh -c '! ls ~/.ssh'
	done
	expect 0 env HOME="$E2E/me" fvm run --rm --policy untrusted -- sh -c \
		'! ls ~/.ssh && ! ls ~/Documents && [ "$(ls /sys/class/net)" = lo ]'
}

@test "binds: written through, read-only, and nothing hidden shows through" {
	mkdir -p "$E2E/share" "$E2E/me/.ssh"
	expect 0 fvm run --rm --direct "$E2E/share" -- sh -c "echo hi >'$E2E/share/new'"
	equal "$(cat "$E2E/share/new") $(stat -c %u "$E2E/share/new")" "hi 0"
	expect 0 fvm run --rm --bind "$E2E/share:/other:ro" -- sh -c 'cat /other/new && ! touch /other/x'
	expect 125 env HOME="$E2E/me" fvm run --rm --direct "$E2E/me" -- true
	says "is hidden from the VM"
	expect 125 fvm run --rm --direct /etc -- true
	expect 125 fvm run --rm --bind a:b:c -- true
	says "S[:D][:ro]"
}

@test "sudo, bubblewrap, strace and nested user namespaces work inside" {
	expect 0 fvm run --rm -- unshare -Urm true
	if command -v bwrap >/dev/null; then
		expect 0 fvm run --rm -- bwrap --unshare-all --ro-bind / / --dev /dev --proc /proc true
	fi
	if command -v strace >/dev/null; then
		expect 0 fvm run --rm -- strace -qq -o /dev/null true
	fi
	if command -v sudo >/dev/null; then
		expect 0 fvm run --rm -- sudo -n -u nobody id -u
	fi
}

@test "doctor judges this host, as table and as JSON" {
	expect 0 fvm doctor
	says "VMs of root can run."
	equal "$(fvm --json doctor | jq .root_works)" true
	fvm --json doctor | jq -e 'all(.findings[]; .ok or .fix != "" or .needed == false)'
	expect 0 as_user one fvm doctor
	says "VMs of ordinary users can run."
}
