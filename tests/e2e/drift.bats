# The host changes under a VM that changed the same: told by path and reason, and settled as asked.
load helper

TOP=/opt/fvm-e2e-drift

setup() {
	needs_root
	mkdir -p $TOP/dir $TOP/tree $TOP/parent
	cd $TOP || return 1
	seq 1 20 | tee renamed inplace gone type mode owner xattr both >text
	echo x | tee dir/f tree/f >parent/f
	cd /
}

teardown() {
	local group
	for group in /sys/fs/cgroup{/pids,}/fvmt-drift.service; do
		[ -d "$group" ] || continue
		xargs -r kill <"$group"/cgroup.procs || : # who is of both may be ending
		wait_until 30 rmdir "$group"
	done
	commits_remove
	rm -rf $TOP
}

vm_changes='cd '$TOP' && for f in renamed inplace gone type mode owner xattr text; do sed -i s/^2\$/two/ $f
	done; rm both; echo vm >dir/f; rm -r tree; echo vm >appears; echo vm >parent/f; echo vm >parent/n'

# All ways in which a host's file can differ afterwards.
host_changes() {
	cd $TOP || return 1
	sleep 0.05
	sed 's/^19$/nineteen/' renamed >new && mv new renamed
	echo more >>inplace
	rm gone
	rm type && ln -s text type
	chmod 600 mode
	chown daemon owner
	setfattr -n user.note -v host xattr
	echo more >>both
	mv dir real && ln -s real dir
	echo more >>tree/f
	echo host >appears
	rm -r parent
	sed -i 's/^19$/nineteen/' text
	cd /
}

# Each of them is told, as a conflict or as what can't be done at all.
all_told() {
	local f
	for f in renamed inplace type mode owner xattr both tree appears text dir; do
		says "conflict: $TOP/$f: "
	done
}

@test "everything that the host did under a stopped VM is told, and nothing is done" {
	in_vm a "$vm_changes"
	fvm -q diff a >"$E2E/before"
	host_changes
	host_inventory drifted $TOP
	expect 125 fvm commit a
	all_told
	says "conflict: $TOP/gone: deleted on the host"
	says "conflict: $TOP/parent/f: deleted on the host"
	expect 125 fvm commit --dry-run a
	all_told
	host_inventory after $TOP
	assert_same_inventory drifted after
	expect 0 fvm diff a
}

@test "so it is with a VM that was never looked at, and with one that runs" {
	fvm -q create --net none a
	fvm -q start a
	fvm exec a sh -c "$vm_changes"
	host_changes
	fvm pause a
	expect 125 fvm commit a
	all_told
	fvm resume a
	# the VM goes on with what it has
	equal "$(fvm exec a sh -c "sed -n 2p $TOP/renamed; cat $TOP/appears" | xargs)" "two vm"
	fvm stop a
	expect 125 fvm commit a
	all_told
}

@test "--merge settles texts, --force takes the VM's side, and undo brings the host's back" {
	in_vm a "$vm_changes"
	fvm -q diff a >/dev/null
	host_changes
	host_inventory drifted $TOP
	fvm commit --merge a $TOP/renamed $TOP/text
	equal "$(grep -x -e two -e nineteen $TOP/renamed | xargs) $(sed -n 19p $TOP/text)" "two nineteen nineteen"
	expect 125 fvm commit --merge a
	says "conflict: $TOP/gone: deleted on the host meanwhile"
	expect 0 fvm commit --force a
	equal "$(cat $TOP/appears $TOP/dir/f $TOP/parent/n $TOP/real/f; sed -n 2p $TOP/gone; cd $TOP && echo *)" \
		"$(printf 'vm\nvm\nvm\nx\ntwo\nappears dir gone inplace mode owner parent real renamed text type xattr')"
	fvm undo
	fvm undo
	host_inventory after $TOP
	assert_same_inventory drifted after
}

