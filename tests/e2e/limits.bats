#!/usr/bin/env bats
# Limits of a VM against programs that want more than they may have, on this host's cgroups and on
# hosts that have fewer; and what is said where a limit can't be had.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

# number_of VM KEY: from stats
number_of() { fvm --json stats "$1" | jq -r ".[0].$2"; }

# with_cgroups KIND CMD..: run CMD where the cgroup file systems are mounted otherwise
#   none  not at all     v1  only v1's     v2  only v2's, as it is (perhaps without controllers)
with_cgroups() {
	local kind=$1
	shift
	# v2 has one set of options for all its mounts: another mount would take them away
	unshare --mount --propagation private bash -c '
		kind=$1; shift
		options=$(findmnt -nf -t cgroup2 -o FS-OPTIONS)
		case $kind in
		none) mount -t tmpfs none /sys/fs/cgroup ;;
		v1)   [ -d /sys/fs/cgroup/unified ] || exit 99
		      mount -t tmpfs none /sys/fs/cgroup/unified ;;
		v2)   mount -t tmpfs none /sys/fs/cgroup && mount -t cgroup2 -o "${options:-rw}" none /sys/fs/cgroup ;;
		esac || exit 99
		exec "$@"' - "$kind" "$@"
}

@test "a fork bomb stops at the VM's limit, and the host goes on" {	# needs: root, pids
	needs_root; needs_cgroup pids
	fvm run -d --name bomb --net none --pids 40 -- bash -c ':(){ :|:& };: ; sleep 100'
	sleep 1
	local n; n=$(number_of bomb pids)
	[ "$n" -le 40 ] || { echo "$n processes" >&2; return 1; }
	[ "$(number_of bomb pids_limit)" = 40 ]
	timeout 5 true
	expect 0 timeout 10 fvm kill bomb
}

@test "fork fails inside at the limit with EAGAIN, and works again below it" {
	needs_root; needs_cgroup pids
	needs_command perl
	expect 0 fvm run --rm --net none --pids 20 -- perl -e '
		while (defined(my $pid = fork)) { sleep 60 unless $pid; push @all, $pid; last if @all > 99 }
		print scalar(@all), " until: $!\n";
		kill 9, @all; waitpid $_, 0 for @all;
		print "again\n" if !system("true")'
	says 'until: Resource temporarily unavailable'
	[ "${output%% *}" -lt 20 ]
	says again
}

@test "a memory hog is killed, and its VM lives on" {	# needs: root, memory
	needs_root; needs_cgroup memory
	expect 0 fvm run --rm --net none --memory 64M -- sh -c 'tail /dev/zero; echo "status $?"'
	says 'status 137'
}

@test "files in /dev/shm, /run and /tmp of tmpfs count as the VM's memory" {
	needs_root; needs_cgroup memory
	expect 0 fvm run --rm --net none --memory 64M -- sh -c '
		dd if=/dev/zero of=/dev/shm/a bs=1M count=200 2>/dev/null; echo "status $?"
		rm /dev/shm/a; echo alive'
	says alive
	[[ $output != *'status 0'* ]]
}

@test "a VM below its memory limit is left alone, and stats tell the limit" {
	needs_root; needs_cgroup memory
	fvm run -d --name calm --net none --memory 128M -- sleep 100
	[ "$(number_of calm memory_limit_bytes)" = $((128 << 20)) ]
	[ "$(number_of calm memory_bytes)" -lt $((64 << 20)) ]
}

@test "half a CPU is half a CPU, however many want it" {	# needs: root, cpu
	needs_root; needs_cgroup cpu
	fvm run -d --name busy --net none --cpus 0.5 -- sh -c 'yes >/dev/null & yes >/dev/null & wait'
	local before after started ended
	started=$(date +%s%N)
	before=$(number_of busy cpu_ns)
	sleep 2
	after=$(number_of busy cpu_ns)
	ended=$(date +%s%N)
	# of the whole time that the samples can lie apart, and a slice of each yes
	[ $((after - before)) -lt $(((ended - started) * 55 / 100 + 200000000)) ] ||
		{ echo "$((after - before)) ns" >&2; return 1; }
	[ $((after - before)) -gt 100000000 ]
}

