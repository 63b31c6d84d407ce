#!/usr/bin/env bats
# Running VMs of ordinary users into a file and out of it: with one id, and with ranges of ids.
# shellcheck disable=SC2016,SC2154  # the VM's shell expands; status and output are set by expect
load helper

setup() {
	needs_user cpone
	user_make cpone no-ranges
	sed -i '/^fvmt-cpone:/d' /etc/subuid /etc/subgid
	user_make cpmany
}

teardown() {
	local user
	for user in cpone cpmany; do
		tmux -S "$E2E/tmux.$user" kill-server 2>/dev/null || :
	done
	user_vms_remove cpone cpmany
	rm -f /home/fvmt-cp*/*.fvm
}
teardown_file() { users_remove; }

# kinds: the users that there can be here
kinds() {
	echo cpone
	! command -v newuidmap >/dev/null || echo cpmany
}

last() { as_user "$1" fvm logs "$2" | tail -n 1; }
counts() { [ "$(last "$1" "$2" || echo 0)" -ge "$3" ] 2>/dev/null; }
in_order() { as_user "$1" fvm logs "$2" | awk 'NR > 1 && $1 != was + 1 { exit 1 } { was = $1 }'; }

# counter USER NAME [OPTION..]
counter() {
	local user=$1 name=$2
	shift 2
	as_user "$user" fvm run -d --net none --name "$name" "$@" -- \
		sh -c 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done' >/dev/null
	wait_until 30 counts "$user" "$name" 3
}

@test "programs with the user's ids and with root's go on where they were" {
	local user option at
	for user in $(kinds); do
		for option in --user=fvmt-$user --root; do
			counter "$user" one "$option"
			as_user "$user" fvm exec one sh -c 'echo here >/dev/shm/file; echo kept >/tmp/file'
			expect 0 as_user "$user" fvm checkpoint --check one
			expect 0 as_user "$user" fvm checkpoint one one.fvm
			at=$(last "$user" one)
			expect 0 as_user "$user" fvm restore one.fvm two
			wait_until 30 counts "$user" two $((at + 5))
			in_order "$user" two
			equal "$(as_user "$user" fvm exec two cat /dev/shm/file /tmp/file | xargs)" "here kept"
			# who comes later is one of them
			[ "$option" = --root ] ||
				as_user "$user" fvm exec two sh -c '[ "$(id -u)" != 0 ] && ls "/proc/$(pgrep -o -f "^sh -c n=0")/fd" >/dev/null'
			as_user "$user" fvm -q rm --force one two
		done
	done
}

@test "threads of a user's program have their numbers and their ids again" {
	needs_command python3
	local user
	for user in $(kinds); do
		cat >"/home/fvmt-$user/threads.py" <<-'END'
			import os, threading, time
			told = [None] * 4
			def work(i):
			    while True:
			        told[i] = (threading.get_native_id(), os.getuid(), os.getgid())
			        time.sleep(0.01)
			for i in range(4):
			    threading.Thread(target=work, args=(i,), daemon=True).start()
			time.sleep(0.3)
			first = list(told)
			n = 0
			while told == first:
			    n += 1
			    print(n, flush=True)
			    time.sleep(0.02)
			print('other', told, first, flush=True)
		END
		as_user "$user" fvm run -d --net none --name one -- /usr/bin/python3 threads.py >/dev/null
		wait_until 30 counts "$user" one 3
		expect 0 as_user "$user" fvm checkpoint one one.fvm
		local at
		at=$(last "$user" one)
		expect 0 as_user "$user" fvm restore one.fvm two
		wait_until 30 counts "$user" two $((at + 10))
		in_order "$user" two
	done
}

@test "a user's shell with its jobs works on at its terminal" {
	needs_command tmux
	screen() { tmux -S "$E2E/tmux.$user" "$@"; }
	shows() { screen capture-pane -p | grep -qF -- "$1"; }
	local user
	for user in $(kinds); do
		declare -f as_user user_make wait_until >"$E2E/functions"
		screen -f /dev/null new-session -d -x 80 -y 24 \
			"bash -c '. $E2E/functions; as_user $user fvm run --net none --name one sh -c \"PS1=ready: exec bash --norc\"; sleep 100'"
		wait_until 30 shows ready:
		screen send-keys 'x=forty; sleep 1000 &' Enter 'cat' Enter
		sleep 0.5
		expect 0 as_user "$user" fvm checkpoint one one.fvm
		expect 0 as_user "$user" fvm restore one.fvm two
		screen new-window "bash -c '. $E2E/functions; as_user $user fvm attach two; sleep 100'"
		wait_until 30 shows forty
		screen send-keys 'typed' Enter
		wait_until 30 shows typed
		screen send-keys C-c
		screen send-keys 'echo $x-two; jobs; tty; id -un' Enter
		wait_until 30 shows forty-two
		wait_until 30 shows 'Running'
		wait_until 30 shows /dev/pts/0
		wait_until 30 shows "fvmt-$user"
		screen kill-server
	done
}

@test "a database under load loses nothing, and goes on in both of a live clone" {
	needs_command python3
	local user
	for user in $(kinds); do
		cat >"/home/fvmt-$user/load.py" <<-'END'
			import sqlite3, time
			c = sqlite3.connect('load.db')
			c.execute('pragma journal_mode=wal')
			c.execute('create table t(n integer primary key)')
			n = 0
			while True:
			    n += 1
			    with c:
			        c.execute('insert into t values(?)', (n,))
			    print(n, flush=True)
		END
		as_user "$user" fvm run -d --net none --name one -- /usr/bin/python3 load.py >/dev/null
		wait_until 30 counts "$user" one 20
		expect 0 as_user "$user" fvm clone --live one two
		local at vm
		at=$(last "$user" one)
		for vm in one two; do
			wait_until 30 counts "$user" $vm $((at + 20))
			in_order "$user" $vm
			expect 0 as_user "$user" fvm exec $vm /usr/bin/python3 -c '
import sqlite3
c = sqlite3.connect("load.db", timeout=20)
assert c.execute("pragma integrity_check").fetchone()[0] == "ok"
count, most = c.execute("select count(*), max(n) from t").fetchone()
assert count == most >= 20, (count, most)'
		done
	done
}

# go_on_in_both NET: left running, and restored beside that
go_on_in_both() {
	local user at
	for user in $(kinds); do
		as_user "$user" fvm run -d --net "$1" --name one -- \
			sh -c 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done' >/dev/null
		wait_until 30 counts "$user" one 3
		expect 0 as_user "$user" fvm checkpoint --leave-running one one.fvm
		at=$(last "$user" one)
		expect 0 as_user "$user" fvm restore one.fvm two
		wait_until 30 counts "$user" one $((at + 5))
		wait_until 30 counts "$user" two $((at + 5))
		in_order "$user" one
		in_order "$user" two
		equal "$(as_user "$user" fvm exec one sh -c 'ls /sys/class/net | xargs')" \
			"$(as_user "$user" fvm exec two sh -c 'ls /sys/class/net | xargs')"
	done
}

@test "left running, a user's program goes on in both" {
	go_on_in_both none
}

@test "left running, a user's program goes on in both with a network" {
	[ "$(stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] || skip "needs /dev/net/tun for users"
	go_on_in_both nat
}

@test "a user's program that filters its calls is named, and goes on" {
	needs_command python3
	cat >/home/fvmt-cpone/filter.py <<-'END'
		import ctypes, struct, time
		libc = ctypes.CDLL(None)
		code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
		class Program(ctypes.Structure):
		    _fields_ = [('len', ctypes.c_ushort), ('code', ctypes.c_void_p)]
		program = Program(1, ctypes.addressof(code))
		assert libc.prctl(38, 1, 0, 0, 0) == 0
		assert libc.prctl(22, 2, ctypes.byref(program)) == 0
		n = 0
		while True:
		    n += 1
		    print(n, flush=True)
		    time.sleep(0.02)
	END
	as_user cpone fvm run -d --net none --name one -- /usr/bin/python3 filter.py >/dev/null
	wait_until 30 counts cpone one 3
	expect 125 as_user cpone fvm checkpoint --check one
	says "seccomp filters"
	expect 125 as_user cpone fvm checkpoint one one.fvm
	says "seccomp filters"
	local at
	at=$(last cpone one)
	wait_until 30 counts cpone one $((at + 5))
	in_order cpone one
}

@test "a damaged file is refused to a user, and nothing of it is left" {
	counter cpone one
	expect 0 as_user cpone fvm checkpoint one one.fvm
	local file=/home/fvmt-cpone/one.fvm size
	size=$(stat -c %s "$file")
	as_user cpone sh -c "head -c $((size - 100000)) one.fvm >short.fvm; cp one.fvm flip.fvm
		printf '\377\376' | dd of=flip.fvm bs=1 seek=$((size / 2)) conv=notrunc status=none"
	expect 125 as_user cpone fvm restore short.fvm two
	says damaged
	expect 125 as_user cpone fvm restore flip.fvm two
	says damaged
	expect 125 as_user cpone fvm restore one.fvm one
	says already
	equal "$(as_user cpone fvm --json ls | jq length)" 1
}

@test "who is killed at a user's checkpoint leaves the programs as they were" {
	counter cpone one
	local i at
	for i in 1 2 3 4 5 6; do
		as_user cpone sh -c "fvm checkpoint --leave-running one one.fvm & pid=\$!
			sleep 0.0$((i * 3 % 10)); kill -KILL \$pid 2>/dev/null; wait \$pid" || :
	done
	at=$(last cpone one)
	wait_until 30 counts cpone one $((at + 5))
	in_order cpone one
	expect 0 as_user cpone fvm checkpoint one one.fvm
	expect 0 as_user cpone fvm restore one.fvm two
	wait_until 30 counts cpone two $((at + 5))
}

# right USER NAME COUNT: its program saw nothing wrong, and has told as many rounds since then
right() {
	! as_user "$1" fvm logs "$2" | grep -q wrong &&
		[ "$(as_user "$1" fvm logs "$2" | sed -n '/^restored/,$p' | grep -c ^round)" -ge "$3" ]
}
rounds() { [ "$(as_user "$1" fvm logs one | grep -c ^round)" -ge "$2" ]; }

@test "a user's files that are copied while programs change them are those of the instant" {
	local user
	for user in $(kinds); do
		as_user "$user" fvm run -d --net none --root --name one -- \
			"$E2E_STAGE/tools/lockstep" /tmp/work 16 >/dev/null
		wait_until 60 rounds "$user" 2
		expect 0 as_user "$user" fvm checkpoint --leave-running one one.fvm
		expect 0 as_user "$user" fvm restore one.fvm two
		wait_until 60 right "$user" two 1
		expect 0 as_user "$user" fvm clone --live one three
		wait_until 60 right "$user" three 1
		equal "$(as_user "$user" fvm logs one | grep wrong)" ""
		as_user "$user" fvm -q rm --force one two three
	done
}