@test "attributes alone that the host changed are kept by whoever changed them" {
	in_vm a "echo vm >>$TOP/xattr"
	fvm -q diff a >/dev/null
	setfattr -n user.note -v host $TOP/xattr
	status=0
	output=$(fvm commit a 2>&1) || status=$?
	equal "$status" 125
	says "conflict: $TOP/xattr"
}

# what the first start changed was of the host's files as they were then
in_two_starts() {
	in_vm a "cd $TOP; rm gone; echo vm >>inplace; echo vm >>tree/f"
	sleep 0.02
	(cd $TOP && echo more | tee -a gone inplace text mode tree/f dir/f >/dev/null)
	sleep 0.02
	fvm -q run --net none -d --name a -- sleep 1000 >/dev/null
	sleep 0.02
	echo more >>$TOP/mode
	sleep 0.02
	fvm -q exec a -- sh -c "cd $TOP; rm inplace text mode; rm -r tree dir"
	fvm -q stop -t 1 a
	expect 125 fvm commit a
	equal "$(sed -n 's/.*conflict: \([^ :]*\):.*/\1/p' <<<"$output" | sort | xargs)" \
		"$TOP/gone $TOP/inplace $TOP/mode $TOP/tree"
	expect 0 fvm -q commit a $TOP/text $TOP/dir
	[ ! -e $TOP/text ]
	[ ! -e $TOP/dir ]
}

@test "a deletion conflicts with what the host changed since its start, not since the first" {
	in_two_starts
}

@test "an old commit is undone below later ones, or told what stands in its way" {
	in_vm a "echo one >$TOP/text; echo one >$TOP/only"
	fvm -q commit a
	in_vm a "echo two >$TOP/text; echo two >$TOP/other"
	fvm -q commit a
	expect 125 fvm undo 1
	says "conflict: $TOP/text: changed since"
	says "fvm undo 2"
	says "--force"
	equal "$(cat $TOP/text $TOP/only)" "$(printf 'two\none')"
	expect 125 fvm undo --dry-run 1
	fvm undo 2
	fvm undo 1
	equal "$(wc -l <$TOP/text)" 20
	[ ! -e $TOP/only ]
	[ ! -e $TOP/other ]
	fvm -q commit a
	echo host >>$TOP/text
	expect 125 fvm undo
	says "conflict: $TOP/text: changed since"
	fvm undo --force
	equal "$(wc -l <$TOP/text)" 20
}

@test "a directory that a later commit filled, or took away, names that commit" {
	in_vm a "mkdir $TOP/made; echo one >$TOP/made/f; echo one >$TOP/dir/f"
	fvm -q commit a
	in_vm a "echo two >$TOP/made/g"
	fvm -q commit a
	expect 125 fvm undo 1
	says "conflict: $TOP/made: entries in it came or went since"
	says "fvm undo 2"
	in_vm b "rm -r $TOP/dir"
	fvm -q commit b
	fvm undo 2
	expect 125 fvm undo 1
	says "conflict: $TOP/dir/f: its directory is gone"
	says "fvm undo 3"
	fvm undo
	fvm undo
	equal "$(cat $TOP/dir/f) $(ls $TOP)" "x $(printf '%s\n' both dir gone inplace mode owner parent renamed text tree type xattr)"
}

@test "a tree with hard links, deleted by a commit and brought back by undo, is deleted again" {
	ln $TOP/tree/f $TOP/outside
	in_vm a "rm -r $TOP/tree; echo x >>$TOP/outside"
	local i
	for i in 1 2; do
		fvm -q commit a
		[ ! -e $TOP/tree ]
		fvm -q undo
		equal "$(cat $TOP/tree/f $TOP/outside | xargs)" "x x"
	done
	echo more >>$TOP/tree/f
	expect 125 fvm commit a
	says "conflict: $TOP/tree: something in it changed"
	expect 125 fvm commit a $TOP/tree/f
	says "refused: $TOP/tree: it was deleted whole"
	fails says "changed nothing"
}