@test "a VM that fills its disk limit sees ENOSPC, and the host keeps its space" {
	needs_loop; needs_command mkfs.ext4
	expect 0 fvm run --name full --keep --net none --disk 32M -- sh -c '
		dd if=/dev/zero of=/var/tmp/x bs=1M count=100 2>&1
		df -k / | tail -1'
	says 'No space left on device'
	[ "$(awk '/^fvm/ { print ($2 <= 32768) }' <<<"$output")" = 1 ]
	[ "$(du -sk "$FVM_HOME/vms/full" | cut -f 1)" -lt 40000 ]
	# what is deleted inside is given back
	fvm run --name full --net none -- sh -c 'rm /var/tmp/x; sync; fstrim / 2>/dev/null; echo a >/root/e2e-kept'
	expect 0 fvm run --name full --net none -- cat /root/e2e-kept
	says a
	[ "$(du -sk "$FVM_HOME/vms/full" | cut -f 1)" -lt 20000 ]
}

@test "a limited VM's changes are seen from outside, while it runs and after" {
	needs_loop; needs_command mkfs.ext4
	fvm run -d --name seen --net none --disk 32M -- sh -c 'echo x >/root/e2e-seen; sleep 100'
	wait_until 30 sh -c 'fvm diff seen | grep -q e2e-seen'
	fvm kill seen
	expect 0 fvm diff seen
	says /root/e2e-seen
	fvm snapshot seen one
	expect 0 fvm run --name seen --net none -- sh -c 'cat /root/e2e-seen; df -k / | tail -1'
	says x
	fvm clone seen other
	expect 0 fvm run --name other --net none -- cat /root/e2e-seen
	fvm rollback seen one
	expect 0 fvm run --name seen --net none -- cat /root/e2e-seen
}

@test "VMs with a disk limit leave no loop device and no mount" {
	needs_loop; needs_command mkfs.ext4
	expect 0 fvm run --rm --net none --disk 16M -- true
	fvm run -d --name gone --net none --disk 16M -- sleep 100
	losetup -a | grep -qF "$FVM_HOME"
	fails grep -qF "$FVM_HOME" /proc/self/mountinfo
	fvm kill gone
	wait_until 30 sh -c '! losetup -a | grep -qF "$FVM_HOME"'
}

# quota_works MKFS..: a store on a file system with project quotas limits by them
quota_works() {
	needs_loop
	needs_command "$1"
	rm -f "$E2E/disk"
	truncate -s 400M "$E2E/disk"
	"$@" -q "$E2E/disk"
	mkdir -p "$E2E/mnt"
	mount -o loop,prjquota "$E2E/disk" "$E2E/mnt" 2>/dev/null ||
		skip "needs project quotas in the kernel"
	local store=$E2E/mnt/home
	run env FVM_HOME="$store" fvm run --name full --keep --net none --disk 32M -- sh -c '
		dd if=/dev/zero of=/var/tmp/x bs=1M count=100; echo "status $?"; df -k / | tail -1'
	local size; size=$(du -sk "$store/vms/full" | cut -f 1)
	[ ! -e "$store/vms/full/workspace/fs/+image" ] || size=image
	env FVM_HOME="$store" fvm rm full
	wait_until 30 umount "$E2E/mnt"
	says 'status 1'
	[ "$(awk '/^fvm/ { print $2 }' <<<"$output")" = 32768 ]
	[ "$size" -le 33000 ]
}

@test "a disk limit by project quota: ext4" {
	quota_works mkfs.ext4 -O quota,project -E quotatype=prjquota
}
@test "a disk limit by project quota: xfs" { quota_works mkfs.xfs; }

@test "a disk limit that holds nothing is refused" {
	needs_root
	expect 125 fvm run --rm --net none --disk 1M -- true
	says 'at least 8M'
	expect 0 fvm --json ls
	[ "$(jq length <<<"$output")" = 0 ]
}

