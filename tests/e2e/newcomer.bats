# What somebody who comes from git, docker and other sandboxes types first.
load helper

TOP=/opt/fvm-e2e-newcomer

teardown() {
	commits_remove
	rm -rf $TOP
}

@test "a mistyped word is answered by the right one" {
	expect 125 fvm comit x
	says "did you mean 'commit'?"
	expect 125 fvm --jsn ls
	says "unknown option --jsn"
	expect 125 fvm run --nmae x
	says "did you mean --name?"
	fvm create --name somewhere
	expect 125 fvm start somwhere
	says "did you mean 'somewhere'?"
	expect 125 fvm exec
	says "VM is missing"
	expect 125 fvm exec somewhere
	says "CMD is missing"
	expect 125 fvm run --net wide true
	says "nat, none, host"
	expect 125 fvm create somewhere
	says "there is one of that name already"
	expect 125 fvm create --name one two
	says "'one' or 'two'"
}

@test "help is had in each way, and options follow the command, too" {
	expect 0 fvm help run
	says "usage: fvm run"
	equal "$output" "$(fvm run --help)"
	equal "$output" "$(fvm run -h)"
	equal "$(fvm help diff)" "$(fvm diff --help)"
	fvm create one
	equal "$(fvm ls --json | jq -r '.[].name')" one
	equal "$(fvm ls -q)" one
	# but what belongs to the command that is run is left to it
	equal "$(fvm run --rm --net none echo --json -h --quiet)" "--json -h --quiet"
	equal "$(fvm run --rm --net none -- echo --json)" "--json"
	expect 0 fvm run --rm --net none sh -c 'echo "$1"' --json --json
	equal "$output" --json
}

@test "files come out of a VM that is stopped, and through pipes" {
	mkdir $TOP
	fvm -q run --net none --name a -- sh -c "echo hello >$TOP/file; truncate -s 3M $TOP/sparse"
	equal "$(fvm cp a:$TOP/file -)" hello
	equal "$(fvm cp a:$TOP/sparse - | wc -c)" $((3 << 20))
	echo more | fvm cp - a:$TOP/new
	fvm cp a:$TOP/new "$E2E/new"
	equal "$(cat "$E2E/new")" more
	[ ! -e $TOP/new ]
	equal "$(fvm --json inspect a | jq -r .state)" stopped
	expect 125 fvm cp a:$TOP -
	says "directory"
	fvm export a - | fvm import - b
	equal "$(fvm diff a)" "$(fvm diff b)"
}

@test "a VM made to be committed does not stay behind, and undo works without it" {
	mkdir $TOP
	expect 0 fvm run --net none --name a --commit sh -c "echo x >$TOP/file"
	equal "$(cat $TOP/file) $(fvm ls -q)" "x "
	expect 0 fvm undo
	[ ! -e $TOP/file ]
	# one that was there before stays, and so does what failed
	fvm -q create --net none kept
	expect 0 fvm run --name kept --commit sh -c "echo y >$TOP/file"
	expect 3 fvm run --net none --name failed --commit sh -c "echo z >$TOP/file; exit 3"
	equal "$(cat $TOP/file) $(fvm ls -q | xargs)" "y failed kept"
	says "fvm diff failed"
}

@test "options given for a VM that exists hold from then on" {
	fvm -q create a
	expect 0 fvm run --name a --net none sh -c 'ls /sys/class/net'
	says "keeps these options"
	equal "${lines[-1]}" lo
	equal "$(fvm inspect a | jq -r '.config.net')" none
	expect 125 fvm run --name a --disk 64M true
	says "new ones"
	fvm start a
	expect 125 fvm run --name a --net host true
	says "fvm stop a"
}

@test "run in a VM that runs already refuses what belongs to a start, and prints its name with -d" {
	fvm run -d --net none --name a -- sleep 111 >"$E2E/first"
	local option
	for option in --rm --commit --prove --trace; do
		expect 125 fvm run --name a $option true
		says "'a' runs already: $option"
		says "fvm stop a"
	done
	expect 0 fvm run -d --name a -- sleep 222
	equal "$output" "$(cat "$E2E/first")"
	expect 0 fvm --json run -d --name a -- sleep 333
	equal "$(jq -r '"\(.name) \(.session)"' <<<"$output")" "a 3"
	expect 0 fvm run --name a --keep echo beside
	equal "$output" beside
	# one that is paused would never answer
	fvm pause a
	expect 125 timeout 5 fvm run --name a true
	says "fvm resume a"
}

@test "what is there is inspected though another name is wrong" {
	fvm -q create --net none a
	expect 125 sh -c 'fvm inspect nothing a 2>"$1"' - "$E2E/err"
	equal "$(jq -r '.[].name' <<<"$output")" a
	grep -q nothing "$E2E/err"
}

@test "a listing that can't be written is a failure" {
	fvm -q create --net none a
	local command
	for command in ls ps stats "inspect a" "run --help" version; do
		expect 125 sh -c "fvm $command >/dev/full"
		says "No space"
	done
}

@test "a working directory that was asked for has to be there" {
	expect 125 fvm run --rm --net none --workdir /nowhere true
	says "/nowhere"
	expect 0 fvm run --rm --net none --workdir /usr pwd
	equal "$output" /usr
}

@test "deleting all VMs is asked about at a terminal" {
	needs_command tmux
	fvm create one
	fvm create two
	tmux -L "fvm-${E2E##*.}" -f /dev/null new-session -d -s t -x 80 -y 20 "fvm rm --all; sleep 20"
	shows() { tmux -L "fvm-${E2E##*.}" capture-pane -p -t t | grep -q "delete all 2 VMs"; }
	wait_until 30 shows
	tmux -L "fvm-${E2E##*.}" send-keys -t t n Enter
	sleep 0.3
	tmux -L "fvm-${E2E##*.}" kill-server
	equal "$(fvm ls -q | xargs)" "one two"
	fvm rm --all
	equal "$(fvm ls -q)" ""
}

# slowly FAULT CMD..: it stands still there for longer than a bar needs to come
slowly() {
	still=
	FVM_FAULT=$1:stop "${@:2}" &
	local pid=$!
	wait_until 30 stands_still || return 1
	sleep 0.4
	kill -CONT "$still"
	wait $pid
}

@test "long work shows a bar on a terminal, and none in a pipe" {
	needs_root
	use_faults
	mkdir -p $TOP
	fvm -q create --net none a
	fvm -q start a
	fvm exec a -- sh -c "cd $TOP && for i in \$(seq 200); do echo 123456789 >\$i; done; head -c 900000 /dev/urandom >big"
	slowly layer.copy:150 on_terminal fvm clone a b >"$E2E/shown"
	grep -q $'\rcopy: .*B' "$E2E/shown"
	fvm stop a
	slowly export.data:1 on_terminal fvm export a "$E2E/a.tar" >"$E2E/shown"
	grep -q $'\rexport: .*B' "$E2E/shown"
	slowly commit.stage:100 fvm commit a >"$E2E/shown" 2>&1
	fails grep -q $'\r' "$E2E/shown"
	slowly commit.rename:100 on_terminal fvm undo -y >"$E2E/shown"
	grep -q $'\rput back \[#* *\] .* of .* changes, .* s left' "$E2E/shown"
	slowly commit.stage:100 on_terminal fvm commit -y a >"$E2E/shown"
	grep -q $'\rcopy \[#* *\] .*B of 880.* KiB, .* s left' "$E2E/shown"
	# and it is gone when the result is told
	grep -q $'\r\033\[Kcommit ' "$E2E/shown"
}
