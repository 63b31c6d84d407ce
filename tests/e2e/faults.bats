# What a start writes to the store, killed and refused by the disk at each step: the next command
# finds all or nothing, and goes on.
# limit: 400
load helper

TOP=/opt/fvm-e2e-faults

setup() {
	needs_root
	use_faults
	mkdir -p $TOP "$E2E/policies"
	export FVM_POLICY_PATH=$E2E/policies
}

teardown() {
	unset FVM_FAULT
	commits_remove
	rm -rf $TOP
}

# Stamps are written by a child that nobody waits for.
no_leftovers() { wait_until 30 nothing_left; }
nothing_left() {
	[ -z "$(find "$FVM_HOME" -path "$FVM_HOME/run" -prune -o -name '.*.tmp' -print)" ] &&
		[ -z "$(find "$FVM_HOME/tmp" -mindepth 1 -maxdepth 1)" ]
}

# steps_of CMD..: how many steps it visits
steps_of() {
	rm -f "$E2E/points"
	FVM_FAULT_LIST=$E2E/points "$@" >/dev/null 2>&1
	[ -e "$E2E/points" ] && wc -l <"$E2E/points"
}

@test "a first start, killed or failing at each step, leaves no VM or a whole one" {
	local steps n action
	steps=$(steps_of in_vm a "echo x >$TOP/f")
	[ "$steps" -ge 5 ]
	fvm -q rm a
	for action in kill enospc; do
		for n in $(seq "$steps"); do
			FVM_FAULT="*:$n:$action" in_vm a "echo x >$TOP/f" >/dev/null 2>"$E2E/err" || :
			wait_until 30 not_running a
			case $(fvm --json ls | jq -r '.[].name') in '' | a) ;; *) return 1 ;; esac
			equal "$(in_vm a "cat $TOP/f 2>/dev/null || :; echo y >$TOP/f; cat $TOP/f" | tail -n 1)" y
			no_leftovers
			equal "$(fvm -q diff a)" "A $TOP/f"
			fvm -q rm --force a
		done
	done
}

not_running() { ! fvm --json ls | jq -e --arg n "$1" 'any(.[]; .name == $n and .state == "running")' >/dev/null; }

# Nothing of a VM, in the store or at run time, after the command that follows a fault.
nothing_of() {
	local dir
	for dir in "$1"/vms "$1"/tmp "$1"/trash "$2"/vms "$2"/ended; do
		[ -z "$(ls -A "$dir" 2>/dev/null)" ] || return 1
	done
}

# Whose starter was killed may be about to end yet when the next command looks for what he left; and
# each command's own VM is cleared away behind it, which a busy machine takes its time for.
tidied() {
	wait_until 2 nothing_of "$1" "$2" && return 0
	"${@:3}"
	return 1
}

# each_step STORE RUN ACTION CMD..: CMD with a fault at each of its steps; then it works, and nothing is left
each_step() {
	local store=$1 run=$2 action=$3 steps n
	shift 3
	"$@" >/dev/null 2>&1 # what only a first start does is done
	steps=$(steps_of "$@")
	[ "$steps" -ge 5 ] || return 1
	for n in $(seq "$steps"); do
		FVM_FAULT="*:$n:$action" "$@" >/dev/null 2>&1 || :
		expect 0 "$@" || return 1
		wait_until 30 tidied "$store" "$run" "$@" || { echo "left after $action at step $n" && ls -R "$store/vms" "$run"; return 1; }
	done
}

@test "run --rm with a network, killed or failing at each step, leaves nothing, and the next works" {
	each_step "$FVM_HOME" "$FVM_HOME/run" kill fvm -q run --rm true
	each_step "$FVM_HOME" "$FVM_HOME/run" eio fvm -q run --rm true
}

