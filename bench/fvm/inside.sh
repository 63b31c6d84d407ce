# What does the same work take inside a VM and outside? In turns, each timed where it runs, so that
# starts are not counted: natively, in a VM, in bubblewrap, and (root only) in the kernel's overlay
# of / mounted by hand, which is what nobody can be better than who has a writable copy of all
# files; as root and as an ordinary user.
#
# compile         zstd of Debian's source package, 85,000 lines, on all processors
# git_status      of 50,000 files that the host has, warm
# sqlite_rows     400,000 rows with an index in one transaction; sqlite_commits: 200 of one row
# processes       1,000 times fork, exec, wait
# find_tree       stat of the 50,000 files; untar, delete, create: 20,000 files made and deleted
#
# Targets: .ratio of VMs at most 1.03 for compile to processes, 1.2 for the rest as root, creation
# 1.5 as an ordinary user. Where .ratio is above and .cpu-ratio is not, the disk was waited for.
# shellcheck shell=sh
. bench/lib.sh
. bench/source.sh
rounds_of 7
WARM_UP=1

install -m 0755 bench/workload.sh "$BENCH_DIR/bin/"
work=$BENCH_DIR/bin/workload.sh

# DIR with the input of all workloads.
input_make() {
	source_copy "$1/src"
	"$BENCH_DIR/bin/bench-files" make "$1/tree" "$(sized 50000 200)" 200
	(cd "$1/tree" && git init -q && git add . &&
		git -c user.name=b -c user.email=b@example.org commit -q -m tree)
	"$BENCH_DIR/bin/bench-files" make "$1/small" "$(sized 20000 100)" 1024
	tar -C "$1/small" -cf "$1/tree.tar" . && rm -rf "$1/small"
}

# The overlay, held by a process that the work is sent into the mount namespace of.
overlay_make() {
	mkdir -p "$BENCH_DIR/overlay/upper" "$BENCH_DIR/overlay/work" "$BENCH_DIR/overlay/root"
	cat >"$BENCH_DIR/overlay/hold" <<-EOF
		cd $BENCH_DIR/overlay &&
			mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root &&
			mount --rbind /proc root/proc && mount --rbind /dev root/dev || exit 1
		: >held
		exec sleep 100000
	EOF
	unshare --mount sh "$BENCH_DIR/overlay/hold" &
	holder=$!
	at_end "kill $holder 2>/dev/null; wait $holder"
	until [ -e "$BENCH_DIR/overlay/held" ]; do
		kill -0 $holder 2>/dev/null || return 1
		sleep 0.05
	done
	overlay="nsenter --target $holder --mount chroot $BENCH_DIR/overlay/root $quick"
}

# compare WHO KIND NATIVE-PREFIX VM-PREFIX
compare() {
	set -- "fvm/inside/$1/$2/" native "$3 $work $2 $dir" fvm "$4 $work $2 $dir"
	have bwrap && set -- "$@" bwrap "$bwrap $work $kind $dir"
	[ "$overlay" ] && set -- "$@" overlay "$overlay $work $kind $dir"
	turns_inside "$@"
}

# all WHO NATIVE-PREFIX VM-PREFIX
all() {
	for kind in $kinds; do
		if [ "$kind" = compile ] && [ ! -f "$dir/src/programs/Makefile" ]; then
			skip "fvm/inside/$1/compile: no source package (log in $BENCH_BUILD/bench/source)"
		elif [ "$kind" = git_status ] && ! have git; then
			skip "fvm/inside/$1/git_status: no git"
		elif [ "${kind%_*}" = sqlite ] && ! have sqlite3; then
			skip "fvm/inside/$1/$kind: no sqlite3"
		else
			compare "$1" "$kind" "$2" "$3"
		fi
	done
}

quick="env BENCH_QUICK=$QUICK"
overlay=
kinds=${BENCH_KINDS:-compile git_status sqlite_rows sqlite_commits processes find_tree untar delete create}
dir=$BENCH_DIR/work
input_make "$dir"
# the last seconds of 50,000 files on their way to the disk are not what is asked for
sync
if is_root; then
	bwrap="$BWRAP $quick"
	"$FVM" create bench >/dev/null && "$FVM" start bench
	overlay_make || skip "fvm/inside/root/overlay: it can't be mounted over this machine's root"
	all root "$quick" "$FVM exec bench $quick"
	"$FVM" rm --force bench
	overlay=
	if bench_user; then
		chown -R "$BENCH_USER:" "$dir"
		bwrap="$AS_USER $BWRAP $quick"
		# shellcheck disable=SC2086  # a prefix of words
		$AS_USER fvm create bench >/dev/null && $AS_USER fvm start bench
		all user "$AS_USER $quick" "$AS_USER fvm exec bench $quick"
	else
		skip "fvm/inside/user: no ordinary user could be made"
	fi
else
	bwrap="$BWRAP $quick"
	skip "fvm/inside/root: needs root"
	"$FVM" create bench >/dev/null && "$FVM" start bench
	all user "$quick" "$FVM exec bench $quick"
fi
exit $BENCH_STATUS
