# What do a thousand idle VMs at once cost? The time to start all of them, memory of each, the time
# to list them, to stop and to delete them; and is nothing left then?
#
# Memory is what the processes have (PSS) and by what the kernel's grew (Slab, KernelStack,
# PageTables, Percpu of /proc/meminfo, after dentries and inodes that can be had anew were dropped
# both times): the machine has to be quiet, and a peak of more VMs earlier makes each memory cgroup
# larger until the next boot. Peers: as many of bubblewrap's and unshare's, which have no network
# but a namespace for it.
#
# Targets: 0.8 MiB for each together, ls within 50 ms; a prototype took 6.4 s to start all.
# shellcheck shell=sh
. bench/lib.sh
count=${BENCH_VMS:-$(sized 1000 10)}

if ! is_root; then
	skip "fvm/many: needs root"
	exit 0
fi

names=$(seq -f "many%g" "$count")
first=$(echo "$names" | head -n $((count / 10)))
last=$(echo "$names" | tail -n $((count / 10)))

kernel_kb() {
	sync
	echo 2 >/proc/sys/vm/drop_caches
	sleep 1
	awk '/^(Slab|KernelStack|PageTables|Percpu):/ { kb += $2 } END { print kb }' /proc/meminfo
}
# Those lines of the first list that are not in the second.
without() { printf '%s\n' "$1" | grep -vxF -e "$2" || :; }
pss_kb() {
	for pid in $1; do cat "/proc/$pid/smaps_rollup" 2>/dev/null; done |
		awk '/^Pss:/ { kb += $2 } END { print kb + 0 }'
}
# memory NAME KERNEL-BEFORE PIDS
memory() {
	kernel=$(($(kernel_kb) - $2))
	user=$(pss_kb "$3")
	print "fvm/many/$1/processes" "$(echo "$3" | wc -w)" processes
	print "fvm/many/$1/pss" $((user / count)) KiB
	print "fvm/many/$1/kernel" $((kernel / count)) KiB
	print "fvm/many/$1/memory" $(((user + kernel) / count)) KiB
}

# each FIGURE COMMAND NAMES: one command for each of them, by a program whose time can be taken
cat >"$BENCH_DIR/bin/each" <<EOF
command=\$1
shift
for name in "\$@"; do $FVM \$command "\$name" >/dev/null || exit 1; done
EOF
# shellcheck disable=SC2086
each() { took "$1" sh "$BENCH_DIR/bin/each" "$2" $3; }

left_over() {
	"$FVM" ls --names
	for pid in $pids; do # one that only waits for the machine's init to reap it is over
		state=$(sed -n 's/^State:\t//p' "/proc/$pid/status" 2>/dev/null)
		case $state in '' | Z*) ;; *) echo "process $pid: $state" ;; esac
	done
	# the kernel takes a link away a moment after its VM's namespace
	for wait in 1 2 3 4 5 6 7 8 9 10; do
		here=$(find /sys/class/net -name 'fvm[0-9]*')
		links=$(for slot in $slots; do echo "$here" | grep -x "/sys/class/net/$slot"; done)
		[ "$links" ] || break
		sleep "0.$wait"
	done
	echo "$links"
	find "$FVM_HOME/vms" "$FVM_HOME/run/vms" "$FVM_HOME/trash" "$FVM_HOME/tmp" -mindepth 1
	grep -F "$BENCH_DIR" /proc/self/mountinfo
	find /sys/fs/cgroup -maxdepth 4 -type d -path '*/fvm/*' | grep -F -e "$ids"
}

vms() {
	# shellcheck disable=SC2086  # names without spaces
	set -- $names
	each fvm/many/create create "$names"
	before=$(kernel_kb)
	each fvm/many/start start "$names" || return
	"$FVM" --json ls >"$BENCH_DIR/ls"
	ids=$(jq -r '.[].id' "$BENCH_DIR/ls")
	pids=$(jq -r '.[].init_pid' "$BENCH_DIR/ls")
	slots=$(cat "$FVM_HOME"/run/vms/*/state.json | jq -r .interface)
	memory vm "$before" "$pids"
	turns fvm/many/ ls "$FVM ls" ls-json "$FVM --json ls" ls-names "$FVM ls --names"
	took fvm/many/stop "$FVM" stop "$@"
	took fvm/many/start-by-one-command "$FVM" start "$@"
	took fvm/many/kill "$FVM" kill "$@"
	each fvm/many/start-first-tenth start "$first"
	# shellcheck disable=SC2046
	"$FVM" start $(without "$(without "$names" "$first")" "$last")
	each fvm/many/start-last-tenth start "$last"
	took fvm/many/rm-force "$FVM" rm --force "$@"
	left=$(left_over)
	print fvm/many/left "$(printf '%s' "$left" | grep -c .)" things
	[ -z "$left" ] || { printf '%s\n' "$left" | sed 's/^/# left: /' >&2; BENCH_STATUS=1; }
}

# peer NAME COMMAND..: as many of them, in which a program of its own name sleeps
peer() {
	peer=$1 sleeper=$(printf "%.4s%d" "$1" $$)
	shift
	cp /bin/sleep "$BENCH_DIR/bin/$sleeper"
	cat >"$BENCH_DIR/bin/peers" <<-EOF
		for i in \$(seq $count); do
			$* $BENCH_DIR/bin/$sleeper 1000000 >/dev/null 2>&1 &
			echo \$!
		done >$BENCH_DIR/peers
		while [ "\$(grep -lsx $sleeper /proc/[0-9]*/comm | wc -l)" -lt $count ]; do
			kill -0 \$! || exit 1
			sleep 0.02
		done
	EOF
	before=$(kernel_kb)
	took "fvm/many/$peer-start" sh "$BENCH_DIR/bin/peers"
	outer=$(cat "$BENCH_DIR/peers")
	inner=$(grep -lsx "$sleeper" /proc/[0-9]*/comm | cut -d/ -f3)
	# of bubblewrap's two processes the inner one is PID 1
	between=$(for pid in $outer; do cat "/proc/$pid/task/$pid/children" 2>/dev/null; done)
	# shellcheck disable=SC2086
	memory "$peer" "$before" "$(printf '%s\n' $outer $inner $between | sort -u)"
	# shellcheck disable=SC2086
	kill -9 $outer $inner 2>/dev/null
}

vms
if have bwrap; then peer bwrap "$BWRAP"; else skip "fvm/many/bwrap: no bwrap"; fi
peer unshare unshare --fork --kill-child --mount --pid --ipc --uts --net --cgroup --mount-proc
exit $BENCH_STATUS
