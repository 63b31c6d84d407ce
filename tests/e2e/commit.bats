# commit and undo on the real host: everything happens below /opt/fvm-e2e-commit.
load helper

TOP=/opt/fvm-e2e-commit

setup() {
	needs_root
	mkdir -p $TOP/d
	echo one >$TOP/d/file
	echo gone >$TOP/d/gone
	ln $TOP/d/file $TOP/d/second
}

teardown() {
	commits_remove
	umount $TOP/disk 2>/dev/null
	rm -rf --one-file-system $TOP
}

# look NAME: all that undo has to bring back, into $E2E/inventory.NAME
look() {
	host_inventory "$1" $TOP
}

# Whatever opens the store goes on, as soon as the one that was killed is really gone.
settled() {
	fvm ls >/dev/null && [ ! -e "$FVM_HOME/commits/pending" ]
}

@test "a commit is what the VM showed, and undo is what was before" {
	look before
	in_vm a "echo two >>$TOP/d/file; rm $TOP/d/gone; mkdir $TOP/new; ln -s x $TOP/new/l
		mkfifo $TOP/new/p; chmod 700 $TOP/d; truncate -s 5M $TOP/new/sparse"
	fvm --json commit --dry-run a | jq -r '.changes[] | .kind + .path' >"$E2E/planned"
	grep -qx "D$TOP/d/gone" "$E2E/planned"
	look untouched
	assert_same_inventory before untouched
	fvm commit a
	equal "$(cat $TOP/d/file $TOP/d/second | xargs)" "one two one"
	[ ! -e $TOP/d/gone ]
	[ -p $TOP/new/p ]
	[ "$(readlink $TOP/new/l)" = x ]
	equal "$(stat -c %a $TOP/d) $(stat -c %s $TOP/new/sparse)" "700 5242880"
	equal "$(fvm diff a)" ""
	equal "$(fvm --json undo --ls | jq -r '.[0].vm')" a
	fvm undo
	look after
	assert_same_inventory before after
	equal "$(fvm diff a | wc -l)" 7
	equal "$(in_vm a "cat $TOP/d/file | xargs; ls $TOP/new | xargs")" "$(printf 'one two\nl p sparse')"
	fvm commit a
}

@test "what the host changed too is a conflict, and texts are merged" {
	seq 1 20 >$TOP/d/text
	in_vm a "sed -i s/^2\$/two/ $TOP/d/text; echo vm >$TOP/d/file"
	fvm diff a >/dev/null
	sed -i 's/^19$/nineteen/' $TOP/d/text
	run fvm commit a
	[ "$status" = 125 ]
	[[ "$output" = *"conflict: $TOP/d/text"* ]]
	equal "$(cat $TOP/d/file)" one
	fvm commit --merge a
	equal "$(grep -c . $TOP/d/text) $(grep -x -e two -e nineteen $TOP/d/text | xargs)" "20 two nineteen"
	equal "$(cat $TOP/d/file)" vm
}

@test "a running VM is not committed, a paused one is, and goes on with its files" {
	fvm -q create --net none a
	fvm start a
	fvm exec a sh -c "exec 3>>$TOP/d/file; echo two >&3; sleep 0.2; echo \$\$; exec sleep 1000" >"$E2E/out" 3>&- &
	local pid=$!
	wait_until 30 test -s "$E2E/out"
	run fvm commit a
	[ "$status" = 125 ]
	[[ "$output" = *"fvm pause a"* ]]
	fvm pause a
	fvm commit a
	equal "$(xargs <$TOP/d/file)" "one two"
	equal "$(fvm diff a)" ""
	fvm resume a
	fvm exec a sh -c "echo three >>$TOP/d/file"
	equal "$(xargs <$TOP/d/file)" "one two"
	fvm pause a
	equal "$(fvm diff a)" "M $TOP/d/file"
	fvm commit a
	equal "$(xargs <$TOP/d/file)" "one two three"
	fvm kill a
	wait $pid || :
}

@test "a full file system in the middle leaves all as it was" {
	needs_idmapped_tmpfs
	mkdir $TOP/disk
	mount -t tmpfs -o size=1m none $TOP/disk
	echo old >$TOP/disk/a
	echo old >$TOP/disk/z
	look before
	in_vm a "echo new >$TOP/disk/a; echo new >$TOP/d/file
		head -c 700000 /dev/urandom >$TOP/disk/big; echo new >$TOP/disk/z"
	head -c 500000 /dev/zero >$TOP/disk/filler
	run fvm commit a
	[ "$status" = 125 ]
	[[ "$output" = *"No space left"* ]]
	rm $TOP/disk/filler
	equal "$(cat $TOP/disk/a $TOP/d/file | xargs) $(cd $TOP/disk && echo *)" "old one a z"
	equal "$(fvm diff a | wc -l)" 4
	fvm commit a
	equal "$(cat $TOP/disk/a $TOP/disk/z $TOP/d/file | xargs) $(stat -c %s $TOP/disk/big)" "new new new 700000"
	fvm undo
	equal "$(cat $TOP/disk/a $TOP/d/file | xargs) $(cd $TOP/disk && echo *)" "old one a z"
}