@test "limits that no VM could start in are refused, and the smallest allowed ones work" {
	needs_root; needs_cgroup pids; needs_cgroup memory
	expect 125 fvm run --rm --net none --pids 1 -- true
	says 'at least 4'
	expect 125 fvm run --rm --net none --memory 64K -- true
	says 'at least 4M'
	expect 0 fvm run --rm --net none --pids 4 --memory 4M -- /bin/true
}

@test "a VM does not get at the blocks that the host's file system keeps for root" {
	needs_loop; needs_command mkfs.ext4
	truncate -s 64M "$E2E/disk"
	mkfs.ext4 -q -F -m 50 "$E2E/disk"
	mkdir -p "$E2E/mnt"
	mount -o loop "$E2E/disk" "$E2E/mnt"
	run env FVM_HOME="$E2E/mnt/home" fvm run --rm --net none -- \
		dd if=/dev/zero of=/var/tmp/x bs=1M count=60
	wait_until 30 umount "$E2E/mnt" # what was thrown away is deleted in the background
	[ "$status" != 0 ]
	says 'No space left on device'
	[ "$(sed -n 's/^\([0-9]*\) bytes.*/\1/p' <<<"$output")" -lt $((40 << 20)) ]
}

@test "a limit that the host can't do is refused by name, and without it the VM runs" {
	needs_root
	run with_cgroups none true
	[ "$status" != 99 ] || skip "needs another mount over the cgroups"
	expect 125 with_cgroups none fvm run --rm --net none --pids 10 -- true
	says pids; says 'fvm: '
	expect 125 with_cgroups none fvm run --rm --net none --memory 64M -- true
	says memory
	expect 0 with_cgroups none fvm run --rm --net none -- true
}

# pause_works KIND: a counter inside stands still, and goes on
pause_works() {
	local kind=$1 a b
	with_cgroups "$kind" true || skip "needs cgroups mounted in another way"
	with_cgroups "$kind" fvm run -d --name counter --net none -- \
		bash -c 'while :; do printf x >>/dev/shm/i; sleep 0.001; done'
	local shm; shm=/proc/$(fvm --json inspect counter | jq -r '.init_pid // .[0].init_pid')/root/dev/shm/i
	wait_until 30 test -s "$shm"
	with_cgroups "$kind" fvm pause counter
	[ "$(fvm --json ls | jq -r '.[0].state')" = paused ]
	a=$(stat -c %s "$shm"); sleep 0.5; b=$(stat -c %s "$shm")
	equal "$a" "$b"
	with_cgroups "$kind" fvm resume counter
	grows() { [ "$(stat -c %s "$shm")" -gt "$b" ]; }
	wait_until 30 grows
	with_cgroups "$kind" fvm pause counter
	expect 0 with_cgroups "$kind" timeout 10 fvm kill counter
}

@test "pause, resume and kill of a paused VM: as cgroups are here" { needs_root; pause_works here; }
@test "pause, resume and kill of a paused VM: only v2" { needs_root; pause_works v2; }
@test "pause, resume and kill of a paused VM: only v1" { needs_root; pause_works v1; }
@test "pause, resume and kill of a paused VM: no cgroups" { needs_root; pause_works none; }

@test "stats count processes and time also without any cgroup" {
	needs_root
	with_cgroups none true || skip "needs cgroups mounted in another way"
	with_cgroups none fvm run -d --name bare --net none -- sh -c 'yes >/dev/null'
	has_pids() { [ "$(number_of bare pids)" -ge 2 ]; }
	wait_until 30 has_pids
	[ "$(number_of bare memory_bytes)" -gt 100000 ]
	has_run() { [ "$(number_of bare cpu_ns)" -gt 10000000 ]; }
	wait_until 30 has_run
	[ "$(number_of bare memory_limit_bytes)" = null ]
}

@test "VMs started at once share the cgroups' parent, and the last takes it away" {
	needs_root
	local i pids=()
	for i in 1 2 3 4 5 6; do
		fvm run --rm --net none -- true & pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i"; done
}
