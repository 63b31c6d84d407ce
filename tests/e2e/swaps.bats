#!/usr/bin/env bats
# Names that change under those who work on them: a program exchanges directories, files and
# symlinks that lead out, in a VM, in its layer, and where a commit writes, while each command runs
# again and again. Nothing outside may be read or changed.
# limit: 400
# shellcheck disable=SC2154  # output is set by expect
load helper

setup_file() {
	e2e_setup_file
	cc -D_GNU_SOURCE -O1 -w -o "$E2E/hostile_swap" "$BATS_TEST_DIRNAME/hostile_swap.c" &&
		chmod 0755 "$E2E"
}
teardown_file() { e2e_teardown_file; }

setup() {
	needs_root
	home_clear # of a run that was killed
	target=$E2E/target
	mkdir -m 0700 "$target"
	mkdir -p "$target/x/y"
	for name in f g x/f x/g x/y/f secret; do echo "TOP-SECRET of root" >"$target/$name"; done
	before=$(target_state)
	swapper=
}

teardown() {
	swap_end
	vms_remove
	if id -u fvmt-swap >/dev/null 2>&1; then
		as_user swap fvm -q rm --force v w 2>/dev/null || :
	fi
	home_clear
	rm -rf "$target" "$E2E/out" /etc/fvm-swap
}

# A command of root's that was killed may leave a mount, and files of root's that stop the next test.
home_clear() {
	local home=/home/fvmt-swap
	awk -v home="$home/" 'index($5, home) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
		xargs -r umount --lazy || :
	rm -rf --one-file-system -- "${home:?}"/{s,d,d.l,etc,good,swapper,.local}
}

# swap_begin A B [A B]..: the user exchanges them from now on
swap_begin() {
	# shellcheck disable=SC2016  # the other shell expands
	as_user swap sh -c 'echo $$ >swapper; exec "$@"' - "$E2E/hostile_swap" "$@" 3>&- >/dev/null &
	starter=$!
	wait_until 30 test -s /home/fvmt-swap/swapper
	swapper=$(cat /home/fvmt-swap/swapper)
}
# He is gone when this returns: who still exchanges names disturbs those who clear up.
swap_end() {
	[ -n "${swapper:-}" ] || return 0
	kill -9 "$swapper" 2>/dev/null || :
	wait "$starter" 2>/dev/null || :
	swapper=
	rm -f /home/fvmt-swap/swapper
}
target_state() { find "$target" -printf '%P %y %m %U:%G %s %T@ %C@\n' -type f -exec sha256sum {} + | sort; }
held() {
	equal "$(target_state)" "$before" || return 1
	! grep -rqa TOP-SECRET "$E2E/out" || { grep -rla TOP-SECRET "$E2E/out" >&2; return 1; }
}

# pairs DIR: what is exchanged in a tree as tree_make makes it
pairs() { echo "$1/x $1/x.l $1/f $1/f.l $1/g $1/g.p $1/x/y $1/x/y.l $1 $1.l"; }
# shellcheck disable=SC2016  # the other shell expands
tree='mkdir -p $1/x/y; for i in f g x/f x/g x/y/f; do echo "$2 $i" >$1/$i; done
	ln -s $3 $1.l; ln -s $3/x $1/x.l; ln -s $3/secret $1/f.l; ln -s $3/x/y $1/x/y.l; mkfifo $1/g.p'

# again N CMD..: its result does not matter, what it leaves does; nothing may hang
again() {
	local n=$1 i status
	shift
	mkdir -p "$E2E/out"
	for ((i = 0; i < n; i++)); do
		status=0
		timeout -s KILL 20 "$@" >>"$E2E/out/said" 2>&1 </dev/null || status=$?
		[ $status != 137 ] || { echo "hangs: $*" >&2; return 1; }
		[ $status -lt 128 ] || { echo "$status: $*" >&2; return 1; }
	done
	held || { echo "after: $*" >&2; return 1; }
}

@test "programs in root's VM swap names: diff, cp, who, snapshot, clone, export, reset, rm" {
	fvm create --net none --hide "$target" v
	fvm start v
	fvm exec v sh -c "$tree" - /opt/d vm "$target"
	fvm exec --detach v sh -c "exec $E2E/hostile_swap $(pairs /opt/d)"
	again 20 fvm diff v
	again 20 fvm diff --patch v /opt
	again 20 fvm cp v:/opt/d "$E2E/out/"
	again 20 fvm cp v:/opt/d/x/y/f "$E2E/out/"
	echo mine >"$E2E/out/mine"
	again 20 fvm cp "$E2E/out/mine" v:/opt/d/x/f
	again 20 fvm who v /opt/d/x/f
	again 5 fvm export v "$E2E/out/v.tar"
	again 5 fvm snapshot v t
	again 3 sh -c 'fvm clone v w; fvm rm --force w'
	again 3 fvm commit v /opt/d
	fvm stop v
	again 2 fvm reset v /opt/d
	again 1 fvm rm --force v
	rm -rf /opt/d
}

