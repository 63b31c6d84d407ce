#!/usr/bin/env bats
# Commands in running VMs: exec, enter, attach, logs, wait, stop, and terminals that behave.
# shellcheck disable=SC2016,SC2094,SC2154  # the VM's shell expands; status and output are set by expect
load helper

teardown() {
	tmux -S "$E2E/tmux" kill-server 2>/dev/null || :
	vms_remove
}

# start NAME: a VM without a command
start() {
	needs_root
	fvm create --net none "$1" >/dev/null
	fvm start "$1"
}

# ---- a terminal of our own to work at ----

screen() { tmux -S "$E2E/tmux" "$@"; }

# screen_start CMD: in a terminal of 80 x 24
screen_start() {
	needs_command tmux
	screen -f /dev/null new-session -d -x 80 -y 24 "$1; echo \"[ended \$?]\"; sleep 100"
}

keys() { screen send-keys "$@"; }
shown() { screen capture-pane -p; }
shows() { shown | grep -qF -- "$1"; }
runs() { fvm ps vm | grep -qF -- "$1"; }
wait_shown() {
	wait_until 30 shows "$1" && return 0
	printf 'the screen does not show "%s":\n' "$1" >&2
	shown >&2
	return 1
}

# ---- pipes and status ----

@test "exec passes status, input, output and errors on" {
	start vm
	expect 7 fvm exec vm sh -c 'exit 7'
	expect 143 fvm exec vm sh -c 'kill -TERM $$'
	equal "$(printf 'a\nb\n' | fvm exec vm wc -l)" 2
	equal "$(fvm exec vm sh -c 'echo out; echo err >&2' 2>/dev/null)" out
	equal "$(fvm exec vm sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)" err
	head -c 3000000 /dev/urandom >"$E2E/data"
	fvm exec vm cat <"$E2E/data" | cmp - "$E2E/data"
	fvm exec vm cat <"$E2E/data" >"$E2E/copy"
	cmp "$E2E/data" "$E2E/copy"
}

@test "exec tells not found from not executable" {
	start vm
	expect 127 fvm exec vm no-such-program
	says no-such-program
	expect 127 fvm exec vm /no/such/program
	expect 126 fvm exec vm /etc/passwd
	expect 126 fvm exec vm /etc
}

@test "a program can open /dev/stdout and /dev/stderr again though they are pipes or files of the host" {
	start vm
	equal "$(fvm exec vm sh -c 'echo one >/dev/stderr; echo two >/dev/stdout' 2>&1)" "$(printf 'one\ntwo')"
	fvm exec vm sh -c 'echo one >/dev/stdout; echo two >/dev/stderr; echo three' >"$E2E/out" 2>&1
	equal "$(cat "$E2E/out")" "$(printf 'one\ntwo\nthree')"
}

@test "exec reads no more of a script's input than its command does" {
	start vm
	printf 'one\ntwo\nthree\n' >"$E2E/list"
	local line seen=
	while read -r line; do
		fvm exec vm true
		seen="$seen $line"
	done <"$E2E/list"
	equal "$seen" " one two three"
}

@test "a command's environment has no socket of the host, and what was set" {
	start vm
	expect 0 env DBUS_SESSION_BUS_ADDRESS=unix:path=/x SSH_AUTH_SOCK=/x DISPLAY=:1 FOO=bar \
		fvm exec --env BAZ=q vm env
	says FOO=bar
	says BAZ=q
	fails grep -E '^(DBUS_|SSH_AUTH|DISPLAY)' <<<"$output"
}

@test "a signal reaches the command, and so does its end" {
	start vm
	fvm exec vm sh -c 'trap "echo caught; exit 3" INT; echo ready; while :; do sleep 0.1; done' \
		>"$E2E/out" &
	local pid=$!
	wait_until 30 grep -q ready "$E2E/out"
	kill -INT $pid
	local status=0
	wait $pid || status=$?
	equal "$status" 3
	grep -q caught "$E2E/out"
}

@test "a session outlives its killed client" {
	start vm
	fvm exec vm sh -c 'until [ -e /root/go ]; do sleep 0.1; done; touch /root/survived; sleep 111' &
	local pid=$!
	wait_until 30 runs 'until ['
	kill -KILL $pid
	wait $pid || :
	fvm exec vm touch /root/go
	wait_until 30 fvm exec vm test -e /root/survived
}

