# No space and no inodes, in the middle of commands: on the host's side, and on the store's. All or
# nothing, told what and why, and the same command does it when there is room again.
load helper

TOP=/opt/fvm-e2e-full
HOST=$TOP/t

setup() {
	needs_root
	needs_idmapped_tmpfs
	mkdir -p $TOP "$E2E/store"
	ln -sfn $TOP "$E2E/host"
}

teardown() {
	rm -rf "$E2E"/host/filler* "$E2E"/store/filler*
	commits_remove
	local dir
	for dir in $TOP "$E2E/store"; do
		mountpoint -q "$dir" && umount "$dir"
	done
	rm -rf --one-file-system $TOP
}

# small DIR OPTIONS: a small file system for the host's tree, or for the store
small() {
	mount -t tmpfs -o "mode=0755,$2" fvm-small "$(realpath "$E2E/$1")" || skip "needs tmpfs"
	[ "$1" = store ] && export FVM_HOME=$E2E/store/home
	:
}

# fill DIR SPACE|INODES [LEAVE]: until nothing is left but LEAVE KiB or inodes
fill() {
	local dir n
	dir=$(realpath "$E2E/$1")
	if [ "$2" = space ]; then
		head -c 1G /dev/zero >"$dir/filler" 2>/dev/null || :
		truncate -s "-${3:-0}K" "$dir/filler"
	else
		mkdir -p "$dir/filler.d"
		n=$(($(stat -f -c %d "$dir") - ${3:-0}))
		(cd "$dir/filler.d" && seq "$n" | xargs touch 2>/dev/null) || :
	fi
}

drain() { rm -rf "$E2E/$1"/filler*; }

# Whatever was cut off is finished or taken back by now, and nothing lies about.
nothing_half() {
	fvm ls >/dev/null
	[ ! -e "$FVM_HOME/commits/pending" ] &&
		equal "$(find $TOP "$FVM_HOME/vms" "$FVM_HOME/commits" -name '.*tmp' -o -name '.fvm-commit*' | wc -l)" \
			0
}

# host_files: thirty of them, some to be changed, some to be deleted
host_files() {
	(
		mkdir $HOST && cd $HOST && mkdir d gone
		for i in 1 2 3 4 5 6 7 8 9 10; do echo "$i" | tee d/f$i >gone/g$i; done
	)
}

change_all() {
	in_vm a "cd $HOST && rm -r gone && for i in 1 2 3 4 5 6 7 8 9 10; do head -c 8000 /dev/urandom >d/f\$i
		echo new >d/n\$i; done && mkdir -p new/sub && echo x >new/sub/x && ln -s x new/sub/l"
}

no_space() { # CMD..
	expect 125 "$@"
	says "No space left"
}

# when_full DIR SPACE|INODES LEAVE STATE CMD..: done, or refused with the host as in inventory STATE;
# then it is done with room
when_full() {
	local dir=$1 what=$2 leave=$3 state=$4
	shift 4
	fill "$dir" "$what" "$leave"
	status=0
	output=$("$@" 2>&1) || status=$?
	drain "$dir"
	nothing_half
	[ $status != 0 ] || return 0
	equal $status 125
	says "No space left"
	refused=$((refused + 1))
	host_inventory after $HOST
	assert_same_inventory "$state" after
	"$@"
}

# full_of WHAT DIR LEAVE..: commit, then undo, with LEAVE left on DIR
full_of() {
	local what=$1 dir=$2 leave refused=0
	shift 2
	for leave in "$@"; do
		host_inventory before $HOST
		when_full "$dir" "$what" "$leave" before fvm commit a
		equal "$(fvm -q diff a $HOST)" ""
		host_inventory committed $HOST
		when_full "$dir" "$what" "$leave" committed fvm undo
		nothing_half
		host_inventory after $HOST
		assert_same_inventory before after
		[ -n "$(fvm -q diff a $HOST)" ]
	done
	[ $refused -gt 0 ]
}

@test "commit and undo, the host's file system without space or inodes" {
	small host size=4M,nr_inodes=400
	host_files
	change_all
	full_of space host 0 60
	full_of inodes host 1 8
}

@test "commit and undo, the store's file system without space or inodes" {
	small store size=8M,nr_inodes=800
	host_files
	change_all
	full_of space store 4 60
	full_of inodes store 0 3 20
}

@test "diff and a stop tell the same when stamps can't be written, and lose none" {
	small store size=8M,nr_inodes=800
	host_files
	change_all
	fvm -q diff a >"$E2E/before"
	fill store space
	expect 125 fvm snapshot a t
	status=0
	output=$(fvm -q diff a 2>"$E2E/err") || status=$?
	equal "$output" "$(cat "$E2E/before")"
	equal "$status" 0
	drain store
	echo drift >>$HOST/d/f1
	expect 125 fvm commit a
	says "conflict: $HOST/d/f1"
}

@test "reset, drop, export, import and cp without space or inodes" {
	small store size=8M,nr_inodes=800
	small host size=2M,nr_inodes=200
	host_files
	change_all
	fvm -q export a "$E2E/a.tar"
	local what
	for what in space inodes; do
		fill store $what
		fill host $what
		no_space fvm import "$E2E/a.tar" b
		no_space fvm export a $HOST/a.tar
		no_space fvm create b
		no_space fvm run --net none --name b -- true
		expect 125 fvm cp "$E2E/a.tar" a:/root/x
		expect 125 fvm cp a:$HOST/d $HOST/copy
		drain host
		drain store
		[ ! -e $HOST/a.tar ]
		equal "$(find $TOP -name '.*' | wc -l)" 0
		equal "$(fvm --json ls | jq -r '.[].name')" a
		nothing_half
		fvm -q import "$E2E/a.tar" b
		fvm -q export b $HOST/a.tar
		rm $HOST/a.tar
		fvm -q rm b
	done
	# what makes room works where there is none
	fvm -q commit a
	fill store space
	fill store inodes
	expect 0 fvm undo --drop all
	expect 0 fvm reset a
	drain store
	fvm -q diff a
	nothing_half
	# and so does rm
	in_vm a "echo x >/opt/x"
	fill store space
	fill store inodes
	expect 0 fvm rm a
	equal "$(fvm --json ls)" "[]"
}
