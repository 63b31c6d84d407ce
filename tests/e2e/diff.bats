# diff and reset: what a VM changed, as a list, a table, a patch, a meaning; and thrown away again.
load helper

setup() { needs_root; }

# A directory of the host with something to change; /tmp would be noise.
host_dir() {
	HOST=/opt/fvm-e2e-diff.$$
	mkdir -p "$HOST/d"
	printf '1\n2\n3\n' >"$HOST/text"
	printf 'x' >"$HOST/mode"
	printf 'gone\n' >"$HOST/gone"
	printf 'a\n' >"$HOST/d/a"
	printf 'moved away\n' >"$HOST/old"
}

teardown() {
	vms_remove
	[ -z "${HOST:-}" ] || rm -rf -- "$HOST"
}

@test "each kind of change has its line, and untouched files have none" {
	host_dir
	in_vm a "cd $HOST; echo 4 >>text; chmod 700 mode; rm gone; echo new >new; rm -r d; echo f >d
		touch old; mv old new2; mv new2 old; printf y >y; rm y"
	equal "$(fvm -q diff a "$HOST")" "$(printf '%s\n' "D $HOST/d" "A $HOST/d" "D $HOST/gone" \
		"m $HOST/mode" "A $HOST/new" "M $HOST/text")"
	equal "$(fvm --json diff a "$HOST" | jq -r '.[] | .change + .path' | grep -c "$HOST")" 6
	equal "$(fvm -q diff --name-only a "$HOST/new")" "$HOST/new"
}

@test "a name can't forge a line" {
	host_dir
	in_vm a "cd $HOST; : >'x
D etc'"
	equal "$(fvm -q diff a "$HOST")" "A \"$HOST/x\\nD etc\""
}

@test "what was renamed is one line with -M" {
	host_dir
	in_vm a "cd $HOST; mv old new; mv d e"
	equal "$(fvm -q diff -M a "$HOST")" \
		"$(printf 'R %s -> %s\n' "$HOST/d" "$HOST/e" "$HOST/old" "$HOST/new")"
}

@test "a patch turns a copy of the host's files into the VM's" {
	host_dir
	in_vm a "cd $HOST; sed -i s/2/two/ text; rm gone; mkdir -p n; printf 'no newline' >n/new
		rm -r d; printf 'z\n' >'odd name'; ln -s text link; chmod 755 mode"
	mkdir -p "$E2E/copy$HOST"
	cp -a "$HOST/." "$E2E/copy$HOST/"
	fvm diff --patch a "$HOST" >"$E2E/patch"
	patch -s -d "$E2E/copy" -p1 <"$E2E/patch"
	in_vm a "cd $HOST; tar cf - ." >"$E2E/now.tar"
	mkdir "$E2E/now"
	tar xf "$E2E/now.tar" -C "$E2E/now"
	diff -r --no-dereference "$E2E/now" "$E2E/copy$HOST"
	equal "$(stat -c %a "$E2E/copy$HOST/mode")" 755
	fvm diff --stat a "$HOST" | grep -q 'text *|  *2 +-'
}

@test "an installed package, a user and a set-id program are told by their meaning" {
	in_vm a 'printf "Package: fvm-test\nStatus: install ok installed\nVersion: 1.2-3\n\n" \
			>>/var/lib/dpkg/status
		echo "fvmtest:x:4242:4242::/nowhere:/bin/false" >>/etc/passwd
		cp /bin/true /usr/local/bin/fvm-test; chmod 4755 /usr/local/bin/fvm-test'
	fvm diff --meaning a >"$E2E/facts"
	grep -qxF '+ package fvm-test:all: 1.2-3' "$E2E/facts" ||
		grep -qxF '+ package fvm-test: 1.2-3' "$E2E/facts"
	grep -qxF '+ user fvmtest: uid 4242, /nowhere, /bin/false' "$E2E/facts"
	grep -qxF '+ set-id /usr/local/bin/fvm-test: user 0:0 (!)' "$E2E/facts"
}

@test "a VM that only wrote to /tmp, caches and histories has not changed" {
	fvm -q run --net none --name a -- sh -c 'echo x >/tmp/x; echo x >/var/cache/x; mkdir -p ~/.cache
		echo x >~/.cache/x; echo x >~/.bash_history; echo x >/var/log/x'
	expect 125 fvm inspect a
}

# What people's programs leave in a home where nobody had used them before.
sessions='cd; bash -i <<X
echo hello
X
	printf ":x\n" | script -qc "bash -ic true; vim -c wq /tmp/seen" /dev/null
	printf "q" | script -qc "less /etc/passwd" /dev/null
	printf "print(1)\nexit()\n" | script -qc "python3" /dev/null
	mkdir -p ~/.local/share/fish && echo "- cmd: ls" >~/.local/share/fish/fish_history
	mandb -q; man ls; exit 0'

@test "a session with shell, editor, pager and interpreter is no change, for root and for users" {
	needs_command script vim less python3
	fvm -q run --net none --name a -- sh -c "$sessions" >/dev/null 2>&1
	expect 125 fvm inspect a
	needs_user diff
	as_user diff fvm -q run --net none --name a -- sh -c "$sessions" >/dev/null 2>&1
	expect 125 as_user diff fvm inspect a
	# but an empty directory is, and so is what lies beside a history
	as_user diff fvm -q run --net none --name b -- sh -c 'mkdir -p ~/.local/share/new'
	expect 0 as_user diff fvm inspect b
}

@test "changes of all snapshots are compared with the host" {
	host_dir
	in_vm a "echo one >$HOST/new; rm $HOST/gone"
	fvm -q snapshot a t
	in_vm a "echo 4 >>$HOST/text; rm $HOST/new; echo gone >$HOST/gone"
	equal "$(fvm -q diff a "$HOST")" "M $HOST/text"
}

@test "reset of a path shows the host's again, and leaves the rest" {
	host_dir
	in_vm a "cd $HOST; echo 4 >>text; rm gone; rm -r d; mkdir d; echo b >d/b; echo n >n"
	fvm reset a "$HOST/gone" "$HOST/d" "$HOST/n"
	equal "$(fvm -q diff a "$HOST")" "M $HOST/text"
	equal "$(in_vm a "cat $HOST/gone $HOST/d/a; ls $HOST/d")" "$(printf 'gone\na\na')"
	fvm reset a
	equal "$(fvm -q diff a "$HOST")" ""
}

@test "reset below what was deleted as a whole names what to reset" {
	host_dir
	in_vm a "rm -r $HOST/d; mkdir $HOST/d"
	expect 125 fvm reset a "$HOST/d/a"
	says "$HOST/d"
	fvm reset a "$HOST/d"
	equal "$(fvm -q diff a "$HOST")" ""
}

@test "a running VM can't be reset" {
	fvm -q run --net none -d --name a -- sleep 100
	expect 125 fvm reset a
	says "fvm stop a"
}