@test "detached commands write to the log, and can be attached to" {
	start vm
	expect 0 fvm exec -d vm sh -c 'for i in 1 2 3; do echo line $i; done; sleep 2; echo last; exit 4'
	local session=$output
	wait_until 30 sh -c 'fvm logs vm | grep -q "line 3"'
	equal "$(fvm logs --tail 1 vm)" "line 3"
	equal "$(fvm --json attach --list vm | jq -r '.[0].session')" "$session"
	expect 4 fvm attach vm "$session"
	says "line 1"
	says last
	expect 125 fvm attach vm "$session"
	says "session $session"
}

@test "logs follows until the VM stops" {
	start vm
	fvm logs -f vm >"$E2E/out" &
	local pid=$!
	fvm exec -d vm sh -c 'sleep 0.3; echo one; sleep 0.3; echo two; sleep 111' >/dev/null
	wait_until 30 grep -q two "$E2E/out"
	fvm stop -t 1 vm
	wait_until 30 sh -c "! kill -0 $pid 2>/dev/null"
	equal "$(cat "$E2E/out")" "$(printf 'one\ntwo')"
}

@test "commands for a VM that does not run say how to start it" {
	needs_root
	fvm create --net none vm
	local command
	for command in "exec vm true" "enter vm" "attach vm"; do
		# shellcheck disable=SC2086
		expect 125 fvm $command
		says "fvm start vm"
	done
	expect 125 fvm exec no-such-vm true
	says no-such-vm
}

# ---- the end ----

@test "stop ends a VM at once when its programs go, and after the time when they don't" {
	start vm
	fvm exec -d vm sleep 111 >/dev/null
	local begin=$SECONDS
	fvm stop vm
	[ $((SECONDS - begin)) -lt 5 ]
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
	fvm start vm
	fvm exec -d vm sh -c 'trap "" TERM; echo deaf; while :; do sleep 1; done' >/dev/null
	wait_until 30 sh -c 'fvm logs vm | grep -q deaf'
	fvm stop -t 1 vm
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
	expect 0 fvm stop vm # again: nothing to do
}

@test "stop gives programs the time to tidy up" {
	start vm
	fvm exec -d vm sh -c 'trap "sleep 0.5; echo tidy >/root/tidy; exit" TERM; echo up; while :; do sleep 0.1; done' >/dev/null
	wait_until 30 sh -c 'fvm logs vm | grep -q up'
	fvm stop vm
	fvm start vm
	equal "$(fvm exec vm cat /root/tidy)" tidy
}

@test "stop ends a paused VM" {
	start vm
	fvm exec -d vm sleep 111 >/dev/null
	fvm pause vm
	expect 125 fvm exec vm true
	says "fvm resume vm"
	fvm stop -t 2 vm
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
}

@test "wait tells the status, before and after the end" {
	needs_root
	fvm run -d --keep --net none --name one -- sh -c 'sleep 0.5; exit 9' >/dev/null
	expect 9 fvm wait one
	equal "$output" 9
	expect 9 fvm wait one
	fvm run -d --rm --net none --name two -- sh -c 'sleep 0.5; kill -SEGV $$' >/dev/null
	expect 139 fvm wait two
	equal "$(fvm --json wait one | jq -r '.[0].status')" 9
	fvm create three
	expect 125 fvm wait three
}

@test "a VM whose root does all he can to PID 1 can still be used and stopped" {
	start vm
	fvm exec vm sh -c 'for s in $(seq 64); do kill -$s 1; done; rm -rf /dev/ptmx; mkfifo /dev/ptmx
		mount -t tmpfs none /dev/pts; echo 1000 >/proc/1/oom_score_adj' 2>/dev/null || :
	expect 5 fvm exec vm sh -c 'exit 5'
	expect 0 on_terminal fvm exec -t vm test -t 0
	fvm exec vm sh -c 'command -v prlimit && prlimit --pid 1 --nofile=20:20' >/dev/null 2>&1 || :
	fvm stop -t 1 vm
	equal "$(fvm --json ls | jq -r '.[0].state')" stopped
}

# ---- terminals ----

@test "a terminal has its size, follows a change of it, and has job control" {
	start vm
	screen_start 'fvm exec vm bash --norc'
	wait_shown '#'
	keys 'stty size; tty' Enter
	wait_shown '24 80'
	wait_shown '/dev/pts/0'
	screen resize-window -x 100 -y 30
	keys 'clear; stty size' Enter
	wait_shown '30 100'
	keys 'clear; sleep 333' Enter
	wait_until 30 runs 'sleep 333'
	keys C-z
	wait_shown 'Stopped'
	keys 'clear; bg; fg' Enter
	wait_shown 'sleep 333 &'
	keys C-c
	keys 'echo status $?' Enter
	wait_shown 'status 130'
	keys 'exit 6' Enter
	wait_shown '[ended 6]'
}

