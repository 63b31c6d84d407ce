# What goes wrong from outside: names that are none, two commands at once, no memory, no processes,
# files of the store that somebody spoiled. Each is told by name, with 125, and nothing is lost.
load helper

TOP=/opt/fvm-e2e-mistakes

setup() { needs_root; }

teardown() {
	commits_remove
	rm -rf $TOP
}

@test "what can't be a name is refused with what can, and no place is made for it" {
	local name
	fvm -q create a
	for name in a/b ../x .. . '' -x 'a b' $'a\nb' ä "$(printf 'x%.0s' {1..65})"; do
		expect 125 fvm create -- "$name"
		says "letters, digits"
		expect 125 fvm rename a "$name"
		expect 125 fvm clone a "$name"
		expect 125 fvm snapshot a -- "$name"
		expect 125 fvm run --net none --name="$name" -- true
		expect 125 fvm diff -- "$name"
		expect 125 fvm rm -- "$name"
	done
	equal "$(fvm ls -q)" a
	equal "$(ls -A "$FVM_HOME/vms")" a
	expect 125 fvm rename a a
	expect 125 fvm clone a a
	says "there is a VM 'a' already"
}

@test "two commands on one VM: the second waits, told for whom, and then does its work" {
	use_faults
	mkdir -p $TOP
	in_vm a "echo one >$TOP/one; echo two >$TOP/two"
	still=
	FVM_FAULT=commit.stage:1:stop fvm -q commit a $TOP/one &
	local first=$!
	wait_until 30 stands_still
	fvm snapshot a t 2>"$E2E/said" &
	local second=$!
	waits() { grep -q "VM 'a' is in use by fvm.* commit a .*(pid [0-9]*): waiting" "$E2E/said"; }
	wait_until 30 waits || { cat "$E2E/said" && false; }
	# who only looks need not wait
	equal "$(fvm ls -q)" a
	kill -CONT "$still"
	wait $first
	wait $second
	equal "$(cat $TOP/one) $(fvm -q diff a)" "one A $TOP/two"
	equal "$(fvm --json snapshot --ls a | jq -r '.[].tag')" t
	# many at once: each name is one VM's
	local i pids=()
	for i in 1 2 3 4 5 6; do fvm -q create same 2>/dev/null & pids+=($!); done
	wait "${pids[@]}" || : # a bare one would wait for bats' own clock, too
	pids=()
	for i in 1 2 3 4 5 6; do fvm -q snapshot same "t$i" & pids+=($!); done
	wait "${pids[@]}"
	equal "$(fvm --json snapshot --ls same | jq length)" 6
}

@test "without memory or processes everything is told, and all is there afterwards" {
	mkdir -p $TOP
	seq 1000 >$TOP/text
	in_vm a "sed -i s/7/seven/ $TOP/text; cp -r /etc $TOP/etc"
	fvm -q diff a >"$E2E/before"
	local kib command ended=0
	for command in "ls" "diff a" "diff --patch a" "diff --meaning a" "commit --dry-run a" \
		"export a $E2E/a.tar" "clone a b" "run --net none --name a -- true"; do
		for kib in 7000 9000 11000 13000 16000 20000 26000; do
			status=0
			# shellcheck disable=SC2086  # words
			output=$(prlimit --as=$((kib << 10)) fvm -q $command 2>&1 >/dev/null) || status=$?
			case $status in
			0) ended=1 ;;
			125) [ -n "$output" ] ;;
			127) ;; # the loader had none
			*) echo "$command with $kib KiB: status $status: $output" >&2 && false ;;
			esac
		done
		if [ "$command" = "clone a b" ]; then fvm -q rm b 2>/dev/null || :; fi
	done
	equal $ended 1
	equal "$(fvm -q diff a)" "$(cat "$E2E/before")"
	needs_user mistakes
	expect 125 as_user mistakes bash -c 'ulimit -u 1; exec fvm run --rm --net none -- true'
	says "Resource temporarily unavailable"
	expect 0 as_user mistakes fvm run --rm --net none -- true
}

# spoil FILE HOW
spoil() {
	case $2 in
	empty) : >"$1" ;;
	half) truncate -s $(($(stat -c %s "$1") / 2)) "$1" ;;
	junk) head -c 300 /dev/urandom >"$1" ;;
	bit) perl -e 'open F, "+<", $ARGV[0]; $n = (-s F) >> 1; seek F, $n, 0; read F, $c, 1; seek F, $n, 0;
		print F chr(ord($c) ^ 4)' "$1" ;;
	gone) rm "$1" ;;
	directory) rm "$1" && mkdir "$1" ;;
	link) ln -sf /etc/passwd "$1" ;;
	fifo) rm "$1" && mkfifo "$1" ;;
	esac
}

