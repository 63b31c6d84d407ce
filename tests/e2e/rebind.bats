#!/usr/bin/env bats
# Descriptors of running programs, connected to something else: rebind.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

# Writes numbers to /tmp/old, each in a line.
WRITER='exec 5>/tmp/old; n=0; while :; do n=$((n + 1)); echo $n >&5; sleep 0.01; done'

# Waits for its first pipe as it is told, by which nothing ever comes, and prints what it reads.
READER='
import os, select, sys
pipe, other = os.pipe(), os.pipe()
epoll = select.epoll()
if sys.argv[1] == "epoll": epoll.register(pipe[0], select.EPOLLIN)
poll = select.poll()
poll.register(pipe[0], select.POLLIN)
print("fds", *pipe, *other, flush=True)
ready = {"read": lambda: pipe[0], "epoll": lambda: epoll.poll()[0][0], "poll": lambda: poll.poll()[0][0],
	"select": lambda: select.select([pipe[0]], [], [])[0][0]}[sys.argv[1]]
while True: print(os.read(ready(), 100), flush=True)
'

# pid NAME COMMAND: the number in that VM of who has that first word
pid() { fvm --json ps "$1" | jq --arg c "$2" 'first(.[] | select(.command | startswith($c))).pid'; }
# name VM PID FD: what that descriptor is
name() { fvm --json handles --type descriptor "$1" "$2" | jq -r --arg n "$3" '.[] | select(.handle == $n).name'; }
# in_order FILE..: their lines in the VM together count from 1 without a gap
in_order() { fvm exec one cat "$@" | awk '$1 != ++n { exit 1 } END { exit n < 5 }'; }
logs_have() { fvm logs one | grep -qF -- "$1"; }

# the limit of descriptors that python has set is there
limited() { grep -q 'Max open files *10 ' "/proc/$(fvm --json ps one | jq '.[] | select(.command | startswith("/usr/bin/python3")).host_pid')/limits"; }

writer() { fvm run -d --net none --root --name one bash -c "$WRITER" >/dev/null && wait_until 30 in_order /tmp/old; }

@test "a file that is written goes on in another one, and nothing of it is lost" {
	needs_root
	writer
	local shell
	shell=$(pid one bash)
	fvm rebind one "$shell" 5 /tmp/new
	wait_until 30 in_order /tmp/old /tmp/new
	equal "$(name one "$shell" 5)" "/tmp/new (write)"
	# back: at the end of what is there
	fvm -q rebind one "$shell" 5 /tmp/third
	wait_until 30 in_order /tmp/old /tmp/new /tmp/third
	equal "$(fvm --json rebind one "$shell" 5 /tmp/third | jq -c '[.descriptors, .processes]')" '[1,1]'
}

@test "in an ordinary user's VM, too" {
	needs_root
	needs_user rebind
	# shellcheck disable=SC2317
	fvm() { as_user rebind fvm "$@"; }
	writer
	fvm rebind one "$(pid one bash)" 5 /tmp/new
	wait_until 30 in_order /tmp/old /tmp/new
	fvm -q rm --force one
	unset -f fvm
}

@test "who waits is woken by what comes from the new one" {
	needs_root
	local how
	for how in read poll select epoll; do
		fvm run -d --net none --name one /usr/bin/python3 -c "$READER" $how >/dev/null
		wait_until 30 logs_have "fds 3 4 5 6"
		fvm -q rebind one "$(pid one /usr/bin/python3)" 3 "$(pid one /usr/bin/python3):5"
		fvm exec one sh -c "echo came >/proc/$(pid one /usr/bin/python3)/fd/6"
		wait_until 30 logs_have "b'came\n'"
		fvm rm --force one
	done
}

