# What run --trace notes, and who asks it.
load helper

setup() { needs_root; }

SCRIPT='mkdir -p /opt/a && cp /etc/hostname /opt/a/copy
	cd /opt/a; mv copy moved; ln -s /opt/a /opt/link; touch "/opt/link/by name"
	chmod 0600 /etc/motd; for i in 1 2 3; do cat /etc/hostname; done
	perl -MSocket -e "socket(S, AF_INET, SOCK_STREAM, 0);
		connect(S, sockaddr_in(9, inet_aton(q(127.0.0.1))));
		socket(U, AF_INET, SOCK_DGRAM, 0); send(U, q(x), 0, sockaddr_in(9, inet_aton(q(127.0.0.2))))"
	setfattr -n user.note -v x /opt/a/moved'

# traced FVM..: the whole of it, whoever notes it: by that command
traced() {
	expect 0 "$@" -q run --keep --net none --trace --name t -- sh -c "$SCRIPT"
	expect 0 "$@" who t /opt/a/copy
	says "by cp /etc/hostname /opt/a/copy"
	expect 0 "$@" who t /opt/a/moved
	says "by mv copy moved"
	# by the name it really has, whatever way the program took
	expect 0 "$@" who t "/opt/a/by name"
	says "touch"
	expect 0 "$@" who t /etc/motd
	says "by chmod 0600 /etc/motd"
	expect 0 "$@" who t /opt/a/moved
	says "by setfattr"
	expect 0 "$@" who t /opt/../opt/a/./copy
	expect 125 "$@" trace --op fly t
	says "one of open, write"
	expect 125 "$@" who t /etc/passwd
	says "nobody was seen"
	"$@" --json trace t >"$E2E/trace.json"
	equal "$(jq '[.[] | select(.op == "open" and .path == "/etc/hostname") | .count] | add' \
		"$E2E/trace.json")" 4
	equal "$(jq '[.[] | select(.op == "exec" and .path == "/usr/bin/cat") | .count] | add' \
		"$E2E/trace.json")" 3
	# what PID 1 was told to run, too
	jq -e '.[] | select(.op == "exec" and (.path | test("/(da)?sh$")))' "$E2E/trace.json"
	jq -e '.[] | select(.op == "connect" and .path == "127.0.0.1:9")' "$E2E/trace.json"
	jq -e '.[] | select(.op == "connect" and .path == "127.0.0.2:9")' "$E2E/trace.json"
	[ "$("$@" --json trace --counts t | jq .exec)" -ge 9 ]
	equal "$("$@" trace --op exec --below /usr/bin//cat/ t | grep -c cat)" \
		"$("$@" trace --op exec t | grep -c ' /usr/bin/cat ')"
	# a second run is added to the first
	expect 0 "$@" -q run --keep --net none --trace --name t -- touch /opt/a/second
	expect 0 "$@" who t /opt/a/second
	says "by touch"
	expect 0 "$@" who t /opt/a/copy
	expect 0 "$@" -q rm t
}

@test "root's VM: who wrote a file; what was opened, executed, connected, and how often" {
	traced fvm
}

@test "a user's VM with one id: the same, told by its supervisor" {
	user_make one no-ranges
	traced as_user one fvm
}

@test "a user's VM with ranges of ids: the same" {
	user_make many
	traced as_user many fvm
}

@test "root's VM with a base that can't be idmapped: the same" {
	needs_command bindfs
	mkdir -p "$E2E/back" "$E2E/fuse"
	bindfs -o allow_other "$E2E/back" "$E2E/fuse" || skip "needs /dev/fuse"
	local status=0
	traced fvm || status=1
	fusermount -u "$E2E/fuse" 2>/dev/null || umount "$E2E/fuse"
	equal "$status" 0
}

@test "a VM in a user's VM is refused a trace of its own, as the one around it hears of all" {
	user_make one no-ranges
	expect 0 as_user one fvm -q run --rm --net none --trace --bind "$E2E_STAGE" --root -- sh -c "
		export FVM_HOME=/dev/shm/s PATH=$E2E_STAGE/bin:\$PATH
		fvm -q run --rm --net none --trace -- true; echo \"status \$?\""
	says "trace the VM around this one"
	says "status 125"
}

@test "a VM that was not traced has no trace, and says how to get one" {
	fvm create t
	expect 125 fvm trace t
	says "fvm run --trace"
	expect 125 fvm trace --op fly t
}

# A dead recorder would end the VM, or leave its programs waiting for ever.
ends_in_calls() {
	expect 0 "$@" -q run --rm --net none --trace -- sh -c '
		for i in $(seq 200); do (cat /etc/hostname >/dev/null & kill -9 $! 2>/dev/null); done
		for i in $(seq 300); do /bin/true; done; cat /etc/hostname'
	says "$(cat /etc/hostname)"
}

@test "programs that end in the middle of a call, or by the thousand, do not stop the tracer" {
	ends_in_calls fvm
	user_make one no-ranges
	ends_in_calls as_user one fvm
}