@test "services that run with what commit and undo replaced are named" {
	local group=/sys/fs/cgroup/pids/fvmt-drift.service
	[ -d /sys/fs/cgroup/pids ] || group=/sys/fs/cgroup/fvmt-drift.service
	mkdir $group 2>/dev/null || skip "needs cgroups that can be written"
	cp /bin/sleep $TOP/daemon
	as_service() { sh -c "echo \$\$ >$group/cgroup.procs && exec $TOP/daemon 1000" 3>&- & }
	as_service
	local first=$!
	wait_until 30 grep -q daemon "/proc/$first/comm"
	in_vm a "cp /bin/sleep $TOP/n && echo >>$TOP/n && mv $TOP/n $TOP/daemon"
	expect 0 fvm commit a
	says "systemctl restart fvmt-drift.service"
	kill $first && { wait $first || :; }
	as_service
	local second=$!
	wait_until 30 grep -q daemon "/proc/$second/comm"
	expect 0 fvm --json undo
	equal "$(jq -r '.restart[]' <<<"$output")" fvmt-drift.service
	kill $second && { wait $second || :; }
	wait_until 30 rmdir $group
}

# package VERSION: a small one, with a program and a configuration file
package() {
	mkdir -p "$E2E/p/DEBIAN" "$E2E/p/usr/bin" "$E2E/p/etc"
	printf 'Package: fvm-tool\nVersion: %s\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n' \
		"$1" >"$E2E/p/DEBIAN/control"
	echo /etc/fvm-tool.conf >"$E2E/p/DEBIAN/conffiles"
	printf 'echo %s%*s\n' "$1" "$1" '' >"$E2E/p/usr/bin/fvm-tool" # of another length each
	seq 1 20 | sed "s/^15\$/since $(($1 / 3))/" >"$E2E/p/etc/fvm-tool.conf"
	dpkg-deb --root-owner-group -b "$E2E/p" "$E2E/$1.deb" >/dev/null
}

installed() { dpkg-query --admindir=$TOP/root/var/lib/dpkg -f '${Version}\n' -W fvm-tool; }

@test "a package upgraded on the host under a VM that upgraded it too" {
	needs_command dpkg-deb
	mkdir -p $TOP/root/var/lib/dpkg/info $TOP/root/var/lib/dpkg/updates
	: >$TOP/root/var/lib/dpkg/status
	local v dpkg="dpkg --root=$TOP/root --log=/dev/null --force-confold -i"
	for v in 1 2 3; do package $v; done
	$dpkg "$E2E/1.deb" >/dev/null
	in_vm a "$dpkg $E2E/2.deb >/dev/null && sed -i 's/^2\$/mine/' $TOP/root/etc/fvm-tool.conf"
	fvm -q diff a >/dev/null
	$dpkg "$E2E/3.deb" >/dev/null
	host_inventory upgraded $TOP
	expect 125 fvm commit a
	says "conflict: $TOP/root/usr/bin/fvm-tool: changed on the host meanwhile"
	says "conflict: $TOP/root/var/lib/dpkg/status: changed on the host meanwhile"
	expect 125 fvm commit --merge a
	says "merge: $TOP/root/usr/bin/fvm-tool: changed on both sides in the same lines"
	fails says "etc/fvm-tool.conf"
	equal "$(installed)" 3
	expect 0 fvm commit --force --merge a
	equal "$(installed) $(sh $TOP/root/usr/bin/fvm-tool)" "2 2"
	equal "$(grep -x -e mine -e 'since .*' $TOP/root/etc/fvm-tool.conf | xargs)" "mine since 1"
	fvm undo
	host_inventory after $TOP
	assert_same_inventory upgraded after
	equal "$(installed) $(sh $TOP/root/usr/bin/fvm-tool)" "3 3"
}
