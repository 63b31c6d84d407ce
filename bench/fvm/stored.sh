# Do VMs that are only stored make anything slower? 10, 1,000 and 10,000 of them stand in the store
# while one more is created, started, stopped and deleted, and all are listed.
#
# Beside it in each round: "true", which says how the machine is; ls of coreutils on the same
# directory, and cat of all configurations, which is the least that listing them must read.
#
# Targets: ls of 10,000 within 200 ms; create, start and rm the same at each number.
# shellcheck shell=sh
. bench/lib.sh
rounds_of 15

# One more than there are, and away with it; each step is measured by a program of its own.
step() {
	cat >"$BENCH_DIR/bin/$1" <<-EOF
		$2
		$TIMER -1 $FVM $3
		$4
	EOF
}
quiet='>/dev/null 2>&1'
step create "" "create extra" "$FVM rm extra $quiet"
step start "$FVM create extra $quiet" "start extra" "$FVM rm --force extra $quiet"
step stop "$FVM create extra $quiet; $FVM start extra" "stop extra" "$FVM rm extra $quiet"
step rm "$FVM create extra $quiet" "rm extra" ""

have_now=0
# Up to $1 of them, by some at a time: making them is not what is measured, but a figure, too.
fill() {
	cat >"$BENCH_DIR/bin/fill" <<-EOF
		for i in \$(seq $((have_now + 1)) $1); do $FVM create stored\$i >/dev/null || exit 1; done
	EOF
	took "fvm/stored/fill-from-$have_now-to-$1" sh "$BENCH_DIR/bin/fill"
	have_now=$1
}

for count in $(sized "10 1000 10000" "3 10"); do
	fill "$count" || break
	in="sh $BENCH_DIR/bin"
	turns_inside "fvm/stored/$count/" true "$TIMER -1 true" create "$in/create" \
		start "$in/start" stop "$in/stop" rm "$in/rm" ls "$TIMER -1 $FVM ls" \
		ls-json "$TIMER -1 $FVM --json ls" ls-names "$TIMER -1 $FVM ls --names" \
		coreutils-ls "$TIMER -1 ls $FVM_HOME/vms" \
		cat-configs "$TIMER -1 find $FVM_HOME/vms -name config.json -exec cat {} +"
done
# shellcheck disable=SC2046
took "fvm/stored/rm-all-$have_now" "$FVM" rm --all
exit $BENCH_STATUS