@test "parts of a user's store that are links lead root's commands nowhere" {
	needs_user swap
	local store=/home/fvmt-swap/s part
	as_user swap env FVM_HOME=$store fvm create --net none v
	for part in vms layers commits hide trash tmp run; do
		as_user swap sh -c "cd $store; mv $part old 2>/dev/null; ln -s $target $part"
		expect 125 env FVM_HOME=$store fvm ls
		says "$store/$part"
		as_user swap sh -c "cd $store; rm $part; mv old $part 2>/dev/null || :"
		held
	done
	as_user swap sh -c "rm -f $store/run/tidied; mkfifo $store/run/tidied"
	expect 0 timeout 10 env FVM_HOME=$store fvm ls
	as_user swap env FVM_HOME=$store fvm rm --force v
}

@test "a link of a user's does not decide what root commits, resets or looks at" {
	needs_user swap
	local store=/home/fvmt-swap/.local/share/fvm
	as_user swap fvm run --root --net none --name v --keep \
		sh -c 'echo evil >/etc/fvm-swap; echo good >/home/fvmt-swap/good'
	as_user swap ln -s /etc /home/fvmt-swap/etc
	expect 0 env FVM_HOME=$store fvm diff v /etc/fvm-swap
	says fvm-swap
	expect 125 env FVM_HOME=$store fvm commit v /home/fvmt-swap/etc/fvm-swap
	says "changed nothing at /home/fvmt-swap/etc"
	[ ! -e /etc/fvm-swap ]
	expect 0 env FVM_HOME=$store fvm reset v /home/fvmt-swap/etc/fvm-swap
	says "nothing to reset"
	# his own is his to follow
	expect 0 as_user swap fvm diff v /home/fvmt-swap/etc/fvm-swap
	says /etc/fvm-swap
}

@test "a user swaps names in his layer, and where a commit goes to, under root's commands" {
	needs_user swap
	local store=/home/fvmt-swap/.local/share/fvm upper
	as_user swap bash -c "$tree" - /home/fvmt-swap/d host "$target"
	as_user swap fvm create --net none v
	as_user swap fvm run --name v --keep \
		sh -c 'cd; for i in f x/f x/g x/y/f; do echo vm >>d/$i; done; mkdir d/n; echo n >d/n/n'
	upper=$(dirname "$(find $store/vms/v/workspace -path '*/upper*' -name d)")/d
	[ -d "$upper" ]
	as_user swap bash -c "cd $upper; ln -s $target ../d.l; ln -s $target/x x.l
		ln -s $target/secret f.l; ln -s $target/x/y x/y.l; mkfifo g.p; echo g >g"
	# shellcheck disable=SC2046  # words
	swap_begin $(pairs "$upper") $(pairs /home/fvmt-swap/d)
	export store
	again 20 env FVM_HOME=$store fvm diff v
	again 20 env FVM_HOME=$store fvm diff --patch v
	again 10 env FVM_HOME=$store fvm export v "$E2E/out/v.tar"
	again 20 env FVM_HOME=$store fvm cp v:/home/fvmt-swap/d "$E2E/out/"
	again 20 env FVM_HOME=$store fvm cp v:/home/fvmt-swap/d/x/f "$E2E/out/"
	echo mine >"$E2E/out/mine"
	again 20 env FVM_HOME=$store fvm cp "$E2E/out/mine" v:/home/fvmt-swap/d/x/f
	again 20 env FVM_HOME=$store fvm commit --force v /home/fvmt-swap/d
	again 20 env FVM_HOME=$store fvm undo
	again 20 bash -c 'FVM_HOME=$store fvm commit --force v; FVM_HOME=$store fvm undo'
	again 10 env FVM_HOME=$store fvm snapshot v t
	again 10 env FVM_HOME=$store fvm rollback v t
	again 10 env FVM_HOME=$store fvm who v /home/fvmt-swap/d/x/f
	again 10 env FVM_HOME=$store fvm trace v
	again 20 env FVM_HOME=$store fvm reset v /home/fvmt-swap/d/x
	again 5 env FVM_HOME=$store fvm reset v
	again 3 env FVM_HOME=$store fvm rm --force v
	swap_end
}

@test "a user swaps parts of his store for links under root's commands: nothing of root's comes to lie elsewhere" {
	needs_user swap
	local store=/home/fvmt-swap/.local/share/fvm part swaps=()
	as_user swap fvm run --root --net none --name v --keep sh -c 'echo vm >/home/fvmt-swap/good'
	# what root finds is the user's: he makes no store and no part of one there
	as_user swap mkdir /home/fvmt-swap/d
	expect 125 env FVM_HOME=/home/fvmt-swap/d fvm ls
	says "another user's /home/fvmt-swap/d"
	expect 0 env FVM_HOME=$store fvm ls
	equal "$(find /home/fvmt-swap -user root)" ""
	for part in tmp trash layers commits; do
		as_user swap ln -s "$target" "$store/$part.l"
		swaps+=("$store/$part" "$store/$part.l")
	done
	as_user swap ln -s "$target" "$store/vms/v/workspace.l"
	swaps+=("$store/vms/v/workspace" "$store/vms/v/workspace.l")
	swap_begin "${swaps[@]}"
	again 20 env FVM_HOME=$store fvm snapshot v t
	again 10 env FVM_HOME=$store fvm rollback v t
	again 10 env FVM_HOME=$store fvm export v "$E2E/out/v.tar"
	again 10 env FVM_HOME=$store fvm commit --force v
	again 10 env FVM_HOME=$store fvm undo
	again 5 env FVM_HOME=$store fvm reset v
	again 5 env FVM_HOME=$store fvm prune
	again 3 env FVM_HOME=$store fvm rm --force v
	swap_end
}
