#!/usr/bin/env bats
# Programs that every machine has, busy while they travel; tests/real/ has those that are installed.
# limit: 900
# test-limit: 300
# shellcheck disable=SC2317  # travels calls the functions that it is given
load ../real/helper

setup() { HOPS=3; }

# A terminal in the VM, of a tmux there; what who sits at it sees and does
terminal() { screen "$1" -f /dev/null new-session -d -x 80 -y 24 -c /root "${*:2}"; }
screen() { fvm exec "$1" tmux -L real "${@:2}"; }
shows() { screen "$1" capture-pane -p | grep -qF -- "$2"; }
# see VM WORDS: they come to the screen
see() {
	wait_until 60 shows "$@" && return 0
	echo "$1 does not show '$2':" >&2
	screen "$1" capture-pane -p >&2
	return 1
}
keys() { screen "$1" send-keys "${@:2}"; }

lines_of() { fvm exec "$1" sh -c "wc -l <$2"; }

@test "a shell works on at its terminal, with its jobs, pipelines and its own counts" {
	needs_command tmux
	vm
	terminal one bash --norc
	progress() { lines_of "$1" /root/out; }
	see one "bash-"
	keys one 'PS1=ready:; x=forty; . /opt/real/jobs.sh' Enter 'sleep 1000 &' Enter 'cat' Enter
	keys one typed
	see one typed
	keys one Enter C-z
	see one Stopped
	keys one 'trap "echo caught-\$x" USR1; work' Enter
	travels progress
	local vm
	for vm in one two; do
		fvm exec "$vm" touch /root/enough
		keys "$vm" 'clear; jobs; kill -USR1 $$' Enter
		see "$vm" caught-forty
		see "$vm" Running
		see "$vm" Stopped
		keys "$vm" 'clear; fg %2' Enter 'again' Enter C-c
		see "$vm" '^C'
		keys "$vm" 'clear; kill %1; wait %1; echo ended-$?' Enter
		see "$vm" ended-143
		# each line, with its digest, as it would have been without
		fvm exec "$vm" sh -c 'seq "$(wc -l </root/out)" | while read -r n; do
			printf "%s " $n; echo $n | md5sum | cut -c 1-32; done | cmp - /root/out'
	done
}

@test "vim in tmux goes on writing, and undoes what it did before" {
	needs_command tmux vim
	vm
	terminal one vim -Nu NONE /root/text
	progress() { lines_of "$1" /root/count; }
	see one "[New]"
	keys one ':set ut=0 ul=100000' Enter 'ifirst' Escape
	keys one ':let n = 1' Enter
	keys one ':func Add(t)' Enter 'let g:n += 1' Enter 'call append("$", g:n)' Enter
	keys one 'call writefile([g:n], "/root/count", "a")' Enter 'redraw' Enter 'endfunc' Enter
	keys one ':call timer_start(5, "Add", {"repeat": -1})' Enter
	travels progress
	local vm
	for vm in one two; do
		keys "$vm" ':call timer_stopall()' Enter ':w' Enter ':call writefile(["over"], "/root/over")' Enter
		wait_until 60 fvm exec "$vm" test -s /root/over
		fvm exec "$vm" sh -ec 'cd /root; [ "$(head -n 1 text)" = first ]
			seq 2 "$(wc -l <text)" | cmp - count; tail -n +2 text | cmp - count'
		keys "$vm" ':earlier 1000000 | w! /root/then' Enter
		wait_until 60 fvm exec "$vm" test -e /root/then
		keys "$vm" ':later 1000000 | w! /root/again | qa!' Enter
		wait_until 60 fvm exec "$vm" test -e /root/again
		wait_until 60 fvm exec "$vm" cmp /root/text /root/again
		equal "$(fvm exec "$vm" sh -c 'tr -d "\n" </root/then')" ""
	done
}

@test "python's threads, processes, pools, sockets and timers go on" {
	needs_command python3
	vm
	behind one sh -c 'mkdir /root/py; exec python3 /opt/real/work.py /root/py'
	progress() { fvm exec "$1" cat /root/py/steps; }
	wait_until 60 further progress one 10
	travels progress
	local vm
	for vm in one two; do
		fvm exec "$vm" touch /root/py/enough
		wait_until 90 fvm exec "$vm" test -e /root/py/result
		equal "$(fvm exec "$vm" cat /root/py/result)" well
	done
}

@test "make -j builds the same, with its compilers under way" {
	needs_command gcc make
	vm
	fvm exec one sh -ec 'cd /root; sh /opt/real/project.sh p 24; cp -r p q; cd q; make -sj2; rm done'
	behind one sh -c 'cd /root/p; make -j3 >../log 2>&1; echo $? >../status'
	progress() { lines_of "$1" /root/p/done; }
	wait_until 60 further progress one 0
	travels progress
	local vm
	for vm in one two; do
		wait_until 120 fvm exec "$vm" test -s /root/status
		equal "$(fvm exec "$vm" cat /root/status)" 0
		fvm exec "$vm" sh -ec 'cd /root; rm p/done; diff -r p q; p/program'
	done
}
