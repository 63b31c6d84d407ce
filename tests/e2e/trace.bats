# What run --trace notes, and who asks it.
load helper

setup() { needs_root; }

@test "who names the command line that wrote a file" {
	fvm -q run --net none --trace --name t -- sh -c 'mkdir -p /opt/a && cp /etc/hostname /opt/a/copy
		cd /opt/a; mv copy moved; ln -s /opt/a /opt/link; touch "/opt/link/by name"'
	expect 0 fvm who t /opt/a/copy
	says "by cp /etc/hostname /opt/a/copy"
	expect 0 fvm who t /opt/a/moved
	says "by mv copy moved"
	# by the name it really has, whatever way the program took
	expect 0 fvm who t "/opt/a/by name"
	says "touch"
	expect 125 fvm who t /etc/passwd
	says "nobody was seen"
}

@test "a trace counts opens, executions and connections, and prints them as JSON" {
	fvm -q run --keep --net none --trace --name t -- sh -c 'for i in 1 2 3; do cat /etc/hostname; done
		perl -MSocket -e "socket(S, AF_INET, SOCK_STREAM, 0);
			connect(S, sockaddr_in(9, inet_aton(q(127.0.0.1))))"' >/dev/null
	fvm --json trace t >"$E2E/trace.json"
	equal "$(jq '[.[] | select(.op == "open" and .path == "/etc/hostname") | .count] | add' \
		"$E2E/trace.json")" 3
	equal "$(jq '[.[] | select(.op == "exec" and .path == "/usr/bin/cat") | .count] | add' \
		"$E2E/trace.json")" 3
	jq -e '.[] | select(.op == "connect" and .path == "127.0.0.1:9")' "$E2E/trace.json"
	[ "$(fvm --json trace --counts t | jq .exec)" -ge 5 ]
	equal "$(fvm trace --op exec --below /usr/bin/cat t | grep -c cat)" \
		"$(fvm trace --op exec t | grep -c ' /usr/bin/cat ')"
}

@test "a VM that was not traced has no trace, and says how to get one" {
	fvm create t
	expect 125 fvm trace t
	says "fvm run --trace"
	expect 125 fvm trace --op fly t
}

@test "programs that end in the middle of a call, or by the thousand, do not stop the tracer" {
	expect 0 fvm -q run --rm --net none --trace -- sh -c '
		for i in $(seq 200); do (cat /etc/hostname >/dev/null & kill -9 $! 2>/dev/null); done
		for i in $(seq 300); do /bin/true; done; cat /etc/hostname'
	says "$(cat /etc/hostname)"
}