@test "a user's run --rm, killed or failing at each step, leaves nothing, and the next works" {
	needs_user faults
	local home=/home/fvmt-faults/.local/share/fvm run
	run=/run/user/$(id -u fvmt-faults)/fvm
	: >"$E2E/points" && chmod 666 "$E2E/points" && chmod 777 "$E2E"
	as_one() {
		as_user faults env FVM_FAULT="${FVM_FAULT-}" ${FVM_FAULT_LIST+FVM_FAULT_LIST="$FVM_FAULT_LIST"} \
			PATH="$E2E_STAGE/faults/bin:$PATH" fvm -q run --rm --net none --root true
	}
	each_step "$home" "$run" kill as_one
	each_step "$home" "$run" eio as_one
	chmod 755 "$E2E"
}

@test "a detached VM with a network, killed or failing at each step of its start, starts then" {
	local steps n action
	net_up() { fvm -q start n && fvm -q stop n; }
	fvm -q create n
	steps=$(steps_of fvm -q start n)
	fvm -q stop n
	for action in kill eio; do
		for n in $(seq "$steps"); do
			FVM_FAULT="*:$n:$action" fvm -q start n >/dev/null 2>&1 || :
			fvm -q stop n >/dev/null 2>&1 || :
			expect 0 net_up
			no_leftovers
		done
	done
	fvm -q rm n
}

@test "a start killed at each step leaves no cgroup when its VM is removed" {
	local steps n id
	needs_cgroup pids
	fvm -q create --net none n
	steps=$(steps_of fvm -q start n)
	fvm -q rm --force n
	for n in $(seq "$steps"); do
		fvm -q create --net none n
		id=$(jq -r .id "$FVM_HOME/vms/n/config.json")
		FVM_FAULT="*:$n:kill" fvm -q start n >/dev/null 2>&1 || :
		expect 0 fvm -q rm --force n
		no_cgroup() { [ -z "$(find /sys/fs/cgroup -maxdepth 8 -name "$id" 2>/dev/null)" ]; }
		wait_until 30 no_cgroup
	done
}

@test "a start whose directory somebody looks at by its old name waits for him" {
	local pid name
	fvm -q run --rm --net none true
	wait_until 30 compgen -G "$FVM_HOME/spare/*"
	rm -rf "$(find "$FVM_HOME/spare" -mindepth 1 -maxdepth 1 | tail -n +2)"
	FVM_FAULT=vm.make:1:stop fvm run --rm --net none true 2>"$E2E/err" &
	pid=$!
	wait_until 30 grep -q '^State:.T' "/proc/$pid/status"
	name=$(find "$FVM_HOME/spare" -mindepth 1 -maxdepth 1 | head -n 1)
	python3 - "$name/lock" <<-'END' &
		import fcntl, struct, sys, time
		f = open(sys.argv[1], "r+b")
		fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))  # F_OFD_SETLK
		time.sleep(0.5)
	END
	sleep 0.2
	kill -CONT $pid
	wait $pid || { cat "$E2E/err"; return 1; }
}

@test "a later start, from which something else is hidden, killed at each step" {
	local steps n
	printf '[match]\nprogram = dash\n[vm]\nhide = %s\n' $TOP >"$E2E/policies/dash.policy"
	echo host >$TOP/f
	in_vm a "echo x >$TOP/f"
	steps=$(steps_of fvm -q run --net none --name a -- dash -c true)
	for n in $(seq "$steps"); do
		fvm -q rm --force a
		in_vm a "echo x >$TOP/f"
		FVM_FAULT="*:$n:kill" fvm -q run --net none --name a -- dash -c true >/dev/null 2>&1 || :
		wait_until 30 not_running a
		in_vm a true
		no_leftovers
		equal "$(fvm -q diff a)" "M $TOP/f"
	done
}