@test "each file of the store, spoiled in each way, is told by its name or does no harm" {
	mkdir -p $TOP
	seq 20 | tee $TOP/f >$TOP/g
	expect 0 fvm -q run --net none --trace --keep --name a -- sh -c "echo x >>$TOP/f; echo n >$TOP/n"
	fvm snapshot a t
	in_vm a "echo y >>$TOP/f; rm /etc/hostname"
	in_vm b "echo b >>$TOP/g"
	fvm -q commit b
	fvm -q diff a >"$E2E/want"
	rm -rf "$E2E/good" && cp -a "$FVM_HOME" "$E2E/good"
	local file files how command told=0
	cd "$FVM_HOME"
	mapfile -t files < <(find . -type f ! -path '*/fs/*' ! -path './run/*' ! -path './spare/*' ! -size 0)
	for file in "${files[@]}"; do
		for how in empty half junk bit gone directory link fifo; do
			cp -a "$file" "$E2E/kept"
			spoil "$file" $how
			for command in ls "inspect a" "diff a" "who a $TOP/n" "snapshot --ls a" "logs a" "wait a" \
				"commit --dry-run a $TOP" "undo --ls" "undo --dry-run" "prune --dry-run"; do
				status=0
				# shellcheck disable=SC2086  # words
				output=$(timeout 20 fvm $command 2>&1 </dev/null) || status=$?
				if [ $status = 125 ] && grep -qF "${file##*/}" <<<"$output"; then
					told=$((told + 1))
				elif [ "${file##*/} ${command%% *}" = "trace who" ] && grep -q "nobody was seen" <<<"$output"; then
					: # as if nothing had been recorded
				elif [ "${file##*/} ${command%% *}" = "status wait" ] && [ $status != 124 ]; then
					: # as if it had been killed
				elif [ $status -gt 125 ] || [ $status = 124 ] || { [ $status = 125 ] && [ $how != bit ] && [ $how != gone ]; }; then
					echo "$file $how: fvm $command: $status $output" >&2
					false
				fi
			done
			rm -rf "$file"
			cp -a "$E2E/kept" "$file"
			rm -rf "$E2E/kept"
		done
		equal "$(fvm -q diff a)" "$(cat "$E2E/want")"
	done
	[ $told -gt 30 ]
	equal "$(fvm undo --ls | wc -l)" 2
	fvm -q undo
	equal "$(wc -l <$TOP/g)" 20
}

@test "a commit whose journal is damaged is forgotten when that is asked for" {
	mkdir -p $TOP
	echo one >$TOP/f
	in_vm a "echo two >$TOP/f"
	fvm -q commit a
	truncate -s 50 "$FVM_HOME/commits/1/journal"
	fvm undo --ls | grep -q "^1 .*damaged"
	expect 125 fvm undo
	says "$FVM_HOME/commits/1/journal"
	says "fvm undo --force --drop 1"
	expect 125 fvm undo --drop 1
	expect 0 fvm undo --force --drop 1
	equal "$(fvm undo --ls)" ""
	equal "$(cat $TOP/f)" two
}

@test "a commit that was interrupted is taken back, whatever \"pending\" says" {
	use_faults
	mkdir -p $TOP
	echo one | tee $TOP/f >$TOP/g
	in_vm a "echo two | tee $TOP/f >$TOP/g"
	for junk in "" "99" $'\x80\xff'; do
		FVM_FAULT=commit.exchange:2:kill fvm -q commit a || :
		equal "$(cat $TOP/f $TOP/g | sort | xargs)" "one two"
		printf %s "$junk" >"$FVM_HOME/commits/pending"
		fvm ls >/dev/null
		equal "$(cat $TOP/f $TOP/g | xargs)" "one one"
		[ ! -e "$FVM_HOME/commits/pending" ]
	done
	fvm -q commit a
	equal "$(cat $TOP/f $TOP/g | xargs)" "two two"
}

@test "prune takes what nobody needs, tells what before, and keeps what a VM stands on" {
	in_vm a 'echo one >/opt/kept'
	fvm snapshot a t
	fvm -q run --rm -d --net none --name thrown -- sleep 1000 >/dev/null
	local pid init layer
	init=$(fvm --json inspect thrown | jq .init_pid)
	# its watcher dies, and then the VM itself
	for pid in $(pgrep -f -- "--name thrown" || :); do
		[ "$pid" != "$init" ] && grep -qsF "$E2E" "/proc/$pid/environ" || continue
		kill -KILL "$pid" 2>/dev/null || : # its end may have been near
	done
	kill -KILL "$init" 2>/dev/null || :
	wait_until 30 test ! -e "/proc/$init"
	# a layer of no VM, and one of a VM whose id was damaged, both old
	layer=$(ls "$FVM_HOME/layers")
	mkdir -p "$FVM_HOME/layers/00000000000000000000000000000000/refs" \
		"$FVM_HOME/layers/00000000000000000000000000000000/fs"
	touch "$FVM_HOME/layers/00000000000000000000000000000000/refs/11111111111111111111111111111111"
	sed -i 's/"id": "./"id": "f/' "$FVM_HOME/vms/a/config.json"
	touch -d '2 hours ago' "$FVM_HOME"/layers/*/refs/*
	expect 0 fvm prune --dry-run
	says "1 layer "
	expect 0 fvm prune
	equal "$(ls "$FVM_HOME/layers")" "$layer"
	equal "$(fvm ls -q) $(in_vm a 'cat /opt/kept')" "a one"
	equal "$(fvm --json prune | jq -c '[.vms, .layers, .ended]')" "[0,0,0]"
}

@test "a file whose owner has no id in the VM is refused there, and no commit touches it" {
	mkdir -p $TOP
	echo one | tee $TOP/f >$TOP/g
	fvm -q run -d --net none --name a -- sleep 300 >/dev/null
	chown 2999999999:2999999999 $TOP/f # since the VM's start: else it would have a place
	expect 1 fvm exec a -- rm $TOP/f
	says "too large"
	fails fvm -q exec a -- sh -c "echo two >>$TOP/f"
	fails fvm -q exec a -- chown 2999999999 $TOP/g
	fvm -q exec a -- sh -c "echo two >$TOP/g"
	fvm -q stop -t 1 a
	equal "$(fvm -q diff a $TOP)" "M $TOP/g"
	expect 0 fvm commit a $TOP
	equal "$(cat $TOP/f $TOP/g | xargs) $(stat -c '%u:%g' $TOP/f $TOP/g | xargs)" \
		"one two 2999999999:2999999999 0:0"
	expect 0 fvm undo
	equal "$(cat $TOP/f $TOP/g | xargs)" "one one"
}