@test "a mount that was none of a commit's may be gone when it is undone" {
	mkdir $TOP/disk
	mount -t tmpfs none $TOP/disk
	in_vm a "echo new >$TOP/d/file"
	fvm commit a
	umount $TOP/disk
	fvm undo
	equal "$(cat $TOP/d/file)" one
}

@test "only what gains rights has to be agreed to" {
	cp /usr/bin/true $TOP/d/root-program
	chmod 4755 $TOP/d/root-program
	in_vm a "cp $TOP/d/root-program $TOP/d/n; echo >>$TOP/d/n; chmod 4755 $TOP/d/n; mv $TOP/d/n $TOP/d/root-program"
	expect 0 fvm commit a
	equal "$(stat -c %a $TOP/d/root-program)" 4755
	chmod 4750 $TOP/d/root-program
	in_vm b "chmod 4751 $TOP/d/root-program"
	in_vm c "cp /usr/bin/true $TOP/d/another; chmod 2755 $TOP/d/another"
	in_vm d "chown daemon $TOP/d/root-program; chmod 4750 $TOP/d/root-program"
	local vm
	for vm in b c d; do
		expect 125 fvm commit $vm
		says "set-id:"
		says "--allow-setid"
	done
	expect 0 fvm commit --allow-setid c
}

@test "what was sparse stays sparse, and space set aside stays set aside" {
	truncate -s 40M $TOP/d/sparse
	printf x | dd of=$TOP/d/sparse bs=1 seek=10000000 conv=notrunc status=none
	in_vm a "printf y | dd of=$TOP/d/sparse bs=1 seek=20000000 conv=notrunc status=none
		fallocate -l 1M $TOP/d/aside"
	fvm commit a
	[ "$(stat -c %b $TOP/d/sparse)" -le 64 ]
	equal "$(tr -d '\0' <$TOP/d/sparse)" xy
	[ "$(stat -c %b $TOP/d/aside)" -ge 2048 ]
}

@test "killed at any moment, the next command leaves all or nothing" {
	in_vm a "mkdir $TOP/many; for i in \$(seq 300); do echo \$i >$TOP/many/\$i; done
		for i in \$(seq 300); do echo \$i >$TOP/d/\$i; done; echo two >$TOP/d/file; rm $TOP/d/gone"
	look before
	local tries=0 killed=0
	while [ $tries -lt 12 ]; do
		tries=$((tries + 1))
		timeout -s KILL "0.0$((tries * 7 % 90 + 10))" fvm commit a >/dev/null 2>&1 || killed=$((killed + 1))
		wait_until 30 settled
		if [ "$(cat $TOP/d/file)" = two ]; then
			equal "$(find $TOP/many $TOP/d -mindepth 1 | wc -l)" 602
			timeout -s KILL "0.0$((tries * 13 % 60 + 10))" fvm undo >/dev/null 2>&1 || killed=$((killed + 1))
			wait_until 30 settled
			[ "$(cat $TOP/d/file)" = two ] && fvm undo
		fi
		look after
		assert_same_inventory before after
	done
	[ $killed -gt 0 ]
}

@test "an ordinary user commits what is his, and is told of the rest" {
	needs_user commit
	as_user commit sh -c 'fvm -q rm --force u 2>/dev/null; rm -rf ~/mine; mkdir ~/mine; echo one >~/mine/file'
	as_user commit fvm -q run --net none --name u -- sh -c 'echo two >~/mine/file; echo x >~/mine/new'
	as_user commit fvm commit u
	equal "$(as_user commit sh -c 'cat ~/mine/*' | xargs)" "two x"
	as_user commit fvm undo
	equal "$(as_user commit sh -c 'cat ~/mine/*; ls -A ~/mine' | xargs)" "one file"
	as_user commit fvm -q run --net none --root --name u -- sh -c "echo x >$TOP/d/theirs"
	run as_user commit fvm commit u
	[ "$status" = 125 ]
	[[ "$output" = *"rights: $TOP/d/theirs"* ]]
	[ ! -e $TOP/d/theirs ]
}