@test "diff and a stop, killed or failing at each step, lose no stamp" {
	local steps n action
	seq 1 9 >$TOP/f
	in_vm a "echo vm >>$TOP/f"
	wait_until 30 test -s "$FVM_HOME/vms/a/stamps"
	rm "$FVM_HOME/vms/a/stamps"
	steps=$(steps_of fvm -q diff a)
	[ "$steps" -ge 3 ]
	for action in kill enospc eio; do
		for n in $(seq "$steps"); do
			rm -rf "$FVM_HOME/vms/a/stamps" "$FVM_HOME/vms/a/ancestors"
			FVM_FAULT="*:$n:$action" fvm -q diff a >/dev/null 2>&1 || :
			equal "$(fvm -q diff a)" "M $TOP/f"
			no_leftovers
		done
	done
	sed -i s/^1\$/host/ $TOP/f
	expect 125 fvm commit a
	fvm commit --merge a
	equal "$(xargs <$TOP/f)" "host 2 3 4 5 6 7 8 9 vm"
}

@test "reset of paths, killed at each step, throws each of them away whole or not at all" {
	local steps n action
	mkdir -p $TOP/d
	echo one | tee $TOP/d/f >$TOP/g
	in_vm a "cd $TOP && echo two >d/f && rm g && mkdir d/n && echo n >d/n/n"
	fvm clone a b
	in_vm b "echo three | tee $TOP/d/f >$TOP/g"
	steps=$(steps_of fvm -q reset b $TOP/d $TOP/g)
	for action in kill eio; do
		for n in $(seq "$steps"); do
			fvm -q rm b
			fvm -q clone a b
			in_vm b "cd $TOP && echo three >d/f && echo three >g && echo m >d/n/n"
			FVM_FAULT="*:$n:$action" fvm -q reset b $TOP/d $TOP/g >/dev/null 2>&1 || :
			case $(in_vm b "cat $TOP/d/f $TOP/d/n/n" | xargs) in "three m" | "two n") ;; *) return 1 ;; esac
			fvm -q reset b $TOP/d $TOP/g
			equal "$(in_vm b "cat $TOP/d/f $TOP/d/n/n; ls $TOP" | xargs)" "two n d"
			no_leftovers
		done
	done
}

# The process of that user which has stopped itself, in $stopped
find_stopped() {
	local stat
	for stat in /proc/[0-9]*/stat; do
		stopped=${stat#/proc/} stopped=${stopped%/stat}
		[ "$(stat -c %u "/proc/$stopped" 2>/dev/null)" = "$1" ] &&
			grep -qs ') T ' "$stat" && return 0
	done
	return 1
}

@test "a supervisor that comes late to a start gives files their owner all the same" {
	needs_user faults
	local pid stopped
	as_user faults mkdir -p dir
	as_user faults env PATH="$E2E_STAGE/faults/bin:$PATH" FVM_FAULT="start.supervisor:1:stop" \
		fvm -q run --net none --name late sh -c 'echo 1 >~/dir/new' 3>&- &
	pid=$!
	wait_until 30 find_stopped "$(id -u fvmt-faults)"
	sleep 0.3 # PID 1 gets as far as it can
	kill -CONT "$stopped"
	wait $pid
	expect 0 as_user faults fvm -q commit late /home/fvmt-faults/dir
	equal "$(stat -c %U:%G /home/fvmt-faults/dir/new)" fvmt-faults:fvmt-faults
	as_user faults fvm -q rm late
	as_user faults fvm -q undo --drop all
}

@test "who is killed while memory is copied leaves programs as they were" {
	fvm run -d --net none --name one "$E2E_STAGE/tools/lockstep" /root/work 1 >/dev/null
	wait_until 30 told 2
	local n
	for n in 1 2; do
		FVM_FAULT=checkpoint.memory:$n:kill run fvm checkpoint --leave-running one "$E2E/file"
		[ ! -e "$E2E/file" ]
		wait_until 30 told $(($(fvm logs one | grep -c ^round) + 1))
	done
	fvm checkpoint --leave-running one "$E2E/file"
	fvm restore "$E2E/file" two
	wait_until 30 told $(($(fvm logs one | grep -c ^round) + 1))
	equal "$(fvm logs one two | grep wrong)" ""
	no_leftovers
	fvm rm --force one two
}

# told COUNT: VM one has told of as many rounds
told() { [ "$(fvm logs one | grep -c ^round)" -ge "$1" ]; }
