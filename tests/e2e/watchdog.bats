# What a watchdog takes for trouble, and what it does about it.
# limit: 900
# test-limit: 400
load helper

setup() { needs_root; }

logs() { fvm logs w | grep -q -- "$1"; }
record() { fvm inspect w | jq -r ".watchdog.$1"; }
has_event() { [ "$(record event)" = "$1" ]; }
runs() { [ "$(fvm inspect "$1" | jq -r .state)" = running ]; }
stopped() { [ "$(fvm inspect "$1" | jq -r .state)" = stopped ]; }
watched() { fvm -q run --net none --keep --name w "$@"; }
# main_pid: of the program, as the VM has it
main_pid() { fvm --json ps w | jq -r '[.[] | select(.pid > 1)][0].pid'; }
# The first line of a program that counts how often it was started
COUNT='n=$(cat /opt/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n >/opt/n; echo "start $n"'
# Says WATCHDOG=1, in pieces that tell who did it
NOTIFY='use Socket; socket(S, AF_UNIX, SOCK_DGRAM, 0);
	send(S, "STATUS=fine\nWATCHDOG=1\n", 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!;'

@test "a crash is told to the log, and the VM ends with its status" {
	expect 134 watched --watchdog 5 -- sh -c 'kill -ABRT $$'
	logs "watchdog: the program (pid [0-9]*) was ended by signal 6"
	equal "$(record event)" crashed
	equal "$(record action)" log
	equal "$(record seconds)" 5
	equal "$(record restarts)" 0
	[ "$(record at)" -gt 0 ]
	# the record is of the last start
	expect 0 watched -- true
	equal "$(fvm inspect w | jq .watchdog)" null
}

@test "ends that are meant are no crash: exit, TERM, and what somebody sent" {
	expect 9 watched --watchdog 5:restart -- sh -c 'exit 9'
	equal "$(record event)" null
	expect 143 watched --watchdog 5:restart -- sh -c 'kill -TERM $$'
	equal "$(record event)" null
	watched -d --watchdog 5:restart -- sleep 1000
	fvm -q kill --signal USR1 w
	wait_until 30 stopped w
	equal "$(record event)" null
	equal "$(record restarts)" 0
}

@test "a crashed program is started again, with its output, until it ends by itself" {
	expect 7 watched --watchdog 5:restart -- sh -c "$COUNT
		[ \$n -ge 3 ] && { pgrep -cx sleep; exit 7; }
		setsid sleep 1000 & kill -SEGV \$\$"
	# nothing that was left behind by the first two is there with the third
	equal "${output#"${output%%start 1*}"}" "start 1
start 2
start 3
0"
	equal "$(record event)" crashed
	equal "$(record restarts)" 2
	logs "watchdog: the program was started again (pid [0-9]*)"
}

@test "the terminal stays, with its modes as they were" {
	expect 7 watched -t --watchdog 5:restart -- sh -c "$COUNT; stty -a | grep -o ' -\?echo '
		[ \$n -ge 2 ] && exit 7; stty -echo; kill -SEGV \$\$"
	says "start 1"
	says "start 2"
	fails grep -q -- "-echo" <<<"$output"
}

@test "a detached program is started again, and the log goes on" {
	watched -d --watchdog 5:restart -- sh -c "$COUNT; [ \$n -ge 2 ] && exit 7; kill -SEGV \$\$"
	wait_until 30 stopped w
	logs "start 1"
	logs "start 2"
	equal "$(cat "$FVM_HOME/vms/w/status")" "exit 7"
}

@test "a stopped program is told; so is that it goes on" {
	watched -d --watchdog 1 -- sleep 1000
	fvm -q exec w kill -STOP "$(main_pid)"
	wait_until 30 logs "has been stopped by a signal for 1 s"
	equal "$(record event)" stopped
	fvm -q exec w kill -CONT "$(main_pid)"
	wait_until 30 logs "goes on"
	equal "$(fvm logs w | grep -c "stopped by a signal")" 1
}

@test "a paused VM is no stopped program" {
	watched -d --watchdog 1 -- sleep 1000
	fvm -q pause w
	# longer than a watchdog waits, as this one shows
	expect 0 fvm -q run --rm --net none --watchdog 1:restart -- sh -c \
		'[ -e /opt/n ] && exit 0; touch /opt/n; kill -STOP $$'
	fvm -q resume w
	fvm -q exec w kill -STOP "$(main_pid)"
	wait_until 30 has_event stopped
	equal "$(fvm logs w | grep -c "goes on")" 0
	equal "$(fvm logs w | grep -c "stopped by a signal")" 1
}

@test "a stopped program is started again; sessions beside it stay" {
	watched -d --watchdog 1:restart -- sh -c "$COUNT; [ \$n -ge 2 ] && exec sleep 1000; kill -STOP \$\$"
	runs w
	fvm -q exec -d w sleep 2345
	wait_until 30 logs "start 2"
	equal "$(record event)" stopped
	equal "$(record restarts)" 1
	fvm ps w | grep -q "sleep 2345"
}

@test "a program in state D is told, and started again" {
	# who calls vfork(2), 58 here, waits so until the child executes something
	expect 5 watched --watchdog 1:restart -- sh -c "$COUNT; [ \$n -ge 2 ] && exit 5
		exec perl -e 'syscall(58) == 0 and sleep 1000; sleep 1000'"
	equal "$(record event)" stuck
	logs "is stuck: its thread [0-9]* waits in the kernel for 1 s"
}

@test "who has said WATCHDOG=1 has to go on saying it; who never did may sleep" {
	fvm -q run --net none --keep --name sleeper -d --watchdog 1:restart -- sleep 1000
	expect 3 watched --watchdog 1:restart -- sh -c "$COUNT; [ \$n -ge 2 ] && exit 3
		[ \$WATCHDOG_USEC = 1000000 ] || exit 4
		exec perl -e '$NOTIFY sleep 1000'"
	equal "$(record event)" silent
	logs "has not said WATCHDOG=1 for 1 s"
	expect 0 fvm inspect sleeper
	equal "$(jq -c '[.state, .watchdog.event, .watchdog.restarts]' <<<"$output")" \
		'["running",null,0]'
	fvm -q rm --force sleeper
}

@test "a notification may come from a child, and be a wish to be dealt with" {
	expect 3 watched --watchdog 60:restart -- sh -c "$COUNT; [ \$n -ge 2 ] && exit 3
		perl -e '${NOTIFY/WATCHDOG=1/WATCHDOG=trigger}'; sleep 1000"
	equal "$(record event)" silent
}

@test "stop ends a VM whose program waits to be started again" {
	watched -d --watchdog 5:restart -- sh -c 'kill -SEGV $$'
	wait_until 30 has_event crashed
	fvm -q stop w
	stopped w
}

@test "run --rm ends as ever, and nothing stays" {
	expect 6 fvm -q run --rm --net none --name w --watchdog 1:restart -- sh -c 'exit 6'
	expect 0 fvm ls --names
	equal "$output" ""
}

@test "what can't be is refused" {
	expect 125 fvm run --watchdog 0 true
	says "1 to 86400 seconds"
	expect 125 fvm run --watchdog 5:fly true
	says "log, restart or restore, not 'fly'"
	expect 125 fvm run --watchdog 5:restore true
	says "takes --detach, and no --rm"
	expect 125 fvm run -d --rm --watchdog 5:restore true
	says "takes --detach, and no --rm"
	expect 125 fvm run -d --watchdog 5:restore:9 true
	says "10 to 172800 seconds from one snapshot to the next, or 0: not '9'"
	watched -d -- sleep 1000
	expect 125 fvm run --name w --watchdog 5 -- true
	says "--watchdog has to be there from its start"
	expect 0 fvm ls --names
	equal "$output" w
}

# ---- restored ----

# Crashes when /opt/go is there, which it is not at a snapshot, and counts as long as it runs.
CRASHES='n=0; while [ ! -e /opt/go ]; do n=$((n + 1)); echo $n >/opt/n; sleep 0.1; done; kill -SEGV $$'
snapshots() { [ "$(fvm --json snapshot --ls w | jq '[.[] | select(.programs)] | length')" -ge "$1" ]; }
restored() { [ "$(record restores)" -ge "$1" ] && runs w && fvm inspect w | jq -e .init_pid >/dev/null; }
# keepers: of w, and nobody else who has its lock; PID 1 and commands do, too
keepers() {
	local pid init
	init=$(fvm inspect w | jq .init_pid)
	for pid in /proc/[0-9]*; do
		[ "${pid#/proc/}" != "$init" ] && [ "$(cat "$pid/comm")" = fvm ] &&
			readlink "$pid"/fd/* | grep -qxF "$FVM_HOME/vms/w/watchdog" && echo "${pid#/proc/}"
	done 2>/dev/null
	return 0
}
keepers_are() { [ "$(keepers | wc -l)" = "$1" ]; }
unlike() { [ "$(keepers | grep -cvxF "$1")" = 2 ]; }

@test "a crashed program goes on from its last snapshot, with the files of that moment" {
	watched -d --watchdog 1:restore:2 -- sh -c "$CRASHES"
	wait_until 60 snapshots 1
	was=$(fvm inspect w | jq .init_pid)
	pid=$(main_pid)
	fvm -q exec w touch /opt/go
	wait_until 120 restored 1
	wait_until 60 logs "the VM is as at 'watchdog.[123]', its programs go on"
	logs "was ended by signal 11"
	logs "rolling back to snapshot 'watchdog.[123]', [0-9]* s old"
	equal "$(record event)" crashed
	equal "$(main_pid)" "$pid"
	[ "$(fvm inspect w | jq .init_pid)" != "$was" ]
	fails fvm -q exec w test -e /opt/go
	# it goes on, and so does its watchdog
	n=$(fvm exec w cat /opt/n)
	wait_until 30 counts_beyond "$n"
	fvm -q exec w touch /opt/go
	wait_until 120 restored 2
	fvm -q stop w
	wait_until 60 keepers_are 0
	equal "$(fvm snapshot --ls w)" ""
}
counts_beyond() { [ "$(fvm exec w cat /opt/n)" -gt "$1" ]; }

@test "a hung program goes on from a snapshot of when it did not hang" {
	watched -d --watchdog 1:restore:2 -- sh -c 'while sleep 0.1; do :; done'
	wait_until 60 snapshots 2
	fvm -q exec w kill -STOP "$(main_pid)"
	wait_until 120 restored 1
	equal "$(record event)" stopped
	wait_until 60 logs "its programs go on"
	# what hung for longer than its watchdog could count may be in a snapshot: then it goes further back
	wait_until 120 main_runs
}
main_runs() { fvm -q exec w grep -q "State:.[RS]" "/proc/$(main_pid)/status"; }

@test "who crashes again and again is restored five times, and then ends" {
	watched -d --watchdog 1:restore:2 -- sh -c "$CRASHES"
	wait_until 60 snapshots 1
	n=0
	while [ "$n" -lt 5 ]; do
		wait_until 60 fvm -q exec w touch /opt/go
		wait_until 120 restored $((n + 1))
		n=$(record restores)
	done
	wait_until 60 fvm -q exec w touch /opt/go
	wait_until 120 stopped w
	logs "it was restored 5 times within 600 s, and is not once more"
	equal "$(cat "$FVM_HOME/vms/w/status")" "signal 11"
	wait_until 60 keepers_are 0
}

@test "only a snapshot that somebody took himself is gone back to when none is to be taken" {
	watched -d --watchdog 1:restore:0 -- sh -c "$CRASHES"
	fvm -q snapshot --live w mine
	fvm -q exec w touch /opt/go
	wait_until 120 restored 1
	logs "rolling back to snapshot 'mine'"
	fvm -q snapshot --drop w mine
	wait_until 60 fvm -q exec w touch /opt/go
	wait_until 120 stopped w
	logs "there is no snapshot to go back to"
	equal "$(cat "$FVM_HOME/vms/w/status")" "signal 11"
}

@test "a keeper that is killed is there again; without any a crash ends the VM as ever" {
	watched -d --watchdog 1:restore:2 -- sh -c "$CRASHES"
	wait_until 60 snapshots 1
	# first who is the other's parent, then who became that
	for _ in 1 2 3; do
		wait_until 60 keepers_are 2
		one=$(keepers | head -n 1)
		kill -KILL "$one"
		wait_until 60 unlike "$one"
	done
	fvm -q exec w touch /opt/go
	wait_until 120 restored 1
	wait_until 60 keepers_are 2
	mapfile -t both < <(keepers)
	kill -STOP "${both[@]}"
	kill -KILL "${both[@]}"
	fvm -q exec w touch /opt/go
	wait_until 120 stopped w
	logs "it is not restored: its keeper has ended"
	equal "$(cat "$FVM_HOME/vms/w/status")" "signal 11"
}

@test "what can't be captured is told to the log, and an older snapshot gone back to" {
	watched -d --watchdog 1:restore:2 -- sh -c "$CRASHES"
	wait_until 60 snapshots 1
	mkfifo "$E2E/host"
	# a pipe of the host's, whose other end nobody will have
	fvm exec w sh -c 'read x' <>"$E2E/host" &
	client=$!
	wait_until 60 logs "watchdog: no snapshot was taken: .*descriptor 0"
	fvm -q exec w touch /opt/go
	wait_until 120 restored 1
	fails grep -q "read x" <(fvm ps w)
	wait "$client" || :
}

# user_watched CMD..: the same for an ordinary user
user_watched() { as_user one fvm -q run --net none --keep --name w --watchdog 1:restart -- "$@"; }

@test "an ordinary user's VM: crashed, stopped and silent programs are started again" {
	expect 7 user_watched sh -c "${COUNT//opt/tmp}
		[ \$n -ge 4 ] && exit 7
		[ \$n = 1 ] && kill -SEGV \$\$
		[ \$n = 2 ] && kill -STOP \$\$
		exec perl -e '$NOTIFY sleep 1000'"
	says "start 4"
	expect 0 as_user one fvm inspect w
	equal "$(jq -c '[.watchdog.event, .watchdog.restarts]' <<<"$output")" '["silent",3]'
	expect 0 as_user one fvm -q rm --force w
}

@test "an ordinary user's VM: a crashed program goes on from its last snapshot" {
	as_user one fvm -q run -d --net none --keep --name w --watchdog 1:restore:2 -- \
		sh -c "${CRASHES//opt/tmp}"
	user_record() { as_user one fvm inspect w | jq -e ".watchdog.restores == $1 and .state == \"running\""; }
	user_snapshots() { [ "$(as_user one fvm --json snapshot --ls w | jq length)" -ge "$1" ]; }
	wait_until 60 user_snapshots 1
	as_user one fvm -q exec w touch /tmp/go
	wait_until 60 user_record 1
	wait_until 60 as_user one fvm -q exec w test ! -e /tmp/go
	expect 0 as_user one fvm -q rm --force w
}