@test "full-screen programs work" {
	needs_command less top
	start vm
	seq 1000 >"$E2E/numbers"
	screen_start "fvm exec vm bash --norc"
	wait_shown '#'
	keys "less $E2E/numbers" Enter
	wait_shown 23
	keys G
	wait_shown 1000
	screen resize-window -x 60 -y 10
	wait_until 30 sh -c "[ \$(tmux -S $E2E/tmux capture-pane -p | grep -c '^[0-9]') = 9 ]"
	keys q
	screen resize-window -x 100 -y 20
	keys 'clear; top' Enter
	wait_shown fvm-init
	keys q
	keys 'clear; echo $((6 * 7))' Enter
	wait_shown 42
}

@test "an editor writes a file of the VM" {
	needs_command vi
	start vm
	screen_start 'fvm exec vm bash --norc'
	wait_shown '#'
	keys 'vi /root/edited' Enter
	wait_shown '~'
	keys i 'written inside'
	wait_shown 'written inside'
	keys Escape
	sleep 0.5 # an editor takes what follows at once for a key with Alt
	keys ':wq' Enter
	sleep 0.5
	keys 'clear; cat /root/edited; echo was read' Enter
	wait_shown 'was read'
	shows 'written inside'
	[ ! -e /root/edited ]
}

@test "^P^Q leaves a session, attach finds it again, and our terminal is as it was" {
	start vm
	screen_start 'stty -g >'"$E2E"'/before; fvm exec vm bash --norc; stty -g >'"$E2E"'/after; fvm attach vm; stty -g >'"$E2E/last"
	wait_shown '#'
	keys 'kept=yes; clear' Enter
	keys C-p C-q
	wait_until 30 test -s "$E2E/after"
	cmp "$E2E/before" "$E2E/after"
	keys 'echo is $kept' Enter
	wait_shown 'is yes'
	keys 'exit' Enter
	wait_shown '[ended 0]'
	cmp "$E2E/before" "$E2E/last"
}

@test "^P alone is the shell's, at once, and ^Q may still follow" {
	start vm
	screen_start 'fvm exec vm bash --norc'
	wait_shown '#'
	keys 'echo first $((6 * 7))' Enter
	wait_shown 'first 42'
	keys 'clear' Enter
	keys C-p C-p
	wait_shown 'echo first'
	keys Enter C-p
	sleep 0.5
	keys C-q
	wait_shown 'Detached'
	equal "$(fvm --json attach --list vm | jq length)" 1
}

@test "two clients of one session see the same" {
	start vm
	screen_start 'fvm exec vm bash --norc'
	wait_shown '#'
	fvm attach vm </dev/null >"$E2E/second" &
	local pid=$!
	sleep 0.3
	keys 'echo $((40 + 2)) both' Enter
	wait_shown '42 both'
	wait_until 30 grep -q '42 both' "$E2E/second"
	keys 'exit' Enter
	wait $pid || :
}

@test "the terminal goes, the session stays" {
	start vm
	screen_start 'fvm exec vm sh -c "echo up; sleep 0.8; touch /root/stayed; sleep 111"'
	wait_shown up
	screen kill-server
	wait_until 30 fvm exec vm test -e /root/stayed
	equal "$(fvm --json attach --list vm | jq length)" 1
}

@test "the terminal is restored when the client is terminated" {
	start vm
	screen_start 'stty -g >'"$E2E"'/before; fvm exec vm sleep 111 & p=$!; fg; stty -g >'"$E2E"'/after'
	wait_until 30 sh -c 'fvm attach --list vm | grep -q sleep'
	local pid
	pid=$(pgrep -f '^fvm exec vm sleep 111' | head -n 1)
	kill -TERM "$pid"
	wait_until 30 test -s "$E2E/after"
	cmp "$E2E/before" "$E2E/after"
}

@test "-T gives no terminal, -t gives one without ours" {
	start vm
	expect 0 fvm exec -t vm sh -c 'tty'
	says /dev/pts
	screen_start 'fvm exec -T vm tty; echo asked'
	wait_shown 'asked'
	shows 'not a tty'
}

@test "enter is a shell, of root or of a user of the VM" {
	start vm
	screen_start 'fvm enter vm'
	sleep 0.5
	keys 'id -un; echo $0 in $PWD' Enter
	wait_shown root
	keys 'exit 3' Enter
	wait_shown '[ended 3]'
	expect 0 fvm exec --workdir / --user nobody vm id -un
	equal "$output" nobody
}

@test "input from a terminal reaches a command whose output goes elsewhere" {
	start vm
	screen_start 'fvm exec vm sh -c "read a; echo got \$a" | tee '"$E2E"'/answer'
	sleep 0.5
	keys 'word' Enter
	wait_shown 'got word'
}
