# What does trace --calls cost a program, beside strace of the same process in the same run? A program
# that does nothing but calls (dd, one byte at a time), and one that starts others (a shell); in a VM,
# timed inside, traced from outside once it runs.
#
# Target: no more than strace.
# shellcheck shell=sh
. bench/lib.sh
rounds_of 5

mkdir -m 0777 "$BENCH_DIR/go"
count=$(sized 20000 200)
cat >"$BENCH_DIR/bin/calls-inside" <<'END'
#!/bin/bash
# calls-inside DIR: runs what it reads, one line at a time, and says how long each took, in ms
while read -r line; do
	from=${EPOCHREALTIME/./}
	eval "$line"
	echo "$(((${EPOCHREALTIME/./} - from) / 1000))" >"$1/took.new"
	mv "$1/took.new" "$1/took"
done <>"$1/ask"
END
chmod 0755 "$BENCH_DIR/bin/calls-inside"
mkfifo -m 0666 "$BENCH_DIR/go/ask"
$FVM -q run -d --net none --root --name calls --bind "$BENCH_DIR/go" \
	"$BENCH_DIR/bin/calls-inside" "$BENCH_DIR/go" >/dev/null || exit 1
pid=$($FVM --json ps calls | jq '.[] | select(.command | test("calls-inside")).host_pid')

# until CMD..: at most half a minute
until_so() {
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 3000 ] || return 1
		sleep 0.01
	done
}
# shellcheck disable=SC2317
is_traced() { ! grep -q '^TracerPid:.0$' "/proc/$pid/status"; }
# shellcheck disable=SC2317
is_free() { ! is_traced; }

# one NAME COMMAND TRACER..: prints how long it took
one() {
	one_name=$1 one_command=$2
	shift 2
	tracer=
	if [ $# -gt 0 ]; then
		"$@" >/dev/null 2>&1 &
		tracer=$!
		until_so is_traced || { kill "$tracer"; return 1; }
	fi
	rm -f "$BENCH_DIR/go/took"
	echo "$one_command" >"$BENCH_DIR/go/ask"
	until_so test -e "$BENCH_DIR/go/took" || return 1
	cat "$BENCH_DIR/go/took" >>"$BENCH_DIR/$one_name"
	[ -z "$tracer" ] || { kill "$tracer"; wait "$tracer" 2>/dev/null; until_so is_free; } || :
}

compare() {
	kind=$1 command=$2
	round=0
	while [ $round -lt "$ROUNDS" ]; do
		one off "$command" || return 1
		one on "$command" "$FVM" trace --calls -o /dev/null calls || return 1
		one count "$command" "$FVM" trace --calls -c calls || return 1
		if have strace; then
			one strace "$command" strace -f -y -T -o /dev/null -p "$pid" || return 1
			one strace-count "$command" strace -f -c -o /dev/null -p "$pid" || return 1
		fi
		round=$((round + 1))
	done
	for name in off on count strace strace-count; do
		[ -f "$BENCH_DIR/$name" ] || continue
		print "vin/calls/$kind/$name" \
			"$(sort -n "$BENCH_DIR/$name" | sed -n "$(((ROUNDS + 1) / 2))p")" ms
		rm -f "$BENCH_DIR/$name"
	done
}

compare calls "dd if=/dev/zero of=/dev/null bs=1 count=$count 2>/dev/null" || BENCH_STATUS=1
compare processes "for i in \$(seq $(sized 100 5)); do /bin/true; done" || BENCH_STATUS=1
exit "$BENCH_STATUS"
