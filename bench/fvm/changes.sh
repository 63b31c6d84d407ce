# What do the commands cost that read or move all that a VM changed? A tree of the host's with
# 100,000 files of 1 KiB, to each of which the VM appended: diff, commit (which keeps what it
# replaces, and syncs), undo; beside rsync -a of as many changed files to the same kind of tree.
# And those that should not look at what changed: snapshot, clone and rollback of a VM that changed
# 10 files, and of one that changed all.
#
# Targets: diff and commit at most twice rsync -a; the others the same at 10 and at 100,000.
# shellcheck shell=sh
. bench/lib.sh
rounds_of 3
WARM_UP=0
count=${BENCH_FILES:-$(sized 100000 300)}
few=10

if ! is_root; then
	skip "fvm/changes: needs root"
	exit 0
fi

# What is below /tmp stays in a VM, so this has to be elsewhere.
place=$(mktemp -d /var/lib/fvm-bench.XXXXXX)
at_end "rm -rf --one-file-system $place"
chmod 0755 "$place"
tree=$place/tree
files=$BENCH_DIR/bin/bench-files
in="sh $BENCH_DIR/bin"

# step NAME BEFORE TIMED AFTER: a program that times one of three steps
step() {
	cat >"$BENCH_DIR/bin/$1" <<-EOF
		{ $2; } >/dev/null 2>&1
		sync
		$TIMER -1 $3
		status=\$?
		{ $4; } >/dev/null 2>&1
		exit \$status
	EOF
}

# All that was changed, in turns with the peer.
changed_all() {
	"$files" make "$tree" "$count" 1024
	cp -a "$tree" "$place/changed"
	"$files" append "$place/changed" "$count"
	"$FVM" create --net none all >/dev/null
	took "fvm/changes/append-$count" "$FVM" run --name all "$files" append "$tree" "$count"
	step rsync "cp -a $tree $place/copy" "rsync -a $place/changed/ $place/copy/" "rm -rf $place/copy"
	step rsync-sync "cp -a $tree $place/copy" \
		"sh -c 'rsync -a $place/changed/ $place/copy/ && sync -f $place'" "rm -rf $place/copy"
	step diff : "$FVM diff all" :
	step diff-stat : "$FVM diff --stat all" :
	step commit : "$FVM commit all" "$FVM undo"
	step undo "$FVM commit all" "$FVM undo" :
	set -- diff "$in/diff" diff-stat "$in/diff-stat" commit "$in/commit" undo "$in/undo"
	if have rsync; then
		set -- rsync-a "$in/rsync" rsync-a-and-sync "$in/rsync-sync" "$@"
	else
		skip "fvm/changes/$count/rsync: no rsync"
	fi
	turns_inside "fvm/changes/$count/" "$@"
}

# Each step needs changes that are not frozen yet: new files in a directory of their own.
constant() {
	for n in $few "$count"; do
		"$FVM" create --net none "with$n" >/dev/null
		"$FVM" snapshot "with$n" start
		more="$FVM run --name with$n $files make $place/new\$\$ $n 16"
		step "snapshot$n" "$more" "$FVM snapshot with$n t\$\$" :
		step "clone$n" "$more" "$FVM clone with$n copy" "$FVM rm copy"
		step "rollback$n" "$more" "$FVM rollback with$n start" :
	done
	for command in snapshot clone rollback; do
		turns_inside fvm/changes/$command/ "$few-files" "$in/$command$few" \
			"$count-files" "$in/$command$count"
	done
}

changed_all
rounds_of 5
constant
exit $BENCH_STATUS
