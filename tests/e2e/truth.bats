# The truth: the same afternoon's work is done on two machines that are equal to the byte, on one of
# them in a VM and committed, on the other directly. Then both are compared, path by path, and after
# undo the first is compared with what it was. The machines are namespaces with a Debian of their
# own each (debootstrap, minbase); the work needs no network, its packages were fetched before.
#
# What is left out of the first comparison, and why:
#   content below /var/log, /var/cache, /tmp, /run  no part of a commit unless named (fvm-commit(1))
#   times within the work's own time                each of them did it when it did it
#   times of what the work did not change otherwise mtime alone is no change (fvm-diff(1))
#   link counts, /srv/.fvm-commit-*                 the commit keeps what it replaced (commit.h)
# The second one leaves out nothing but the store.
# limit: 420
# test-limit: 240
load helper

setup_file() {
	e2e_setup_file
	[ "$(id -u)" = 0 ] && command -v debootstrap setfacl setcap >/dev/null || return 0
	needs_packages
	E2E_WORK=$PWD/tests/e2e/truth
	stage_programs
	make_machine || return 1
	cp -a "$E2E/base" "$E2E/there"
	mv "$E2E/base" "$E2E/here"
	boot here && boot there || return 1
	look here start && look there start
}

teardown_file() {
	local name
	for name in here there; do
		[ -s "$E2E/$name.pid" ] && on $name true 2>/dev/null &&
			on $name sh -c 'fvm -q rm --force work; fvm -q undo --drop all' >/dev/null 2>&1
		[ ! -s "$E2E/$name.pid" ] || kill -KILL "$(cat "$E2E/$name.pid")" || :
	done
	e2e_teardown_file
}

setup() {
	needs_root
	needs_command debootstrap setfacl setcap setfattr
	needs_packages
}
teardown() { :; }

# ---- machines ----

# fvm, with the libraries that a minimal Debian does not have
stage_programs() {
	mkdir -p "$E2E/programs/lib" "$E2E/programs/tools"
	cp -a "$E2E_STAGE/bin" "$E2E_STAGE/libexec" "$E2E/programs/"
	cp "$E2E_STAGE/tools/inventory" "$E2E/programs/tools/"
	find "$E2E/programs" -type f -perm -u+x -exec ldd {} + | awk '/=> \//{ print $3 }' | sort -u |
		grep -v '/libc\.so' | xargs cp -t "$E2E/programs/lib"
}

