# How long do programs stand still while they are captured, and while they are made again from what
# was captured? vin alone, without what a VM has besides: a small process, 41 processes, 201 threads,
# and what one more thread, process, descriptor, area and GiB costs, each with its parts. And what do
# programs pay for it while nobody captures them? One that was never captured and one that was, and
# was let go, do the same work (cost): the ratio of their processor times.
#
# Memory goes into an image (mib) and, as it is for a clone or another machine, through a pipe whose
# other end makes the programs again meanwhile (stream). Beside it in the same run the same memory
# copied between two processes into fresh memory by two threads (copy). Beside all of it criu, where
# it works.
#
# The same memory copied before the stop, while the program writes to 0, 50 and 200 MiB of pages in a
# second (early): beside "still" of mib, which is all of it written in the stop, and copy.
#
# And with the memory coming when the programs run already (late), while the old ones
# stand still; all is when it has come.
#
# Targets: a small process 2.5 ms, 200 threads 50 ms; stream at least 80 % of the speed of copy; late
# stands still for 5 ms.
# shellcheck shell=sh
. bench/lib.sh
rounds_of 30

cp "$BENCH_BUILD/bench/bench-vin" "$BENCH_DIR/bin/"
vin=$BENCH_DIR/bin/bench-vin

# of NAME KIND COUNT [RATE]: what bench-vin measures, or what it said
of() {
	"$vin" -n "$ROUNDS" -w "$WARM_UP" -r "${4:-0}" "vin/freeze/$1" "$2" "$3" 2>"$BENCH_DIR/said" && return
	echo "# vin/freeze/$1: failed" >&2
	sed 's/^/#   /' "$BENCH_DIR/said" >&2
	BENCH_STATUS=1
}

# each NAME FEW MANY PART: what one more of it costs, by the medians printed for both
each() {
	cheap=$(awk -v name="vin/freeze/$1-$2/$4" '$1 == name { print $2 }' "$BENCH_DIR/lines")
	dear=$(awk -v name="vin/freeze/$1-$3/$4" '$1 == name { print $2 }' "$BENCH_DIR/lines")
	awk -v cheap="$cheap" -v dear="$dear" -v count="$(($3 - $2))" -v name="$1/$4" 'BEGIN {
		printf "vin/freeze/each/%s %.2f us\n", name, (dear - cheap) * 1000 / count }'
}

{ of small small 1; } | tee "$BENCH_DIR/small"
for kind in processes-40 threads-200 descriptors-1000 areas-1000; do
	name=${kind%-*}
	many=$(sized "${kind#*-}" 3)
	{
		of "$name-0" "$name" 0
		of "$name-$many" "$name" "$many"
	} | tee "$BENCH_DIR/lines"
	each "$name" 0 "$many" still
	each "$name" 0 "$many" freeze
done

rounds_of 5
WARM_UP=$(sized 1 0)
mib=$(sized 1024 4)
of copy-"$mib"-mib copy "$mib"
of stream-"$mib"-mib stream "$mib"
{ of image-"$mib"-mib mib "$mib"; } | tee "$BENCH_DIR/lines"
for part in still freeze; do
	awk -v mib="$mib" -v part="$part" '$1 ~ "/" part "$" { ms[FILENAME] = $2 } END {
		printf "vin/freeze/each/gib/%s %.2f ms\n", part, (ms[ARGV[2]] - ms[ARGV[1]]) * 1024 / mib
	}' "$BENCH_DIR/small" "$BENCH_DIR/lines"
done
of late-"$mib"-mib late "$mib"
for rate in 0 50 200; do
	of early-"$mib"-mib-"$rate" early "$mib" "$rate"
done

rounds_of 30
WARM_UP=$(sized 3 0)
{ of cost after "$(sized 100 1)"; } | tee "$BENCH_DIR/lines"
awk '{ ms[$1] = $2 } END { if (ms["vin/freeze/cost/never"] > 0)
	printf "vin/freeze/cost.ratio %.3f x\n", ms["vin/freeze/cost/after"] / ms["vin/freeze/cost/never"]
}' "$BENCH_DIR/lines"

# It looks at the kernel first, and refuses some.
if ! have criu; then
	skip "vin/freeze/criu: not installed"
elif ! criu check >"$BENCH_DIR/said" 2>&1; then
	skip "vin/freeze/criu: $(criu --version | head -n 1): $(tail -n 1 "$BENCH_DIR/said")"
else
	sleep 100000 >/dev/null 2>&1 &
	sleeper=$!
	at_end "kill $sleeper 2>/dev/null"
	mkdir "$BENCH_DIR/criu"
	rounds_of 30
	turns vin/freeze/criu/ dump-and-go-on \
		"criu dump --tree $sleeper --leave-running --shell-job --images-dir $BENCH_DIR/criu"
fi
exit "$BENCH_STATUS"