@test "with --all, whoever has the same open file follows" {
	needs_root
	fvm run -d --net none --name one bash -c 'exec 5>>/tmp/old 6>&5
		(while :; do echo child; sleep 0.01; done >&5) & (exec 5>/tmp/own; sleep 1000 6>&-) &
		while :; do echo parent >&5; echo copy >&6; sleep 0.01; done' >/dev/null
	wait_until 30 fvm exec one grep -q child /tmp/old
	local before
	fvm rebind --all one "$(pid one bash)" 5 /tmp/new
	before=$(fvm exec one sh -c 'wc -c </tmp/old')
	wait_until 30 fvm exec one sh -c 'grep -q child /tmp/new && grep -q parent /tmp/new && grep -q copy /tmp/new'
	equal "$(fvm exec one sh -c 'wc -c </tmp/old')" "$before"
	equal "$(fvm exec one sh -c 'cat /tmp/own')" ""
}

@test "what is said goes to another terminal, and into a socket" {
	needs_root
	fvm run -d --net none --name one bash -c 'while :; do echo said; sleep 0.05; done' >/dev/null
	fvm exec -d -t one sleep 1000 >/dev/null
	wait_until 30 logs_have said
	local from to
	from=$(pid one bash) to=$(pid one "sleep 1000")
	fvm rebind one "$from" 1 "$to:1"
	equal "$(name one "$from" 1)" "$(name one "$to" 1)"
	fvm exec -d one /usr/bin/python3 -c 'import socket, time
s = socket.socket(socket.AF_UNIX); s.bind("/tmp/socket"); s.listen()
c = s.accept()[0]
if c.recv(4) == b"said": open("/tmp/heard", "w").write("yes")
time.sleep(1000)' >/dev/null
	wait_until 30 fvm exec one test -S /tmp/socket
	fvm rebind one "$from" 1 /tmp/socket
	wait_until 30 fvm exec one grep -q yes /tmp/heard
}

@test "what can't be is said, and the program has what it had" {
	needs_root
	writer
	local shell
	shell=$(pid one bash)
	# refused REASON ARGUMENT..
	refused() {
		local reason=$1
		shift
		expect 125 fvm rebind one "$@"
		says "$reason"
	}
	refused "no process 4000000" 4000000 5 /tmp/new
	refused "has no descriptor 77" "$shell" 77 /tmp/new
	refused "fvm's own" 1 5 /tmp/new
	refused "fvm's own" "$shell" 5 1:3
	refused "has no descriptor 78" "$shell" 5 "$shell:78"
	refused "No such file" "$shell" 5 /nowhere/new
	refused "is a directory" "$shell" 5 /tmp
	refused "no number" "$shell" x /tmp/new
	refused "no number" x 5 /tmp/new
	fvm exec one mkfifo /tmp/fifo
	refused "No such device" "$shell" 5 /tmp/fifo
	# a secret that the program's user can't read, a limit that leaves no number
	fvm exec one sh -c 'echo secret >/tmp/secret; chmod 600 /tmp/secret'
	fvm exec -d --user nobody one sh -c 'exec 5</etc/passwd; sleep 1000 & wait' >/dev/null
	wait_until 30 sh -c 'fvm ps one | grep -q "sleep 1000"'
	refused "Permission denied" "$(pid one 'sleep 1000')" 5 /tmp/secret
	fvm exec -d one /usr/bin/python3 -c 'import os, resource, time
while os.dup(0) < 9: pass
resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10)); time.sleep(2000)' >/dev/null
	wait_until 30 limited
	refused "Too many open files" "$(pid one '/usr/bin/python3')" 5 /etc/passwd
	fvm run -d --net none --name two /usr/bin/python3 -c "$READER" epoll >/dev/null
	wait_until 30 sh -c 'fvm logs two | grep -q "fds 3 4 5 6"'
	expect 125 fvm rebind two "$(pid two /usr/bin/python3)" 3 /etc/passwd
	says "by epoll"
	expect 125 fvm rebind two "$(pid two /usr/bin/python3)" 7 /etc/passwd
	says "nothing can stand for"
	expect 125 fvm rebind two "$(pid two /usr/bin/python3)" 3 "$(pid two /usr/bin/python3):6"
	says "other way only"
	fvm pause one
	refused "is paused" "$shell" 5 /tmp/new
	fvm resume one
	equal "$(name one "$shell" 5)" "/tmp/old (write)"
	wait_until 30 in_order /tmp/old
	fvm kill one
	refused "not running" "$shell" 5 /tmp/new
}
