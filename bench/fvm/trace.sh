# What does --trace cost, and does it cost anything when it is off? The same compile and the same
# loop of fork, exec and wait in a VM with it, in one without, natively, and under strace -f, the
# tool that one takes else; timed inside.
#
# Target: off, the same as natively within 3 %; on, what it costs is said here.
# shellcheck shell=sh
. bench/lib.sh
. bench/source.sh
rounds_of 5
WARM_UP=1

dir=$BENCH_DIR/work
work=$BENCH_DIR/bin/workload.sh
quick="env BENCH_QUICK=$QUICK"
install -m 0755 bench/workload.sh "$work"
source_copy "$dir/src"

compare() {
	set -- "fvm/trace/$1/" native "$quick $work $1 $dir" \
		off "$FVM run --rm --net none $quick $work $1 $dir" \
		on "$FVM run --rm --net none --trace $quick $work $1 $dir"
	# as strace passes no calls by that are not asked for, it is asked for what --trace looks at
	have strace && set -- "$@" strace \
		"strace -f --seccomp-bpf -qq -e trace=%file,connect,execve -o /dev/null $quick $work $kind $dir"
	turns_inside "$@"
}

for kind in compile processes; do
	if [ "$kind" = compile ] && [ ! -f "$dir/src/programs/Makefile" ]; then
		skip "fvm/trace/compile: no source package (log in $BENCH_BUILD/bench/source)"
	else
		compare $kind
	fi
done
exit $BENCH_STATUS