make_machine() {
	local suite mirror
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 debian.org)
	debootstrap --variant=minbase "$suite" "$E2E/base" ${mirror:+"$mirror"} >"$E2E/bootstrap" 2>&1 ||
		{ tail -n 5 "$E2E/bootstrap" >&2; return 1; }
	cp "$E2E_WORK"/*.sh "$E2E/base/root/"
	cp -L /etc/resolv.conf "$E2E/base/etc/"
	mkdir -p "$E2E/base/opt/fvm" "$E2E/base/var/lib/fvm"
	unshare --mount --pid --fork --kill-child --root="$E2E/base" --mount-proc \
		env -i PATH="$PATH" sh /root/before.sh >"$E2E/bootstrap" 2>&1 ||
		{ tail -n 5 "$E2E/bootstrap" >&2; return 1; }
}

# boot NAME: namespaces of which $E2E/NAME is the root; they last until their PID 1 is killed
boot() {
	mkfifo "$E2E/$1.up"
	unshare --mount --pid --fork --kill-child --uts --ipc --net \
		sh "$E2E_WORK/boot.sh" "$E2E/$1" "$E2E/programs" "$E2E/$1.up" \
		>"$E2E/$1.log" 2>&1 3>&- </dev/null &
	timeout 20 cat "$E2E/$1.up" >/dev/null || { cat "$E2E/$1.log" >&2; return 1; }
	pgrep --parent $! >"$E2E/$1.pid"
}

# on NAME CMD..: run CMD there
on() {
	local pid
	pid=$(cat "$E2E/$1.pid")
	shift
	nsenter --target "$pid" --mount --pid --uts --ipc --net --root --wd env -i HOME=/root TERM=dumb \
		PATH=/opt/fvm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		LD_LIBRARY_PATH=/opt/fvm/lib "$@"
}

# look NAME WHEN: everything that is there
look() {
	on "$1" /opt/fvm/tools/inventory -b -x -e /var/lib/fvm / /srv >"$E2E/$1.$2"
}

# same_work START HERE THERE FROM: see the top of this file
same_work() {
	awk -v from="$4" '
	function plain(line) {
		gsub(/ n[0-9]+ s/, " s", line)
		if (match(line, / t[0-9]+\./) && substr(line, RSTART + 2, RLENGTH - 3) + 0 >= from)
			sub(/ t[0-9]+\.[0-9]+/, " tNOW", line)
		return line
	}
	function timeless(line) { sub(/ t[0-9NOW]+(\.[0-9]+)?/, "", line); return line }
	$1 ~ /^\/(var\/log|var\/cache|tmp|run)\// || $1 ~ /^\/srv\/\.fvm-commit-/ { next }
	FILENAME == ARGV[1] { start[$1] = timeless(plain($0)); next }
	FILENAME == ARGV[2] { here[$1] = plain($0); next }
	{
		there = plain($0)
		if (here[$1] == there) { delete here[$1]; next }
		if (timeless(here[$1]) == timeless(there) && timeless(there) == start[$1]) {
			delete here[$1]; next
		}
		print "in a VM:  " here[$1] "\ndirectly: " there; delete here[$1]; bad = 1
	}
	END { for (path in here) { print "only after the commit: " here[path]; bad = 1 }; exit bad }
	' "$E2E/$1" "$E2E/$2" "$E2E/$3"
}

@test "a commit makes the machine what the same work makes an equal one" {
	equal "$(wc -l <"$E2E/here.start")" "$(wc -l <"$E2E/there.start")"
	local from
	from=$(date +%s)
	on there sh /root/work.sh >"$E2E/log" 2>&1 || { tail "$E2E/log"; return 1; }
	look there end
	on here fvm -q run --net none --name work -- env -u LD_LIBRARY_PATH sh /root/work.sh >"$E2E/log" 2>&1 ||
		{ tail "$E2E/log"; return 1; }
	look here untouched
	diff "$E2E/here.start" "$E2E/here.untouched"
	on here fvm --json diff work >"$E2E/diff.before"
	# programs that run with more rights are to be agreed to
	expect 125 on here fvm commit work
	says "/usr/bin/sudo"
	look here untouched
	diff "$E2E/here.start" "$E2E/here.untouched"
	expect 0 on here fvm commit --allow-setid work
	equal "$(on here fvm diff work)" ""
	look here end
	same_work there.start here.end there.end "$from"
	# and it works; tried in a VM, as it would be changed by that
	expect 0 on here fvm -q run --rm --net none -- env -u LD_LIBRARY_PATH sh -ec 'nginx -t; dpkg --audit
		runuser -u anna -- sudo -n id -u'
	equal "${lines[-1]}" 0
}

@test "undo makes it what it was, to the last byte, link and time" {
	[ -e "$E2E/here.end" ] || skip "needs the test before"
	expect 0 on here fvm undo
	look here undone
	diff "$E2E/here.start" "$E2E/here.undone"
	on here fvm --json diff work >"$E2E/diff.after"
	diff "$E2E/diff.before" "$E2E/diff.after"
}

@test "committed again and kept for good it is the same as the first time" {
	[ -e "$E2E/here.undone" ] || skip "needs the test before"
	expect 0 on here fvm commit --allow-setid work
	expect 0 on here fvm undo --drop all
	expect 0 on here fvm rm --force work
	gone() { [ -z "$(on here find /var/lib/fvm/trash /var/lib/fvm/commits /var/lib/fvm/vms -mindepth 1 ! -name lock)" ]; }
	wait_until 30 gone
	look here again
	same_work there.start here.again there.end "$(stat -c %Y "$E2E/there.start")"
	# nothing is kept any more: what has one name has one link
	links() { grep -av '^/var/\(log\|cache\)/' "$E2E/$1" | awk '$5 ~ /^n/ && $5 != "n1" { print $1, $5 }'; }
	diff <(links there.end) <(links here.again)
}
